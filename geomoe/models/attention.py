"""Grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245).

Axes: B images, N tokens, D width, H query heads, G groups (key/value heads), R = H / G query heads a group, d head width.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from geomoe.models.layers import LinearParams, linear

Array = jax.Array


def grouped_query_attention(q: Array, k: Array, v: Array, num_groups: int) -> Array:
    """softmax(q k^T / sqrt(d)) v, where query head h reads key/value head h mod G (the published weights' order).

    The R query heads of a group are stacked as rows, so that each group is one matmul of (R*N, d) by (d, N); the softmax is
    float32 whatever the type of the inputs.

    Args:
        q: (B, N, H*d) queries, head after head.
        k, v: (B, N, G*d) keys and values.
        num_groups: G.

    Returns:
        (B, N, H*d), in the type of `q`.
    """
    b, n, _ = q.shape
    d = k.shape[-1] // num_groups
    r = q.shape[-1] // (num_groups * d)
    q = (q * d**-0.5).reshape(b, n, r, num_groups, d).transpose(0, 3, 2, 1, 4).reshape(b, num_groups, r * n, d)
    k = k.reshape(b, n, num_groups, d).transpose(0, 2, 1, 3)
    v = v.reshape(b, n, num_groups, d).transpose(0, 2, 1, 3)
    logits = jnp.einsum("bgqd,bgkd->bgqk", q, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    out = jnp.einsum("bgqk,bgkd->bgqd", weights, v)
    return out.reshape(b, num_groups, r, n, d).transpose(0, 3, 2, 1, 4).reshape(b, n, num_groups * r * d)


class GroupedQueryAttention(nn.Module):
    """Self-attention in which groups of query heads share a key and a value head: (B, N, D) -> (B, N, D)."""

    num_heads: int
    num_groups: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        kv_width = width // self.num_heads * self.num_groups
        q = LinearParams(width, width, name="q_proj")()
        k = LinearParams(width, kv_width, name="k_proj")()
        v = LinearParams(width, kv_width, name="v_proj")()
        joined = tuple(jnp.concatenate(parts, axis=-1) for parts in zip(q, k, v))  # one matmul in place of three
        q, k, v = jnp.split(linear(x, joined, self.dtype), (width, width + kv_width), axis=-1)
        out = grouped_query_attention(q, k, v, self.num_groups)
        return linear(out, LinearParams(width, width, name="out_proj")(), self.dtype)
