"""The mixture-of-experts layer: noisy top-k router, SwiGLU experts, balance losses.

Axes: T tokens (B images times N tokens), D width, E experts, K chosen experts of a token, F hidden width of an expert.

An expert is SwiGLU, y_e = W2_e (silu(W_e x) * V_e x). With `share_projections` V and W2 are one for all experts of the layer;
because W2 is linear and the gates of a token sum to 1,

    sum_e g_e y_e = W2 ((sum_e g_e silu(W_e x)) * V x),

so V and W2 are applied once a token, and only W_e once an expert.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from geomoe.models.layers import LinearParams, fan_in_uniform, linear, param

Array = jax.Array

BALANCE_WEIGHT = 0.01  # weight of each of the two balance losses, published
_MAX_PAIRWISE_EXPERTS = 16  # up to here ranks come from E*E comparisons, which need no sort and no gather
_MAX_DENSE_EXPERTS = 6  # up to here every expert is computed for every token: faster than sorting the tokens
_BLOCK_ROWS = (8, 128)  # fewest and most rows of a block of `blocked_mixture`


class Routing(NamedTuple):
    """What the router decided. All float32.

    Attributes:
        clean_logits: (T, E), W_g x.
        noise_scale: (T, E), softplus(W_n x).
        gates: (T, E) weights of the experts, 0 where not chosen; rows sum to 1.
        logits: (T, E) the logits that were ranked, H: clean logits plus scaled noise.
        ranks: (T, E) int32, 0 for the expert with the largest logit; ties go to the lower index.
        kth, next: (T, 1) the K-th and the (K+1)-th largest logit; `next` is -inf where K = E.
    """

    clean_logits: Array
    noise_scale: Array
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


def route(
    clean_logits: Array, noise_scale: Array, noise: Array | None, top_k: int, selection_bias: Array | None = None
) -> Routing:
    """Noisy top-k gating (Shazeer et al. 2017, arXiv 1701.06538, eq. 3-5).

    Args:
        clean_logits: (T, E) float32, W_g x.
        noise_scale: (T, E) float32, softplus(W_n x).
        noise: (T, E) standard normal numbers, or None for none (outside training).
        top_k: K, from 1 to E.
        selection_bias: (E,) added to the logits where experts are ranked and not where they are weighed, or None.
    """
    logits = clean_logits if noise is None else clean_logits + noise * noise_scale
    ranked = logits if selection_bias is None else logits + selection_bias
    ranks = jax.lax.stop_gradient(_descending_ranks(ranked))

    def with_rank(rank: int) -> Array:
        return jnp.sum(jnp.where(ranks == rank, logits, 0.0), axis=-1, keepdims=True)

    kth = with_rank(top_k - 1)
    following = with_rank(top_k) if top_k < logits.shape[-1] else jnp.full_like(kth, -jnp.inf)
    gates = jax.nn.softmax(jnp.where(ranks < top_k, logits, -jnp.inf), axis=-1)
    return Routing(clean_logits, noise_scale, gates, logits, ranks, kth, following)


def expected_load(routing: Routing, top_k: int, estimator: str) -> Array:
    """A smooth estimate of the number of tokens that each expert gets: (E,) float32.

    It is the sum over tokens of Phi((clean - psi) / scale), the probability that a fresh draw of this expert's noise lifts it
    over the threshold psi.

    - "shazeer": psi is the K-th largest logit among the *other* experts (Shazeer et al. 2017, eq. 8-9).
    - "reference", the published model's: psi is the K-th largest logit where H lies above it, the (K+1)-th where H is at
      most that, and H itself (probability Phi((clean - H) / scale)) for the K-th expert.

    With K = E every expert gets every token.
    """
    tokens, num_experts = routing.logits.shape
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
    return jnp.sum(jax.scipy.stats.norm.cdf((routing.clean_logits - threshold) / routing.noise_scale), axis=0)


def coefficient_of_variation(values: Array) -> Array:
    """Population standard deviation over (mean + 1e-6), of a vector."""
    return jnp.std(values) / (jnp.mean(values) + 1e-6)


def balance_loss(routing: Routing, top_k: int, estimator: str) -> Array:
    """0.01 CV(importance) + 0.01 CV(load): scalar (Shazeer et al. 2017, eq. 6-7 and 11, with CV in place of its square)."""
    importance = jnp.sum(routing.gates, axis=0)
    load = expected_load(routing, top_k, estimator)
    return BALANCE_WEIGHT * (coefficient_of_variation(importance) + coefficient_of_variation(load))


def router_z_loss(routing: Routing) -> Array:
    """Mean over the tokens of logsumexp(clean logits) squared: scalar; keeps logits small (Zoph et al. 2022, arXiv
    2202.08906, eq. 5)."""
    return jnp.mean(jnp.square(jax.nn.logsumexp(routing.clean_logits, axis=-1)))


def balanced_bias(bias: Array, usage: Array, rate: float) -> Array:
    """The selection bias after a step: up by `rate` for experts with less than an even share, down for the others.

    Balance without a loss that pulls at the weights (Wang et al. 2024, arXiv 2408.15664, algorithm 1; DeepSeek-V3).

    Args:
        bias: (E,) the bias of this step.
        usage: (E,) share of the token assignments that each expert got, summing to 1.
    """
    return bias + rate * jnp.sign(1 / usage.shape[0] - usage)


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

    def widened(self, hidden: int) -> ExpertParams:
        """The same experts with zeros added up to `hidden` units, which change nothing: silu(0) * 0 is 0."""
        more = hidden - self.w.shape[-1]
        last = lambda value: jnp.pad(value, [(0, 0)] * (value.ndim - 1) + [(0, more)])
        w2 = jnp.pad(self.w2, [(0, 0)] * (self.w2.ndim - 2) + [(0, more), (0, 0)])
        return ExpertParams(last(self.w), last(self.w_bias), last(self.v), last(self.v_bias), w2, self.w2_bias)

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
    if params.shared:
        return _shared_mixture(x, gates, params)
    hidden = jax.nn.silu(jnp.einsum("td,edf->tef", x, params.w) + params.w_bias)
    hidden = hidden * (jnp.einsum("td,edf->tef", x, params.v) + params.v_bias)
    return jnp.einsum("tef,efd->td", gates[:, :, None] * hidden, params.w2) + gates @ params.w2_bias


@jax.custom_vjp
def _shared_mixture(x: Array, gates: Array, params: ExpertParams) -> Array:
    """`dense_mixture` with shared V and W2, with a gradient of its own.

    W_1 ... W_E and V are one matmul forward; of what lies behind it only their products and the gated sum are kept, and silu is
    computed again.
    """
    return _shared_forward(x, gates, params)[0]


def _joined(params: ExpertParams) -> tuple[Array, Array]:
    """[W_1 ... W_E, V] and its bias: (D, (E+1)*F), ((E+1)*F,)."""
    e, d, f = params.w.shape
    kernel = jnp.concatenate([params.w.transpose(1, 0, 2).reshape(d, e * f), params.v], axis=1)
    return kernel, jnp.concatenate([params.w_bias.reshape(-1), params.v_bias])


def _shared_forward(x: Array, gates: Array, params: ExpertParams) -> tuple[Array, tuple[Any, ...]]:
    e, _, f = params.w.shape
    hidden = linear(x, _joined(params), x.dtype).reshape(-1, e + 1, f)
    gated = gates[:, :, None] * jax.nn.silu(hidden[:, :e])
    mixed = functools.reduce(jnp.add, (gated[:, i] for i in range(e)))  # a sum over axis 1 would write out gates F times
    y = linear(mixed * hidden[:, e], (params.w2, params.w2_bias), x.dtype)
    return y, (x, gates, params, hidden, mixed)


def _shared_gradient(saved: tuple[Any, ...], cotangent: Array) -> tuple[Array, Array, ExpertParams]:
    x, gates, params, hidden, mixed = saved
    e, d, f = params.w.shape
    value, inner = hidden[:, e], hidden[:, :e]
    d_product = cotangent @ params.w2.T
    d_mixed = d_product * value
    sigmoid = jax.nn.sigmoid(inner)
    silu = inner * sigmoid
    d_inner = (gates[:, :, None] * d_mixed[:, None] * (sigmoid * (1 + inner - silu))).reshape(-1, e * f)
    d_value = d_product * mixed
    d_gates = jnp.stack([jnp.sum(d_mixed * silu[:, i], axis=1) for i in range(e)], axis=1)
    kernel = params.w.transpose(1, 0, 2).reshape(d, e * f)
    d_params = ExpertParams(
        w=(x.T @ d_inner).reshape(d, e, f).transpose(1, 0, 2),
        w_bias=jnp.sum(d_inner, axis=0).reshape(e, f),
        v=x.T @ d_value,
        v_bias=jnp.sum(d_value, axis=0),
        w2=(mixed * value).T @ cotangent,
        w2_bias=jnp.sum(cotangent, axis=0),
    )
    return d_inner @ kernel.T + d_value @ params.v.T, d_gates, d_params


_shared_mixture.defvjp(_shared_forward, _shared_gradient)


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


class Draws(NamedTuple):
    """The random numbers of one mixture layer in training.

    Attributes:
        noise: (T, E) standard normal numbers for the router.
        keep: (T, D) bool, False where dropout sets the output to 0; None without dropout.
    """

    noise: Array
    keep: Array | None


def draw(
    router_key: Array,
    dropout_key: Array,
    tokens: int,
    experts: Sequence[int],
    width: int,
    dropout: float,
    noise_factor: Array | float = 1.0,
) -> list[Draws]:
    """The random numbers of several layers, from one draw of each kind.

    Every separate draw puts some hundred operations into the compiled step; drawing once for all layers halves the time that
    compiling takes.

    Args:
        tokens, experts, width: T, the number of experts E of each layer, and D.
        dropout: rate, in steps of 2**-16.
        noise_factor: multiplies the router's noise.
    """
    noise = noise_factor * jax.random.normal(router_key, (tokens * sum(experts),))
    keep = None
    if dropout:
        shape = (len(experts), tokens, width)
        with jax.threefry_partitionable(
            False
        ):  # which throws away no half of what it computes; no device asks for another's part
            words = jax.random.bits(dropout_key, (math.prod(shape) + 1 >> 1,), jnp.uint32)  # each gives two numbers
        keep = jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[: math.prod(shape)] >= round(dropout * 2**16)
        keep = keep.reshape(shape)
    draws, start = [], 0
    for i, e in enumerate(experts):
        draws.append(Draws(noise[start : start + tokens * e].reshape(tokens, e), None if keep is None else keep[i]))
        start += tokens * e
    return draws


class MixtureParams(NamedTuple):
    """Weights of one mixture layer.

    Attributes:
        router, router_bias: (D, 2*E), (2*E,): clean logits and raw noise scale, joined so that they are one matmul.
        selection_bias: (E,), which balances the experts' use and has no gradient; None without.
        experts: the experts'.
    """

    router: Array
    router_bias: Array
    selection_bias: Array | None
    experts: ExpertParams


class MixtureOfExperts(nn.Module):
    """Declares the weights of a router and of E SwiGLU experts on tokens of width D, and returns them."""

    width: int
    num_experts: int
    hidden: int
    share_projections: bool = True
    selection_bias: bool = False

    def setup(self):
        self.router = Router(self.width, self.num_experts, self.selection_bias)
        self.experts = Experts(self.width, self.num_experts, self.hidden, self.share_projections)

    def __call__(self) -> MixtureParams:
        return MixtureParams(*self.router(), self.experts())


class Router(nn.Module):
    """Declares the weights of a router: (D, 2*E), (2*E,), and (E,) or None."""

    width: int
    num_experts: int
    selection_bias: bool = False

    @nn.compact
    def __call__(self) -> tuple[Array, Array, Array | None]:
        clean = LinearParams(self.width, self.num_experts, name="clean")()
        noise = LinearParams(self.width, self.num_experts, name="noise")()
        kernel, bias = (jnp.concatenate(parts, axis=-1) for parts in zip(clean, noise))
        selection = param(self, "selection_bias", nn.initializers.zeros, (self.num_experts,)) if self.selection_bias else None
        return kernel, bias, selection


class Experts(nn.Module):
    """Declares the weights of E SwiGLU experts."""

    width: int
    num_experts: int
    hidden: int
    share_projections: bool

    @nn.compact
    def __call__(self) -> ExpertParams:
        e, d, f = self.num_experts, self.width, self.hidden
        lead = () if self.share_projections else (e,)
        inward, outward = fan_in_uniform(d), fan_in_uniform(f)
        return ExpertParams(
            w=param(self, "w", inward, (e, d, f)),
            w_bias=param(self, "w_bias", inward, (e, f)),
            v=param(self, "v", inward, (*lead, d, f)),
            v_bias=param(self, "v_bias", inward, (*lead, f)),
            w2=param(self, "w2", outward, (*lead, f, d)),
            w2_bias=param(self, "w2_bias", outward, (*lead, d)),
        )


def mixture_of_experts(
    x: Array,
    params: MixtureParams,
    draws: Draws | None,
    *,
    top_k: int,
    dispatch: str,
    dropout: float,
    dtype: Any,
) -> tuple[Array, Routing]:
    """Router and experts: (B, N, D) -> output (B, N, D) in `dtype`, and what the router decided for the T = B*N tokens.

    The router is float32 whatever `dtype` is. `draws` are the random numbers of training; None is the deterministic layer. The
    experts being linear in W2, dropout acts once on their combined output.
    """
    b, n, d = x.shape
    rows = x.reshape(b * n, d)
    clean_logits, raw_scale = jnp.split(linear(rows, (params.router, params.router_bias), jnp.float32), 2, axis=-1)
    noise_scale = jax.nn.softplus(raw_scale)
    routing = route(clean_logits, noise_scale, None if draws is None else draws.noise, top_k, params.selection_bias)
    y = mix_experts(rows.astype(dtype), routing.gates, params.experts.astype(dtype), top_k, dispatch)
    if draws is not None and draws.keep is not None:
        y = jnp.where(draws.keep, y / (1 - dropout), 0)
    return y.reshape(b, n, d), routing
