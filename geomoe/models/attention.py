"""Grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245).

Axes: B images, N tokens, D width, H query heads, G groups (key/value heads), R = H / G query heads a group, d head width.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from geomoe.models.layers import LinearParams, linear

Array = jax.Array


def plain_attention(q: Array, k: Array, v: Array, num_groups: int) -> Array:
    """The definition, head after head: softmax(q k^T / sqrt(d)) v, where query head h reads key/value head h mod G.

    Args:
        q: (B, N, H*d) queries, head after head.
        k, v: (B, N, G*d) keys and values.
        num_groups: G.

    Returns:
        (B, N, H*d), in the type of `q`.
    """
    d = k.shape[-1] // num_groups
    heads = []
    for h in range(q.shape[-1] // d):
        mine, shared = slice(h * d, (h + 1) * d), slice(h % num_groups * d, (h % num_groups + 1) * d)
        logits = jnp.einsum("bnd,bmd->bnm", q[..., mine], k[..., shared], preferred_element_type=jnp.float32) * d**-0.5
        heads.append(jnp.einsum("bnm,bmd->bnd", jax.nn.softmax(logits, axis=-1).astype(v.dtype), v[..., shared]))
    return jnp.concatenate(heads, axis=-1)


def _by_group(x: Array, num_groups: int, head_width: int) -> Array:
    """(B, N, R*G*d) -> (B*G, R*N, d): the R heads of a group stacked as rows, so that a group is one matmul."""
    b, n, width = x.shape
    r = width // (num_groups * head_width)
    return x.reshape(b, n, r, num_groups, head_width).transpose(0, 3, 2, 1, 4).reshape(b * num_groups, r * n, head_width)


def _by_group_transposed(x: Array, num_groups: int, head_width: int) -> Array:
    """(B, N, R*G*d) -> (B*G, d, R*N)."""
    b, n, width = x.shape
    r = width // (num_groups * head_width)
    return x.reshape(b, n, r, num_groups, head_width).transpose(0, 3, 4, 2, 1).reshape(b * num_groups, head_width, r * n)


def _from_groups_transposed(x: Array, num_groups: int) -> Array:
    """(B*G, d, N) -> (B, N, G*d)."""
    z, d, n = x.shape
    return x.reshape(z // num_groups, num_groups * d, n).transpose(0, 2, 1)


def _from_groups(x: Array, num_groups: int, tokens: int) -> Array:
    """The inverse of `_by_group`: (B*G, R*N, d) -> (B, N, R*G*d)."""
    z, rows, d = x.shape
    x = x.reshape(z // num_groups, num_groups, rows // tokens, tokens, d)
    return x.transpose(0, 3, 2, 1, 4).reshape(z // num_groups, tokens, -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def grouped_query_attention(q: Array, k: Array, v: Array, num_groups: int) -> Array:
    """`plain_attention`, fast, with a gradient of its own.

    The softmax is float32 and is divided by its sum after the product with v, which is N / d times smaller than before it. The
    gradients of k and v are computed transposed, since a batched matmul whose left side is transposed runs on CPU at half the
    speed or less.
    """
    return _attention(q, k, v, num_groups)[0]


def _attention(q: Array, k: Array, v: Array, num_groups: int) -> tuple[Array, tuple[Array, ...]]:
    d = k.shape[-1] // num_groups
    q = q * d**-0.5
    queries, keys, values = (_by_group(x, num_groups, d) for x in (q, k, v))
    logits = jnp.einsum("zqd,zkd->zqk", queries, keys, preferred_element_type=jnp.float32)
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    inverse_sum = 1 / jnp.sum(weights, axis=-1, keepdims=True)
    weights = weights.astype(v.dtype)
    out = (jnp.einsum("zqk,zkd->zqd", weights, values) * inverse_sum).astype(v.dtype)
    return _from_groups(out, num_groups, q.shape[1]), (q, k, v, weights, inverse_sum)


def _attention_gradient(num_groups: int, saved: tuple[Array, ...], cotangent: Array) -> tuple[Array, Array, Array]:
    q, k, v, weights, inverse_sum = saved
    n, d = q.shape[1], k.shape[-1] // num_groups
    keys, values = _by_group(k, num_groups, d), _by_group(v, num_groups, d)
    sums = inverse_sum.reshape(-1, num_groups, q.shape[-1] // (num_groups * d), n).transpose(0, 3, 2, 1)  # (B, N, R, G)
    cotangent = (cotangent.reshape(*sums.shape, d) * sums[..., None]).astype(v.dtype).reshape(q.shape)
    toward = _by_group(cotangent, num_groups, d)
    d_weights = jnp.einsum("zqd,zkd->zqk", toward, values, preferred_element_type=jnp.float32)
    mean = inverse_sum * jnp.sum(weights * d_weights, axis=-1, keepdims=True)
    d_logits = (weights * (d_weights - mean)).astype(v.dtype)
    d_q = _from_groups(jnp.einsum("zqk,zkd->zqd", d_logits, keys), num_groups, n) * d**-0.5
    d_k = jnp.einsum("zdq,zqk->zdk", _by_group_transposed(q, num_groups, d), d_logits)
    d_v = jnp.einsum("zdq,zqk->zdk", _by_group_transposed(cotangent, num_groups, d), weights)
    return d_q, _from_groups_transposed(d_k, num_groups), _from_groups_transposed(d_v, num_groups)


grouped_query_attention.defvjp(_attention, _attention_gradient)


class AttentionParams(NamedTuple):
    """Weights of one attention layer, with q, k and v joined so that they are one matmul.

    Attributes:
        qkv, qkv_bias: (D, H*d + 2*G*d) and its bias: queries, keys, values.
        out, out_bias: (H*d, D), (D,).
    """

    qkv: Array
    qkv_bias: Array
    out: Array
    out_bias: Array


class GroupedQueryAttention(nn.Module):
    """Declares the weights of an attention layer of width D and returns them."""

    width: int
    num_heads: int
    num_groups: int

    @nn.compact
    def __call__(self) -> AttentionParams:
        kv_width = self.width // self.num_heads * self.num_groups
        q = LinearParams(self.width, self.width, name="q_proj")()
        k = LinearParams(self.width, kv_width, name="k_proj")()
        v = LinearParams(self.width, kv_width, name="v_proj")()
        joined = (jnp.concatenate(parts, axis=-1) for parts in zip(q, k, v))
        return AttentionParams(*joined, *LinearParams(self.width, self.width, name="out_proj")())


def self_attention(x: Array, params: AttentionParams, num_heads: int, num_groups: int, dtype: Any) -> Array:
    """Self-attention in which groups of query heads share a key and a value head: (B, N, D) -> (B, N, D) in `dtype`."""
    width = x.shape[-1]
    kv_width = width // num_heads * num_groups
    q, k, v = jnp.split(linear(x, (params.qkv, params.qkv_bias), dtype), (width, width + kv_width), axis=-1)
    return linear(grouped_query_attention(q, k, v, num_groups), (params.out, params.out_bias), dtype)
