"""What probes take: features with labels or targets, checked; and which rows they are fitted and scored on."""

import os
from collections.abc import Mapping, Sequence

import numpy as np

from geomoe.embeddings.files import read_features
from geomoe.probing.metrics import check_task

Rows = tuple[np.ndarray, np.ndarray]  # features (N, D) and labels or targets (N, K)
# features (N, D) and labels, (N, K) 0/1 or (N,) class indices; or a file of embeddings that `geomoe.cli.embed` wrote
Split = Rows | str | os.PathLike


def _read(splits: Mapping[str, Split | None]) -> dict[str, Rows]:
    """Features and labels of each split that is not None."""
    read = {name: read_features(s) if isinstance(s, str | os.PathLike) else s for name, s in splits.items() if s is not None}
    return {name: (np.asarray(x, np.float32), np.asarray(y)) for name, (x, y) in read.items()}


def labelled_splits(task: str, splits: Mapping[str, Split | None]) -> dict[str, Rows]:
    """Check splits and bring their labels to one width; a split that is None is left out.

    Returns:
        name -> features (N, D) float32 and labels (N, K) 0/1 int32.

    Raises:
        ValueError: shapes or labels do not fit the task, or a feature is NaN; the message names the split.
    """
    check_task(task)
    out, classes = _read(splits), 0
    for name, (features, labels) in out.items():
        if features.ndim != 2:
            raise ValueError(f"{name} features must be (N, D), got {features.shape}")
        if len(features) != len(labels):
            raise ValueError(f"{name}: {len(features)} features but {len(labels)} labels")
        if not len(features):
            raise ValueError(f"{name} is empty")
        if not np.isfinite(features).all():
            raise ValueError(f"{name} features hold NaN or infinite values")
        if labels.dtype.kind in "SUOT" and any(isinstance(label, str | bytes) for label in labels.reshape(-1)):
            indices = "names, indices = np.unique(labels, return_inverse=True) of all splits together gives them"
            raise ValueError(f"{name} labels are text; pass class indices: {indices}")
        whole = labels.astype(np.int64)
        if labels.dtype.kind not in "iub" and not np.array_equal(labels, whole):
            raise ValueError(f"{name} labels must be class indices or 0/1, got {labels.dtype}")
        if whole.min() < 0 or (whole.ndim == 2 and whole.max() > 1):
            raise ValueError(f"{name} labels must be class indices (N,) from 0, or (N, K) of 0 and 1")
        if whole.ndim == 1:
            classes = max(classes, int(whole.max()) + 1)
        out[name] = features, whole
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
    """Check splits with real targets: name -> features (N, D) and targets (N, K), float64; None is left out."""
    out = _read(splits)
    for name, (x, y) in out.items():
        features, targets = x.astype(np.float64), y.astype(np.float64).reshape(len(y), -1)
        if features.ndim != 2 or len(features) != len(targets):
            raise ValueError(f"{name}: features {features.shape} and targets {targets.shape} do not fit together")
        if not (np.isfinite(features).all() and np.isfinite(targets).all()):
            raise ValueError(f"{name} holds NaN or infinite values")
        out[name] = features, targets
    return out


def strength_grid(name: str, value: float | str | Sequence[float], sweep: Sequence[float]) -> tuple[list[float], bool]:
    """Give strengths of regularisation (a number, several, or "sweep") in rising order, and whether to choose among them.

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


def folds(labels: np.ndarray, count: int, seed: int) -> list[np.ndarray]:
    """Divide rows into folds of about equal size, drawn by `seed`; rows with one label each are dealt out class by class.

    Args:
        labels: (N,) class indices, or (N, K) 0/1.
        count: of folds, whose row indices are returned.

    Raises:
        ValueError: `count` is below 2 or above the number of rows.
    """
    labels = np.asarray(labels)
    if not 2 <= count <= len(labels):
        raise ValueError(f"folds = {count} must be between 2 and the {len(labels)} rows")
    order = np.random.default_rng(seed).permutation(len(labels))
    if labels.ndim == 2 and not (labels.sum(axis=1) == 1).all():
        return np.array_split(order, count)
    classes = labels if labels.ndim == 1 else labels.argmax(axis=1)
    order = order[np.argsort(classes[order], kind="stable")]
    return [np.sort(order[i::count]) for i in range(count)]


def holdout(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a fifth of `count` rows to hold out: indices of the rows to fit on, and of those held out."""
    order = np.random.default_rng(seed).permutation(count)
    size = max(int(round(0.2 * count)), 1)
    return order[size:], order[:size]


def validation_rows(train: Rows, val: Rows | None, seed: int) -> tuple[Rows, Rows, Rows]:
    """Give the rows to fit on, those to choose options on (without `val` a `holdout` of the former), and both together."""
    x, y = train
    if val is not None:
        return train, val, (np.concatenate([x, val[0]]), np.concatenate([y, val[1]]))
    rows, rest = holdout(len(x), seed)
    return (x[rows], y[rows]), (x[rest], y[rest]), train


def subset(count: int, fraction: float, seed: int) -> np.ndarray:
    """Draw a fraction of `count` rows, at least one: indices. Smaller fractions are parts of larger ones of the same seed."""
    return np.random.default_rng(seed).permutation(count)[: max(int(round(fraction * count)), 1)]


def labelled_subset(
    labels: np.ndarray, seed: int, *, fraction: float | None = None, per_class: int | None = None
) -> np.ndarray:
    """Draw a fraction of the rows, with one of every class at least, or so many rows of each class: indices.

    Smaller subsets are parts of larger ones of the same seed. Labels are (N, K) 0/1.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    least = per_class if per_class is not None else 1
    first = [order[np.flatnonzero(labels[order, k])[:least]] for k in range(labels.shape[1])]
    rows = np.unique(np.concatenate(first))
    if fraction is None:
        return rows
    rest = order[~np.isin(order, rows)]
    return np.concatenate([rows, rest[: max(int(round(fraction * len(labels))) - len(rows), 0)]])
