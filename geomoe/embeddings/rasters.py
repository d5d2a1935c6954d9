"""Rasters of embeddings: Cloud Optimized GeoTIFFs with one band a dimension, and read back as tables of their pixels."""

import contextlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from geomoe.embeddings.vectors import INT8_NODATA, SCALE, Columns, to_float32
from geomoe.files import atomic_path
from geomoe.metadata import wrap_longitude

RESOLUTIONS = ("window", "token", "pixel")  # a pixel is a window's stride, a patch or a pixel of the scene
INTERLEAVES = ("pixel", "band")  # what lies together in a tile of a GeoTIFF: all bands, or one
TILE = 128  # pixels a side
_RAW_ROWS = 16  # of the tiles of the file on the way, which is written some rows at a time
_CACHE = 128 << 20  # bytes, of GDAL


def write_geotiff(
    output: str, parts: Iterable[Columns], facts: Mapping[str, Any], grid: Mapping[str, Any], interleave: str = "pixel"
) -> None:
    """Write a Cloud Optimized GeoTIFF, with overviews, of rows of pixels.

    A band is a dimension. float32 and float16 (32 bits declared, 16 stored) have NaN for no data, int8 -128 and a scale a band.

    Args:
        parts: blocks of whole rows, with a "vector" of the file's type.
        facts: go into the tag "geomoe", as JSON.
        grid: rasterio's height, width, transform and crs.
        interleave: of `INTERLEAVES`.

    Raises:
        OSError: the file cannot be written, or not read back.
    """
    import rasterio
    import rasterio.shutil
    from rasterio._err import CPLE_BaseError  # which closing a file raises as it is

    dtype = next(iter(parts))["vector"].dtype
    options = dict(COMPRESS="DEFLATE", BIGTIFF="IF_SAFER", NUM_THREADS="ALL_CPUS", PREDICTOR=2 if dtype == np.int8 else 3)
    if interleave == "pixel":
        options |= dict(driver="COG", BLOCKSIZE=TILE)
    else:  # GDAL's COG driver writes bands from 3.11 on; this gives the same order of a file's parts, without COG's mark
        options |= dict(driver="GTiff", INTERLEAVE="BAND", COPY_SRC_OVERVIEWS="YES")
        options |= dict(TILED="YES", BLOCKXSIZE=TILE, BLOCKYSIZE=TILE)
    if dtype == np.float16:
        options["NBITS"] = 16
    with atomic_path(output) as path, rasterio.Env(GDAL_CACHEMAX=_CACHE, GDAL_TIFF_OVR_BLOCKSIZE=TILE):
        raw = f"{path}.raw"
        try:
            _write_raw(raw, parts, facts, grid, dtype)
            rasterio.shutil.copy(raw, path, **options)
            _check_readable(path)
        except (rasterio.errors.RasterioError, CPLE_BaseError) as error:
            raise OSError(f"{output} cannot be written: {error}") from error
        finally:
            with contextlib.suppress(OSError):
                os.remove(raw)


def _write_raw(path: str, parts: Iterable[Columns], facts: Mapping[str, Any], grid: Mapping[str, Any], dtype: np.dtype) -> None:
    """Write the same without compression, band after band: GDAL would read pixels of many bands once a band for overviews."""
    import rasterio
    from rasterio.enums import Resampling
    from rasterio.windows import Window

    dimensions, int8 = next(iter(parts))["vector"].shape[-1], dtype == np.int8
    profile = dict(driver="GTiff", **grid, count=dimensions, dtype="int8" if int8 else "float32", bigtiff="if_safer")
    profile |= dict(nodata=INT8_NODATA if int8 else float("nan"), tiled=True, blockxsize=TILE, blockysize=_RAW_ROWS)
    row = 0
    with rasterio.open(path, "w", interleave="band", **profile) as file:
        file.update_tags(geomoe=json.dumps(facts))
        file.descriptions = [f"embedding {band}" for band in range(dimensions)]
        if int8:
            file.scales = facts[SCALE]
        for part in parts:
            values = part["vector"].astype(profile["dtype"]).reshape(-1, grid["width"], dimensions).transpose(2, 0, 1)
            file.write(values, window=Window(0, row, grid["width"], values.shape[1]))
            row += values.shape[1]
    factors = [2**i for i in range(1, 32) if max(grid["height"], grid["width"]) > TILE * 2 ** (i - 1)]
    if factors:
        with rasterio.open(path, "r+") as file:
            file.build_overviews(factors, Resampling.average)


