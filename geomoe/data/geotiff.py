"""One patch from a GeoTIFF, checked: pixels, location, and a clear error for each flaw that real files have.

The usual file (one page, EPSG code among its keys) is read by tifffile, three times as fast as GDAL opens it; others by GDAL.
"""

import contextlib
import os
import xml.etree.ElementTree
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyproj
import tifffile

from geomoe import landsat, metadata
from geomoe.data.preprocess import InputSpec, check_numbers, check_values, has_data
from geomoe.data.raster import (
    MAX_SIDE,
    RasterError,
    TooLargeError,
    check_regular,
    check_size,
    data_bands,
    georeference,
    open_raster,
    read_band,
    to_wgs84,
)
from geomoe.landsat.bands import NAME_BANDS


class PatchError(ValueError):
    """A patch that cannot be used: the kind of flaw, one of a small set of phrases for counting, the file, what is wrong."""

    def __init__(self, kind: str, path: str, message: str) -> None:
        super().__init__(f"{path}: {kind}: {message}")
        self.kind, self.path, self.message = kind, path, message

    def __reduce__(self) -> Any:
        return PatchError, (self.kind, self.path, self.message)


class Patch(NamedTuple):
    """Pixels and location of a patch."""

    image: np.ndarray  # (H, W, C) in the file's type, `geomoe.landsat.nodata_value` where there are no data
    latitude: float  # of the middle of the patch, degrees (WGS 84); NaN where the file has no CRS that leads there
    longitude: float
    date_tag: str  # the file's TIFFTAG_DATETIME, or ""
    bands: tuple[str, ...]  # names of the C bands: the model's, or those that a caller gave
    sensor: str  # one of `geomoe.landsat.SENSORS`


class _Raster(NamedTuple):
    image: np.ndarray  # (H, W, C), without alpha
    descriptions: list[str | None]  # of the bands
    centre: tuple[float, float]  # x, y in the file's CRS
    crs: str | None  # anything that pyproj takes
    date_tag: str
    scaling: list[tuple[float, float]]  # scale and offset of each band


def _is_plain(page: tifffile.TiffPage) -> bool:
    """Whether tifffile reads a page right, and without taking more memory than the image itself."""
    tags = page.tags
    scale, tie, directory = (tags.get(code) for code in (33550, 33922, 34735))
    if scale is None or tie is None or directory is None or 34264 in tags or len(tie.value) != 6:
        return False
    if page.dtype == np.float16:
        return False  # GDAL takes it for float32
    alpha = any(kind in (1, 2) for kind in np.atleast_1d(tags[338].value)) if 338 in tags else False
    itemsize = np.dtype(page.dtype).itemsize
    compressed, whole = sum(page.databytecounts), int(np.prod(page.shape)) * itemsize
    chunk = int(np.prod(page.chunks)) * itemsize
    return min(scale.value[:2]) > 0 and not alpha and compressed <= 2 * whole + 65536 and chunk <= 4 * whole + 65536


def _read_plain(path: str, unit: str, max_side: int) -> _Raster | None:
    """Read a plain GeoTIFF with tifffile; None if it is not plain enough, or something beside it may say more."""
    if any(os.path.exists(path + ending) for ending in (".msk", ".aux.xml")):
        return None
    with tifffile.TiffFile(path) as tif:
        if len(tif.pages) != 1 or not _is_plain(page := tif.pages.first):
            return None
        tags = page.tags
        entries = np.asarray(tags[34735].value).reshape(-1, 4)[1:]
        keys = {int(key): int(value) for key, location, _, value in entries if location == 0}
        epsg = keys.get(3072, keys.get(2048, 0))
        if not 1024 <= epsg < 32767:
            return None
        check_size(page.imagelength, page.imagewidth, page.samplesperpixel, np.dtype(page.dtype).itemsize, max_side)
        items = list(xml.etree.ElementTree.fromstring(tags[42112].value)) if 42112 in tags else []
        image = page.asarray()
        if image.ndim == 2:
            image = image[:, :, None]
        elif tags["PlanarConfiguration"].value == 2:
            image = image.transpose(1, 2, 0)
        descriptions: list[str | None] = [None] * image.shape[2]
        scales = [{"SCALE": 1.0, "OFFSET": 0.0} for _ in descriptions]
        for item in items:
            sample, role, value = item.get("sample"), item.get("role", ""), item.text or ""
            if sample is not None and role == "description":
                descriptions[int(sample)] = value
            elif sample is not None and role in ("scale", "offset"):
                scales[int(sample)][role.upper()] = float(value)
        nodata, date = (str(tags[code].value).strip("\x00 ") if code in tags else "" for code in (42113, 306))
        if nodata:
            image = np.where(image == float(nodata), image.dtype.type(landsat.nodata_value(unit, image.dtype)), image)
        # Pixel-is-point files name the centre of a pixel, pixel-is-area ones (the rule) its corner.
        half = 0.5 if keys.get(1025) == 2 else 0.0
        scale, (column, row, _, x0, y0, _) = tags[33550].value, tags[33922].value
        x = x0 + (image.shape[1] / 2 - half - column) * scale[0]
        y = y0 - (image.shape[0] / 2 - half - row) * scale[1]
        return _Raster(image, descriptions, (x, y), f"EPSG:{epsg}", date, [(each["SCALE"], each["OFFSET"]) for each in scales])


