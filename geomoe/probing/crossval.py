"""Cross-validation: every row is scored by a probe fitted without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from geomoe.probing.inputs import labelled_splits
from geomoe.probing.linear import linear_probe
from geomoe.probing.scoring import ProbeResult, classification_result
from geomoe.probing.splits import Rows, folds

Fit = Callable[[Rows, Rows], np.ndarray]  # training rows, test rows -> scores (..., n, K) of the test rows


def held_out_scores(features: np.ndarray, labels: np.ndarray, parts: Sequence[np.ndarray], fit: Fit) -> np.ndarray:
    """Score the rows of each fold by what is fitted on the other folds.

    Args:
        features: (N, D); labels: (N, K).
        parts: row indices of each fold; together all rows, each once.
        fit: of training rows and test rows, the scores (..., n, K) of the latter; leading axes are kept.

    Returns:
        (..., N, K) float64.
    """
    scores: np.ndarray | None = None
    for part in parts:
        rest = np.setdiff1d(np.arange(len(features)), part)
        values = fit((features[rest], labels[rest]), (features[part], labels[part]))
        if scores is None:
            scores = np.zeros((*values.shape[:-2], *labels.shape))
        scores[..., part, :] = values
    assert scores is not None
    return scores


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
    """Cross-validate a probe; the rows of all folds are scored together.

    Args:
        features: (N, D); labels: (N, K) 0/1 or (N,) class indices.
        task: "multiclass" or "multilabel".
        probe: `linear_probe` or `knn_probe`; `options` are its options.
        count: of folds, stratified where the task is multi-class.
        seed: of the folds.
        resamples: of the bootstrap confidence intervals; 0 for none.
    """
    x, y = labelled_splits(task, {"train": (features, labels)})["train"]
    settings: dict[str, Any] = {}

    def fit(train: Rows, test: Rows) -> np.ndarray:
        result = probe(train, test, task=task, resamples=0, **options)
        settings.update(result.settings)
        return result.scores

    scores = held_out_scores(x, y, folds(y, count, seed), fit)
    settings |= {"train": len(x), "test": len(x), "folds": count, "seed": seed}
    return classification_result(y, scores, task, settings, resamples)
