"""Linear heads on what the model gives, for objectives that predict something of it. Trained, and no part of the model."""

from __future__ import annotations

import jax
import numpy as np

from geomoe.models.layers import linear

Array = jax.Array


def init_heads(sizes: dict[str, tuple[int, int]], seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Fresh weights of heads of (D, outputs): name -> {"kernel" (D, outputs), "bias"}, uniform within 1/sqrt(D)."""
    rng = np.random.default_rng([seed, 1])

    def draw(width: int, *shape: int) -> np.ndarray:
        return rng.uniform(-(width**-0.5), width**-0.5, shape).astype(np.float32)

    return {
        name: {"kernel": draw(width, width, count), "bias": draw(width, count)}
        for name, (width, count) in sorted(sizes.items())
    }


def apply_head(head: dict[str, Array], z: Array) -> Array:
    """(..., D) -> (..., outputs)."""
    return linear(z, (head["kernel"], head["bias"]), z.dtype)
