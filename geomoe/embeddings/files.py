"""Tables of embeddings: parts to one Parquet or `.npz` file, with one part in memory at a time; and files read back."""

import json
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from geomoe.data.preprocess import ENCODER
from geomoe.embeddings import footprints as shapes
from geomoe.embeddings.rasters import read_geotiff
from geomoe.embeddings.vectors import SCALE, Columns, to_float32
from geomoe.embeddings.zarr_maps import read_zarr
from geomoe.files import atomic_path
from geomoe.landsat import Statistics

Parts = Iterable[Columns]  # blocks of rows after each other; read several times
RASTERS = (".tif", ".zarr")
FORMATS = (".parquet", ".npz", *RASTERS)


def write_parquet(output: str, parts: Parts, facts: Mapping[str, Any], footprints: bool) -> None:
    """Write one row a patch: id, latitude, longitude, time, labels, valid_fraction, vector (a list, null where not embedded).

    With `footprints` the file is GeoParquet 1.1: a polygon in longitude and latitude for each row, cut in two where it crosses
    180 degrees, and its bounds in the column `bbox`, as RFC 7946 has them: west is greater than east where they do.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    extra = {b"geomoe": json.dumps(facts).encode()}
    if footprints:
        extra[b"geo"] = json.dumps(_geo_metadata(part["footprint"] for part in parts)).encode()
    tables = (pa.table(_arrow_columns(part, footprints)) for part in parts)
    first = next(tables)
    index = first.schema.get_field_index("vector")
    width = {"dimensions": str(next(iter(parts))["vector"].shape[1])}
    schema = first.schema.set(index, first.schema.field(index).with_metadata(width)).with_metadata(extra)
    with atomic_path(output) as path, pq.ParquetWriter(path, schema) as writer:
        writer.write_table(first.cast(schema))
        for table in tables:
            writer.write_table(table.cast(schema))


def _geo_metadata(footprints: Iterable[np.ndarray]) -> dict[str, Any]:
    """The file metadata of GeoParquet 1.1 of blocks of rings (N, 5, 2)."""
    kinds, bounds = set[str](), list[np.ndarray]()
    for rings in footprints:
        polygons = [shapes.polygons(ring) for ring in rings]
        kinds |= {"Polygon" if len(polygon) == 1 else "MultiPolygon" for polygon in polygons}
        bounds.append(shapes.join_bounds(np.array([shapes.bounds(polygon) for polygon in polygons])))
    covering = {"bbox": {name: ["bbox", name] for name in shapes.BOUNDS}}
    geometry = {"encoding": "WKB", "geometry_types": sorted(kinds), "orientation": "counterclockwise", "covering": covering}
    geometry["bbox"] = shapes.join_bounds(np.array(bounds)).tolist()
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": geometry}}


def _arrow_columns(part: Columns, footprints: bool) -> dict[str, Any]:
    import pyarrow as pa

    embedded, vectors = part["embedded"], part["vector"]
    flat = pa.array(vectors[embedded].reshape(-1), pa.from_numpy_dtype(vectors.dtype))
    starts = np.concatenate([[0], np.cumsum(embedded * vectors.shape[1])]).astype(np.int32)
    columns = {
        "id": pa.array(part["id"].astype(str)),
        "latitude": pa.array(part["latitude"], from_pandas=True),
        "longitude": pa.array(part["longitude"], from_pandas=True),
        "time": pa.array(part["time"].astype("datetime64[s]")),
        "valid_fraction": pa.array(part["valid_fraction"]),
    }
    if "cloud_fraction" in part:
        columns["cloud_fraction"] = pa.array(part["cloud_fraction"], from_pandas=True)
    if "dates" in part:
        columns["dates"] = pa.array(part["dates"])
    if "labels" in part:
        rows, classes = np.nonzero(part["labels"])
        offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(embedded)))])
        columns["labels"] = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(classes, pa.int32()))
    # Not a list of fixed size: pyarrow 25 does not read those with nulls.
    columns["vector"] = pa.ListArray.from_arrays(pa.array(starts), flat, mask=pa.array(~embedded))
    if footprints:
        polygons = [shapes.polygons(ring) for ring in part["footprint"]]
        columns["geometry"] = pa.array([shapes.to_wkb(polygon) for polygon in polygons], pa.binary())
        bounds = np.array([shapes.bounds(polygon) for polygon in polygons])
        columns["bbox"] = pa.StructArray.from_arrays(list(bounds.T), names=list(shapes.BOUNDS))
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


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a `.parquet`, `.npz`, `.tif` or `.zarr` file of embeddings into memory.

    Returns:
        id (N,) text; latitude, longitude (N,); time (N,) datetime64[s]; valid_fraction (N,), of tables; embedded (N,) bool;
        vector (N, D) float32, whatever the file's type, NaN where not embedded; labels (N, K) 0/1 where the source has labels;
        facts: a dict that says how they came about (encoder, pool, input, class names). The rows of a raster are its pixels.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it holds no embeddings.
    """
    path = os.fspath(path).rstrip("/")  # a shell puts one after the name of a Zarr store, which is a folder
    if not os.path.exists(path):
        raise FileNotFoundError(f"no embeddings at {path}")
    if path.endswith(".npz"):
        out = _read_npz(path)
        return out | {"vector": to_float32(out["vector"], out["facts"].get(SCALE))}
    if path.endswith(".tif"):
        return read_geotiff(path)
    if path.endswith(".zarr"):
        return read_zarr(path)
    if not path.endswith(".parquet"):
        raise ValueError(f"{path}: embeddings are read from {', '.join(FORMATS)} files")
    return _read_parquet(path)


