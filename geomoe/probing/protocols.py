"""The probes: features and labels in, scores out; and the protocols of the benchmarks that results are compared with."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from geomoe.probing.knn import nearest
from geomoe.probing.linear import C_GRID, LinearModel, fit_logistic, fit_ridge
from geomoe.probing.metrics import (
    TASKS,
    bootstrap,
    bootstrap_regression,
    classification_metrics,
    main_metric,
    regression_metrics,
)

# features (N, D) and labels, (N, K) 0/1 or (N,) class indices; or a file of embeddings that `geomoe.cli.embed` wrote
Split = tuple[np.ndarray, np.ndarray] | str | os.PathLike

ALPHA_GRID = tuple(float(a) for a in np.logspace(-4, 6, 21))

# What each benchmark fixes, by the name that a result carries.
PROTOCOLS: dict[str, dict[str, dict[str, Any]]] = {
    # Corley et al. 2025, arXiv 2506.08780: logistic regression as scikit-learn has it, features as they are; kNN with k = 5.
    "landsat_bench": {
        "linear": dict(C=1.0, standardise=False, max_iter=1000),
        "knn": dict(k=5, metric="euclidean"),
    },
    # arXiv 2509.10919 compares itself with Landsat-Bench by its linear probe, on mean-pooled tokens.
    "moe_mae_paper": {"linear": dict(C=1.0, standardise=False, max_iter=1000)},
    # torchgeo-bench: C from a sweep on the validation split, then a fit on training plus validation; kNN-5, Euclidean.
    "torchgeo_bench": {
        "linear": dict(C="sweep", standardise=False, max_iter=1000, refit=True),
        "knn": dict(k=5, metric="euclidean"),
    },
}


@dataclasses.dataclass(frozen=True)
class ProbeResult:
    """What a probe found.

    Attributes:
        metrics: see `classification_metrics` and `regression_metrics`.
        predictions: (N, K) 0/1 on the test split; (N, K) values of a regression.
        scores: (N, K) probabilities (linear), shares of the neighbours (kNN), or the predictions of a regression.
        settings: what was used: probe, protocol values, sizes.
        intervals: metric -> (low, high), 95 % by bootstrap over the test rows; empty with `resamples=0`.
        model: the fitted `LinearModel`; None for kNN.
    """

    metrics: dict[str, float]
    predictions: np.ndarray
    scores: np.ndarray
    settings: dict[str, Any]
    intervals: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    model: LinearModel | None = None


def protocol_options(protocol: str, probe: str) -> dict[str, Any]:
    """The options that a protocol fixes for a probe.

    Raises:
        ValueError: there is no such protocol, or it has no such probe.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol = {protocol!r} is not one of {', '.join(PROTOCOLS)}")
    if probe not in PROTOCOLS[protocol]:
        raise ValueError(f"protocol {protocol!r} has no {probe} probe; it has {', '.join(PROTOCOLS[protocol])}")
    return dict(PROTOCOLS[protocol][probe])


def _read(split: Split) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(split, str | os.PathLike):
        from geomoe import embeddings

        return embeddings.read_features(split)
    features, labels = split
    return np.asarray(features, np.float32), np.asarray(labels)


