"""Probes fitted several times: cross-validation, and curves of label efficiency."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from geomoe.probing.knn import knn_probe
from geomoe.probing.linear import linear_probe
from geomoe.probing.metrics import ProbeResult, classification_result, mean_and_std
from geomoe.probing.splits import Rows, Split, folds, labelled_splits, labelled_subset

Fit = Callable[[Rows, Rows], np.ndarray]  # training rows, test rows -> scores (..., n, K) of the test rows


def held_out_scores(features: np.ndarray, labels: np.ndarray, parts: Sequence[np.ndarray], fit: Fit) -> np.ndarray:
    """Score the rows of each fold by what is fitted on the other folds: (N, D), (N, K) -> (..., N, K) float64.

    The row indices of the folds are together all rows, each once; leading axes of what `fit` gives are kept.
    """
    every = []
    for part in parts:
        rest = np.setdiff1d(np.arange(len(features)), part)
        every.append(fit((features[rest], labels[rest]), (features[part], labels[part])))
    scores = np.zeros((*every[0].shape[:-2], *labels.shape))
    scores[..., np.concatenate(parts), :] = np.concatenate(every, axis=-2)
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
        features, labels, task, resamples: as for `linear_probe`.
        probe: `linear_probe` or `knn_probe`; `options` are its options.
        count: of folds, drawn by `seed` and stratified where the task is multi-class.
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


@dataclasses.dataclass(frozen=True)
class EfficiencyPoint:
    """Scores with some of the labels: mean and standard deviation over the seeds of each metric."""

    size: float  # the share, or the number of each class, that was asked for
    rows: int  # training rows used
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
    """Score a probe with growing numbers of labels. Smaller subsets are parts of the larger ones of the same seed.

    Args:
        train, test, task: as for `linear_probe`.
        fractions: shares of the training rows; each subset holds at least one row of every class.
        per_class: rows of each class, in place of `fractions`.
        seeds: one draw of the subset each.
        probe: `linear_probe` or `knn_probe`; `options` are its options.

    Raises:
        ValueError: a size is not above 0, or a fraction above 1.
    """
    splits = labelled_splits(task, {"train": train, "test": test})
    x, y = splits["train"]
    if per_class and not all(size > 0 for size in per_class):
        raise ValueError(f"per_class = {tuple(per_class)} must be more than 0")
    if not per_class and not all(0 < size <= 1 for size in fractions):
        raise ValueError(f"fractions = {tuple(fractions)} must be more than 0 and at most 1")
    points = []
    for size in per_class or fractions:
        runs, used = [], 0
        for seed in seeds:
            rows = labelled_subset(y, seed, **({"per_class": int(size)} if per_class else {"fraction": size}))
            used = len(rows)
            fewer = {"k": min(options.get("k", 5), used)} if probe is knn_probe else {}
            runs.append(probe((x[rows], y[rows]), splits["test"], task=task, resamples=0, **{**options, **fewer}).metrics)
        points.append(EfficiencyPoint(float(size), used, *mean_and_std(runs)))
    return points
