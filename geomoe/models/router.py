"""The router of a mixture of experts: noisy top-k gating, and the losses that keep experts in use.

Axes: T tokens, D width, E experts, K chosen experts of a token.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from geomoe.models.layers import ZEROS, Linear, param

BALANCE_WEIGHT = 0.01  # weight of each of the two balance losses, published
_MAX_PAIRWISE_EXPERTS = 16  # up to here ranks come from E*E comparisons, which need no sort and no gather


class RouterOutput(NamedTuple):
    """What the router decided. All float32 but for the ranks."""

    clean_logits: Array  # (T, E), W_g x
    noise_scale: Array  # (T, E), softplus(W_n x)
    gates: Array  # (T, E) weights of the experts, 0 where not chosen; rows sum to 1
    logits: Array  # (T, E), the logits that were ranked, H: clean logits plus scaled noise
    ranks: Array  # (T, E) int32, 0 for the expert with the largest logit; ties go to the lower index
    kth: Array  # (T, 1), the K-th largest logit
    next: Array  # (T, 1), the (K+1)-th largest, -inf where K = E


def _descending_ranks(logits: Array) -> Array:
    """(T, E) -> (T, E) int32: how many experts stand before each one."""
    num_experts = logits.shape[-1]
    index = jnp.arange(num_experts)
    if num_experts <= _MAX_PAIRWISE_EXPERTS:
        expert, other = logits[:, :, None], logits[:, None, :]
        before = (other > expert) | ((other == expert) & (index[None, None, :] < index[None, :, None]))
        return jnp.sum(before, axis=-1, dtype=jnp.int32)
    order = jnp.argsort(-logits, axis=-1, stable=True)
    return jnp.argsort(order, axis=-1).astype(jnp.int32)


def route(
    clean_logits: Array, noise_scale: Array, noise: Array | None, top_k: int, selection_bias: Array | None = None
) -> RouterOutput:
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
    return RouterOutput(clean_logits, noise_scale, gates, logits, ranks, kth, following)


class Router(nn.Module):
    """A noisy top-k router, float32 whatever the type of the activations and the precision of other products: it chooses."""

    width: int
    num_experts: int
    top_k: int
    use_selection_bias: bool = False  # a bias that only ranks experts, and that training moves to balance their use

    @nn.compact
    def __call__(self, x: Array, noise: Array | None = None) -> RouterOutput:
        """Route tokens (T, D); `noise` are (T, E) standard normal numbers in training, or None."""
        clean_logits = Linear(self.width, self.num_experts, precision="highest", name="clean")(x)
        noise_scale = jax.nn.softplus(Linear(self.width, self.num_experts, precision="highest", name="noise")(x))
        bias = param(self, "selection_bias", ZEROS, (self.num_experts,)) if self.use_selection_bias else None
        return route(clean_logits, noise_scale, noise, self.top_k, bias)


def _sum_over(values: Array, counted: Array | None) -> Array:
    """(T, E) -> (E,): the sum over tokens, each with its weight in `counted` (T,), or 1."""
    return jnp.sum(values if counted is None else values * counted[:, None], axis=0)


def expected_load(out: RouterOutput, top_k: int, estimator: str, counted: Array | None = None) -> Array:
    """Estimate smoothly how many tokens each expert gets, of those that are `counted` (T,) (None: all): (E,) float32.

    It is the sum over tokens of Phi((clean - psi) / scale), the probability that a fresh draw of this expert's noise lifts it
    over the threshold psi.

    - "shazeer": psi is the K-th largest logit among the *other* experts (Shazeer et al. 2017, eq. 8-9).
    - "reference", the published model's: psi is the K-th largest logit where H lies above it, the (K+1)-th where H is at
      most that, and H itself (probability Phi((clean - H) / scale)) for the K-th expert.

    With K = E every expert gets every token.
    """
    tokens, num_experts = out.logits.shape
    if top_k == num_experts:
        return jnp.full((num_experts,), float(tokens) if counted is None else jnp.sum(counted), jnp.float32)
    if estimator == "shazeer":
        threshold = jnp.where(out.ranks < top_k, out.next, out.kth)
    elif estimator == "reference":
        # Compared by value and not by rank, so that ties fall as published.
        below = out.logits <= out.next
        threshold = jnp.where(out.logits > out.kth, out.kth, jnp.where(below, out.next, out.logits))
    else:
        raise ValueError(f"load_estimator = {estimator!r} is not 'reference' or 'shazeer'")
    return _sum_over(jax.scipy.stats.norm.cdf((out.clean_logits - threshold) / out.noise_scale), counted)


def balance_loss(out: RouterOutput, top_k: int, estimator: str, counted: Array | None = None) -> Array:
    """0.01 CV(importance) + 0.01 CV(load): scalar (Shazeer et al. 2017, eq. 6-7 and 11, with CV in place of its square)."""

    def cv(values: Array) -> Array:
        """Of the population; where all are equal 0, with a gradient of 0 in place of NaN."""
        variance = jnp.var(values)
        std = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1)), 0)
        return std / (jnp.mean(values) + 1e-6)

    return BALANCE_WEIGHT * (cv(_sum_over(out.gates, counted)) + cv(expected_load(out, top_k, estimator, counted)))


def router_z_loss(out: RouterOutput, counted: Array | None = None) -> Array:
    """Mean of logsumexp(clean logits)^2 over tokens, scalar; keeps logits small (Zoph et al. 2022, arXiv 2202.08906, eq. 5)."""
    return jnp.average(jnp.square(jax.nn.logsumexp(out.clean_logits, axis=-1)), weights=counted)


def balanced_bias(bias: Array, usage: Array, rate: float) -> Array:
    """The selection bias after a step: up by `rate` for experts with less than an even share, down for the others.

    Balance without a loss that pulls at the weights (Wang et al. 2024, arXiv 2408.15664, algorithm 1; DeepSeek-V3).

    Args:
        bias: (E,) the bias of this step.
        usage: (E,) share of the token assignments that each expert got, summing to 1.
    """
    return bias + rate * jnp.sign(1 / usage.shape[0] - usage)