def _read_any(path: str, unit: str, max_side: int, count: int | None = None) -> _Raster:
    """Read any raster with rasterio."""
    with open_raster(path) as src:
        bands = data_bands(src, count)
        check_size(src.height, src.width, len(bands), max(np.dtype(kind).itemsize for kind in src.dtypes), max_side)
        image = np.stack([read_band(src, index, unit) for index in bands], axis=-1)
        transform, crs = georeference(src)
        centre, date = transform @ (src.width / 2, src.height / 2), src.tags().get("TIFFTAG_DATETIME", "")
        scaling = [(src.scales[index - 1], src.offsets[index - 1]) for index in bands]
        descriptions = [src.descriptions[index - 1] for index in bands]
        return _Raster(image, descriptions, centre, crs.to_wkt() if crs else None, date, scaling)


def read_patch(
    path: str | os.PathLike[str],
    spec: InputSpec = InputSpec(),
    *,
    drop_extra: int = 0,
    need_crs: bool = True,
    keep_nodata: bool = False,
    max_side: int = MAX_SIDE,
) -> Patch:
    """Read and check one patch, a GeoTIFF.

    Its bands are found by their descriptions, in any order and among others; where those name none, the file must hold those of
    the sensor in their order.

    Args:
        spec: what is said of the file. A sensor of None goes by the file's name, and is Landsat 8 where that does not say;
            `bands` are names of the file's bands in place of its own, and then all of them are read.
        drop_extra: bands that a file without descriptions may have beyond the sensor's, dropped from the end (EuroSAT-L carries
            ST_B10 as its eighth).
        need_crs: whether a file without a CRS is refused; otherwise its latitude and longitude are NaN.
        keep_nodata: whether a patch without any data is taken.
        max_side: largest height and width, in pixels.

    Returns:
        The patch, with the bands of the sensor in the model's order (the coastal one may lack), or all that `spec.bands` names.

    Raises:
        PatchError: of kind "missing image", "unreadable image", "too large", "wrong sensor", "wrong bands", "wrong band count",
            "wrong dtype", "wrong values", "wrong unit", "all nodata" or "no CRS".
    """
    path = os.fspath(path)
    unit, sensor = str(spec.known(sensor="landsat8").unit), spec.sensor  # of any sensor
    if not os.path.exists(path):
        raise PatchError("missing image", path, "there is no such file")
    raster = _read(path, unit, max_side, None if spec.bands is None else len(spec.bands))
    of_name = landsat.sensor_of(os.path.basename(path))
    if sensor and of_name and not landsat.same_bands(sensor, of_name):
        raise PatchError("wrong sensor", path, f"by its name it is {of_name}'s, not {sensor}'s, whose bands have other numbers")
    try:
        if not (sensor or of_name):
            check_numbers(spec.bands or raster.descriptions)
    except ValueError as error:
        raise PatchError("wrong bands", path, str(error)) from None
    sensor = sensor or of_name or "landsat8"
    try:
        spec.known(sensor=sensor)
    except ValueError as error:
        raise PatchError("wrong unit", path, str(error)) from None
    channels = _channels(path, raster, sensor, spec.bands, drop_extra, spec.fill_missing)
    _check_unit(path, raster, list(channels.values()), spec.unit)
    image = raster.image[:, :, list(channels.values())]
    dtypes = landsat.FILE_DTYPES[unit] if spec.unit else landsat.FILE_DTYPES[unit][:1]
    if image.dtype.name not in dtypes:
        ask = "" if spec.unit else "; name the unit"
        raise PatchError("wrong dtype", path, f"{image.dtype} where unit={unit!r} needs {' or '.join(dtypes)}{ask}")
    try:
        check_values(image, unit)
    except ValueError as error:
        raise PatchError("wrong values", path, str(error)) from None
    if not keep_nodata and not has_data(image, unit).any():
        raise PatchError("all nodata", path, "every pixel is without data")
    latitude, longitude = _locate(path, raster, need_crs)
    return Patch(np.ascontiguousarray(image), latitude, longitude, raster.date_tag, tuple(channels), sensor)


