"""The mixture-of-experts layer: noisy top-k router, SwiGLU experts, balance losses.

Axes: T tokens (B images times N tokens), D width, E experts, K chosen experts of a token, F hidden width of an expert.

An expert is SwiGLU, y_e = W2_e (silu(W_e x) * V_e x). With `share_projections` V and W2 are one for all experts of the layer;
because W2 is linear and the gates of a token sum to 1,

    sum_e g_e y_e = W2 ((sum_e g_e silu(W_e x)) * V x),

so V and W2 are applied once a token, and only W_e once an expert.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from geomoe.models.layers import LinearParams, fan_in_uniform, linear

Array = jax.Array

BALANCE_WEIGHT = 0.01  # weight of each of the two balance losses, published
_MAX_PAIRWISE_EXPERTS = 16  # up to here ranks come from E*E comparisons, which need no sort and no gather
_MAX_DENSE_EXPERTS = 8  # up to here every expert is computed for every token: faster than sorting the tokens
_BLOCK_ROWS = (8, 128)  # fewest and most rows of a block of `blocked_mixture`


class Routing(NamedTuple):
    """What the router decided. All float32.

    Attributes:
        gates: (T, E) weights of the experts, 0 where not chosen; rows sum to 1.
        logits: (T, E) the logits that were ranked, H: clean logits plus scaled noise.
        ranks: (T, E) int32, 0 for the expert with the largest logit; ties go to the lower index.
        kth, next: (T, 1) the K-th and the (K+1)-th largest logit; `next` is -inf where K = E.
    """

    gates: Array
    logits: Array
    ranks: Array
    kth: Array
    next: Array


def _descending_ranks(logits: Array) -> Array:
    """(T, E) -> (T, E) int32: how many experts stand before each one."""
    num_experts = logits.shape[-1]
    index = jnp.arange(num_experts)
    if num_experts <= _MAX_PAIRWISE_EXPERTS:
        mine, other = logits[:, :, None], logits[:, None, :]
        before = (other > mine) | ((other == mine) & (index[None, None, :] < index[None, :, None]))
        return jnp.sum(before, axis=-1, dtype=jnp.int32)
    order = jnp.argsort(-logits, axis=-1, stable=True)
    return jnp.argsort(order, axis=-1).astype(jnp.int32)


def route(clean_logits: Array, noise_scale: Array, noise: Array | None, top_k: int) -> Routing:
    """Noisy top-k gating (Shazeer et al. 2017, arXiv 1701.06538, eq. 3-5).

    Args:
        clean_logits: (T, E) float32, W_g x.
        noise_scale: (T, E) float32, softplus(W_n x).
        noise: (T, E) standard normal numbers, or None for none (outside training).
        top_k: K, from 1 to E.
    """
    logits = clean_logits if noise is None else clean_logits + noise * noise_scale
    ranks = jax.lax.stop_gradient(_descending_ranks(logits))

    def with_rank(rank: int) -> Array:
        return jnp.sum(jnp.where(ranks == rank, logits, 0.0), axis=-1, keepdims=True)

    kth = with_rank(top_k - 1)
    following = with_rank(top_k) if top_k < logits.shape[-1] else jnp.full_like(kth, -jnp.inf)
    gates = jax.nn.softmax(jnp.where(ranks < top_k, logits, -jnp.inf), axis=-1)
    return Routing(gates, logits, ranks, kth, following)


def expected_load(routing: Routing, clean_logits: Array, noise_scale: Array, top_k: int, estimator: str) -> Array:
    """A smooth estimate of the number of tokens that each expert gets: (E,) float32.

    It is the sum over tokens of Phi((clean - psi) / scale), the probability that a fresh draw of this expert's noise lifts it
    over the threshold psi.

    - "shazeer": psi is the K-th largest logit among the *other* experts (Shazeer et al. 2017, eq. 8-9).
    - "reference", the published model's: psi is the K-th largest logit where H lies above it, the (K+1)-th where H is at
      most that, and H itself (probability Phi((clean - H) / scale)) for the K-th expert.

    With K = E every expert gets every token.
    """
    tokens, num_experts = clean_logits.shape
    if top_k == num_experts:
        return jnp.full((num_experts,), float(tokens), jnp.float32)
    if estimator == "shazeer":
        threshold = jnp.where(routing.ranks < top_k, routing.next, routing.kth)
    elif estimator == "reference":
        # Compared by value and not by rank, so that ties fall as published.
        below = routing.logits <= routing.next
        threshold = jnp.where(routing.logits > routing.kth, routing.kth, jnp.where(below, routing.next, routing.logits))
    else:
        raise ValueError(f"load_estimator = {estimator!r} is not 'reference' or 'shazeer'")
    return jnp.sum(jax.scipy.stats.norm.cdf((clean_logits - threshold) / noise_scale), axis=0)


def coefficient_of_variation(values: Array) -> Array:
    """Population standard deviation over (mean + 1e-6), of a vector."""
    return jnp.std(values) / (jnp.mean(values) + 1e-6)


def balance_loss(routing: Routing, clean_logits: Array, noise_scale: Array, top_k: int, estimator: str) -> Array:
    """0.01 CV(importance) + 0.01 CV(load): scalar (Shazeer et al. 2017, eq. 6-7 and 11, with CV in place of its square)."""
    importance = jnp.sum(routing.gates, axis=0)
    load = expected_load(routing, clean_logits, noise_scale, top_k, estimator)
    return BALANCE_WEIGHT * (coefficient_of_variation(importance) + coefficient_of_variation(load))


class ExpertParams(NamedTuple):
    """Weights of the experts of one layer.

    Attributes:
        w, w_bias: (E, D, F), (E, F): the gate branch, one for each expert.
        v, v_bias: (D, F), (F,) shared, or (E, D, F), (E, F): the value branch.
        w2, w2_bias: (F, D), (D,) shared, or (E, F, D), (E, D): the output.
    """

    w: Array
    w_bias: Array
    v: Array
    v_bias: Array
    w2: Array
    w2_bias: Array

    @property
    def shared(self) -> bool:
        return self.v.ndim == 2

    def astype(self, dtype: Any) -> ExpertParams:
        return ExpertParams(*(value.astype(dtype) for value in self))


def loop_mixture(x: Array, gates: Array, params: ExpertParams) -> Array:
    """The definition, one expert after the other: sum_e g_e W2_e(silu(W_e x) * V_e x). (T, D), (T, E) -> (T, D)."""
    y = jnp.zeros_like(x)
    for e in range(params.w.shape[0]):
        v, v_bias, w2, w2_bias = params[2:] if params.shared else (value[e] for value in params[2:])
        hidden = jax.nn.silu(x @ params.w[e] + params.w_bias[e]) * (x @ v + v_bias)
        y += gates[:, e : e + 1] * (hidden @ w2 + w2_bias)
    return y


def dense_mixture(x: Array, gates: Array, params: ExpertParams) -> Array:
    """Every expert for every token, in few large matmuls. (T, D), (T, E) -> (T, D)."""
    gates = gates.astype(x.dtype)
    hidden = jax.nn.silu(jnp.einsum("td,edf->tef", x, params.w) + params.w_bias)
    if params.shared:
        mixed = jnp.sum(gates[:, :, None] * hidden, axis=1)
        return (mixed * (x @ params.v + params.v_bias)) @ params.w2 + params.w2_bias
    hidden = hidden * (jnp.einsum("td,edf->tef", x, params.v) + params.v_bias)
    return jnp.einsum("tef,efd->td", gates[:, :, None] * hidden, params.w2) + gates @ params.w2_bias


def ragged_mixture(x: Array, gates: Array, params: ExpertParams, top_k: int) -> Array:
    """Only the chosen experts: tokens sorted by expert, then `jax.lax.ragged_dot`. (T, D), (T, E) -> (T, D)."""
    tokens, num_experts = gates.shape
    chosen_gates, chosen = jax.lax.top_k(gates, top_k)  # (T, K)
    order = jnp.argsort(chosen.reshape(-1), stable=True)  # (T*K,) assignments, expert after expert
    token = order // top_k
    expert = chosen.reshape(-1)[order]
    sizes = jnp.sum(chosen.reshape(-1)[:, None] == jnp.arange(num_experts), axis=0, dtype=jnp.int32)
    gate = chosen_gates.reshape(-1)[order].astype(x.dtype)[:, None]
    rows = x[token]  # (T*K, D)
    hidden = jax.nn.silu(jax.lax.ragged_dot(rows, params.w, sizes) + params.w_bias[expert])
    back = jnp.argsort(order)  # where each assignment went

    def combine(values: Array) -> Array:
        return jnp.sum(values[back].reshape(tokens, top_k, -1), axis=1)

    if params.shared:
        mixed = combine(gate * hidden)
        return (mixed * (x @ params.v + params.v_bias)) @ params.w2 + params.w2_bias
    hidden = hidden * (jax.lax.ragged_dot(rows, params.v, sizes) + params.v_bias[expert])
    return combine(gate * (jax.lax.ragged_dot(hidden, params.w2, sizes) + params.w2_bias[expert]))


def blocked_mixture(x: Array, gates: Array, params: ExpertParams, top_k: int) -> Array:
    """Only the chosen experts, in blocks of rows that share one: (T, D), (T, E) -> (T, D).

    Tokens are sorted by expert and each expert's are filled up to whole blocks of R rows; K T / R + E blocks are always enough,
    so that nothing is dropped whatever the router does (after Gale et al. 2022, arXiv 2211.15841). A block's weights are
    gathered and all blocks go through one batched matmul, which needs no support for ragged shapes.
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
    source = jnp.zeros(blocks * rows, jnp.int32).at[slot].set(order // top_k)  # filling repeats token 0; nobody reads it
    place = jnp.zeros(assignments, jnp.int32).at[order].set(slot)  # where each assignment went
    owner = jnp.minimum(jnp.searchsorted(ends, jnp.arange(blocks) * rows, side="right"), num_experts - 1)
    gathered = x[source].reshape(blocks, rows, -1)

    def apply(values: Array, kernel: Array, bias: Array) -> Array:
        return jnp.einsum("brd,bdf->brf", values, kernel[owner]) + bias[owner][:, None]

    def combine(values: Array) -> Array:
        mine = values.reshape(blocks * rows, -1)[place].reshape(tokens, top_k, -1)
        return jnp.sum(chosen_gates[:, :, None].astype(x.dtype) * mine, axis=1)

    hidden = jax.nn.silu(apply(gathered, params.w, params.w_bias))
    if params.shared:
        return (combine(hidden) * (x @ params.v + params.v_bias)) @ params.w2 + params.w2_bias
    hidden = hidden * apply(gathered, params.v, params.v_bias)
    return combine(apply(hidden, params.w2, params.w2_bias))


def sparse_mixture(x: Array, gates: Array, params: ExpertParams, top_k: int) -> Array:
    """Only the chosen experts, by what the platform is good at: blocks on CPU, where XLA has no ragged product, else ragged."""
    return jax.lax.platform_dependent(
        x,
        gates,
        params,
        cpu=lambda *args: blocked_mixture(*args, top_k),
        default=lambda *args: ragged_mixture(*args, top_k),
    )


def mix_experts(x: Array, gates: Array, params: ExpertParams, top_k: int, dispatch: str = "auto") -> Array:
    """Applies the gated experts: (T, D), (T, E) -> (T, D). `dispatch` chooses how; the result is the same.

    "auto" computes every expert for every token where there are few ("dense"), and otherwise the chosen ones alone ("sparse").
    `python -m geomoe.cli.bench --part experts` measures where they cross.
    """
    if dispatch == "auto":
        dispatch = "dense" if gates.shape[-1] <= _MAX_DENSE_EXPERTS else "sparse"
    if dispatch == "dense":
        return dense_mixture(x, gates, params)
    sparse = {"sparse": sparse_mixture, "ragged": ragged_mixture, "blocked": blocked_mixture}
    if dispatch not in sparse:
        raise ValueError(f"dispatch = {dispatch!r} is not 'auto', 'dense', {', '.join(map(repr, sparse))}")
    return sparse[dispatch](x, gates, params, top_k)


class Router(nn.Module):
    """Scores the experts: (T, D) -> clean logits and noise scale, each (T, E) float32."""

    num_experts: int

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        clean = LinearParams(x.shape[-1], self.num_experts, name="clean")()
        noise = LinearParams(x.shape[-1], self.num_experts, name="noise")()
        joined = tuple(jnp.concatenate(parts, axis=-1) for parts in zip(clean, noise))
        logits, raw_scale = jnp.split(linear(x, joined, jnp.float32), 2, axis=-1)
        return logits, jax.nn.softplus(raw_scale)


class Experts(nn.Module):
    """Declares the parameters of E SwiGLU experts and applies them: (T, D), (T, E) -> (T, D)."""

    num_experts: int
    hidden: int
    top_k: int
    share_projections: bool
    dispatch: str
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, gates: Array) -> Array:
        e, d, f = self.num_experts, x.shape[-1], self.hidden
        lead = () if self.share_projections else (e,)
        inward, outward = fan_in_uniform(d), fan_in_uniform(f)
        params = ExpertParams(
            w=self.param("w", inward, (e, d, f), jnp.float32),
            w_bias=self.param("w_bias", inward, (e, f), jnp.float32),
            v=self.param("v", inward, (*lead, d, f), jnp.float32),
            v_bias=self.param("v_bias", inward, (*lead, f), jnp.float32),
            w2=self.param("w2", outward, (*lead, f, d), jnp.float32),
            w2_bias=self.param("w2_bias", outward, (*lead, d), jnp.float32),
        )
        return mix_experts(x.astype(self.dtype), gates, params.astype(self.dtype), self.top_k, self.dispatch)


