"""Logistic regression on device: all classes at once, along a path of regularisation strengths.

The objective is scikit-learn's: C * sum_n loss_n + |W|^2 / 2, the intercept free; softmax loss for multi-class data, one
logistic loss a class for multi-label data (one-vs-rest).

The features are centred and rotated into their principal axes (which does not change |W|^2), and each axis is scaled by
1 / sqrt(1 + C * eigenvalue / 4), the bound of the Hessian there. In these variables the problem is round whatever the scales of
the features, and L-BFGS takes tens of steps instead of hundreds. Because logits are linear in the weights, a line search works
on the logits alone: an iteration is one product with the features and one with their transpose.

Axes: N rows, D features, K classes, G independent problems (K for one-vs-rest, 1 for softmax).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from geomoe.probing.inputs import Split, labelled_splits, strength_grid
from geomoe.probing.linear_model import LinearModel
from geomoe.probing.protocols import protocol_options
from geomoe.probing.scoring import ProbeResult, classification_result, main_score
from geomoe.probing.splits import validation_rows

Array = jax.Array

_MEMORY = 10  # pairs of steps and gradient changes that L-BFGS keeps
_BLOCK = 8192  # rows whose features are centred and rotated at once
_MAX_TRIES = 12  # of one line search
C_GRID = tuple(float(c) for c in np.logspace(-6, 4, 40))


def _padded_rows(count: int) -> int:
    """Round up: rows are padded to a few sizes, at most a quarter more, so that folds and subsets share compiled programs."""
    step = max(1 << max(count.bit_length() - 3, 0), 64)
    return -(-count // step) * step


@functools.partial(jax.jit, static_argnames=("softmax", "max_iter"))
def _solve(
    z: Array, y: Array, weight: Array, C: Array, scale: Array, start: Array, tol: Array, *, softmax: bool, max_iter: int
) -> tuple[Array, Array, Array]:
    """Minimise the objective in the scaled variables.

    Args:
        z: (N, D) centred features in their principal axes; y: (N, K) 0/1; weight: (N,), 0 for padding.
        scale: (D + 1,) of each axis, and of the intercept.
        start: (K, D + 1) scaled weights to begin with.

    Returns:
        (K, D + 1) scaled weights, number of iterations, objective (G,).
    """
    n, d = z.shape
    k = y.shape[1]
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

    def spread(values: Array) -> Array:
        """(G,) -> (K,)."""
        return jnp.broadcast_to(values, (k,)) if softmax else values

    optimizer = optax.scale_by_lbfgs(_MEMORY)
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

        def try_step(alpha: Array) -> tuple[Array, Array, Array]:
            moved = logits + spread(alpha) * step_logits
            r = residual(moved)
            return moved, r, per_group(r * step_logits) + ridge[0] + alpha * ridge[1]

        def unfinished(search: Any) -> Array:
            tries, _, _, _, _, _, fine = search
            return (tries < _MAX_TRIES) & ~jnp.all(fine)

        def search_step(search: Any) -> Any:
            # The slope along the line must fall, and not turn up by much: a bracket shrinks around its zero.
            tries, alpha, low, high, _, _, fine = search
            moved, r, new_slope = try_step(alpha)
            now_fine = (new_slope <= -0.3 * slope) & (new_slope >= 0.9 * slope)
            high = jnp.where(~now_fine & (new_slope > 0), alpha, high)
            low = jnp.where(~now_fine & (new_slope <= 0), alpha, low)
            following = jnp.where(jnp.isinf(high), 2 * alpha, 0.5 * (low + high))
            alpha = jnp.where(fine | now_fine, alpha, following)
            return tries + 1, alpha, low, high, moved, r, fine | now_fine

        ones = jnp.ones(groups)
        search = (0, ones, 0 * ones, jnp.inf * ones, logits, logits, done)
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
        loss = (jax.nn.logsumexp(logits, axis=1) - jnp.sum(y * logits, axis=1))[:, None] / k * jnp.ones((1, k))
    else:
        loss = jnp.logaddexp(0.0, logits) - y * logits
    value = per_group(C * weights * loss) + 0.5 * per_group((penalised * (scale * u) ** 2).T)
    return u, count, value


def fit_logistic(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    task: str,
    C: float | Sequence[float] = 1.0,
    standardise: bool = False,
    max_iter: int = 1000,
    tol: float = 1e-6,
) -> list[LinearModel]:
    """Fit logistic regression for each C, from the smallest to the largest, each from the one before.

    Args:
        features: (N, D). labels: (N, K) 0/1; for "multiclass" one a row.
        task: "multiclass" (softmax; a single logistic for two classes, as scikit-learn) or "multilabel" (one-vs-rest).
        C: inverse strength of the L2 penalty, one or several.
        standardise: penalise weights for features scaled to standard deviation 1; the weights returned are for unscaled ones.
        max_iter: of L-BFGS, for each C.
        tol: stop where the gradient's norm in the scaled variables is below this, relative to the weights' norm.

    Returns:
        A model for each C, in the order of C. A class that all or none of the rows have is predicted by its share.

    Raises:
        ValueError: a C is not positive, or multi-class labels hold a single class.
    """
    strengths = [float(c) for c in np.atleast_1d(C)]
    if not all(np.isfinite(c) and c > 0 for c in strengths):
        raise ValueError(f"C = {C} must be positive")
    features, labels = np.asarray(features), np.asarray(labels)
    n, d = features.shape
    counts = labels.sum(axis=0)
    multiclass = task == "multiclass"
    kept = np.flatnonzero(counts > 0 if multiclass else (counts > 0) & (counts < n))
    if multiclass and len(kept) < 2:
        raise ValueError("the training split holds a single class; a classifier needs two")
    binary = multiclass and len(kept) == 2
    columns = kept[1:] if binary else kept
    softmax = multiclass and not binary

    mean = features.mean(axis=0, dtype=np.float64)
    std = np.ones(d)
    if standardise:
        std = features.std(axis=0, dtype=np.float64)
        std[std == 0] = 1
    rows = _padded_rows(n)
    blocks = [slice(start, start + _BLOCK) for start in range(0, n, _BLOCK)]  # float64 for a block, not for all
    centred = lambda block: (features[block] - mean) / std
    values, axes = np.linalg.eigh(sum(part.T @ part for part in map(centred, blocks)))
    values = np.maximum(values, 0)
    z = np.zeros((rows, d), np.float32)
    for block in blocks:
        z[:n][block] = centred(block) @ axes
    y = np.zeros((rows, len(columns)), np.float32)
    y[:n] = labels[:, columns]
    data = jnp.asarray(z), jnp.asarray(y), jnp.asarray((np.arange(rows) < n).astype(np.float32))

    fitted: dict[float, LinearModel] = {}
    share = counts / n
    weights = np.zeros((len(columns), d + 1))
    if multiclass:
        weights[:, d] = np.log(share[kept[1]] / share[kept[0]]) if binary else np.log(share[kept])
    else:
        weights[:, d] = np.log(share[kept] / (1 - share[kept]))
    for c in sorted(set(strengths)):
        if len(columns):
            scale = 1 / np.sqrt(np.append(1 + c * values / 4, c * n / 4))
            start = jnp.asarray(weights / scale, jnp.float32)
            numbers = [jnp.float32(c), jnp.asarray(scale, jnp.float32), start, jnp.float32(tol)]
            u, iterations, objective = _solve(*data, *numbers, softmax=softmax, max_iter=max_iter)
            weights = np.asarray(u, np.float64) * scale
            info = {"iterations": int(iterations), "objective": float(np.sum(objective)), "standardise": standardise}
        else:
            info = {"iterations": 0, "objective": 0.0, "standardise": standardise}
        coef, intercept = np.zeros((d, labels.shape[1])), np.full(labels.shape[1], -np.inf)
        if not multiclass:
            with np.errstate(divide="ignore"):
                intercept = np.log(share) - np.log1p(-share)
        coef[:, columns] = (axes @ weights[:, :d].T) / std[:, None]
        intercept[columns] = weights[:, d] - mean @ coef[:, columns]
        if binary:
            intercept[kept[0]] = 0.0
        intercept = np.clip(intercept, -1e9, 1e9)
        fitted[c] = LinearModel(coef.astype(np.float32), intercept.astype(np.float32), task, c, info)
    return [fitted[c] for c in strengths]


@dataclasses.dataclass(frozen=True)
class LinearOptions:
    """How a linear probe is fitted.

    Attributes:
        C: inverse L2 strength, scikit-learn's convention; "sweep" (40 values from 1e-6 to 1e4) or a sequence is chosen from on
            the validation split, by the main metric of the task, the smallest among equals.
        standardise: scale each feature to standard deviation 1 over the training split.
        max_iter: of L-BFGS.
        refit: after a choice of C, fit again on training and validation rows together.
    """

    C: float | str | Sequence[float] = 1.0
    standardise: bool = False
    max_iter: int = 1000
    refit: bool = True


def linear_probe(
    train: Split,
    test: Split,
    *,
    task: str,
    val: Split | None = None,
    options: LinearOptions = LinearOptions(),  # noqa: B008  (frozen)
    protocol: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
    info: Mapping[str, Any] | None = None,
    **changes: Any,
) -> ProbeResult:
    """Fit logistic regression on frozen features: multinomial, or one-vs-rest for multi-label data.

    Args:
        train, test: features (N, D) and labels, (N, K) 0/1 or (N,) indices; or files of embeddings.
        task: "multiclass" or "multilabel".
        val: the split on which C is chosen; without it, a fifth of the training rows, drawn by `seed`.
        options: how to fit; `changes` are its fields by name, as `C="sweep"`.
        protocol: one of `PROTOCOLS`; it sets the options, and the result carries its name.
        resamples: of the bootstrap confidence intervals; 0 for none.
        seed: of the validation rows.
        info: plain values to keep with the fitted model.

    Raises:
        ValueError: shapes or labels do not fit the task.

    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.standard_normal((60, 2)), np.arange(60) % 2
    >>> x[:, 0] += 6 * y
    >>> linear_probe((x[:40], y[:40]), (x[40:], y[40:]), task="multiclass", C=(0.1, 1.0)).metrics["accuracy"]
    1.0
    """
    fixed = protocol_options(protocol, "linear") if protocol is not None else {}
    options = dataclasses.replace(options, **{**changes, **fixed})
    splits = labelled_splits(task, {"train": train, "test": test, "val": val})
    (x, y), (x_test, y_test) = splits["train"], splits["test"]
    settings: dict[str, Any] = dict(probe="linear", protocol=protocol, **dataclasses.asdict(options))
    settings |= dict(train=len(x), test=len(x_test))

    def fit(x: np.ndarray, y: np.ndarray, C: Sequence[float]) -> list[LinearModel]:
        return fit_logistic(x, y, task=task, C=C, standardise=options.standardise, max_iter=options.max_iter)

    grid, choose = strength_grid("C", options.C, C_GRID)
    if choose:
        rows, (x_val, y_val), joined = validation_rows((x, y), splits.get("val"), seed)
        models = fit(*rows, grid)
        scores = [main_score(y_val, model.probabilities(x_val), task) for model in models]
        best = int(np.argmax(scores))
        settings |= dict(C=grid[best], grid=[grid[0], grid[-1], len(grid)], val=len(x_val), val_score=scores[best])
        model = fit(*joined, grid[best : best + 1])[0] if options.refit else models[best]
    else:
        model = fit(x, y, grid)[0]
        settings["C"] = grid[0]
    if info:
        model = dataclasses.replace(model, info={**model.info, **info})
    return classification_result(y_test, model.probabilities(x_test), task, settings, resamples, model)
