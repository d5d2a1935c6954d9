"""Ridge regression, in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from geomoe.probing.inputs import Split, regression_splits, strength_grid
from geomoe.probing.linear_model import LinearModel
from geomoe.probing.metrics import bootstrap_regression, main_metric, regression_metrics
from geomoe.probing.scoring import ProbeResult
from geomoe.probing.splits import validation_rows

ALPHA_GRID = tuple(float(a) for a in np.logspace(-4, 6, 21))


def fit_ridge(
    features: np.ndarray, targets: np.ndarray, *, alpha: float | Sequence[float] = 1.0, standardise: bool = False
) -> list[LinearModel]:
    """Fit ridge regression: minimise |XW + b - Y|^2 + alpha |W|^2, the intercept free (scikit-learn's `Ridge`).

    Args:
        features: (N, D); targets: (N,) or (N, K).
        alpha: strength, one or several; one decomposition serves all.
        standardise: penalise weights for features scaled to standard deviation 1.

    Returns:
        A model for each alpha, in their order; `C` is 1 / alpha.

    Raises:
        ValueError: an alpha is not positive.
    """
    strengths = [float(a) for a in np.atleast_1d(alpha)]
    if not all(np.isfinite(a) and a > 0 for a in strengths):
        raise ValueError(f"alpha = {alpha} must be positive")
    x = np.asarray(features, np.float64)
    y = np.asarray(targets, np.float64)
    y = y[:, None] if y.ndim == 1 else y
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    std = x.std(axis=0) if standardise else np.ones(x.shape[1])
    std[std == 0] = 1
    x = (x - x_mean) / std
    values, axes = np.linalg.eigh(x.T @ x)
    projected = axes.T @ (x.T @ (y - y_mean))
    models = []
    for a in strengths:
        coef = axes @ (projected / (np.maximum(values, 0) + a)[:, None]) / std[:, None]
        intercept = y_mean - x_mean @ coef
        info = {"standardise": standardise, "alpha": a}
        models.append(LinearModel(coef.astype(np.float32), intercept.astype(np.float32), "regression", 1 / a, info))
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
            the largest among equals; "sweep" is 21 values from 1e-4 to 1e6.
        standardise: penalise weights for features scaled to standard deviation 1.
        resamples: of the bootstrap confidence intervals; 0 for none.
        seed: of the validation rows.

    Raises:
        ValueError: shapes do not fit, or a value is NaN.
    """
    splits = regression_splits({"train": train, "test": test, "val": val})
    rows, (x_test, y_test) = splits["train"], splits["test"]
    settings: dict[str, Any] = dict(probe="ridge", standardise=standardise, train=len(rows[0]), test=len(x_test))
    rising, choose = strength_grid("alpha", alpha, ALPHA_GRID)
    grid, best = rising[::-1], 0
    if choose:
        fit, (x_val, y_val), rows = validation_rows(rows, splits.get("val"), seed)
        models = fit_ridge(*fit, alpha=grid, standardise=standardise)
        name = main_metric("regression")
        best = int(np.argmax([regression_metrics(y_val, model.decision(x_val))[name] for model in models]))
        settings["val"] = len(x_val)
    settings["alpha"] = grid[best]
    model = fit_ridge(*rows, alpha=grid[best], standardise=standardise)[0]
    predictions = model.decision(x_test)
    intervals = bootstrap_regression(y_test, predictions, resamples) if resamples else {}
    return ProbeResult(regression_metrics(y_test, predictions), predictions, predictions, settings, intervals, model)
