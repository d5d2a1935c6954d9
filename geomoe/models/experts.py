"""The experts of a mixture: SwiGLU, and the ways to compute it for the experts that were chosen.

Axes: T tokens, D width, E experts, K chosen experts of a token, F hidden width of an expert.

An expert is SwiGLU (Shazeer 2020, arXiv 2002.05202), y_e = W2_e (silu(W_e x) * V_e x). With `share_projections` V and W2 are
one for all experts of the layer; because W2 is linear and the gates of a token sum to 1,

    sum_e g_e y_e = W2 ((sum_e g_e silu(W_e x)) * V x),

so V and W2 are applied once a token, and only W_e once an expert.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from geomoe.models import kernels
from geomoe.models.config import DISPATCHES
from geomoe.models.kernels import ExpertParams
from geomoe.models.layers import fan_in_uniform, param

_MAX_DENSE_EXPERTS = 6  # up to here every expert is computed for every token: faster than sorting the tokens
_BLOCK_ROWS = (8, 128)  # fewest and most rows of a block


@dataclasses.dataclass(frozen=True)
class Dispatch:
    """One way of bringing tokens to experts and back. Rows are assignments of a token to an expert, in an order of its own."""

    rows: Array  # what the experts see of the tokens, in whatever layout `product` takes
    # Rows, kernels (E, in, out) and biases (E, out) -> rows: each expert's linear layer on its rows.
    product: Callable[[Array, Array, Array], Array]
    combine: Callable[[Array], Array]  # rows -> (T, out): the gated sum over the experts of each token


def swiglu_mixture(x: Array, params: ExpertParams, dispatch: Dispatch) -> Array:
    """sum_e g_e W2_e (silu(W_e x) * V_e x), with V and W2 once a token where they are shared: (T, D) -> (T, D)."""
    hidden = jax.nn.silu(dispatch.product(dispatch.rows, params.w, params.w_bias))
    if params.shared:
        return (dispatch.combine(hidden) * (x @ params.v + params.v_bias)) @ params.w2 + params.w2_bias
    hidden = hidden * dispatch.product(dispatch.rows, params.v, params.v_bias)
    return dispatch.combine(dispatch.product(hidden, params.w2, params.w2_bias))


def _dense(x: Array, combine: Callable[[Array], Array]) -> Dispatch:
    """Every expert for every token: rows are (T, E, ...)."""

    def product(rows: Array, kernel: Array, bias: Array) -> Array:
        return jnp.einsum("td,edf->tef" if rows.ndim == 2 else "ted,edf->tef", rows, kernel) + bias

    return Dispatch(x, product, combine)


def _ragged(x: Array, gates: Array, top_k: int) -> Dispatch:
    """The chosen experts alone: tokens sorted by expert, then `jax.lax.ragged_dot`; rows are (T*K, ...)."""
    tokens, num_experts = gates.shape
    chosen_gates, chosen = jax.lax.top_k(gates, top_k)  # (T, K)
    order = jnp.argsort(chosen.reshape(-1), stable=True)  # (T*K,) assignments, expert after expert
    expert = chosen.reshape(-1)[order]
    sizes = jnp.sum(chosen.reshape(-1)[:, None] == jnp.arange(num_experts), axis=0, dtype=jnp.int32)
    gate = chosen_gates.reshape(-1)[order].astype(x.dtype)[:, None]
    back = jnp.argsort(order)  # where each assignment went
    return Dispatch(
        x[order // top_k],
        lambda rows, kernel, bias: jax.lax.ragged_dot(rows, kernel, sizes) + bias[expert],
        lambda rows: jnp.sum((gate * rows)[back].reshape(tokens, top_k, -1), axis=1),
    )


def _blocked(x: Array, gates: Array, top_k: int) -> Dispatch:
    """The chosen experts alone, in blocks of R rows that share one: rows are (blocks, R, ...).

    Tokens are sorted by expert and each expert's are filled up to whole blocks; K T / R + E blocks are always enough, so that
    nothing is dropped whatever the router does (after Gale et al. 2022, arXiv 2211.15841). A block's weights are gathered and
    all blocks go through one batched matmul, which needs no support for ragged shapes.
    """
    tokens, num_experts = gates.shape
    chosen_gates, chosen = jax.lax.top_k(gates, top_k)  # (T, K)
    assignments = tokens * top_k
    rows = min(max(_BLOCK_ROWS[0], 1 << max(assignments // num_experts, 1).bit_length() - 1), _BLOCK_ROWS[1])
    blocks = -(-assignments // rows) + num_experts
    expert = chosen.reshape(-1)
    order = jnp.argsort(expert, stable=True)  # assignments, expert after expert
    sizes = jnp.sum(expert[:, None] == jnp.arange(num_experts), axis=0, dtype=jnp.int32)
    whole = -(-sizes // rows) * rows
    ends = jnp.cumsum(whole)
    shift = (ends - whole) - (jnp.cumsum(sizes) - sizes)  # how far an expert's rows move to make room for the filling
    slot = jnp.arange(assignments, dtype=jnp.int32) + shift[expert[order]]
    token = jnp.zeros(blocks * rows, jnp.int32).at[slot].set(order // top_k)  # filling repeats token 0; nobody reads it
    place = jnp.zeros(assignments, jnp.int32).at[order].set(slot)  # where each assignment went
    owner = jnp.minimum(jnp.searchsorted(ends, jnp.arange(blocks) * rows, side="right"), num_experts - 1)
    weight = chosen_gates[:, :, None].astype(x.dtype)
    return Dispatch(
        x[token].reshape(blocks, rows, -1),
        lambda values, kernel, bias: jnp.einsum("brd,bdf->brf", values, kernel[owner]) + bias[owner][:, None],
        lambda values: jnp.sum(weight * values.reshape(blocks * rows, -1)[place].reshape(tokens, top_k, -1), axis=1),
    )


def _sparse(x: Array, gates: Array, params: ExpertParams, top_k: int) -> Array:
    """The chosen experts alone: blocked on CPU, where XLA has no ragged product, else ragged."""
    blocked = lambda x, gates, params: swiglu_mixture(x, params, _blocked(x, gates, top_k))
    ragged = lambda x, gates, params: swiglu_mixture(x, params, _ragged(x, gates, top_k))
    return jax.lax.platform_dependent(x, gates, params, cpu=blocked, default=ragged)


def mix_experts(x: Array, gates: Array, params: ExpertParams, top_k: int, dispatch: str = "auto") -> Array:
    """Apply the gated experts: (T, D), (T, E) -> (T, D). `dispatch` chooses how; the result is the same.

    - "auto": "dense" for few experts, else "sparse". `python -m geomoe.cli.bench --part experts` measures where they cross.
    - "dense": every expert for every token, in few large matmuls.
    - "sparse": the chosen ones alone, "ragged" or "blocked" by what the platform has.

    Raises:
        ValueError: an unknown dispatch.
    """
    if dispatch not in DISPATCHES:
        raise ValueError(f"dispatch = {dispatch!r} is not one of {', '.join(DISPATCHES)}")
    if dispatch == "auto":
        dispatch = "dense" if gates.shape[-1] <= _MAX_DENSE_EXPERTS else "sparse"
    if dispatch == "sparse":
        return _sparse(x, gates, params, top_k)
    if dispatch == "dense":
        if params.shared:
            return kernels.shared_mixture(x, gates, params)
        return swiglu_mixture(x, params, _dense(x, lambda rows: jnp.einsum("te,tef->tf", gates.astype(x.dtype), rows)))
    return swiglu_mixture(x, params, (_ragged if dispatch == "ragged" else _blocked)(x, gates, top_k))


def expert_outputs(x: Array, params: ExpertParams) -> Array:
    """What each expert makes of each token, before the gates: (T, D) -> (T, E, D)."""
    if params.shared:
        each = (jnp.broadcast_to(leaf, (len(params.w), *leaf.shape)) for leaf in params[2:])
        params = ExpertParams(params.w, params.w_bias, *each)
    return swiglu_mixture(x, params, _dense(x, lambda rows: rows))


class Experts(nn.Module):
    """E SwiGLU experts."""

    width: int
    num_experts: int
    hidden: int  # F
    top_k: int  # K, the number of gates of a token that are not 0
    share_projections: bool = True  # V and W2 are one for all experts
    dispatch: str = "auto"  # as for `mix_experts`
    dtype: Any = jnp.float32  # of the activations and products

    @nn.compact
    def __call__(self, x: Array, gates: Array) -> Array:
        """The gated sum of the experts: (T, D), (T, E) -> (T, D) in `dtype`."""
        e, d, f = self.num_experts, self.width, self.hidden
        lead = () if self.share_projections else (e,)
        inward, outward = fan_in_uniform(d), fan_in_uniform(f)
        params = ExpertParams(
            w=param(self, "w", inward, (e, d, f)),
            w_bias=param(self, "w_bias", inward, (e, f)),
            v=param(self, "v", inward, (*lead, d, f)),
            v_bias=param(self, "v_bias", inward, (*lead, f)),
            w2=param(self, "w2", outward, (*lead, f, d)),
            w2_bias=param(self, "w2_bias", outward, (*lead, d)),
        )
        params = ExpertParams(*(leaf.astype(self.dtype) for leaf in params))
        return mix_experts(x.astype(self.dtype), gates, params, self.top_k, self.dispatch)
