"""Grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245).

Axes: B images, N tokens, D width, H query heads, G groups (key/value heads), d = D / H head width.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from geomoe.models import kernels
from geomoe.models.layers import Linear


class Attention(nn.Module):
    """Self-attention in which query head h reads key/value head h mod G."""

    width: int
    num_heads: int
    num_groups: int
    dtype: Any = jnp.float32  # of the products; the softmax is float32

    @nn.compact
    def __call__(self, x: Array, present: Array | None = None) -> Array:
        """(B, N, D) -> (B, N, D) in `dtype`; `present` (B, N) bool are the tokens that others look at, None is all."""
        kv_width = self.width // self.num_heads * self.num_groups
        widths = {"q_proj": self.width, "k_proj": kv_width, "v_proj": kv_width}
        q, k, v = (Linear(self.width, width, self.dtype, name=name)(x) for name, width in widths.items())
        return Linear(self.width, self.width, self.dtype, name="out_proj")(kernels.attention(q, k, v, self.num_groups, present))
