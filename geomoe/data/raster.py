"""Rasters opened without trust: a plain file of a plain format, nothing else through it, and no larger than allowed."""

import functools
import os
import re
import stat
import urllib.request
import warnings

import numpy as np
import pyproj
import rasterio
import rasterio.transform
from affine import Affine, TransformNotInvertibleError
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.windows import Window

from geomoe import landsat

MAX_SIDE = 4096  # pixels of a patch, unless a caller says more
_MAX_BYTES = 1 << 30  # of the pixels that are read at once
_MAX_BLOCK = 1 << 28  # bytes of a block of a file, which is decoded whole
_FORMATS = {".jp2": "JP2OpenJPEG"}  # by the ending; all others must be GeoTIFF
_REMOTE = re.compile(r"(https?|s3|gs|az)://|/vsi(curl|s3|gs|az)/")
# Of GDAL, for files that are read over the network: nothing but the file itself is asked for, a failed request is tried again,
# one that hangs ends, and blocks that lie side by side come in one request.
_NETWORK = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_MAX_RETRY": "4",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "GDAL_HTTP_RETRY_CODES": "429,500,502,503,504",
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
    "GDAL_HTTP_TIMEOUT": "60",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
    "CPL_VSIL_CURL_CACHE_SIZE": str(128 << 20),  # what was read ahead is still there when it is needed
}


_CACHE = (
    128 << 20
)  # bytes of decoded blocks that GDAL keeps: two rows of tiles of a scene; its own limit is a share of all memory


class RasterError(ValueError):
    """A file that cannot be read as a raster; the message does not name it."""


class TooLargeError(RasterError):
    """A file claims to hold more pixels than are allowed."""


def is_remote(path: str) -> bool:
    """Say whether a path is an address on the network: `https://`, `s3://`, `gs://`, `az://`, or GDAL's `/vsicurl/` ...."""
    return _REMOTE.match(path) is not None


def read_options(path: str) -> rasterio.Env:
    """The options of GDAL under which a file is opened and read: little memory, and those for the network if it lies there."""
    return rasterio.Env(GDAL_CACHEMAX=_CACHE, **(_NETWORK if is_remote(path) else {}))


def read_text(path: str, max_bytes: int) -> str:
    """Read a small text file, local or by `http(s)://`; OSError where it cannot be had, RasterError where it is too large."""
    if is_remote(path):
        with urllib.request.urlopen(path.removeprefix("/vsicurl/"), timeout=30) as answer:
            data = answer.read(max_bytes + 1)
    else:
        check_regular(path)
        with open(path, "rb") as file:
            data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise RasterError(f"holds more than {max_bytes >> 20} MB")
    return data.decode("utf-8", "replace")


