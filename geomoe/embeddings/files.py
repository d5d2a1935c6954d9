"""Reading the files of embeddings that `geomoe.cli.embed` writes."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a `.parquet` or `.npz` file of embeddings into memory.

    Returns:
        id (N,) text; latitude, longitude (N,); time (N,) datetime64[s]; valid_fraction (N,); embedded (N,) bool; vector (N, D)
        float32, NaN where not embedded; labels (N, K) 0/1 where the source has labels; facts: a dict that says how they came
        about (encoder, pool, input, class names).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no file of embeddings.
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
    metadata = table.schema.metadata or {}
    if b"geomoe" not in metadata:
        raise ValueError(f"{path} is no file of embeddings: it has no geomoe metadata")
    facts = json.loads(metadata[b"geomoe"])
    vector = table["vector"].combine_chunks()
    embedded = ~vector.is_null().to_numpy(zero_copy_only=False)
    width = vector.type.list_size
    values = np.full((len(vector), width), np.nan, np.float32)
    values[embedded] = vector.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    out = {
        "id": np.array(table["id"].to_pylist(), dtype=str),
        "latitude": table["latitude"].to_numpy(),
        "longitude": table["longitude"].to_numpy(),
        "time": table["time"].to_numpy().astype("datetime64[s]"),
        "valid_fraction": table["valid_fraction"].to_numpy(),
        "embedded": embedded,
        "vector": values,
        "facts": facts,
    }
    if "cloud_fraction" in table.column_names:
        out["cloud_fraction"] = table["cloud_fraction"].to_numpy()
    if "labels" in table.column_names:
        labels = np.zeros((len(vector), len(facts["classes"])), np.int32)
        lists = table["labels"].combine_chunks()
        rows = np.repeat(np.arange(len(vector)), lists.value_lengths().to_numpy(zero_copy_only=False))
        labels[rows, lists.flatten().to_numpy(zero_copy_only=False)] = 1
        out["labels"] = labels
    return out


def read_features(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Read vectors (N, D) and labels (N, K) of the embedded rows of a file, as probes take them.

    Raises:
        ValueError: the file has no labels.
    """
    table = read(path)
    if "labels" not in table:
        raise ValueError(f"{path} has no labels, so nothing can be probed with it")
    rows = table["embedded"]
    vector = table["vector"][rows]
    return vector.reshape(len(vector), -1), table["labels"][rows]
