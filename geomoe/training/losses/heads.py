"""Linear heads on what the model gives, for objectives that predict something of it. Trained, and no part of the model."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jax import Array

from geomoe.models.layers import Linear, fan_in_uniform


def init_heads(sizes: Mapping[str, tuple[int, int]], seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Initialise heads of (in, out): name -> {"kernel" (in, out), "bias" (out,)}, as `Linear` is."""
    rng, heads = np.random.default_rng([seed, 1]), {}
    for name, (width, outputs) in sizes.items():
        init = fan_in_uniform(width)
        heads[name] = {"kernel": init.on_host(rng, (width, outputs)), "bias": init.on_host(rng, (outputs,))}
    return heads


def apply_head(params: Mapping[str, Array], x: Array) -> Array:
    """(..., in) -> (..., out)."""
    width, outputs = params["kernel"].shape
    y: Any = Linear(width, outputs, x.dtype).apply({"params": params}, x)
    return y
