"""The probes: a linear classifier and nearest neighbours on frozen features, by the protocol of Landsat-Bench.

Landsat-Bench (Corley et al. 2025, arXiv 2506.08780): logistic regression with C = 1 on features as they are, up to 1000
iterations, one classifier a class for multi-label data; kNN with k = 5.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from geomoe.probing.metrics import TASKS, classification_metrics

Split = tuple[np.ndarray, np.ndarray]  # features (N, D), labels (N, K) 0/1 or (N,) class indices


@dataclasses.dataclass(frozen=True)
class ProbeResult:
    """What a probe found.

    Attributes:
        metrics: see `classification_metrics`.
        predictions: (N, K) 0/1 on the test split.
        scores: (N, K) probabilities (linear) or shares of the neighbours (kNN).
        settings: what was used: probe, protocol values, sizes.
    """

    metrics: dict[str, float]
    predictions: np.ndarray
    scores: np.ndarray
    settings: dict[str, Any]


def _check(train: Split, test: Split, task: str) -> tuple[np.ndarray, ...]:
    if task not in TASKS:
        raise ValueError(f"task = {task!r} is not one of {', '.join(TASKS)}")
    arrays = []
    classes = 0
    for name, (features, labels) in (("train", train), ("test", test)):
        features, labels = np.asarray(features, np.float32), np.asarray(labels)
        if features.ndim != 2:
            raise ValueError(f"{name} features must be (N, D), got {features.shape}")
        if len(features) != len(labels):
            raise ValueError(f"{name}: {len(features)} features but {len(labels)} labels")
        if not np.isfinite(features).all():
            raise ValueError(f"{name} features hold NaN or infinite values")
        if labels.ndim == 1 and len(labels):
            classes = max(classes, int(labels.max()) + 1)
        arrays += [features, labels]
    for i in (1, 3):
        if arrays[i].ndim == 1:
            arrays[i] = np.eye(classes, dtype=np.int32)[arrays[i]]
    if arrays[0].shape[1] != arrays[2].shape[1] or arrays[1].shape[1] != arrays[3].shape[1]:
        raise ValueError(
            f"train {arrays[0].shape}, {arrays[1].shape} and test {arrays[2].shape}, {arrays[3].shape} differ in width"
        )
    if task == "multiclass" and not all((arrays[i].sum(axis=1) == 1).all() for i in (1, 3)):
        raise ValueError("task 'multiclass' needs exactly one label a row")
    return tuple(arrays)


def linear_probe(
    train: Split, test: Split, *, task: str, C: float = 1.0, standardise: bool = False, max_iter: int = 1000
) -> ProbeResult:
    """Logistic regression on frozen features: multinomial, or one-vs-rest for multi-label data.

    Args:
        train, test: features (N, D) and labels, (N, K) 0/1 or (N,) indices.
        task: "multiclass" or "multilabel".
        C: inverse L2 strength, scikit-learn's convention.
        standardise: scale each feature to mean 0 and deviation 1 of the training split.
        max_iter: of L-BFGS.

    Raises:
        ValueError: shapes or labels do not fit the task.
    """
    x, y, x_test, y_test = _check(train, test, task)
    kept = [k for k in range(y.shape[1]) if 0 < y[:, k].sum() < len(y)]
    scores = np.zeros(y_test.shape, np.float64)

    def fit(target: np.ndarray) -> Any:
        model = LogisticRegression(C=C, max_iter=max_iter)
        model = make_pipeline(StandardScaler(), model) if standardise else model
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the protocol fixes the number of iterations
            return model.fit(x, target)

    if task == "multiclass":
        target = y.argmax(axis=1)
        if len(np.unique(target)) < 2:
            raise ValueError("the training split holds a single class; a classifier needs two")
        model = fit(target)
        scores[:, model.classes_] = model.predict_proba(x_test)
        predictions = np.eye(y.shape[1], dtype=np.int32)[scores.argmax(axis=1)]
    else:
        for k in range(y.shape[1]):  # a class that all or none of the training rows have keeps its prior
            scores[:, k] = fit(y[:, k]).predict_proba(x_test)[:, 1] if k in kept else float(y[:, k].mean())
        predictions = (scores > 0.5).astype(np.int32)
    settings = dict(probe="linear", C=C, standardise=standardise, max_iter=max_iter, train=len(x), test=len(x_test))
    return ProbeResult(classification_metrics(y_test, predictions, scores, task), predictions, scores, settings)


def knn_probe(train: Split, test: Split, *, task: str, k: int = 5, metric: str = "euclidean") -> ProbeResult:
    """k nearest neighbours on frozen features; arguments as for `linear_probe`.

    Args:
        k: neighbours.
        metric: "euclidean" or "cosine".
    """
    x, y, x_test, y_test = _check(train, test, task)
    if not 1 <= k <= len(x):
        raise ValueError(f"k = {k} must be between 1 and the {len(x)} training rows")
    if metric not in ("euclidean", "cosine"):
        raise ValueError(f"metric = {metric!r} is not 'euclidean' or 'cosine'")
    neighbours = (
        KNeighborsClassifier(n_neighbors=k, metric=metric).fit(x, np.zeros(len(x))).kneighbors(x_test, return_distance=False)
    )
    scores = y[neighbours].mean(axis=1)
    if task == "multiclass":
        predictions = np.eye(y.shape[1], dtype=np.int32)[scores.argmax(axis=1)]
    else:
        predictions = (scores > 0.5).astype(np.int32)
    settings = dict(probe="knn", k=k, metric=metric, train=len(x), test=len(x_test))
    return ProbeResult(classification_metrics(y_test, predictions, scores, task), predictions, scores, settings)
