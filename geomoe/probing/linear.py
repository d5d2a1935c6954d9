"""Linear probes: logistic and ridge regression on features."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from geomoe import compilation
from geomoe.checks import check_count
from geomoe.probing.config import protocol_options
from geomoe.probing.linear_model import LinearModel
from geomoe.probing.logistic import solve
from geomoe.probing.metrics import (
    as_array,
    as_numbers,
    bootstrap_regression,
    check_rows,
    check_task,
    main_score,
    regression_metrics,
)
from geomoe.probing.probe_result import ProbeResult, classification_result
from geomoe.probing.splits import (
    Fold,
    Split,
    facts_of_files,
    holdout,
    labelled_splits,
    positive,
    regression_splits,
    strength_grid,
    validation_rows,
)

C_GRID = tuple(float(c) for c in np.logspace(-6, 4, 40))
ALPHA_GRID = tuple(float(a) for a in np.logspace(-4, 6, 21))
_BLOCK = 8192  # rows whose features are centred and rotated at once


def _mean_and_scale(features: np.ndarray, standardise: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mean of each feature and what to divide it by, (D,) float64 each."""
    std = features.std(axis=0, dtype=np.float64) if standardise else np.ones(features.shape[1])
    return features.mean(axis=0, dtype=np.float64), np.where(std == 0, 1, std)


@compilation.isolated
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
        ValueError: a C is not positive, or there is none; the task, max_iter or tol has no meaning; shapes or labels do not
            fit; or there is no row, or multi-class labels hold a single class.
    """
    check_task(task)
    strengths = positive("C", C)
    check_count("max_iter", max_iter, 1)
    if not tol >= 0:
        raise ValueError(f"tol = {tol} must be 0 or more")
    for name, values in (("features", features), ("labels", labels)):
        check_rows(name, values)
    features, labels = as_numbers("features", features), as_array(labels)
    multiclass = task == "multiclass"
    form = "(N, K) of 0 and 1" + ", one 1 in each row" * multiclass
    if features.ndim != 2 or labels.ndim != 2 or len(features) != len(labels):
        shapes = f"got {features.shape} and {labels.shape}"
        raise ValueError(f"features must be (N, D) and labels {form}, {shapes}; linear_probe takes class indices")
    if not np.isin(labels, (0, 1)).all() or multiclass and not (labels.sum(axis=1) == 1).all():
        raise ValueError(f"labels must be {form}; some rows have others")
    n, d = features.shape
    counts = labels.sum(axis=0)
    kept = np.flatnonzero(counts > 0 if multiclass else (counts > 0) & (counts < n))
    if multiclass and len(kept) < 2:
        raise ValueError("the training split holds a single class; a classifier needs two")
    softmax = multiclass and len(kept) > 2
    columns = kept[1:] if multiclass and not softmax else kept

    mean, std = _mean_and_scale(features, standardise)
    # Rows are padded to a few sizes, at most a quarter more, so that folds and subsets share compiled programs.
    step = max(1 << max(n.bit_length() - 3, 0), 64)
    rows = -(-n // step) * step
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
    weights[:, d] = np.log(share[columns] if softmax else share[columns] / (1 - share[columns]))
    for c in sorted(set(strengths)):
        iterations, objective = 0, 0.0
        if len(columns):
            scale = 1 / np.sqrt(np.append(1 + c * values / 4, c * n / 4))
            start = jnp.asarray(weights / scale, jnp.float32)
            numbers = [jnp.float32(c), jnp.asarray(scale, jnp.float32), start, jnp.float32(tol)]
            u, count, value = solve(*data, *numbers, softmax=softmax, max_iter=max_iter)
            weights, iterations, objective = np.asarray(u, np.float64) * scale, int(count), float(value)
        coef, intercept = np.zeros((d, labels.shape[1])), np.where(share == 1, 1e9, -1e9)
        coef[:, columns] = (axes @ weights[:, :d].T) / std[:, None]
        intercept[columns] = weights[:, d] - mean @ coef[:, columns]
        intercept[kept[: len(kept) - len(columns)]] = 0.0  # the first of two classes
        info = {"iterations": iterations, "objective": objective, "standardise": standardise}
        fitted[c] = LinearModel(coef.astype(np.float32), intercept.astype(np.float32), task, c, info)
    return [fitted[c] for c in strengths]


@dataclasses.dataclass(frozen=True)
class LinearOptions:
    """How a linear probe is fitted.

    C is the inverse L2 strength, scikit-learn's convention; "sweep" (40 values from 1e-6 to 1e4) or a sequence is chosen from
    on the validation split, by the main metric of the task, the smallest among equals.
    """

    C: float | str | Sequence[float] = 1.0
    standardise: bool = False  # scale each feature to standard deviation 1 over the training split
    max_iter: int = 1000  # of L-BFGS
    refit: bool = True  # after a choice of C, fit again on training and validation rows together


def linear_probe(
    train: Split,
    test: Split,
    *,
    task: str,
    val: Split | None = None,
    options: LinearOptions = LinearOptions(),
    protocol: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
    draw: Callable[[int, int], Fold] = holdout,
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
        draw: draws these, of so many rows and by a seed, where `val` is None; folds of blocks or groups have their own.
        info: plain values to keep with the fitted model, before what files of embeddings say: encoder, pool, classes, input.

    Raises:
        ValueError: shapes or labels do not fit the task, or an option has no meaning.

    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.standard_normal((60, 2)), np.arange(60) % 2
    >>> x[:, 0] += 6 * y
    >>> linear_probe((x[:40], y[:40]), (x[40:], y[40:]), task="multiclass", C=(0.1, 1.0)).metrics["accuracy"]
    1.0
    """
    fixed = protocol_options(protocol, "linear") if protocol is not None else {}
    options = dataclasses.replace(options, **{**changes, **fixed})
    grid, choose = strength_grid("C", options.C, C_GRID)
    splits = labelled_splits(task, {"train": train, "test": test, "val": val})
    (x, y), (x_test, y_test) = splits["train"], splits["test"]
    settings: dict[str, Any] = dict(probe="linear", protocol=protocol, **dataclasses.asdict(options))
    settings |= dict(train=len(x), test=len(x_test))
    fit = functools.partial(fit_logistic, task=task, standardise=options.standardise, max_iter=options.max_iter)
    if choose:
        rows, (x_val, y_val), joined = validation_rows((x, y), splits.get("val"), seed, draw)
        if task == "multiclass" and rows[1].any(axis=0).sum() < 2 <= y.any(axis=0).sum():
            left = f"{len(y_val)} of {len(y)} training rows are held out to choose C on, and the others hold a single class"
            raise ValueError(f"{left}; give more rows, val, or one C")
        models = fit(*rows, C=grid)
        scores = [main_score(y_val, model.probabilities(x_val), task) for model in models]
        best = int(np.argmax(scores))
        settings |= dict(C=grid[best], grid=[grid[0], grid[-1], len(grid)], val=len(x_val), val_score=scores[best])
        model = fit(*joined, C=grid[best])[0] if options.refit else models[best]
    else:
        model = fit(x, y, C=grid)[0]
        settings["C"] = grid[0]
    said = facts_of_files({"train": train, "test": test, "val": val})
    model = dataclasses.replace(model, info={**model.info, **said, **(info or {})})
    return classification_result(y_test, model.probabilities(x_test), task, settings, resamples, model)


