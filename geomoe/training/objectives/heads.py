"""Linear heads on the mean token, for objectives that predict a few numbers. They are trained, and no part of the model."""

from __future__ import annotations

import jax
import numpy as np

from geomoe.models.layers import linear

Array = jax.Array


def init_heads(outputs: dict[str, int], width: int, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Fresh weights: name -> {"kernel" (D, outputs), "bias"}, uniform within 1/sqrt(D), for D = `width`."""
    rng = np.random.default_rng([seed, 1])
    draw = lambda *shape: rng.uniform(-(width**-0.5), width**-0.5, shape).astype(np.float32)
    return {name: {"kernel": draw(width, count), "bias": draw(count)} for name, count in sorted(outputs.items())}


def apply_head(head: dict[str, Array], z: Array) -> Array:
    """(B, D) -> (B, outputs)."""
    return linear(z, (head["kernel"], head["bias"]), z.dtype)
