"""What probes take: features with labels or targets, from memory or from files of embeddings, checked."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from geomoe.embeddings.files import read_features
from geomoe.probing.metrics import check_task
from geomoe.probing.splits import Rows

# features (N, D) and labels, (N, K) 0/1 or (N,) class indices; or a file of embeddings that `geomoe.cli.embed` wrote
Split = tuple[np.ndarray, np.ndarray] | str | os.PathLike


def read_split(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Features, float32, and labels of a split in memory or in a file."""
    if isinstance(split, str | os.PathLike):
        return read_features(split)
    features, labels = split
    return np.asarray(features, np.float32), np.asarray(labels)


def labelled_splits(task: str, splits: Mapping[str, Split | None]) -> dict[str, Rows]:
    """Check splits and bring their labels to one width.

    Args:
        task: "multiclass" or "multilabel".
        splits: name -> split; None is left out.

    Returns:
        name -> features (N, D) and labels (N, K) 0/1 int32.

    Raises:
        ValueError: shapes or labels do not fit the task, or a feature is NaN; the message names the split.
    """
    check_task(task)
    out: dict[str, Rows] = {}
    classes = 0
    for name, split in splits.items():
        if split is None:
            continue
        features, labels = read_split(split)
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


def regression_splits(splits: Mapping[str, Split | None]) -> dict[str, Rows]:
    """Check splits with real targets: name -> features (N, D) and targets (N, K), float64; None is left out.

    Raises:
        ValueError: shapes do not fit, or a value is NaN; the message names the split.
    """
    out: dict[str, Rows] = {}
    for name, split in splits.items():
        if split is None:
            continue
        features, targets = (np.asarray(values, np.float64) for values in read_split(split))
        targets = targets.reshape(len(targets), -1)
        if features.ndim != 2 or len(features) != len(targets):
            raise ValueError(f"{name}: features {features.shape} and targets {targets.shape} do not fit together")
        if not (np.isfinite(features).all() and np.isfinite(targets).all()):
            raise ValueError(f"{name} holds NaN or infinite values")
        out[name] = features, targets
    return out


def strength_grid(name: str, value: float | str | Sequence[float], sweep: Sequence[float]) -> tuple[list[float], bool]:
    """Give strengths of regularisation in rising order, and whether there is one to choose among them.

    Args:
        name: of the argument, for the message.
        value: a number, several, or "sweep".

    Raises:
        ValueError: another text.

    >>> strength_grid("C", (1.0, 0.1), ()), strength_grid("C", "sweep", (1.0, 2.0)), strength_grid("C", 3.0, ())
    (([0.1, 1.0], True), ([1.0, 2.0], True), ([3.0], False))
    """
    if isinstance(value, str):
        if value != "sweep":
            raise ValueError(f"{name} = {value!r} is not a number, a sequence or 'sweep'")
        return sorted(sweep), True
    if isinstance(value, Sequence | np.ndarray):
        return sorted(float(v) for v in value), True
    return [float(value)], False
