"""Probes fitted several times: cross-validation, and curves of label efficiency."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from geomoe.checks import check_count
from geomoe.probing.config import protocol_options
from geomoe.probing.knn import knn_probe
from geomoe.probing.linear import linear_probe
from geomoe.probing.metrics import is_number, mean_and_std
from geomoe.probing.probe_result import ProbeResult, classification_result
from geomoe.probing.splits import (
    Folds,
    Rows,
    Split,
    check_folds,
    given_folds,
    labelled_splits,
    labelled_subset,
    stratified_folds,
)

_CHOSEN = ("C", "val", "val_score")  # settings of a linear probe that chooses C
Fit = Callable[[Rows, Rows], np.ndarray]  # training rows, test rows -> scores (..., n, K) of the test rows


def held_out_scores(features: np.ndarray, labels: np.ndarray, folds: Folds, fit: Fit) -> np.ndarray:
    """Score the test rows of each fold by what is fitted on its training rows: (N, D), (N, K) -> (..., N, K) float64.

    Leading axes of what `fit` gives are kept.

    Raises:
        ValueError: as of `check_folds`.
    """
    check_folds(folds, len(features))
    every = [fit((features[train], labels[train]), (features[test], labels[test])) for train, test in folds]
    tested = np.concatenate([fold.test for fold in folds])
    scores = np.zeros((*every[0].shape[:-2], *labels.shape))
    scores[..., tested, :] = np.concatenate(every, axis=-2)
    return scores


def cross_validate(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    task: str,
    probe: Callable[..., ProbeResult] = linear_probe,
    folds: Folds | Any | None = None,
    count: int = 5,
    seed: int = 0,
    resamples: int = 1000,
    **options: Any,
) -> ProbeResult:
    """Cross-validate a probe; the rows of all folds are scored together.

    Args:
        features, labels, task, resamples: as for `linear_probe`.
        probe: `linear_probe` or `knn_probe`; `options` are its options.
        folds: from `random_folds`, `stratified_folds`, `spatial_folds` or `group_folds`; None draws `count` stratified ones by
            `seed`; or scikit-learn's: a splitter, or pairs of training and test rows. Patches beside each other look alike, so
            that folds at random tell how a probe does between its training patches, spatial ones how it does elsewhere. A C
            that is chosen is chosen in each fold on rows held out of those to fit on, by whole blocks or groups where the folds
            have them.

    Returns:
        A result whose settings say how the folds were drawn. What is not the same in all folds is a list, one value a fold: C,
        val and val_score where C is chosen.

    Raises:
        ValueError: shapes or labels do not fit the task or the folds, or an option has no meaning.
    """
    check_count("resamples", resamples or 0)
    x, y = labelled_splits(task, {"train": (features, labels)})["train"]
    of_folds: list[dict[str, Any]] = []

    def fit(train: Rows, test: Rows) -> np.ndarray:
        (rows, y_train), (rows_test, y_test) = train, test
        draw = {} if own is None else {"draw": lambda count, seed: own(rows)}
        result = probe((x[rows], y_train), (x[rows_test], y_test), task=task, resamples=0, **draw, **options)
        of_folds.append(result.settings)
        return result.scores

    if folds is None:
        folds = stratified_folds(y, count, seed)
    elif (count, seed) != (5, 0):
        raise ValueError(f"the folds are drawn already; count = {count} and seed = {seed} would be ignored")
    elif not isinstance(folds, Folds):
        folds = given_folds(folds, x, y.argmax(axis=1) if task == "multiclass" else y)
    own: Any = folds.holdout if "draw" in inspect.signature(probe).parameters else None  # others choose nothing
    scores = held_out_scores(np.arange(len(x)), y, folds, fit)
    settings = {**_joined_settings(of_folds), "train": len(x), "test": len(x), **folds.settings}
    return classification_result(y, scores, task, settings, resamples)


def _joined_settings(of_folds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Settings of a probe's fits: as they are where they are fixed, and lists of one value a fit where they may differ."""
    first, joined = of_folds[0], dict[str, Any]()
    chosen = _CHOSEN if "val_score" in first else ()
    for key, value in first.items():
        values: list[Any] = [settings.get(key) for settings in of_folds]
        fixed = key not in chosen and all(np.array_equal(value, other) for other in values)
        joined[key] = value if fixed else values
    return joined


@dataclasses.dataclass(frozen=True)
class EfficiencyPoint:
    """Scores with some of the labels: mean and standard deviation over the seeds of each metric."""

    size: float  # the share, or the number of each class, that was asked for
    rows: int  # training rows used
    mean: dict[str, float]
    std: dict[str, float]


def _for_rows(probe: Callable[..., ProbeResult], options: Mapping[str, Any], rows: int) -> Mapping[str, Any]:
    """The options of a probe on so many rows: no more neighbours than there are, by a protocol, too."""
    if probe is not knn_probe:
        return options
    protocol = options.get("protocol")
    fixed = {} if protocol is None else protocol_options(protocol, "knn")
    used = {**options, **fixed, "protocol": None}
    return options if used.get("k", 5) <= rows else {**used, "k": rows}


def _listed(values: Any) -> list[Any]:
    """Several values, or one that stands alone, as a list."""
    return list(values) if np.ndim(values) else [values]


def label_efficiency(
    train: Split,
    test: Split,
    *,
    task: str,
    fractions: float | Sequence[float] = (0.01, 0.05, 0.1, 0.5, 1.0),
    per_class: int | Sequence[int] = (),
    seeds: int | Sequence[int] = (0, 1, 2, 3, 4),
    probe: Callable[..., ProbeResult] = linear_probe,
    **options: Any,
) -> list[EfficiencyPoint]:
    """Score a probe with growing numbers of labels. Smaller subsets are parts of the larger ones of the same seed.

    Args:
        train, test, task: as for `linear_probe`.
        fractions: shares of the training rows, one or several; each subset holds at least one row of every class.
        per_class: rows of each class, one number or several, in place of `fractions`.
        seeds: one draw of the subset each; a number alone is one seed.
        probe: `linear_probe` or `knn_probe`; `options` are its options.

    Raises:
        ValueError: a size is not above 0, a fraction above 1, rows of each class are no whole number, or there is no size or no
            seed.
    """
    shares, counts, draws = map(_listed, (fractions, per_class, seeds))
    for name, numbers, least in (("per_class", counts, 1), ("seeds", draws, 0)):
        for number in numbers:
            check_count(name, number, least)
    if not counts and not (shares and all(is_number(share) and 0 < share <= 1 for share in shares)):
        raise ValueError(f"fractions = {fractions!r} must be more than 0 and at most 1, one or several")
    if not draws:
        raise ValueError(f"seeds = {seeds} names no seed; give one at least")
    splits = labelled_splits(task, {"train": train, "test": test})
    x, y = splits["train"]
    points = []
    for size in counts or shares:
        runs, used = [], 0
        for seed in draws:
            rows = labelled_subset(y, seed, **{"per_class" if counts else "fraction": size})
            used = len(rows)
            of_size = _for_rows(probe, options, used)
            runs.append(probe((x[rows], y[rows]), splits["test"], task=task, resamples=0, **of_size).metrics)
        points.append(EfficiencyPoint(float(size), used, *mean_and_std(runs)))
    return points