def _check_readable(path: str) -> None:
    """Raise a RasterioError where a tile of a new file cannot be read: GDAL does not say where closing it filled the disk."""
    import rasterio

    with rasterio.open(path) as file:
        levels: list[int | None] = [None, *range(len(file.overviews(1)))]
    for level in levels:
        with rasterio.open(path, NUM_THREADS="ALL_CPUS", **({} if level is None else {"overview_level": level})) as file:
            for _, window in file.block_windows(1):
                file.read(window=window)


def is_map(path: str) -> bool:
    """Whether a file is a raster of embeddings."""
    from geomoe.data.raster import RasterError, open_raster

    try:
        with open_raster(path) as source:
            return "geomoe" in source.tags()
    except RasterError:
        return False


def read_geotiff(path: str) -> dict[str, Any]:
    """Read a raster of embeddings as a table of its pixels: see `geomoe.embeddings.read`."""
    from geomoe.data.raster import RasterError, open_raster

    try:
        source = open_raster(path)
    except RasterError as error:
        raise ValueError(f"{path}: {error}") from None
    with source:
        if "geomoe" not in source.tags():
            raise ValueError(f"{path} is no file of embeddings: it has no geomoe metadata")
        facts = json.loads(source.tags()["geomoe"])
        height, width = source.shape
        scales = source.scales
        if SCALE in facts and set(scales) == {1.0}:  # a copy by a program that keeps the tags and not the scales
            scales = facts[SCALE]
            if len(scales) != source.count:
                raise ValueError(
                    f"{path} has {source.count} bands of {len(scales)}, and their scales are lost; copy these as well"
                )
        vector = np.empty((height * width, source.count), np.float32)
        for row in range(0, height, TILE):
            rows = min(TILE, height - row)
            values = source.read(window=((row, row + rows), (0, width))).reshape(source.count, -1).T
            vector[row * width : (row + rows) * width] = to_float32(values, scales)
        return pixel_table(vector, facts, source.shape, source.transform[:6], source.crs and source.crs.to_wkt())


def pixel_table(
    vector: np.ndarray, facts: dict[str, Any], shape: tuple[int, int], transform: Sequence[float], crs: str | None
) -> dict[str, Any]:
    """Give the pixels of a raster as a table: see `geomoe.embeddings.read`.

    Args:
        vector: (height * width, D) float32, row by row, NaN where not embedded.
        facts: of the embeddings.
        shape: height and width.
        transform: a, b, c, d, e, f of pixels to coordinates, as rasterio has them.
        crs: WKT, None where it is not known; of a plan it leads to no place on Earth.
    """
    from geomoe.data.raster import to_wgs84

    (height, width), (a, b, c, d, e, f) = shape, transform
    rows, columns = (index.reshape(-1) for index in np.indices((height, width)))
    x, y = columns + 0.5, rows + 0.5
    lon, lat = np.full((2, len(vector)), np.nan)
    if crs and (transformer := to_wgs84(crs)) is not None:
        lon, lat = transformer.transform(a * x + b * y + c, d * x + e * y + f)
        lon = wrap_longitude(lon)
    ids = np.char.add(np.char.add(rows.astype(str), "_"), columns.astype(str))
    time = np.full(len(vector), np.datetime64(facts.get("time", "NaT"), "s"))
    embedded = np.isfinite(vector).all(axis=1)
    return {"id": ids, "latitude": lat, "longitude": lon, "time": time, "embedded": embedded, "vector": vector, "facts": facts}
