"""An encoder in one safetensors file: weights, architecture, statistics and card.

The file's metadata has one key of ours, "geomoe", a JSON text. Tensors are named by their path in the parameter tree, as
"encoder/block_00/attention/q_proj/kernel".
"""

import json
import os
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.traverse_util
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from geomoe.files import atomic_open
from geomoe.landsat import LINEAR, Statistics
from geomoe.models import MAE, ModelConfig, check_params

_KEY = "geomoe"
_VERSION, _VERSION_LINEAR = 2, 1  # what is read; what is written where the statistics are linear, as version 1 has them
_MAX_HEADER = 16 << 20
DTYPES = ("float32", "float16")


class SafetensorsCheckpoint(NamedTuple):
    """What a file holds."""

    config: ModelConfig
    params: dict[str, Any]  # {"encoder": ...}, and "decoder" where the file has it; float32 numpy arrays
    statistics: Statistics  # of the z-score
    normalised_targets: bool  # whether the model learned to reconstruct patches that were normalised each by itself
    card: dict[str, Any]  # what the file says of how it came about; plain values


def save_safetensors(
    path: str | os.PathLike[str],
    params: Mapping[str, Any],
    config: ModelConfig,
    statistics: Statistics,
    normalised_targets: bool = False,
    *,
    card: Mapping[str, Any] | None = None,
    dtype: str = "float32",
) -> None:
    """Write a file; `dtype` is "float32" or, at half the size, "float16".

    Raises:
        ValueError: an unknown dtype, or weights beyond its range.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype = {dtype!r} is not one of {', '.join(DTYPES)}")
    tensors = {}
    for names, leaf in flax.traverse_util.flatten_dict(dict(params)).items():
        with np.errstate(over="ignore"):  # said below, by name
            tensors[name := "/".join(names)] = np.ascontiguousarray(leaf, dtype)
        if not np.isfinite(tensors[name]).all():
            raise ValueError(f"{name} holds values that {dtype} cannot")
    facts = {
        "version": _VERSION_LINEAR if statistics.scale == LINEAR else _VERSION,
        "model": config.to_dict(),
        "statistics": dict(statistics),
        "normalised_targets": normalised_targets,
        "card": dict(card or {}),
    }
    blob = safetensors.numpy.save(tensors, {"format": "np", _KEY: json.dumps(facts)})
    with atomic_open(path, "wb") as file:
        file.write(blob)


def load_safetensors(path: str | os.PathLike[str], max_params: int = 100_000_000) -> SafetensorsCheckpoint:
    """Read a file that `save_safetensors` wrote.

    Args:
        max_params: values of all tensors; a file that declares more is refused before they are read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, of another maker, or holds weights that do not fit its architecture.
    """
    name = os.fspath(path)
    try:
        header = _read_header(name)
        metadata = header.pop("__metadata__", {})
        if _KEY not in metadata:
            raise ValueError("it was not written by geomoe: its metadata lack the architecture")
        declared = sum(int(np.prod(tensor["shape"], dtype=object)) for tensor in header.values())
        if declared > max_params:
            raise ValueError(f"it declares {declared:,} values, more than the {max_params:,} of max_params")
        facts = json.loads(metadata[_KEY])
        if facts["version"] > _VERSION:
            raise ValueError(f"it is of version {facts['version']} of the format; this geomoe reads {_VERSION}: upgrade it")
        config, statistics = ModelConfig.from_dict(facts["model"]), Statistics.of(facts["statistics"])
        tensors = safetensors.numpy.load_file(name)
        if other := [f"{key} {value.dtype}" for key, value in tensors.items() if not jnp.issubdtype(value.dtype, jnp.floating)]:
            raise ValueError(f"{other[0]} are no floating-point numbers; weights that were quantised are not read")
        flat = {tuple(key.split("/")): value.astype(np.float32) for key, value in tensors.items()}
        params = flax.traverse_util.unflatten_dict(flat)
        if "encoder" not in params:
            raise ValueError("it holds no encoder")
        check_params(MAE(config), params)
        return SafetensorsCheckpoint(config, params, statistics, bool(facts["normalised_targets"]), dict(facts["card"]))
    except FileNotFoundError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, safetensors.SafetensorError) as error:
        raise ValueError(f"{name} is no encoder that can be loaded: {error}") from error


def _read_header(path: str) -> dict[str, Any]:
    with open(path, "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
        if size > _MAX_HEADER:
            raise ValueError("it is no safetensors file")
        header = json.loads(file.read(size))
    if not isinstance(header, dict):
        raise ValueError("its header is no table")
    return header
