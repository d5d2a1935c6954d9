"""geomoe: a metadata-aware mixture-of-experts masked autoencoder for Landsat patches, in JAX.

    import geomoe
    encoder = geomoe.load("runs/demo")
    z = encoder.embed(images, lat=lat, lon=lon, time=time)

Submodules load on first use; only `geomoe.data` imports TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import Any

from geomoe.version import __version__ as __version__


_SUBMODULES = ("analysis", "data", "embeddings", "export", "landsat", "metadata", "models", "probing", "training", "weights")
_NAMES = {"load": "geomoe.pretrained", "PretrainedEncoder": "geomoe.pretrained"}


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"geomoe.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'geomoe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_SUBMODULES, *_NAMES])
