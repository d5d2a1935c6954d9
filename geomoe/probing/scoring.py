"""Scores of a probe on its test rows."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from geomoe.probing.metrics import bootstrap, classification_metrics, main_metric

if TYPE_CHECKING:
    from geomoe.probing.linear_model import LinearModel


@dataclasses.dataclass(frozen=True)
class ProbeResult:
    """What a probe scores.

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


def decide(scores: np.ndarray, task: str) -> np.ndarray:
    """Turn probabilities (N, K) into predictions (N, K) 0/1: the likeliest class, or every class above one half."""
    if task == "multiclass":
        return np.eye(scores.shape[1], dtype=np.int32)[scores.argmax(axis=1)]
    return (scores > 0.5).astype(np.int32)


def main_score(labels: np.ndarray, scores: np.ndarray, task: str) -> float:
    """The main metric of the task for probabilities (N, K) against labels (N, K) 0/1."""
    return classification_metrics(labels, decide(scores, task), scores, task)[main_metric(task)]


def classification_result(
    labels: np.ndarray,
    scores: np.ndarray,
    task: str,
    settings: dict[str, Any],
    resamples: int,
    model: LinearModel | None = None,
) -> ProbeResult:
    """Score probabilities (N, K) against labels (N, K) 0/1, with intervals by `resamples` of the bootstrap, 0 for none."""
    predictions = decide(scores, task)
    metrics = classification_metrics(labels, predictions, scores, task)
    intervals = bootstrap(labels, predictions, scores, task, resamples) if resamples else {}
    return ProbeResult(metrics, predictions, scores, settings, intervals, model)
