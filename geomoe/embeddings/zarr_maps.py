"""Maps of embeddings as Zarr, with the coordinates and attributes by which xarray and rioxarray know them; and read back.

A store is a group in Zarr's format 2, which all readers take, with consolidated metadata: `embedding` (dimension, y, x),
the coordinates `dimension`, `y`, `x` (middles of the pixels) and `time`, and in `spatial_ref` the CRS as CF and GDAL have it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from geomoe.embeddings.rasters import pixel_table
from geomoe.embeddings.vectors import INT8_NODATA, SCALE, Columns, to_float32
from geomoe.files import atomic_path

if TYPE_CHECKING:
    import zarr

CHUNK = 64  # pixels a side of a chunk, which holds all dimensions; as many rows are in memory at once
_NAME = "embedding"
_DIMENSIONS = "_ARRAY_DIMENSIONS"  # the attribute by which xarray knows the names of axes
_SHOWN = ("encoder", "encoder_sha256", "pool", "geomoe_version")  # facts that are attributes of their own


def check_zarr() -> None:
    """Raise ImportError, naming the extra, where zarr is not installed."""
    try:
        import zarr  # noqa: F401
    except ModuleNotFoundError as error:
        raise ImportError("maps as .zarr need zarr: pip install 'geomoe[xarray]'") from error


def write_zarr(output: str, parts: Iterable[Columns], facts: Mapping[str, Any], grid: Mapping[str, Any]) -> None:
    """Write a Zarr store of rows of pixels, some rows at a time.

    float32 and float16 have NaN for no data; int8 has -128 and the attribute `scale_factor`, one for all dimensions.

    Args:
        parts: blocks of whole rows, with a "vector" of the store's type.
        facts: go into the attribute "geomoe", as JSON.
        grid: rasterio's height, width, transform and crs.

    Raises:
        OSError: the store cannot be written.
    """
    import zarr

    vector = next(iter(parts))["vector"]
    dtype, dimensions = vector.dtype, vector.shape[-1]
    height, width = grid["height"], grid["width"]
    attributes: dict[str, Any] = {"long_name": "embedding", "grid_mapping": "spatial_ref", "coordinates": "spatial_ref"}
    if dtype == np.int8:
        attributes["scale_factor"] = facts[SCALE][0]
    with atomic_path(output) as path:
        group = zarr.open_group(path, mode="w", zarr_format=2)
        shown = {key: facts[key] for key in _SHOWN if key in facts}
        group.attrs.update({"Conventions": "CF-1.11", **shown, "geomoe": json.dumps(facts)})
        if _write_coordinates(group, dimensions, grid, facts.get("time", "NaT")):
            attributes["coordinates"] = "spatial_ref time"
        array = group.create_array(
            _NAME,
            shape=(dimensions, height, width),
            chunks=(dimensions, min(CHUNK, height), min(CHUNK, width)),
            dtype=dtype,
            fill_value=INT8_NODATA if dtype == np.int8 else np.nan,
            attributes={_DIMENSIONS: ["dimension", "y", "x"], **attributes},
        )
        row = 0
        for rows in _bands(parts, CHUNK * width):
            values = rows.reshape(-1, width, dimensions).transpose(2, 0, 1)
            array[:, row : row + values.shape[1]] = values
            row += values.shape[1]
        zarr.consolidate_metadata(group.store)


def _bands(parts: Iterable[Columns], cells: int) -> Iterator[np.ndarray]:
    """The vectors of blocks of any size, `cells` at a time and at the end the rest."""
    waiting: list[np.ndarray] = []
    for part in parts:
        vector = part["vector"]
        while len(vector):
            room = cells - sum(map(len, waiting))
            waiting.append(vector[:room])
            vector = vector[room:]
            if len(waiting[-1]) == room:
                yield np.concatenate(waiting)
                waiting = []
    if waiting:
        yield np.concatenate(waiting)


def _write_coordinates(group: "zarr.Group", dimensions: int, grid: Mapping[str, Any], time: str) -> bool:
    """Write the coordinates and the CRS; return whether there is a time."""
    import pyproj

    def write(name: str, values: np.ndarray, axes: list[str], attributes: Mapping[str, Any]) -> None:
        options: dict[str, Any] = dict(fill_value=None, attributes={_DIMENSIONS: axes, **attributes})  # none of them is missing
        group.create_array(name, shape=values.shape, dtype=values.dtype, **options)[...] = values

    a, b, c, d, e, f = tuple(grid["transform"])[:6]
    crs = None if grid["crs"] is None else pyproj.CRS.from_wkt(grid["crs"].to_wkt())
    mapping = {} if crs is None else {**crs.to_cf(), "spatial_ref": crs.to_wkt()}
    transform = " ".join(map(repr, (c, a, b, f, d, e)))  # in GDAL's order
    write("spatial_ref", np.array(0), [], {**mapping, "GeoTransform": transform})
    write("dimension", np.arange(dimensions), ["dimension"], {"long_name": "dimension of the embedding"})
    if b == d == 0:  # those of a rotated grid depend on row and column
        described = {} if crs is None else {axis["axis"]: axis for axis in crs.cs_to_cf()}
        write("x", c + a * (np.arange(grid["width"]) + 0.5), ["x"], described.get("X", {}))
        write("y", f + e * (np.arange(grid["height"]) + 0.5), ["y"], described.get("Y", {}))
    if time == "NaT":
        return False
    since = {"units": "seconds since 1970-01-01", "calendar": "proleptic_gregorian", "standard_name": "time"}
    write("time", np.array(np.datetime64(time, "s").astype(np.int64)), [], since)
    return True


def read_zarr(path: str) -> dict[str, Any]:
    """Read a map of embeddings as a table of its pixels: see `geomoe.embeddings.read`."""
    check_zarr()
    import zarr

    try:
        group: Any = zarr.open_group(path, mode="r")
        facts, array, place = json.loads(group.attrs["geomoe"]), group[_NAME], group["spatial_ref"].attrs
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is no file of embeddings: it is no Zarr store of geomoe ({error})") from None
    dimensions, height, width = array.shape
    vector = np.empty((height * width, dimensions), np.float32)
    for row in range(0, height, CHUNK):
        values = array[:, row : row + CHUNK].reshape(dimensions, -1).T
        vector[row * width :][: len(values)] = to_float32(values, facts.get(SCALE))
    c, a, b, f, d, e = map(float, place["GeoTransform"].split())
    return pixel_table(vector, facts, (height, width), (a, b, c, d, e, f), place.get("crs_wkt"))
