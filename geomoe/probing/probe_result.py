"""What a probe returns."""

import dataclasses
from typing import Any

import numpy as np

from geomoe.probing.linear_model import LinearModel
from geomoe.probing.metrics import bootstrap, classification_metrics, decide


@dataclasses.dataclass(frozen=True)
class ProbeResult:
    """What a probe scores on the test split, and 95 % intervals by bootstrap over its rows (none with `resamples=0`)."""

    metrics: dict[str, float]  # of `classification_metrics` or `regression_metrics`
    predictions: np.ndarray  # (N, K) 0/1, or values of a regression
    scores: np.ndarray  # (N, K) probabilities (linear), shares of the neighbours (kNN), or the predictions of a regression
    settings: dict[str, Any]  # what was used: probe, protocol values, sizes
    intervals: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)  # metric -> (low, high)
    model: LinearModel | None = None  # None for kNN


def classification_result(
    labels: np.ndarray,
    scores: np.ndarray,
    task: str,
    settings: dict[str, Any],
    resamples: int,
    model: LinearModel | None = None,
    predictions: np.ndarray | None = None,
) -> ProbeResult:
    """Score probabilities (N, K) against labels (N, K) 0/1, with intervals by `resamples` of the bootstrap, 0 for none.

    Without `predictions` the likeliest class is predicted, or every class above one half.
    """
    predictions = decide(scores, task) if predictions is None else predictions
    metrics = classification_metrics(labels, predictions, scores, task)
    intervals = bootstrap(labels, predictions, scores, task, resamples)
    return ProbeResult(metrics, predictions, scores, settings, intervals, model)
