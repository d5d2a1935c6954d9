"""Logistic regression on device: all classes at once, along a path of regularisation strengths.

The objective is scikit-learn's: C * sum_n loss_n + |W|^2 / 2, the intercept free; softmax loss for multi-class data, one
logistic loss a class for multi-label data (one-vs-rest).

The features are centred and turned into their principal axes (which leaves |W|^2 as it is), and each axis is scaled by
1 / sqrt(1 + C * eigenvalue / 4), the bound of the Hessian there. In these variables the problem is round whatever the scales of
the features, and L-BFGS needs tens of steps in place of hundreds. Because logits are linear in the weights, a line search works
on the logits alone: an iteration is one product with the features and one with their transpose.

Axes: N rows, D features, K classes, G independent problems (K for one-vs-rest, 1 for softmax).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

Array = jax.Array

_MEMORY = 10  # pairs of steps and gradient changes that L-BFGS keeps
_BLOCK = 8192  # rows whose features are centred and turned at once
_MAX_TRIES = 12  # of one line search
C_GRID = tuple(float(c) for c in np.logspace(-6, 4, 40))


@dataclasses.dataclass(frozen=True)
class LinearModel:
    """A fitted linear classifier or regression on features: plain arrays.

    Attributes:
        coef, intercept: (D, K), (K,), for features as they are (any standardisation is folded in).
        task: "multiclass", "multilabel" or "regression".
        C: the strength used.
        info: plain values about its making: class names, the encoder and the input it was fitted on ...
    """

    coef: np.ndarray
    intercept: np.ndarray
    task: str
    C: float
    info: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def decision(self, features: np.ndarray) -> np.ndarray:
        """Logits (or regression values): (N, D) -> (N, K)."""
        features = np.asarray(features, np.float32)
        if features.ndim != 2 or features.shape[1] != len(self.coef):
            raise ValueError(f"features must be (N, {len(self.coef)}), got {features.shape}")
        return features @ self.coef + self.intercept

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """(N, D) -> (N, K), softmax or logistic.

        Raises:
            ValueError: the model is a regression.
        """
        logits = self.decision(features).astype(np.float64)
        if self.task == "multiclass":
            shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
            return shifted / shifted.sum(axis=1, keepdims=True)
        if self.task == "multilabel":
            return np.exp(-np.logaddexp(0, -logits))
        raise ValueError("a regression has no probabilities; take decision(features)")

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Class indices (N,) for multi-class, 0/1 (N, K) for multi-label, values (N, K) for regression models."""
        logits = self.decision(features)
        if self.task == "multiclass":
            return logits.argmax(axis=1)
        return (logits > 0).astype(np.int32) if self.task == "multilabel" else logits

    def predict_images(self, encoder: Any, images: np.ndarray, **options: Any) -> np.ndarray:
        """`predict` on images: embeds them first. `options` as for `PretrainedEncoder.embed`; `pool` is that of the fit."""
        options.setdefault("pool", self.info.get("pool", "mean"))
        return self.predict(encoder.embed(images, **options))

    def save(self, path: str | os.PathLike) -> None:
        """Writes arrays and JSON into one `.npz` or `.safetensors` file, which appears whole or not at all.

        Raises:
            ValueError: the path ends in neither.
        """
        path = os.fspath(path)
        facts = json.dumps({"task": self.task, "C": self.C, "info": dict(self.info), "format": "geomoe linear model 1"})
        arrays = {"coef": np.ascontiguousarray(self.coef), "intercept": np.ascontiguousarray(self.intercept)}
        partial = f"{path}.partial"
        if path.endswith(".npz"):
            with open(partial, "wb") as file:
                np.savez(file, facts=np.array(facts), **arrays)
        elif path.endswith(".safetensors"):
            from safetensors.numpy import save_file

            save_file(arrays, partial, {"facts": facts})
        else:
            raise ValueError(f"{path}: a probe is saved as .npz or .safetensors")
        os.replace(partial, path)


def load_probe(path: str | os.PathLike) -> LinearModel:
    """Reads a probe that `LinearModel.save` wrote. Never runs code from the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no saved probe.
    """
    path = os.fspath(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"no saved probe at {path}")
    try:
        if path.endswith(".safetensors"):
            from safetensors import safe_open

            with safe_open(path, "np") as file:
                arrays = {name: file.get_tensor(name) for name in ("coef", "intercept")}
                facts = json.loads(file.metadata()["facts"])
        else:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in ("coef", "intercept")}
                facts = json.loads(str(file["facts"]))
    except Exception as error:  # every way of being another file
        raise ValueError(f"{path} is no saved probe: {type(error).__name__}: {error}") from None
    return LinearModel(arrays["coef"], arrays["intercept"], facts["task"], facts["C"], facts["info"])


