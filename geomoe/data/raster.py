"""Rasters opened without trust: a plain file of a plain format, nothing else through it, and no larger than allowed."""

import os
import stat
import warnings

import numpy as np
import rasterio
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.windows import Window

from geomoe import landsat

MAX_SIDE = 4096  # pixels of a patch, unless a caller says more
_MAX_BYTES = 1 << 30  # of the pixels that are read at once
_MAX_BLOCK = 1 << 28  # bytes of a block of a file, which is decoded whole
_FORMATS = {".jp2": "JP2OpenJPEG"}  # by the ending; all others must be GeoTIFF


class RasterError(ValueError):
    """A file that cannot be read as a raster; the message does not name it."""


def check_regular(path: str) -> None:
    """Raise RasterError for what is no regular file: reading a pipe or a device may never end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise RasterError("is no regular file")


def check_size(height: int, width: int, bands: int, itemsize: int, max_side: int | None = MAX_SIDE) -> None:
    """Raise RasterError where pixels that a file claims to hold are more than allowed; None allows any side."""
    if max_side is not None and max(height, width) > max_side:
        raise RasterError(f"{height} x {width} pixels are more than the {max_side} allowed for a patch (max_side)")
    if (size := height * width * bands * itemsize) > _MAX_BYTES:
        raise RasterError(f"{height} x {width} pixels of {bands} bands take {size / 2**30:.1f} GB, more than 1")


def open_raster(path: str) -> rasterio.DatasetReader:
    """Open a raster with rasterio: a GeoTIFF, or by its ending a JPEG 2000.

    Of GDAL's drivers that one alone is asked, so that a text that GDAL would follow to other files or to the network (VRT, WMS
    ...) is no raster, whatever its name.

    Raises:
        RasterError: the file is none, is no regular file, or its blocks are larger than 256 MB.
    """
    check_regular(path)
    driver = _FORMATS.get(os.path.splitext(path)[1].lower(), "GTiff")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            source = rasterio.open(os.path.abspath(path), driver=driver)
    except (rasterio.errors.RasterioError, UnicodeError) as error:
        raise RasterError(f"cannot be read as {'GeoTIFF' if driver == 'GTiff' else driver}: {error}") from None
    blocks = (rows * columns * np.dtype(kind).itemsize for (rows, columns), kind in zip(source.block_shapes, source.dtypes))
    if (largest := max(blocks, default=0)) > _MAX_BLOCK:
        source.close()
        raise RasterError(f"its blocks take {largest / 2**20:.0f} MB each, more than the {_MAX_BLOCK >> 20} allowed")
    return source


def data_bands(source: rasterio.DatasetReader) -> list[int]:
    """List the bands of a file, from 1, that hold an image: all but alpha."""
    return [index for index, meaning in zip(source.indexes, source.colorinterp) if meaning != ColorInterp.alpha]


def read_band(source: rasterio.DatasetReader, index: int, unit: str, window: Window | None = None) -> np.ndarray:
    """Read (H, W) of a band, in the file's type, `geomoe.landsat.nodata_value` where it holds no data.

    Which pixels these are is told by no-data values, masks and alpha bands, in the file or beside it.
    """
    values = source.read(index, window=window)
    empty = values.dtype.type(landsat.nodata_value(unit, values.dtype))
    nodata = source.nodatavals[index - 1]
    lacking = np.zeros(values.shape, bool) if nodata is None or np.isnan(nodata) else values == nodata
    if MaskFlags.per_dataset in source.mask_flag_enums[index - 1]:
        lacking |= source.read_masks(index, window=window) == 0
    for alpha in set(source.indexes) - set(data_bands(source)):  # which GDAL takes for a mask in files of 2 and 4 bands alone
        lacking |= source.read(alpha, window=window) == 0
    if lacking.any():
        values[lacking] = empty
    return values