def _check(task: str, **splits: Split | None) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Features (N, D) and labels (N, K) 0/1 of each split given, in one width."""
    if task not in TASKS:
        raise ValueError(f"task = {task!r} is not one of {', '.join(TASKS)}")
    out, classes = {}, 0
    for name, split in splits.items():
        if split is None:
            continue
        features, labels = _read(split)
        if features.ndim != 2:
            raise ValueError(f"{name} features must be (N, D), got {features.shape}")
        if len(features) != len(labels):
            raise ValueError(f"{name}: {len(features)} features but {len(labels)} labels")
        if not len(features):
            raise ValueError(f"{name} is empty")
        if not np.isfinite(features).all():
            raise ValueError(f"{name} features hold NaN or infinite values")
        if labels.dtype.kind not in "iub":
            if not np.array_equal(labels, np.asarray(labels, np.float64).astype(np.int64)):
                raise ValueError(f"{name} labels must be class indices or 0/1, got {labels.dtype}")
            labels = labels.astype(np.int64)
        if labels.min() < 0 or (labels.ndim == 2 and labels.max() > 1):
            raise ValueError(f"{name} labels must be class indices (N,) from 0, or (N, K) of 0 and 1")
        if labels.ndim == 1:
            classes = max(classes, int(labels.max()) + 1)
        out[name] = features, labels
    for name, (features, labels) in out.items():
        out[name] = features, (np.eye(classes, dtype=np.int32)[labels] if labels.ndim == 1 else labels.astype(np.int32))
    first_x, first_y = next(iter(out.values()))
    for name, (x, y) in out.items():
        if x.shape[1] != first_x.shape[1] or y.shape[1] != first_y.shape[1]:
            raise ValueError(f"train {first_x.shape}, {first_y.shape} and {name} {x.shape}, {y.shape} differ in width")
        if task == "multiclass" and not (y.sum(axis=1) == 1).all():
            raise ValueError(f"task 'multiclass' needs exactly one label a row; {name} has others")
    return out


def _decide(scores: np.ndarray, task: str) -> np.ndarray:
    if task == "multiclass":
        return np.eye(scores.shape[1], dtype=np.int32)[scores.argmax(axis=1)]
    return (scores > 0.5).astype(np.int32)


def _result(y: np.ndarray, scores: np.ndarray, task: str, settings: dict, resamples: int, model: LinearModel | None = None):
    predictions = _decide(scores, task)
    metrics = classification_metrics(y, predictions, scores, task)
    intervals = bootstrap(y, predictions, scores, task, resamples) if resamples else {}
    return ProbeResult(metrics, predictions, scores, settings, intervals, model)


def _holdout(count: int, seed: int, share: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    order = np.random.default_rng(seed).permutation(count)
    size = max(int(round(share * count)), 1)
    return order[size:], order[:size]


def linear_probe(
    train: Split,
    test: Split,
    *,
    task: str,
    val: Split | None = None,
    C: float | str | Sequence[float] = 1.0,
    standardise: bool = False,
    max_iter: int = 1000,
    refit: bool = True,
    protocol: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
    info: Mapping[str, Any] | None = None,
) -> ProbeResult:
    """Logistic regression on frozen features: multinomial, or one-vs-rest for multi-label data.

    Args:
        train, test: features (N, D) and labels, (N, K) 0/1 or (N,) indices; or files of embeddings.
        task: "multiclass" or "multilabel".
        val: the split on which C is chosen; without it, a fifth of the training rows, drawn by `seed`.
        C: inverse L2 strength, scikit-learn's convention; "sweep" (40 values from 1e-6 to 1e4) or a sequence is chosen from on
            the validation split, by accuracy (multi-class) or micro mAP (multi-label), the smallest among equals.
        standardise: scale each feature to deviation 1 over the training split.
        max_iter: of L-BFGS.
        refit: after a choice of C, fit again on training and validation rows together.
        protocol: one of `PROTOCOLS`; it sets the arguments above, and the result carries its name.
        resamples: of the bootstrap confidence intervals; 0 for none.
        info: plain values to keep with the fitted model.

    Raises:
        ValueError: shapes or labels do not fit the task.
    """
    options = dict(C=C, standardise=standardise, max_iter=max_iter, refit=refit)
    if protocol is not None:
        options |= protocol_options(protocol, "linear")
    data = _check(task, train=train, test=test, val=val)
    (x, y), (x_test, y_test) = data["train"], data["test"]
    fixed = dict(task=task, standardise=options["standardise"], max_iter=options["max_iter"])
    strength = options["C"]
    settings: dict[str, Any] = dict(probe="linear", protocol=protocol, **options, train=len(x), test=len(x_test))
    if isinstance(strength, str) and strength != "sweep":
        raise ValueError(f"C = {strength!r} is not a number, a sequence or 'sweep'")
    if isinstance(strength, str) or np.ndim(strength):
        grid = sorted(C_GRID if isinstance(strength, str) else (float(c) for c in strength))
        if "val" in data:
            fit_x, fit_y, (x_val, y_val) = x, y, data["val"]
        else:
            rows, held = _holdout(len(x), seed)
            fit_x, fit_y, x_val, y_val = x[rows], y[rows], x[held], y[held]
        models = fit_logistic(fit_x, fit_y, C=grid, **fixed)
        name = main_metric(task)
        scores = []
        for model in models:
            p = model.probabilities(x_val)
            scores.append(classification_metrics(y_val, _decide(p, task), p, task)[name])
        best = int(np.argmax(scores))
        settings |= dict(C=grid[best], grid=[grid[0], grid[-1], len(grid)], val=len(x_val), val_score=scores[best])
        if options["refit"]:
            if "val" in data:
                x, y = np.concatenate([x, x_val]), np.concatenate([y, y_val])
            model = fit_logistic(x, y, C=grid[best], **fixed)[0]
        else:
            model = models[best]
    else:
        model = fit_logistic(x, y, C=float(strength), **fixed)[0]
        settings["C"] = float(strength)
    if info:
        model = dataclasses.replace(model, info={**model.info, **info})
    return _result(y_test, model.probabilities(x_test), task, settings, resamples, model)


def knn_probe(
    train: Split,
    test: Split,
    *,
    task: str,
    k: int = 5,
    metric: str = "euclidean",
    protocol: str | None = None,
    resamples: int = 1000,
) -> ProbeResult:
    """k nearest neighbours on frozen features, exact; arguments as for `linear_probe`.

    Args:
        k: neighbours.
        metric: "euclidean" or "cosine".
    """
    options = dict(k=k, metric=metric)
    if protocol is not None:
        options |= protocol_options(protocol, "knn")
    data = _check(task, train=train, test=test)
    (x, y), (x_test, y_test) = data["train"], data["test"]
    neighbours, _ = nearest(x, x_test, options["k"], options["metric"])
    settings = dict(probe="knn", protocol=protocol, **options, train=len(x), test=len(x_test))
    return _result(y_test, y[neighbours].mean(axis=1), task, settings, resamples)


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
    """Ridge regression on frozen features.

    Args:
        train, test, val: features (N, D) and real targets, (N,) or (N, K).
        alpha: strength, or several to choose from by R2 on the validation split (a fifth of the training rows without one);
            "sweep" is 21 values from 1e-4 to 1e6.

    Raises:
        ValueError: shapes do not fit, or a value is NaN.
    """
    data = {}
    for name, split in (("train", train), ("test", test), ("val", val)):
        if split is None:
            continue
        x, targets = (np.asarray(a, np.float64) for a in _read(split))
        targets = targets.reshape(len(targets), -1)
        if x.ndim != 2 or len(x) != len(targets):
            raise ValueError(f"{name}: features {x.shape} and targets {targets.shape} do not fit together")
        if not (np.isfinite(x).all() and np.isfinite(targets).all()):
            raise ValueError(f"{name} holds NaN or infinite values")
        data[name] = x, targets
    (x, y), (x_test, y_test) = data["train"], data["test"]
    settings: dict[str, Any] = dict(probe="ridge", standardise=standardise, train=len(x), test=len(x_test))
    if isinstance(alpha, str) and alpha != "sweep":
        raise ValueError(f"alpha = {alpha!r} is not a number, a sequence or 'sweep'")
    if isinstance(alpha, str) or np.ndim(alpha):
        grid = sorted(ALPHA_GRID if isinstance(alpha, str) else alpha, reverse=True)
        if "val" in data:
            fit_x, fit_y, (x_val, y_val) = x, y, data["val"]
            x, y = np.concatenate([x, x_val]), np.concatenate([y, y_val])
        else:
            rows, held = _holdout(len(x), seed)
            fit_x, fit_y, x_val, y_val = x[rows], y[rows], x[held], y[held]
        models = fit_ridge(fit_x, fit_y, alpha=grid, standardise=standardise)
        alpha = grid[int(np.argmax([regression_metrics(y_val, m.decision(x_val))["r2"] for m in models]))]
        settings["val"] = len(x_val)
    model = fit_ridge(x, y, alpha=float(alpha), standardise=standardise)[0]
    predictions = model.decision(x_test)
    intervals = bootstrap_regression(y_test, predictions, resamples) if resamples else {}
    settings["alpha"] = float(alpha)
    return ProbeResult(regression_metrics(y_test, predictions), predictions, predictions, settings, intervals, model)


def folds(labels: np.ndarray, count: int, seed: int) -> list[np.ndarray]:
    """Row indices of `count` parts of about equal size, drawn by `seed`; one-hot labels are dealt out class by class."""
    labels = np.asarray(labels)
    if not 2 <= count <= len(labels):
        raise ValueError(f"folds = {count} must be between 2 and the {len(labels)} rows")
    order = np.random.default_rng(seed).permutation(len(labels))
    single = labels.ndim == 1 or (labels.sum(axis=1) == 1).all()
    if not single:
        return np.array_split(order, count)
    classes = labels if labels.ndim == 1 else labels.argmax(axis=1)
    order = order[np.argsort(classes[order], kind="stable")]
    return [np.sort(order[i::count]) for i in range(count)]


def cross_validate(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    task: str,
    probe: Callable[..., ProbeResult] = linear_probe,
    count: int = 5,
    seed: int = 0,
    resamples: int = 1000,
    **options: Any,
) -> ProbeResult:
    """Every row is scored by a probe fitted on the other folds; the rows of all folds are scored together.

    Args:
        probe: `linear_probe` or `knn_probe`; `options` are its own.
        count: of folds, stratified where the task is multi-class.
    """
    data = _check(task, train=(features, labels))
    x, y = data["train"]
    scores = np.zeros(y.shape, np.float64)
    settings: dict[str, Any] = {}
    for part in folds(y, count, seed):
        rest = np.setdiff1d(np.arange(len(x)), part)
        result = probe((x[rest], y[rest]), (x[part], y[part]), task=task, resamples=0, **options)
        scores[part] = result.scores
        settings = result.settings
    settings = {**settings, "train": len(x), "test": len(x), "folds": count, "seed": seed}
    return _result(y, scores, task, settings, resamples)


@dataclasses.dataclass(frozen=True)
class EfficiencyPoint:
    """Scores with some of the labels: mean and deviation over the seeds of each metric.

    Attributes:
        size: the share or the number a class that was asked for.
        rows: training rows used.
    """

    size: float
    rows: int
    mean: dict[str, float]
    std: dict[str, float]


def label_efficiency(
    train: Split,
    test: Split,
    *,
    task: str,
    fractions: Sequence[float] = (0.01, 0.05, 0.1, 0.5, 1.0),
    per_class: Sequence[int] = (),
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    probe: Callable[..., ProbeResult] = linear_probe,
    **options: Any,
) -> list[EfficiencyPoint]:
    """How scores grow with the number of labels. Smaller subsets are parts of the larger ones of the same seed.

    Args:
        fractions: shares of the training rows; each subset holds at least one row of every class.
        per_class: rows of each class, in place of `fractions`.
        seeds: one draw of the subset each.
        probe: `linear_probe` or `knn_probe`; `options` are its own.
    """
    data = _check(task, train=train, test=test)
    x, y = data["train"]
    sizes = per_class or fractions
    if not all(s > 0 and (per_class or s <= 1) for s in sizes):
        raise ValueError(
            f"{'per_class' if per_class else 'fractions'} = {tuple(sizes)} must be more than 0"
            + ("" if per_class else " and at most 1")
        )
    points = []
    for size in sizes:
        runs, used = [], 0
        for seed in seeds:
            order = np.random.default_rng(seed).permutation(len(x))
            least = int(size) if per_class else 1
            first = [order[np.flatnonzero(y[order, k])[:least]] for k in range(y.shape[1])]
            picked = np.unique(np.concatenate(first))
            if not per_class:
                rest = order[~np.isin(order, picked)]
                picked = np.concatenate([picked, rest[: max(int(round(size * len(x))) - len(picked), 0)]])
            used = len(picked)
            extra = {"k": min(options.get("k", 5), used)} if probe is knn_probe else {}
            result = probe((x[picked], y[picked]), data["test"], task=task, resamples=0, **{**options, **extra})
            runs.append(result.metrics)
        mean = {m: float(np.mean([r[m] for r in runs])) for m in runs[0]}
        std = {m: float(np.std([r[m] for r in runs], ddof=1)) if len(runs) > 1 else 0.0 for m in runs[0]}
        points.append(EfficiencyPoint(float(size), used, mean, std))
    return points
