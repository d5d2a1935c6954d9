"""A STAC item beside the embeddings of a scene, so that catalogues find them and readers know what they are.

The fields `emb:*` are those of the proposed embedding extension, which has no schema yet.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyproj

from geomoe.embeddings import footprints
from geomoe.embeddings.files import RASTERS
from geomoe.embeddings.vectors import INT8_NODATA, SCALE, Columns
from geomoe.files import atomic_open

SUFFIX = ".stac.json"
_EXTENSIONS = {"proj": "projection/v2.0.0", "raster": "raster/v2.0.0", "processing": "processing/v1.2.0"}  # by prefix
_TYPES = {
    ".tif": "image/tiff; application=geotiff; profile=cloud-optimized",
    ".parquet": "application/vnd.apache.parquet",
    ".npz": "application/octet-stream",
    ".zarr": "application/vnd.zarr; version=2",
}
_RUN = ("scene", "scenes", "resolution", "pool", "window", "stride", "min_valid", "max_cloud", "mask")
_OUTLINE = 21  # points of each side of a scene's outline: straight in its projection, curved in longitude and latitude


def write_item(output: str, facts: Mapping[str, Any], grid: Mapping[str, Any], parts: Iterable[Columns]) -> None:
    """Write OUTPUT.stac.json.

    A scene whose time is not known has none, as STAC asks for a time, and one that was there is removed.

    Args:
        facts: of the embeddings, with `time`, or `times` where they are of several.
        grid: rasterio's height, width, transform and crs.
        parts: blocks of rows as the file stores them.
    """
    times = [time for time in facts.get("times") or [facts["time"]] if time != "NaT"]
    path = output + SUFFIX
    if not times:
        if os.path.exists(path):
            os.remove(path)
        return
    vector = next(iter(parts))["vector"]
    outline = footprints.polygons(_outline(grid, _margin(output, facts)))
    properties = {**_when(times), **_projection(grid), **_embedding(facts, vector.dtype, vector.shape[-1])}
    asset = _asset(output, facts, vector.dtype, vector.shape[-1])
    used = {field.partition(":")[0] for fields in (properties, asset, *asset["bands"]) for field in fields}
    names = [name for prefix, name in _EXTENSIONS.items() if prefix in used]  # their schemas ask for a field of theirs
    item = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [f"https://stac-extensions.github.io/{name}/schema.json" for name in names],
        "id": os.path.splitext(os.path.basename(output))[0],
        "geometry": footprints.to_geojson(outline),
        "bbox": footprints.bounds(outline).tolist(),
        "properties": properties,
        "links": [],
        "assets": {"embeddings": asset},
    }
    with atomic_open(path) as file:
        json.dump(item, file, indent=1, allow_nan=False)


def _when(times: list[str]) -> dict[str, Any]:
    """STAC's fields of one time, or of the span of several: a day whose hour is not known is a span too."""
    starts = [np.datetime64(time) for time in times]
    ends = [(start + 1).astype("datetime64[s]") - 1 if np.datetime_data(start)[0] == "D" else start for start in starts]
    first, last = (f"{time.astype('datetime64[s]')}Z" for time in (min(starts), max(ends)))
    return {"datetime": first} if first == last else {"datetime": None, "start_datetime": first, "end_datetime": last}


def _margin(output: str, facts: Mapping[str, Any]) -> float:
    """By how many cells of its grid an output reaches beyond it: a raster has a cell a window, a table the whole windows."""
    is_raster = os.path.splitext(output)[1] in RASTERS
    return 0.0 if is_raster or facts["resolution"] != "window" else (facts["window"] / facts["stride"] - 1) / 2


def _outline(grid: Mapping[str, Any], margin: float) -> np.ndarray:
    """(M, 2) longitudes and latitudes around a raster, closed, and some of its cells beyond."""
    steps = np.linspace(0, 1, _OUTLINE)[:-1]
    x = np.concatenate([0 * steps, steps, 0 * steps + 1, 1 - steps, [0]]) * (grid["width"] + 2 * margin) - margin
    y = np.concatenate([steps, 0 * steps + 1, 1 - steps, 0 * steps, [0]]) * (grid["height"] + 2 * margin) - margin
    a, b, c, d, e, f = tuple(grid["transform"])[:6]
    to_wgs84 = pyproj.Transformer.from_crs(grid["crs"].to_wkt(), "EPSG:4326", always_xy=True)
    return np.stack(to_wgs84.transform(a * x + b * y + c, d * x + e * y + f), axis=-1)


def _projection(grid: Mapping[str, Any]) -> dict[str, Any]:
    height, width, transform, crs = grid["height"], grid["width"], grid["transform"], grid["crs"]
    corners = [transform @ corner for corner in ((0, 0), (width, 0), (0, height), (width, height))]
    code = crs.to_epsg()
    out: dict[str, Any] = {"proj:code": f"EPSG:{code}" if code else None}
    if not code:
        out["proj:wkt2"] = crs.to_wkt(version="WKT2_2019")
    out |= {"proj:shape": [height, width], "proj:transform": list(transform)}
    out["proj:bbox"] = [*np.min(corners, axis=0).tolist(), *np.max(corners, axis=0).tolist()]
    if crs.is_projected:
        out["gsd"] = math.hypot(transform.a, transform.d) * crs.linear_units_factor[1]  # of a grid that may be rotated
    return out


def _embedding(facts: Mapping[str, Any], dtype: np.dtype, dimensions: int) -> dict[str, Any]:
    """What the embeddings are and how they came about."""
    chips = facts["resolution"] == "window"
    run = {key: facts[key] for key in _RUN if key in facts}
    out: dict[str, Any] = {
        "emb:type": "chip" if chips else "pixel",
        "emb:dimensions": dimensions,
        "emb:temporal_resolution": "multi_temporal" if "times" in facts else "single_acquisition",
        "emb:runtime_parameters": run,
        "emb:preprocessing": {"format": "geomoe", "expression": facts["input"]},
        "processing:software": {"geomoe": facts["geomoe_version"]},
        "geomoe:encoder": facts["encoder"],
        "geomoe:encoder_sha256": facts["encoder_sha256"],
    }
    if chips:
        window, stride = facts["window"], facts["stride"]
        out["emb:chip_layout"] = {"layout_type": "regular_grid", "chip_size": [window, window], "stride": [stride, stride]}
    if dtype == np.int8:
        linear = {"method": "linear", "original_dtype": "float32", "quantized_dtype": "int8"}
        out["emb:quantization"] = {**linear, "scale": facts[SCALE], "offset": [0] * dimensions}
    return out


def _asset(output: str, facts: Mapping[str, Any], dtype: np.dtype, dimensions: int) -> dict[str, Any]:
    ending = os.path.splitext(output)[1]
    asset: dict[str, Any] = {
        "href": f"./{os.path.basename(output)}",
        "type": _TYPES[ending],
        "roles": ["data"],
        "title": "Embeddings",
    }
    if ending in (".tif", ".zarr"):
        asset["raster:sampling"] = "area"
    bands: list[dict[str, Any]] = [{"name": f"embedding {band}"} for band in range(dimensions)]
    if dtype == np.int8:
        for band, scale in zip(bands, facts[SCALE]):
            band["raster:scale"] = scale
    return asset | {"data_type": str(dtype), "nodata": INT8_NODATA if dtype == np.int8 else "nan", "bands": bands}
