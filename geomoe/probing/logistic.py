"""The solver of logistic regression on device: all classes at once.

The objective is scikit-learn's: C * sum_n loss_n + |W|^2 / 2, the intercept free; softmax loss for multi-class data, one
logistic loss a class for multi-label data (one-vs-rest).

The features are centred and rotated into their principal axes (which does not change |W|^2), and each axis is scaled by
1 / sqrt(1 + C * eigenvalue / 4), the bound of the Hessian there. In these variables the problem is round whatever the scales of
the features, and L-BFGS takes tens of steps instead of hundreds. Because logits are linear in the weights, a line search works
on the logits alone: an iteration is one product with the features and one with their transpose.

Axes: N rows, D features, K classes, G independent problems (K for one-vs-rest, 1 for softmax).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

Array = jax.Array

_MEMORY = 10  # pairs of steps and gradient changes that L-BFGS keeps
_MAX_TRIES = 12  # of one line search


@functools.partial(jax.jit, static_argnames=("softmax", "max_iter"))
def solve(
    z: Array, y: Array, weight: Array, C: Array, scale: Array, start: Array, tol: Array, *, softmax: bool, max_iter: int
) -> tuple[Array, Array, Array]:
    """Minimise the objective in the scaled variables.

    Args:
        z: (N, D) centred features in their principal axes; y: (N, K) 0/1; weight: (N,), 0 for padding.
        scale: (D + 1,) of each axis, and of the intercept.
        start: (K, D + 1) scaled weights to begin with.

    Returns:
        (K, D + 1) scaled weights, number of iterations, objective.
    """
    d, k = z.shape[1], y.shape[1]
    groups = 1 if softmax else k
    weights = weight[:, None]
    penalised = jnp.ones(d + 1).at[d].set(0)

    def logits_of(u: Array) -> Array:
        w = u * scale
        return jnp.matmul(z, w[:, :d].T, precision="highest") + w[:, d]

    def residual(logits: Array) -> Array:
        p = jax.nn.softmax(logits) if softmax else jax.nn.sigmoid(logits)
        return C * weights * (p - y)

    def gradient(u: Array, r: Array) -> Array:
        data = jnp.concatenate([jnp.matmul(r.T, z, precision="highest"), r.sum(axis=0)[:, None]], axis=1)
        return scale * data + penalised * scale**2 * u

    def per_group(values: Array) -> Array:
        """(..., K) summed over all but the problems: (G,)."""
        total = values.reshape(-1, k).sum(axis=0)
        return total.sum()[None] if softmax else total

    optimizer = optax.scale_by_lbfgs(_MEMORY)
    spread = lambda values: jnp.broadcast_to(values, (k,))  # (G,) -> (K,)
    flat = lambda u: u.reshape(groups, -1)

    def iterate(carry: Any) -> Any:
        u, logits, grad, state, done, count = carry
        direction, state = jax.vmap(optimizer.update)(flat(grad), state, flat(u))
        direction = -direction.reshape(k, d + 1)
        slope = per_group((grad * direction).T)
        direction = jnp.where(spread(slope < 0)[:, None], direction, -grad)
        direction = jnp.where(spread(done)[:, None], 0.0, direction)
        slope = per_group((grad * direction).T)
        step_logits = logits_of(direction)
        ridge = per_group((penalised * scale**2 * u * direction).T), per_group((penalised * (scale * direction) ** 2).T)

        def search_step(search: Any) -> Any:
            # The slope along the line must fall, and not turn up by much: a bracket shrinks around its zero.
            tries, alpha, low, high, _, _, fine = search
            moved = logits + spread(alpha) * step_logits
            r = residual(moved)
            new_slope = per_group(r * step_logits) + ridge[0] + alpha * ridge[1]
            now_fine = (new_slope <= -0.3 * slope) & (new_slope >= 0.9 * slope)
            high = jnp.where(~now_fine & (new_slope > 0), alpha, high)
            low = jnp.where(~now_fine & (new_slope <= 0), alpha, low)
            following = jnp.where(jnp.isinf(high), 2 * alpha, 0.5 * (low + high))
            alpha = jnp.where(fine | now_fine, alpha, following)
            return tries + 1, alpha, low, high, moved, r, fine | now_fine

        ones = jnp.ones(groups)
        search = (0, ones, 0 * ones, jnp.inf * ones, logits, logits, done)
        unfinished = lambda search: (search[0] < _MAX_TRIES) & ~jnp.all(search[-1])
        _, alpha, _, _, moved, r, _ = jax.lax.while_loop(unfinished, search_step, search)
        u = u + spread(alpha)[:, None] * direction
        new_grad = gradient(u, r)
        size = jnp.sqrt(per_group((new_grad**2).T))
        reference = jnp.maximum(1.0, jnp.sqrt(per_group((u**2).T)))
        done = done | (size <= tol * reference) | (slope == 0)
        return u, moved, new_grad, state, done, count + 1

    logits = logits_of(start)
    grad = gradient(start, residual(logits))
    state = jax.vmap(optimizer.init)(flat(start))
    carry = (start, logits, grad, state, jnp.zeros(groups, bool), jnp.int32(0))
    u, logits, _, _, _, count = jax.lax.while_loop(lambda c: ~jnp.all(c[4]) & (c[5] < max_iter), iterate, carry)
    if softmax:
        loss = jax.nn.logsumexp(logits, axis=1) - jnp.sum(y * logits, axis=1)
    else:
        loss = jnp.sum(jnp.logaddexp(0.0, logits) - y * logits, axis=1)
    return u, count, C * jnp.sum(weight * loss) + 0.5 * jnp.sum(penalised * (scale * u) ** 2)
