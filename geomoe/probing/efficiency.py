"""Label efficiency: how scores grow with the number of labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from geomoe.probing.inputs import Split, labelled_splits
from geomoe.probing.knn import knn_probe
from geomoe.probing.linear import linear_probe
from geomoe.probing.metrics import mean_and_std
from geomoe.probing.scoring import ProbeResult
from geomoe.probing.splits import labelled_subset


@dataclasses.dataclass(frozen=True)
class EfficiencyPoint:
    """Scores with some of the labels: mean and standard deviation over the seeds of each metric.

    Attributes:
        size: the share, or the number of each class, that was asked for.
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
    """Score a probe with growing numbers of labels. Smaller subsets are parts of the larger ones of the same seed.

    Args:
        train, test: as for `linear_probe`.
        task: "multiclass" or "multilabel".
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
            result = probe((x[rows], y[rows]), splits["test"], task=task, resamples=0, **{**options, **fewer})
            runs.append(result.metrics)
        points.append(EfficiencyPoint(float(size), used, *mean_and_std(runs)))
    return points
