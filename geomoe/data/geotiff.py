"""One patch from a GeoTIFF, checked: pixels, location, and a clear error for each flaw that real files have.

The usual file (one page, EPSG code among its keys) is read by tifffile, three times as fast as GDAL opens it; others by GDAL.
"""

import contextlib
import functools
import os
import warnings
from typing import Any, NamedTuple

import numpy as np
import pyproj
import tifffile

from geomoe import landsat


class PatchError(ValueError):
    """A patch that cannot be used: the kind of flaw, one of a small set of phrases for counting, the file, what is wrong."""

    def __init__(self, kind: str, path: str, message: str) -> None:
        super().__init__(f"{path}: {kind}: {message}")
        self.kind, self.path, self.message = kind, path, message

    def __reduce__(self) -> Any:
        return PatchError, (self.kind, self.path, self.message)


class Patch(NamedTuple):
    """Pixels and location of a patch."""

    image: np.ndarray  # (H, W, C) uint16 digital numbers, 0 where there are no data
    latitude: float  # of the middle of the patch, degrees (WGS 84); NaN where the file has no CRS
    longitude: float
    date_tag: str  # the file's TIFFTAG_DATETIME, or ""


class _Raster(NamedTuple):
    image: np.ndarray  # (H, W, C)
    centre: tuple[float, float]  # x, y in the file's CRS
    crs: str | None  # anything that pyproj takes
    nodata: float | None
    date_tag: str


@functools.lru_cache(maxsize=512)
def _to_wgs84(crs: str) -> pyproj.Transformer:
    return pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)


def _read_simple(path: str) -> _Raster | None:
    """Read a plain GeoTIFF with tifffile; None if it is not plain enough."""
    with tifffile.TiffFile(path) as tif:
        if len(tif.pages) != 1:
            return None
        page = tif.pages.first
        tags = page.tags
        scale, tie, directory = (tags.get(code) for code in (33550, 33922, 34735))
        if scale is None or tie is None or directory is None or tags.get(34264) is not None or len(tie.value) != 6:
            return None
        entries = np.asarray(directory.value).reshape(-1, 4)[1:]
        keys = {int(key): int(value) for key, location, _, value in entries if location == 0}
        epsg = keys.get(3072, keys.get(2048, 0))
        if not 1024 <= epsg < 32767:
            return None
        image = page.asarray()
        if image.ndim == 2:
            image = image[:, :, None]
        elif tags["PlanarConfiguration"].value == 2:
            image = image.transpose(1, 2, 0)
        # Pixel-is-point files name the centre of a pixel, pixel-is-area ones (the rule) its corner.
        half = 0.5 if keys.get(1025) == 2 else 0.0
        column, row, _, x0, y0, _ = tie.value
        x = x0 + (image.shape[1] / 2 - half - column) * scale.value[0]
        y = y0 - (image.shape[0] / 2 - half - row) * scale.value[1]
        nodata, date = (str(tags[code].value).strip("\x00 ") if code in tags else "" for code in (42113, 306))
        return _Raster(image, (x, y), f"EPSG:{epsg}", float(nodata) if nodata else None, date)


def _read_any(path: str) -> _Raster:
    """Read any raster with rasterio."""
    import rasterio

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path) as src:
            centre = src.xy(src.height / 2, src.width / 2, offset="ul")
            crs, date = src.crs.to_wkt() if src.crs else None, src.tags().get("TIFFTAG_DATETIME", "")
            return _Raster(np.moveaxis(src.read(), 0, 2), centre, crs, src.nodata, date)


def read_patch(
    path: str | os.PathLike[str],
    num_bands: int = len(landsat.BANDS),
    drop_extra: int = 0,
    need_crs: bool = True,
    keep_nodata: bool = False,
    dtypes: tuple[str, ...] = ("uint16",),
) -> Patch:
    """Read and check one patch, a GeoTIFF.

    Args:
        num_bands: bands of the patch.
        drop_extra: bands that the file may have beyond them, dropped from the end (EuroSAT-L carries ST_B10 as its eighth).
        need_crs: whether a file without a CRS is refused; otherwise its latitude and longitude are NaN.
        keep_nodata: whether a patch without any data is taken.
        dtypes: types that are taken. In float files NaN is no data, elsewhere 0.

    Raises:
        PatchError: of kind "missing image", "unreadable image", "wrong band count", "wrong dtype", "NaN in image",
            "all nodata" or "no CRS".
    """
    path = os.fspath(path)
    if not os.path.exists(path):
        raise PatchError("missing image", path, "there is no such file")
    raster = None
    with contextlib.suppress(Exception):  # whatever tifffile cannot read, GDAL may; if it cannot either, its error is shown
        raster = _read_simple(path)
    try:
        raster = raster or _read_any(path)
    except Exception as error:
        raise PatchError("unreadable image", path, f"{type(error).__name__}: {error}") from None
    image = raster.image
    bands = image.shape[2]
    if bands not in (num_bands, num_bands + drop_extra):
        counts = f"{num_bands}" if not drop_extra else f"{num_bands} or {num_bands + drop_extra}"
        hint = f" ({', '.join(landsat.BANDS)})" if num_bands == len(landsat.BANDS) else ""
        if hint and bands == len(landsat.TM_BANDS):
            hint += "; if they are Landsat 4, 5 or 7's, name the sensor: landsat7"
        raise PatchError("wrong band count", path, f"{bands} bands where {counts} are needed{hint}")
    image = image[:, :, :num_bands]
    if image.dtype.name not in dtypes:
        if image.dtype.kind == "f" and np.isnan(image).any():
            raise PatchError("NaN in image", path, f"{int(np.isnan(image).sum())} values are NaN")
        raise PatchError("wrong dtype", path, f"{image.dtype} where {' or '.join(dtypes)} is needed")
    empty = image.dtype.type(np.nan if image.dtype.kind == "f" else landsat.NODATA)
    if raster.nodata is not None and raster.nodata != empty:
        image = np.where(image == raster.nodata, empty, image)
    if not keep_nodata and not np.nan_to_num(image).any():
        raise PatchError("all nodata", path, "every pixel is 0")
    longitude, latitude = np.nan, np.nan
    if raster.crs is not None:
        longitude, latitude = _to_wgs84(raster.crs).transform(*raster.centre)
        if not (np.isfinite(longitude) and np.isfinite(latitude)):
            raise PatchError("no CRS", path, f"its coordinates {raster.centre} are outside its CRS")
    elif need_crs:
        raise PatchError("no CRS", path, "the file is not georeferenced, so its latitude and longitude are unknown")
    return Patch(np.ascontiguousarray(image), float(latitude), float(longitude), raster.date_tag)
