"""Datasets: from GeoTIFFs to batches. What reads records imports TensorFlow, on first use."""

from __future__ import annotations

import importlib
from typing import Any

_MODULES = {
    "BUILDERS": "builders",
    "Augment": "augment",
    "DatasetNotPreparedError": "pipeline",
    "builder": "pipeline",
    "compute_statistics": "pipeline",
    "load": "pipeline",
    "num_examples": "pipeline",
}

__all__ = [  # noqa: F822
    "BUILDERS",
    "Augment",
    "DatasetNotPreparedError",
    "builder",
    "compute_statistics",
    "load",
    "num_examples",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'geomoe.data' has no attribute {name!r}")
    importlib.import_module("geomoe.data.tensorflow_setup")  # before anything else imports TensorFlow
    return getattr(importlib.import_module(f"geomoe.data.{_MODULES[name]}"), name)
