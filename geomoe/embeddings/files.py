"""Files of embeddings: parts to one Parquet, `.npz` or GeoTIFF file, with one part in memory at a time; and read back."""

import json
import os
import struct
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from geomoe.files import atomic_path

Columns = dict[str, np.ndarray]  # the columns of a block of rows, by name
Parts = Iterable[Columns]  # blocks of rows after each other; read several times
FORMATS = (".parquet", ".npz", ".tif")
TILE = 128  # pixels a side, of a GeoTIFF


def write_parquet(output: str, parts: Parts, facts: Mapping[str, Any], footprints: bool) -> None:
    """Write one row a patch: id, latitude, longitude, time, labels, valid_fraction, vector (null where not embedded).

    With `footprints` the file is GeoParquet 1.1: a WKB polygon in longitude and latitude for each row.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    extra = {b"geomoe": json.dumps(facts).encode()}
    if footprints:
        corners = (part["footprint"] for part in parts)  # (N, 5, 2) each, longitude and latitude
        low, high = zip(*((part.min(axis=(0, 1)), part.max(axis=(0, 1))) for part in corners))
        bounds = [*np.min(low, axis=0).tolist(), *np.max(high, axis=0).tolist()]
        geometry = {"encoding": "WKB", "geometry_types": ["Polygon"], "bbox": bounds}
        geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": geometry}}
        extra[b"geo"] = json.dumps(geo).encode()
    tables = (pa.table(_arrow_columns(part, footprints)) for part in parts)
    first = next(tables)
    with atomic_path(output) as path, pq.ParquetWriter(path, first.schema.with_metadata(extra)) as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table.cast(first.schema))


def _arrow_columns(part: Columns, footprints: bool) -> dict[str, Any]:
    import pyarrow as pa

    embedded, vectors = part["embedded"], part["vector"]
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
    columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1], mask=pa.array(~embedded))
    if footprints:
        polygons = [struct.pack("<BIII10d", 1, 3, 1, 5, *corners.reshape(-1)) for corners in part["footprint"]]
        columns["geometry"] = pa.array(polygons, pa.binary())
    return columns


def write_npz(output: str, parts: Parts, facts: Mapping[str, Any]) -> None:
    """Write id, latitude, longitude, time, valid_fraction, embedded, vector (NaN where not embedded), labels; facts as JSON."""
    names = [name for name in next(iter(parts)) if name != "footprint"]
    total = sum(len(part["embedded"]) for part in parts)
    with atomic_path(output) as path, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
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


def write_geotiff(output: str, parts: Parts, facts: Mapping[str, Any], grid: Mapping[str, Any]) -> None:
    """Write a raster with one pixel a window (grid: rasterio's height, width, transform, crs), one band a value or NaN."""
    import rasterio
    from rasterio.windows import Window

    width = next(iter(parts))["vector"].shape[-1]
    profile = dict(driver="GTiff", **grid, count=width, dtype="float32", nodata=float("nan"), bigtiff="if_safer")
    profile |= dict(tiled=True, blockxsize=TILE, blockysize=TILE, interleave="pixel", compress="deflate")
    row = 0
    with atomic_path(output) as path, rasterio.open(path, "w", **profile) as file:
        file.update_tags(geomoe=json.dumps(facts))
        for band in range(width):
            file.set_band_description(band + 1, f"embedding {band}")
        for part in parts:
            values = np.where(part["embedded"][:, None], part["vector"].astype(np.float32), np.nan)
            values = values.reshape(-1, grid["width"], width).transpose(2, 0, 1)
            file.write(values, window=Window(0, row, grid["width"], values.shape[1]))
            row += values.shape[1]


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a `.parquet` or `.npz` file of embeddings into memory.

    Returns:
        id (N,) text; latitude, longitude (N,); time (N,) datetime64[s]; valid_fraction (N,); embedded (N,) bool; vector (N, D)
        float32, NaN where not embedded; labels (N, K) 0/1 where the source has labels; facts: a dict that says how they came
        about (encoder, pool, input, class names).

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it holds no embeddings.
    """
    path = os.fspath(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"no embeddings at {path}")
    if path.endswith(".npz"):
        with np.load(path, allow_pickle=False) as file:
            if "facts" not in file or "vector" not in file:
                raise ValueError(f"{path} is no file of embeddings: it holds {', '.join(file.files)}")
            out: dict[str, Any] = {name: file[name] for name in file.files if name != "facts"}
            out["facts"] = json.loads(str(file["facts"]))
        return out
    if not path.endswith(".parquet"):
        raise ValueError(f"{path}: embeddings are read from .parquet and .npz files")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is no Parquet file: {error}") from None
    if b"geomoe" not in (table.schema.metadata or {}):
        raise ValueError(f"{path} is no file of embeddings: it has no geomoe metadata")
    facts = json.loads(table.schema.metadata[b"geomoe"])
    vector = table["vector"].combine_chunks()
    embedded = ~vector.is_null().to_numpy(zero_copy_only=False)
    width = vector.type.list_size
    values = np.full((len(vector), width), np.nan, np.float32)
    values[embedded] = vector.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    plain = ("latitude", "longitude", "time", "valid_fraction", "cloud_fraction")
    out = {name: table[name].to_numpy() for name in plain if name in table.column_names}
    out["time"] = out["time"].astype("datetime64[s]")
    out |= {"id": np.array(table["id"].to_pylist(), str), "embedded": embedded, "vector": values, "facts": facts}
    if "labels" in table.column_names:
        labels = np.zeros((len(vector), len(facts["classes"])), np.int32)
        lists = table["labels"].combine_chunks()
        rows = np.repeat(np.arange(len(vector)), lists.value_lengths().to_numpy(zero_copy_only=False))
        labels[rows, lists.flatten().to_numpy(zero_copy_only=False)] = 1
        out["labels"] = labels
    return out


def read_features(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Read vectors (N, D) and labels (N, K) of the embedded rows of a file, as probes take them; ValueError without labels."""
    table = read(path)
    if "labels" not in table:
        raise ValueError(f"{path} has no labels, so nothing can be probed with it")
    rows = table["embedded"]
    return table["vector"][rows], table["labels"][rows]
