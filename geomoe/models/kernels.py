"""What a platform needs done another way: each operation as its plain definition and as a fast version of one signature.

Everything outside this file is ordinary code. `on_cpu` is the one place that chooses between the two.

Axes: B images, N tokens, T = B * N tokens of a batch, D width, H query heads, G groups (key/value heads), R = H / G query
heads a group, d head width, E experts, F hidden width of an expert.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

LAYER_NORM_EPSILON = 1e-5


def on_cpu() -> bool:
    """Whether the fast versions are taken: on CPU.

    They were measured there (`python -m geomoe.cli.bench --part kernels` shows what each is worth on this machine). On GPU and
    TPU XLA fuses the plain definitions, and attention goes to the library's own kernels.
    """
    return jax.default_backend() == "cpu"


# Layer normalisation (Ba et al. 2016, arXiv 1607.06450).


def plain_layer_norm(x: Array, scale: Array, bias: Array) -> Array:
    """(x - mean) / sqrt(variance + 1e-5) * scale + bias over the last axis, in float32.

    Args:
        x: (..., D).
        scale, bias: (D,) float32.

    Returns:
        (..., D), in the dtype of `x`.
    """
    values = x.astype(jnp.float32)
    mean = jnp.mean(values, axis=-1, keepdims=True)
    variance = jnp.var(values, axis=-1, keepdims=True)
    return ((values - mean) * jax.lax.rsqrt(variance + LAYER_NORM_EPSILON) * scale + bias).astype(x.dtype)


@jax.custom_vjp
def fast_layer_norm(x: Array, scale: Array, bias: Array) -> Array:
    """`plain_layer_norm` with its gradient written out, since differentiating the definition compiles to more operations."""
    return _layer_norm_forward(x, scale, bias)[0]


def _layer_norm_forward(x: Array, scale: Array, bias: Array) -> tuple[Array, tuple[Array, ...]]:
    values = x.astype(jnp.float32)
    mean = jnp.mean(values, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(values), axis=-1, keepdims=True) - jnp.square(mean)
    inverse = jax.lax.rsqrt(jnp.maximum(variance, 0) + LAYER_NORM_EPSILON)
    return ((values - mean) * inverse * scale + bias).astype(x.dtype), (x, mean, inverse, scale)


def _layer_norm_backward(saved: tuple[Array, ...], cotangent: Array) -> tuple[Array, Array, Array]:
    x, mean, inverse, scale = saved
    normed = (x.astype(jnp.float32) - mean) * inverse
    cotangent = cotangent.astype(jnp.float32)
    scaled = cotangent * scale
    along = jnp.mean(scaled * normed, axis=-1, keepdims=True)
    d_x = inverse * (scaled - jnp.mean(scaled, axis=-1, keepdims=True) - normed * along)
    rows = tuple(range(x.ndim - 1))
    return d_x.astype(x.dtype), jnp.sum(cotangent * normed, axis=rows), jnp.sum(cotangent, axis=rows)


fast_layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


@jax.jit
def layer_norm(x: Array, scale: Array, bias: Array) -> Array:
    """`plain_layer_norm`, by what the platform is good at."""
    return (fast_layer_norm if on_cpu() else plain_layer_norm)(x, scale, bias)


# Grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245): query head h reads key/value head h mod G.


def plain_attention(q: Array, k: Array, v: Array, num_groups: int, present: Array | None = None) -> Array:
    """softmax(q k^T / sqrt(d)) v, head by head, by the library's attention.

    Args:
        q: (B, N, H*d) queries, head after head.
        k, v: (B, N, G*d) keys and values.
        num_groups: G.
        present: (B, N) bool, the keys that are looked at, at least one an image; None is all.

    Returns:
        (B, N, H*d), in the dtype of `q`.
    """
    b, n, _ = q.shape
    d = k.shape[-1] // num_groups
    keys, values = (x.reshape(b, n, num_groups, d) for x in (k, v))
    # The library's query head h reads key/value head h // R, so heads are brought into that order and back.
    by_group = q.reshape(b, n, -1, num_groups, d).swapaxes(2, 3)
    mask = None if present is None else present[:, None, None, :]
    out = jax.nn.dot_product_attention(by_group.reshape(b, n, -1, d), keys, values, mask=mask)
    return out.reshape(by_group.shape).swapaxes(2, 3).reshape(q.shape)


def _by_group(x: Array, num_groups: int, d: int) -> Array:
    """(B, N, R*G*d) -> (B*G, R*N, d): the R heads of a group stacked as rows, so that a group is one matmul."""
    b, n, _ = x.shape
    return x.reshape(b, n, -1, num_groups, d).transpose(0, 3, 2, 1, 4).reshape(b * num_groups, -1, d)


def _by_group_transposed(x: Array, num_groups: int, d: int) -> Array:
    """(B, N, R*G*d) -> (B*G, d, R*N)."""
    b, n, _ = x.shape
    return x.reshape(b, n, -1, num_groups, d).transpose(0, 3, 4, 2, 1).reshape(b * num_groups, d, -1)


def _from_groups(x: Array, num_groups: int, tokens: int) -> Array:
    """The inverse of `_by_group`: (B*G, R*N, d) -> (B, N, R*G*d)."""
    z, rows, d = x.shape
    x = x.reshape(z // num_groups, num_groups, rows // tokens, tokens, d)
    return x.transpose(0, 3, 2, 1, 4).reshape(z // num_groups, tokens, -1)


def _from_groups_transposed(x: Array, num_groups: int) -> Array:
    """(B*G, d, N) -> (B, N, G*d)."""
    z, d, n = x.shape
    return x.reshape(z // num_groups, num_groups * d, n).transpose(0, 2, 1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def fast_attention(q: Array, k: Array, v: Array, num_groups: int, present: Array | None = None) -> Array:
    """`plain_attention` with its gradient written out.

    The softmax is float32 and is divided by its sum after the product with v, which is N / d times smaller than before it. The
    gradients of k and v are computed transposed, since a batched matmul whose left side is transposed runs on CPU at half the
    speed or less.
    """
    return _attention_forward(q, k, v, num_groups, present)[0]


def _attention_forward(q: Array, k: Array, v: Array, num_groups: int, present: Array | None) -> tuple[Array, tuple[Array, ...]]:
    d = k.shape[-1] // num_groups
    q = q * d**-0.5
    queries, keys, values = (_by_group(x, num_groups, d) for x in (q, k, v))
    logits = jnp.einsum("zqd,zkd->zqk", queries, keys, preferred_element_type=jnp.float32)
    if present is not None:  # the same for the groups of an image, which stand side by side
        logits = jnp.where(jnp.repeat(present, num_groups, axis=0)[:, None, :], logits, -1e30)
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    inverse_sum = 1 / jnp.sum(weights, axis=-1, keepdims=True)
    weights = weights.astype(v.dtype)
    out = (jnp.einsum("zqk,zkd->zqd", weights, values) * inverse_sum).astype(v.dtype)
    return _from_groups(out, num_groups, q.shape[1]), (q, k, v, weights, inverse_sum)


def _attention_backward(num_groups: int, saved: tuple[Array, ...], cotangent: Array) -> tuple[Array | None, ...]:
    q, k, v, weights, inverse_sum = saved
    n, d = q.shape[1], k.shape[-1] // num_groups
    keys, values = _by_group(k, num_groups, d), _by_group(v, num_groups, d)
    sums = inverse_sum.reshape(-1, num_groups, q.shape[-1] // (num_groups * d), n).transpose(0, 3, 2, 1)  # (B, N, R, G)
    cotangent = (cotangent.reshape(*sums.shape, d) * sums[..., None]).astype(v.dtype).reshape(q.shape)
    rows = _by_group(cotangent, num_groups, d)
    d_weights = jnp.einsum("zqd,zkd->zqk", rows, values, preferred_element_type=jnp.float32)
    mean = inverse_sum * jnp.sum(weights * d_weights, axis=-1, keepdims=True)
    d_logits = (weights * (d_weights - mean)).astype(v.dtype)
    d_q = _from_groups(jnp.einsum("zqk,zkd->zqd", d_logits, keys), num_groups, n) * d**-0.5
    d_k = jnp.einsum("zdq,zqk->zdk", _by_group_transposed(q, num_groups, d), d_logits)
    d_v = jnp.einsum("zdq,zqk->zdk", _by_group_transposed(cotangent, num_groups, d), weights)
    return d_q, _from_groups_transposed(d_k, num_groups), _from_groups_transposed(d_v, num_groups), None


fast_attention.defvjp(_attention_forward, _attention_backward)


@functools.partial(jax.jit, static_argnums=3)
def attention(q: Array, k: Array, v: Array, num_groups: int, present: Array | None = None) -> Array:
    """`plain_attention`, by what the platform is good at."""
    return (fast_attention if on_cpu() else plain_attention)(q, k, v, num_groups, present)


# A mixture of SwiGLU experts with shared V and W2, every expert computed for every token.


class ExpertParams(NamedTuple):
    """Weights of the experts of one layer: the gate branch, one for each expert, the value branch and the output."""

    w: Array  # (E, D, F)
    w_bias: Array  # (E, F)
    v: Array  # (D, F) shared, or (E, D, F)
    v_bias: Array  # (F,) shared, or (E, F)
    w2: Array  # (F, D) shared, or (E, F, D)
    w2_bias: Array  # (D,) shared, or (E, D)

    @property
    def shared(self) -> bool:
        return self.v.ndim == 2


def plain_shared_mixture(x: Array, gates: Array, params: ExpertParams) -> Array:
    """W2 ((sum_e g_e silu(W_e x)) * V x): (T, D), (T, E) -> (T, D), in the dtype of `x`."""
    hidden = jax.nn.silu(jnp.einsum("td,edf->tef", x, params.w) + params.w_bias)
    mixed = jnp.einsum("te,tef->tf", gates, hidden)
    return (mixed * (x @ params.v + params.v_bias)) @ params.w2 + params.w2_bias


@jax.custom_vjp
def fast_shared_mixture(x: Array, gates: Array, params: ExpertParams) -> Array:
    """`plain_shared_mixture` with its gradient written out.

    W_1 ... W_E and V are one matmul forward; of what lies behind it only their products and the gated sum are kept, and silu is
    computed again.
    """
    return _mixture_forward(x, gates, params)[0]


def _mixture_forward(x: Array, gates: Array, params: ExpertParams) -> tuple[Array, tuple[Any, ...]]:
    e, d, f = params.w.shape
    kernel = jnp.concatenate([params.w.transpose(1, 0, 2).reshape(d, e * f), params.v], axis=1)
    bias = jnp.concatenate([params.w_bias.reshape(-1), params.v_bias])
    hidden = (x @ kernel + bias).reshape(-1, e + 1, f)
    gated = gates[:, :, None] * jax.nn.silu(hidden[:, :e])
    mixed = functools.reduce(jnp.add, (gated[:, i] for i in range(e)))  # a sum over axis 1 would write out gates F times
    return (mixed * hidden[:, e]) @ params.w2 + params.w2_bias, (x, gates, params, hidden, mixed)


def _mixture_backward(saved: tuple[Any, ...], cotangent: Array) -> tuple[Array, Array, ExpertParams]:
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


fast_shared_mixture.defvjp(_mixture_forward, _mixture_backward)


@jax.jit
def shared_mixture(x: Array, gates: Array, params: ExpertParams) -> Array:
    """`plain_shared_mixture`, by what the platform is good at."""
    return (fast_shared_mixture if on_cpu() else plain_shared_mixture)(x, gates.astype(x.dtype), params)


# The random numbers of several mixture layers, from one draw of each kind: every separate draw puts some hundred operations
# into the compiled step, and drawing once for all layers halves the time that compiling takes.


class Draws(NamedTuple):
    """The random numbers of one mixture layer in training."""

    noise: Array  # (T, E) standard normal numbers for the router
    keep: Array | None  # (T, D) bool, False where dropout sets the output to 0; None without dropout


def draw(
    keys: tuple[Array, Array],
    positions: Array,
    shape: tuple[int, int],
    experts: Sequence[int],
    dropout: float,
    noise_factor: Array | float,
) -> list[Draws]:
    """Draw the random numbers of several mixture layers, each image's by its position in the global batch.

    Args:
        keys: of the router's noise and of dropout, the same on all devices.
        positions: (B,) int32.
        shape: N tokens of an image, width D.
        experts: number of experts E of each layer.
        dropout: rate, in steps of 2**-16.
        noise_factor: multiplies the router's noise.
    """
    tokens, width = shape
    router_keys, dropout_keys = (jax.vmap(jax.random.fold_in, (None, 0))(key, positions) for key in keys)
    noise = noise_factor * jax.vmap(lambda key: jax.random.normal(key, (tokens, sum(experts))))(router_keys)
    noises = jnp.split(noise.reshape(-1, sum(experts)), [sum(experts[:i]) for i in range(1, len(experts))], axis=1)
    if not dropout:
        return [Draws(part, None) for part in noises]
    count = len(experts) * tokens * width
    # Not partitionable, which would throw away half of what it computes; no device asks for another's part.
    with jax.threefry_partitionable(False):
        words = jax.vmap(lambda key: jax.random.bits(key, (count + 1 >> 1,), jnp.uint32))(dropout_keys)  # two numbers each
    halves = jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(len(positions), -1)[:, :count]
    keep = (halves >= round(dropout * 2**16)).reshape(-1, len(experts), tokens, width)
    return [Draws(part, keep[:, i].reshape(-1, width)) for i, part in enumerate(noises)]


def materialize(vector: Array) -> Array:
    """The same vector (N,), which XLA on CPU now has to write to memory as a whole.

    Without it XLA sees each parameter's slice of a long vector and puts a copy of the whole optimizer into every one of several
    hundred slices, two fifths of the compiled program's text. A loop, because XLA on CPU drops `jax.lax.optimization_barrier`
    before it fuses.
    """
    if not on_cpu():
        return vector
    halves = jnp.pad(vector, (0, vector.size % 2)).reshape(2, -1)
    return jax.lax.scan(lambda one, half: (one, one * half), jnp.ones(()), halves)[1].reshape(-1)[: vector.size]