def _read_parquet(path: str) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    facts, table = _facts_of_parquet(path), pq.read_table(path)
    vector, kind = table["vector"], table.schema.field("vector")
    embedded = ~vector.is_null().to_numpy()
    width = kind.type.list_size if pa.types.is_fixed_size_list(kind.type) else int(kind.metadata[b"dimensions"])
    values = np.full((len(vector), width), np.nan, np.float32)
    stored = [chunk.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, width) for chunk in vector.chunks]
    values[embedded] = to_float32(np.concatenate(stored), facts.get(SCALE))
    plain = ("latitude", "longitude", "time", "valid_fraction", "cloud_fraction", "dates")
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


def _facts_of_parquet(path: str) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_schema(path).metadata or {}
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is no Parquet file: {error}") from None
    if b"geomoe" not in metadata:
        raise ValueError(f"{path} is no file of embeddings: it has no geomoe metadata")
    return dict(json.loads(metadata[b"geomoe"]))


def _read_npz(path: str, *only: str) -> dict[str, Any]:
    """The arrays of an `.npz` file as they are stored, all or `only` some, and its facts; ValueError where it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            names = file.files
            whole = {"facts", "vector"} <= set(names)
            out = {name: file[name] for name in only or names} if whole else {}
            facts = json.loads(str(out.pop("facts"))) if whole else {}
    except (zipfile.BadZipFile, zlib.error, struct.error, ValueError, TypeError, EOFError, NotImplementedError) as error:
        raise ValueError(f"{path} is damaged, or no .npz file: {error}") from None
    if not whole:
        raise ValueError(f"{path} is no file of embeddings: it holds {', '.join(names)}")
    return out | {"facts": facts}


def read_facts(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The facts of a file of embeddings, as `read` gives them, without the rows of a table."""
    path = os.fspath(path)
    if os.path.isfile(path) and path.endswith((".npz", ".parquet")):
        return dict(_read_npz(path, "facts")["facts"]) if path.endswith(".npz") else _facts_of_parquet(path)
    return dict(read(path)["facts"])


def read_features(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Read vectors (N, D) and labels (N, K) of the embedded rows of a file, as probes take them; ValueError without labels."""
    table = read(path)
    if "labels" not in table:
        raise ValueError(f"{path} has no labels, so nothing can be probed with it")
    rows = table["embedded"]
    return table["vector"][rows], table["labels"][rows]


def check_alike(
    first: tuple[str, Mapping[str, Any]], other: tuple[str, Mapping[str, Any]], keys: Sequence[str], why: str
) -> None:
    """Raise ValueError where the embeddings of two files, (path, facts), were made in ways that are not to be mixed.

    Images z-scored by the encoder's statistics do not go with others that were z-scored by their own, nor by statistics that an
    encoder had before.

    Args:
        keys: of the facts that have to be the same.
        why: what mixes them, in words that end the error.
    """
    (path, facts), (other_path, other_facts) = first, other
    for key in keys:
        if facts.get(key) != other_facts.get(key):
            raise ValueError(f"{path} has {key} {facts.get(key)}, {other_path} {other_facts.get(key)}: {why}")
    ways = [_z_score(each) for each in (facts, other_facts)]
    if None not in ways and ways[0] != ways[1]:
        differ = " and those of ".join(f"{each} by {way}" for each, way in zip((path, other_path), ways))
        raise ValueError(f"images of {differ} were z-scored in two ways; embed both with the same --statistics")


def _z_score(facts: Mapping[str, Any]) -> str | None:
    """By whose statistics images were z-scored, as text; None where the file does not say it."""
    record = facts.get("input", {})
    if record.get("statistics_of") != ENCODER:
        return "statistics of their own" if "statistics_of" in record else None
    statistics = Statistics.of(record["statistics"])
    return f"the encoder's statistics, {statistics.digest}"