def _check_unit(path: str, raster: _Raster, channels: Sequence[int], given: str | None) -> None:
    """Raise PatchError where a file says that its numbers are others, by the scale and offset of its bands or by its name.

    A unit that was given goes before the name, and in floats before scale and offset, which programs leave there.
    """
    name, unit = os.path.basename(path), given or "collection2_dn"
    try:
        of_name = landsat.unit_of_name(name)
    except ValueError as error:
        raise PatchError("wrong sensor", path, str(error)) from None
    if given is None and of_name not in (None, unit):
        raise PatchError("wrong unit", path, f"by its name its numbers are {of_name}, not {unit}; name the unit")
    if given and raster.image.dtype.kind == "f":
        return
    for scale, offset in sorted({raster.scaling[i] for i in channels}):
        of_tags, said = landsat.unit_of_scale(scale, offset), f"scale {scale:g} and offset {offset:g}"
        if of_tags is None and given is None and (scale, offset) != (1, 0):
            raise PatchError("wrong unit", path, f"{said} are of no unit that is known; name the unit")
        if of_tags and of_tags != unit and not {of_tags, unit} <= set(landsat.SCALED_UNITS):
            ask = f"and {given!r} was given: which is right?" if given else f"not {unit}; name the unit"
            raise PatchError("wrong unit", path, f"{said} say {of_tags}, {ask}")


def _read(path: str, unit: str, max_side: int, count: int | None) -> _Raster:
    try:
        check_regular(path)
        with contextlib.suppress(Exception):  # whatever tifffile cannot read, GDAL may; if it cannot either, its error is shown
            if raster := _read_plain(path, unit, max_side):
                return raster
        return _read_any(path, unit, max_side, count)
    except Exception as error:
        message = str(error) if isinstance(error, RasterError) else f"{type(error).__name__}: {error}"
        raise PatchError("too large" if isinstance(error, TooLargeError) else "unreadable image", path, message) from None


def _channels(
    path: str, raster: _Raster, sensor: str, names: Sequence[str] | None, drop_extra: int, fill_missing: bool
) -> dict[str, int]:
    """Which of a file's bands to take, by name, in order."""
    count, wanted = raster.image.shape[2], landsat.sensor_bands(sensor)
    try:
        found = landsat.bands_of_file(raster.descriptions, sensor)
    except ValueError as error:
        if names is None:
            raise PatchError("wrong bands", path, str(error)) from None
        found = None
    if names is not None:
        if count != len(names):
            raise PatchError("wrong band count", path, f"{count} bands, but {len(names)} names: {', '.join(names)}")
        return {name: i for i, name in enumerate(names)}
    if found is None:
        if count not in (len(wanted), len(wanted) + drop_extra):
            counts = f"{len(wanted)}" if not drop_extra else f"{len(wanted)} or {len(wanted) + drop_extra}"
            hint = f"{', '.join(wanted)}, or descriptions that say which they are, or bands=(...)"
            if len(wanted) == len(landsat.BANDS) and count == len(landsat.TM_BANDS):
                hint += "; if they are Landsat 4, 5 or 7's, name the sensor: landsat7"
            raise PatchError("wrong band count", path, f"{count} bands where {counts} are needed ({hint})")
        return {band: i for i, band in enumerate(wanted)}
    missing = [band for band in wanted if band not in found and band != landsat.BANDS[0]]
    if missing and not (fill_missing and found):
        named = ", ".join(text or "(no name)" for text in raster.descriptions)
        raise PatchError(
            "wrong bands", path, f"{', '.join(missing)} of {sensor} are not among its bands, {named}; {NAME_BANDS}"
        )
    return {band: found[band] for band in wanted if band in found}


def _locate(path: str, raster: _Raster, need_crs: bool) -> tuple[float, float]:
    """Latitude and longitude of the middle, NaN where the file does not lead there and need not."""
    try:
        transformer = None if raster.crs is None else to_wgs84(raster.crs)
    except pyproj.exceptions.ProjError as error:
        raise PatchError("no CRS", path, f"its CRS cannot be used: {error}") from None
    if transformer is None:
        if need_crs:
            lacking = "is not georeferenced" if raster.crs is None else "has a CRS of no place on Earth"
            raise PatchError("no CRS", path, f"the file {lacking}, so its latitude and longitude are unknown")
        return np.nan, np.nan
    longitude, latitude = transformer.transform(*raster.centre)
    try:
        metadata.check_degrees(latitude, longitude)
    except ValueError:
        raise PatchError("no CRS", path, f"its coordinates {raster.centre} are outside its CRS") from None
    return float(latitude), float(metadata.wrap_longitude(longitude))
