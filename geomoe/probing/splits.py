"""Which rows a probe is fitted on, and which it is scored on."""

from __future__ import annotations

import numpy as np

Rows = tuple[np.ndarray, np.ndarray]  # features (N, D) and labels or targets (N, K)


def folds(labels: np.ndarray, count: int, seed: int) -> list[np.ndarray]:
    """Divide rows into folds of about equal size; rows with one label each are dealt out class by class.

    Args:
        labels: (N,) class indices, or (N, K) 0/1.
        count: number of folds.
        seed: of the draw.

    Returns:
        Row indices of each fold.

    Raises:
        ValueError: `count` is below 2 or above the number of rows.
    """
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


def holdout(count: int, seed: int, share: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Draw a share of `count` rows to hold out: indices of the rows to fit on, and of those held out."""
    order = np.random.default_rng(seed).permutation(count)
    size = max(int(round(share * count)), 1)
    return order[size:], order[:size]


def validation_rows(train: Rows, val: Rows | None, seed: int) -> tuple[Rows, Rows, Rows]:
    """Give the rows to fit on, those to choose options on, and both together.

    Without a validation split a fifth of the training rows, drawn by `seed`, is held out.
    """
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
    """Draw rows so that every class is there; smaller subsets are parts of larger ones of the same seed.

    Args:
        labels: (N, K) 0/1.
        seed: of the draw.
        fraction: of the rows, in (0, 1]; at least one row of every class is in.
        per_class: rows of each class instead, as many as it has.

    Returns:
        Row indices.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    least = per_class if per_class is not None else 1
    first = [order[np.flatnonzero(labels[order, k])[:least]] for k in range(labels.shape[1])]
    rows = np.unique(np.concatenate(first))
    if fraction is None:
        return rows
    rest = order[~np.isin(order, rows)]
    return np.concatenate([rows, rest[: max(int(round(fraction * len(labels))) - len(rows), 0)]])