def fit_ridge(
    features: np.ndarray, targets: np.ndarray, *, alpha: float | Sequence[float] = 1.0, standardise: bool = False
) -> list[LinearModel]:
    """Fit ridge regression: minimise |XW + b - Y|^2 + alpha |W|^2, the intercept free (scikit-learn's `Ridge`), in float64.

    Args:
        features: (N, D); targets: (N,) or (N, K).
        alpha: strength, one or several; one decomposition serves all.
        standardise: as for `fit_logistic`.

    Returns:
        A model for each alpha, in their order; `C` is 1 / alpha.

    Raises:
        ValueError: an alpha is not positive, or there is none; shapes do not fit; or there is no row.
    """
    strengths = positive("alpha", alpha)
    for name, numbers in (("features", features), ("targets", targets)):
        check_rows(name, numbers)
    x, y = (as_numbers(*pair).astype(np.float64) for pair in (("features", features), ("targets", targets)))
    if x.ndim != 2 or y.ndim not in (1, 2) or len(x) != len(y):
        raise ValueError(f"features must be (N, D) and targets (N,) or (N, K), got {x.shape} and {y.shape}")
    y = y.reshape(len(y), -1)
    (x_mean, std), y_mean = _mean_and_scale(x, standardise), y.mean(axis=0)
    x = (x - x_mean) / std
    values, axes = np.linalg.eigh(x.T @ x)
    projected = axes.T @ (x.T @ (y - y_mean))
    models = []
    for a in strengths:
        coef = axes @ (projected / (np.maximum(values, 0) + a)[:, None]) / std[:, None]
        intercept = y_mean - x_mean @ coef
        info = {"standardise": standardise, "alpha": a}
        models.append(LinearModel(coef, intercept, "regression", 1 / a, info))
    return models


def ridge_probe(
    train: Split,
    test: Split,
    *,
    val: Split | None = None,
    alpha: float | str | Sequence[float] = "sweep",
    standardise: bool = True,
    resamples: int = 1000,
    seed: int = 0,
) -> ProbeResult:
    """Fit ridge regression on frozen features.

    Args:
        train, test, val: features (N, D) and real targets, (N,) or (N, K).
        alpha: strength, or several to choose from by R2 on the validation split (a fifth of the training rows without one),
            of the targets that vary there, the largest among equals; "sweep" is 21 values from 1e-4 to 1e6.
        standardise: as for `fit_ridge`.
        resamples, seed: as for `linear_probe`.

    Raises:
        ValueError: shapes do not fit, a split is empty, a value is NaN, or no alpha can be chosen.
    """
    splits = regression_splits({"train": train, "test": test, "val": val})
    rows, (x_test, y_test) = splits["train"], splits["test"]
    settings: dict[str, Any] = dict(probe="ridge", standardise=standardise, train=len(rows[0]), test=len(x_test))
    rising, choose = strength_grid("alpha", alpha, ALPHA_GRID)
    grid, best = rising[::-1], 0
    if choose:
        fit, (x_val, y_val), rows = validation_rows(rows, splits.get("val"), seed)
        models = fit_ridge(*fit, alpha=grid, standardise=standardise)
        if not np.ptp(y_val, axis=0).any():
            rows_are = f"the targets of the {len(x_val)} validation rows are all the same"
            raise ValueError(f"{rows_are}, so that no alpha can be chosen by them; give other rows as val, or one alpha")
        scores = [regression_metrics(y_val, model.decision(x_val))["r2"] for model in models]
        best = int(np.argmax(scores))
        settings["val"] = len(x_val)
    settings["alpha"] = grid[best]
    model = fit_ridge(*rows, alpha=grid[best], standardise=standardise)[0]
    said = facts_of_files({"train": train, "test": test, "val": val})
    model = dataclasses.replace(model, info={**model.info, **said})
    predictions = model.decision(x_test)
    intervals = bootstrap_regression(y_test, predictions, resamples)
    return ProbeResult(regression_metrics(y_test, predictions), predictions, predictions, settings, intervals, model)
