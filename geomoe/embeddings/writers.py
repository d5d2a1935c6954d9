"""Embeddings on disk, in bounded memory: parts while a run goes on, one file at its end.

A part is a `.npz` of a block of rows, written whole or not at all; a run that was interrupted goes on after the last part. The
end joins the parts into Parquet, `.npz` or GeoTIFF, one part in memory at a time.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

FORMATS = (".parquet", ".npz", ".tif")


class Parts:
    """The parts of an output that is being made.

    Args:
        output: the file in the making; parts stand in OUTPUT.parts beside it.
        facts: plain values that say what is being made. Parts of other facts are refused, not mixed.

    Raises:
        ValueError: there are parts of another run.
    """

    def __init__(self, output: str | os.PathLike, facts: Mapping[str, Any]):
        self.folder = f"{os.fspath(output)}.parts"
        path = os.path.join(self.folder, "facts.json")
        if os.path.exists(path):
            with open(path) as file:
                known = json.load(file)
            if known != json.loads(json.dumps(facts)):
                differs = [k for k in {*known, *facts} if known.get(k) != json.loads(json.dumps(facts)).get(k)]
                raise ValueError(
                    f"{self.folder} holds parts of another run ({', '.join(sorted(differs))} differ); "
                    "remove the folder to start anew"
                )
        else:
            os.makedirs(self.folder, exist_ok=True)
            with open(f"{path}.partial", "w") as file:
                json.dump(facts, file)
            os.replace(f"{path}.partial", path)

    def _path(self, index: int) -> str:
        return os.path.join(self.folder, f"{index:06d}.npz")

    @property
    def done(self) -> int:
        """Number of parts from the first on without a gap."""
        count = 0
        while os.path.exists(self._path(count)):
            count += 1
        return count

    def add(self, index: int, columns: Mapping[str, np.ndarray]) -> None:
        """Writes a part."""
        partial = f"{self._path(index)}.partial"
        with open(partial, "wb") as file:
            np.savez(file, **columns)
        os.replace(partial, self._path(index))

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        for index in range(self.done):
            with np.load(self._path(index), allow_pickle=False) as part:
                yield dict(part)

    def remove(self) -> None:
        shutil.rmtree(self.folder)


def write_parquet(output: str, parts: Parts, facts: Mapping[str, Any], footprints: bool) -> None:
    """One row a patch: id, latitude, longitude, time, labels, valid_fraction, vector (null where not embedded).

    With `footprints` the file is GeoParquet 1.1: a WKB polygon in longitude and latitude for each row.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema, writer = None, None
    for part in parts:
        columns = _arrow_columns(part, footprints)
        if schema is None:
            schema = pa.schema([(name, column.type) for name, column in columns.items()])
            extra = {b"geomoe": json.dumps(facts).encode()}
            if footprints:
                geometry = {"encoding": "WKB", "geometry_types": ["Polygon"], "bbox": _bounds(parts)}
                geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": geometry}}
                extra[b"geo"] = json.dumps(geo).encode()
            writer = pq.ParquetWriter(f"{output}.partial", schema.with_metadata(extra))
        writer.write_table(pa.table(columns, schema=schema.with_metadata(None)))
    writer.close()
    os.replace(f"{output}.partial", output)


def _arrow_columns(part: Mapping[str, np.ndarray], footprints: bool) -> dict[str, Any]:
    import pyarrow as pa

    embedded = part["embedded"]
    vectors = part["vector"].reshape(len(embedded), -1)
    width = vectors.shape[1]
    flat = pa.array(vectors.reshape(-1), pa.from_numpy_dtype(vectors.dtype))
    columns = {
        "id": pa.array(part["id"].astype(str)),
        "latitude": pa.array(part["latitude"], from_pandas=True),
        "longitude": pa.array(part["longitude"], from_pandas=True),
        "time": pa.array(part["time"].astype("datetime64[s]")),
        "valid_fraction": pa.array(part["valid_fraction"]),
    }
    if "cloud_fraction" in part:
        columns["cloud_fraction"] = pa.array(part["cloud_fraction"], from_pandas=True)
    if "labels" in part:
        rows, classes = np.nonzero(part["labels"])
        offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(embedded)))])
        columns["labels"] = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(classes, pa.int32()))
    columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, width, mask=pa.array(~embedded))
    if footprints:
        polygons = [struct.pack("<BIII10d", 1, 3, 1, 5, *corners.reshape(-1)) for corners in part["footprint"]]
        columns["geometry"] = pa.array(polygons, pa.binary())
    return columns


def _bounds(parts: Parts) -> list[float]:
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    for part in parts:
        corners = part["footprint"].reshape(-1, 2)
        low, high = np.minimum(low, corners.min(axis=0)), np.maximum(high, corners.max(axis=0))
    return [*map(float, low), *map(float, high)]


def write_npz(output: str, parts: Parts, facts: Mapping[str, Any]) -> None:
    """Arrays id, latitude, longitude, time, valid_fraction, embedded, vector (NaN where not embedded), labels; `facts` as JSON.

    Each array goes into the archive part by part.
    """
    names = [name for name in next(iter(parts)) if name != "footprint"]
    total = sum(len(part["embedded"]) for part in parts)
    with zipfile.ZipFile(f"{output}.partial", "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name in names:
            dtype = np.result_type(*{part[name].dtype for part in parts})
            shape = (total, *next(iter(parts))[name].shape[1:])
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_2_0(file, header)
                for part in parts:
                    file.write(np.ascontiguousarray(part[name], dtype).tobytes())
        with archive.open("facts.npy", "w") as file:
            np.lib.format.write_array(file, np.array(json.dumps(facts)))
    os.replace(f"{output}.partial", output)


def write_geotiff(output: str, parts: Parts, facts: Mapping[str, Any], grid: Mapping[str, Any]) -> None:
    """A raster with one pixel a window and one band a value; NaN where not embedded.

    Args:
        grid: height and width in windows, transform and crs.
    """
    import rasterio
    from rasterio.windows import Window

    width = next(iter(parts))["vector"].shape[-1]
    profile = dict(
        driver="GTiff",
        height=grid["height"],
        width=grid["width"],
        count=width,
        dtype="float32",
        nodata=float("nan"),
        transform=grid["transform"],
        crs=grid["crs"],
        tiled=True,
        blockxsize=128,
        blockysize=128,
        interleave="pixel",
        compress="deflate",
        bigtiff="if_safer",
    )
    row = 0
    with rasterio.open(f"{output}.partial", "w", **profile) as file:
        file.update_tags(geomoe=json.dumps(facts))
        for band in range(width):
            file.set_band_description(band + 1, f"embedding {band}")
        for part in parts:
            values = np.where(part["embedded"][:, None], part["vector"].astype(np.float32), np.nan)
            values = values.reshape(-1, grid["width"], width).transpose(2, 0, 1)
            file.write(values, window=Window(0, row, grid["width"], values.shape[1]))
            row += values.shape[1]
    os.replace(f"{output}.partial", output)