class Draws(NamedTuple):
    """The random numbers of one mixture layer in training.

    Attributes:
        noise: (T, E) standard normal numbers for the router.
        keep: (T, D) bool, False where dropout sets the output to 0; None without dropout.
    """

    noise: Array
    keep: Array | None


def draw(router_key: Array, dropout_key: Array, tokens: int, experts: Sequence[int], width: int, dropout: float) -> list[Draws]:
    """The random numbers of several layers, from one draw of each kind.

    Every separate draw puts some hundred operations into the compiled step; drawing once for all layers halves the time that
    compiling takes.

    Args:
        tokens, experts, width: T, the number of experts E of each layer, and D.
        dropout: rate, in steps of 2**-16.
    """
    noise = jax.random.normal(router_key, (tokens * sum(experts),))
    keep = None
    if dropout:
        keep = jax.random.bits(dropout_key, (len(experts), tokens, width), jnp.uint16) >= round(dropout * 2**16)
    draws, start = [], 0
    for i, e in enumerate(experts):
        draws.append(Draws(noise[start : start + tokens * e].reshape(tokens, e), None if keep is None else keep[i]))
        start += tokens * e
    return draws


class MixtureOfExperts(nn.Module):
    """Router and experts: (B, N, D) -> output (B, N, D), gates (B, N, E) float32, balance loss (scalar).

    `draws` are the random numbers of training; None is the deterministic layer. The experts being linear in W2, dropout acts
    once on their combined output.
    """

    num_experts: int
    hidden: int
    top_k: int = 2
    share_projections: bool = True
    load_estimator: str = "reference"
    dispatch: str = "auto"
    dropout: float = 0.1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, draws: Draws | None = None) -> tuple[Array, Array, Array]:
        b, n, d = x.shape
        rows = x.reshape(b * n, d)
        clean_logits, noise_scale = Router(self.num_experts, name="router")(rows)
        routing = route(clean_logits, noise_scale, None if draws is None else draws.noise, self.top_k)
        loss = balance_loss(routing, clean_logits, noise_scale, self.top_k, self.load_estimator)
        y = Experts(
            self.num_experts, self.hidden, self.top_k, self.share_projections, self.dispatch, self.dtype, name="experts"
        )(rows, routing.gates)
        if draws is not None and draws.keep is not None:
            y = jnp.where(draws.keep, y / (1 - self.dropout), 0)
        return y.reshape(b, n, d), routing.gates.reshape(b, n, self.num_experts), loss