def check_regular(path: str) -> None:
    """Raise RasterError for what is no regular file: reading a pipe or a device may never end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise RasterError("is no regular file")


def check_size(height: int, width: int, bands: int, itemsize: int, max_side: int | None = MAX_SIDE) -> None:
    """Raise TooLargeError where pixels that a file claims to hold are more than allowed; None allows any side."""
    if max_side is not None and max(height, width) > max_side:
        raise TooLargeError(f"{height} x {width} pixels are more than the {max_side} allowed for a patch (max_side)")
    if (size := height * width * bands * itemsize) > _MAX_BYTES:
        raise TooLargeError(f"{height} x {width} pixels of {bands} bands take {size / 2**30:.1f} GB, more than 1")


def open_raster(path: str) -> rasterio.DatasetReader:
    """Open a raster with rasterio: a GeoTIFF, or by its ending a JPEG 2000.

    Of GDAL's drivers that one alone is asked, so that a text that GDAL would follow to other files or to the network (VRT, WMS
    ...) is no raster, whatever its name. The network is asked for what the path itself names there (see `is_remote`).

    Raises:
        RasterError: the file is none, is no regular file, or its blocks are larger than 256 MB.
    """
    if not is_remote(path):
        check_regular(path)
        path = os.path.abspath(path)
    driver = _FORMATS.get(os.path.splitext(path.partition("?")[0])[1].lower(), "GTiff")
    try:
        with warnings.catch_warnings(), read_options(path):
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            source = rasterio.open(path, driver=driver)
    except (rasterio.errors.RasterioError, UnicodeError) as error:
        raise RasterError(f"cannot be read as {'GeoTIFF' if driver == 'GTiff' else driver}: {error}") from None
    blocks = (rows * columns * np.dtype(kind).itemsize for (rows, columns), kind in zip(source.block_shapes, source.dtypes))
    if (largest := max(blocks, default=0)) > _MAX_BLOCK:
        source.close()
        raise RasterError(f"its blocks take {largest / 2**20:.0f} MB each, more than the {_MAX_BLOCK >> 20} allowed")
    return source


def georeference(source: rasterio.DatasetReader) -> tuple[Affine, rasterio.crs.CRS | None]:
    """The transform of a file's pixels, and its CRS: None where it has none, or says of no pixel where in it that is.

    Of a file with ground control points and no transform it is the one that fits them best.
    """
    points, crs = source.gcps
    if source.transform.is_identity and len(points) >= 3 and crs is not None:
        return rasterio.transform.from_gcps(points), crs
    return source.transform, None if source.transform.is_identity else source.crs


def same_transform(one: Affine, other: Affine, height: int, width: int) -> bool:
    """Whether two transforms bring all pixels to one place, but for a hundredth of a pixel, as they are rounded in files."""
    corners = ((0, 0), (width, 0), (0, height), (width, height))
    try:
        moved = [np.subtract(~one @ (other @ corner), corner) for corner in corners]
    except TransformNotInvertibleError:
        return one == other
    return bool(np.abs(moved).max() < 0.01)


def data_bands(source: rasterio.DatasetReader, count: int | None = None) -> list[int]:
    """List the bands of a file, from 1, that hold an image: all but alpha.

    Of four bands of bytes GDAL makes the last alpha unless asked for something else. It is none where it is described as a
    band, nor in a file that has just the `count` of bands that a user names.
    """
    if source.count == count:
        return list(source.indexes)
    facts = zip(source.indexes, source.colorinterp, source.descriptions)
    return [index for index, meaning, text in facts if meaning != ColorInterp.alpha or landsat.is_band(text or "")]


@functools.lru_cache(maxsize=512)
def to_wgs84(crs: str) -> pyproj.Transformer | None:
    """A transformer to degrees; None for a CRS that does not say where on the Earth it is (of a plan, of an engine)."""
    source = pyproj.CRS(crs)
    if source.is_engineering or source.geodetic_crs is None:
        return None
    return pyproj.Transformer.from_crs(source, "EPSG:4326", always_xy=True)


def read_quality(source: rasterio.DatasetReader, kind: str, window: Window | None = None, index: int = 1) -> np.ndarray:
    """Read the bits (H, W) uint16 of a quality band; its class "fill" where the no-data value stands, or what is no bits.

    `kind` is as for `geomoe.landsat.is_flagged`. USGS's own files have the fill bit as their no-data value.
    """
    values = source.read(index, window=window)
    lacking = values == source.nodatavals[index - 1]
    if values.dtype.itemsize > 2:  # int16 has bit 15 as its sign
        lacking |= ~((values >= 0) & (values <= np.iinfo(np.uint16).max))
    bits = np.where(lacking, 0, values).astype(np.uint16)
    bits[lacking] = landsat.fill_bits(kind)
    return bits


def read_band(source: rasterio.DatasetReader, index: int, unit: str, window: Window | None = None) -> np.ndarray:
    """Read (H, W) of a band, in the file's type, `geomoe.landsat.nodata_value` where it holds no data.

    No-data values, masks and alpha bands tell which pixels these are, in the file or beside it.
    """
    values = source.read(index, window=window)
    empty = values.dtype.type(landsat.nodata_value(unit, values.dtype))
    nodata = source.nodatavals[index - 1]
    lacking = np.zeros(values.shape, bool) if nodata is None or np.isnan(nodata) else values == nodata
    flags = source.mask_flag_enums[index - 1]  # empty where the band has a mask of its own
    if MaskFlags.per_dataset in flags or not flags:
        lacking |= source.read_masks(index, window=window) == 0
    for alpha in set(source.indexes) - set(data_bands(source)):  # which GDAL takes for a mask in files of 2 and 4 bands alone
        lacking |= source.read(alpha, window=window) == 0
    if lacking.any():
        values[lacking] = empty
    return values