def _padded_rows(count: int) -> int:
    """Rows are padded to a few sizes, at most a quarter more, so that folds and subsets share compiled programs."""
    step = max(1 << max(count.bit_length() - 3, 0), 64)
    return -(-count // step) * step


@functools.partial(jax.jit, static_argnames=("softmax", "max_iter"))
def _solve(
    z: Array, y: Array, weight: Array, C: Array, scale: Array, start: Array, tol: Array, *, softmax: bool, max_iter: int
) -> tuple[Array, Array, Array]:
    """Minimises the objective in the scaled variables.

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

    def iterate(carry):
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

        def unfinished(search):
            tries, _, _, _, _, _, fine = search
            return (tries < _MAX_TRIES) & ~jnp.all(fine)

        def search_step(search):
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
    """Fits logistic regression for each C, from the smallest to the largest, each from the one before.

    Args:
        features: (N, D). labels: (N, K) 0/1; for "multiclass" one a row.
        task: "multiclass" (softmax; a single logistic for two classes, as scikit-learn) or "multilabel" (one-vs-rest).
        C: inverse strength of the L2 penalty, one or several.
        standardise: penalise weights for features brought to deviation 1; the weights returned are for features as they are.
        max_iter: of L-BFGS, for each C.
        tol: stop where the gradient's norm in the scaled variables is below this, relative to the weights' norm.

    Returns:
        A model for each C, in the order of C. A class that all or none of the rows have gets its share as a constant.

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
    pair = multiclass and len(kept) == 2
    columns = kept[1:] if pair else kept
    softmax = multiclass and not pair

    mean = features.mean(axis=0, dtype=np.float64)
    spread = np.ones(d)
    if standardise:
        spread = features.std(axis=0, dtype=np.float64)
        spread[spread == 0] = 1
    rows = _padded_rows(n)
    blocks = [slice(start, start + _BLOCK) for start in range(0, n, _BLOCK)]  # float64 for a block, not for all
    centred = lambda block: (features[block] - mean) / spread
    values, axes = np.linalg.eigh(sum(part.T @ part for part in map(centred, blocks)))
    values = np.maximum(values, 0)
    z = np.zeros((rows, d), np.float32)
    for block in blocks:
        z[:n][block] = centred(block) @ axes
    z = jnp.asarray(z)
    y = np.zeros((rows, len(columns)), np.float32)
    y[:n] = labels[:, columns]
    y, weight = jnp.asarray(y), jnp.asarray((np.arange(rows) < n).astype(np.float32))

    fitted: dict[float, LinearModel] = {}
    share = counts / n
    weights = np.zeros((len(columns), d + 1))
    if multiclass:
        weights[:, d] = np.log(share[kept[1]] / share[kept[0]]) if pair else np.log(share[kept])
    else:
        weights[:, d] = np.log(share[kept] / (1 - share[kept]))
    for c in sorted(set(strengths)):
        if len(columns):
            scale = 1 / np.sqrt(np.append(1 + c * values / 4, c * n / 4))
            start = jnp.asarray(weights / scale, jnp.float32)
            numbers = [jnp.float32(c), jnp.asarray(scale, jnp.float32), start, jnp.float32(tol)]
            u, iterations, objective = _solve(z, y, weight, *numbers, softmax=softmax, max_iter=max_iter)
            weights = np.asarray(u, np.float64) * scale
            facts = {"iterations": int(iterations), "objective": float(np.sum(objective)), "standardise": standardise}
        else:
            facts = {"iterations": 0, "objective": 0.0, "standardise": standardise}
        coef, intercept = np.zeros((d, labels.shape[1])), np.full(labels.shape[1], -np.inf)
        if not multiclass:
            with np.errstate(divide="ignore"):
                intercept = np.log(share) - np.log1p(-share)
        coef[:, columns] = (axes @ weights[:, :d].T) / spread[:, None]
        intercept[columns] = weights[:, d] - mean @ coef[:, columns]
        if pair:
            intercept[kept[0]] = 0.0
        intercept = np.clip(intercept, -1e9, 1e9)
        fitted[c] = LinearModel(coef.astype(np.float32), intercept.astype(np.float32), task, c, facts)
    return [fitted[c] for c in strengths]


def fit_ridge(
    features: np.ndarray, targets: np.ndarray, *, alpha: float | Sequence[float] = 1.0, standardise: bool = False
) -> list[LinearModel]:
    """Ridge regression in closed form: |XW + b - Y|^2 + alpha |W|^2, the intercept free (scikit-learn's `Ridge`).

    Args:
        features: (N, D); targets: (N,) or (N, K).
        alpha: strength, one or several; one decomposition serves all.

    Returns:
        A model for each alpha, in their order; `C` is 1 / alpha.
    """
    strengths = [float(a) for a in np.atleast_1d(alpha)]
    if not all(np.isfinite(a) and a > 0 for a in strengths):
        raise ValueError(f"alpha = {alpha} must be positive")
    x = np.asarray(features, np.float64)
    y = np.asarray(targets, np.float64)
    y = y[:, None] if y.ndim == 1 else y
    mean, middle = x.mean(axis=0), y.mean(axis=0)
    spread = x.std(axis=0) if standardise else np.ones(x.shape[1])
    spread[spread == 0] = 1
    x = (x - mean) / spread
    values, axes = np.linalg.eigh(x.T @ x)
    projected = axes.T @ (x.T @ (y - middle))
    models = []
    for a in strengths:
        coef = axes @ (projected / (np.maximum(values, 0) + a)[:, None]) / spread[:, None]
        intercept = middle - mean @ coef
        facts = {"standardise": standardise, "alpha": a}
        models.append(LinearModel(coef.astype(np.float32), intercept.astype(np.float32), "regression", 1 / a, facts))
    return models
