"""Change detection: has a location changed between two embeddings of it?"""

from typing import Any

import numpy as np

from geomoe.probing.knn import check_metric
from geomoe.probing.linear import fit_logistic
from geomoe.probing.linear_model import LinearModel
from geomoe.probing.metrics import as_numbers, bootstrap_change, change_metrics, check_finite, check_unmasked, is_number
from geomoe.probing.probe_result import ProbeResult, classification_result
from geomoe.probing.splits import is_missing, positive

Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]  # before (N, D), after (N, D), changed (N,) bool

METHODS = ("threshold", "linear")


def change_features(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Compute features of change, (N, D), (N, D) -> (N, D + 1): absolute differences and their norm, in either order.

    Raises:
        ValueError: the two differ in shape, or values are masked or no numbers.
    """
    before, after = (np.asarray(vectors, np.float32) for vectors in _embeddings(before, after))
    gap = np.abs(after - before)
    return np.concatenate([gap, np.linalg.norm(gap, axis=1, keepdims=True)], axis=1)


def change_distance(before: np.ndarray, after: np.ndarray, metric: str = "cosine") -> np.ndarray:
    """Compute the "euclidean" or "cosine" distance of the two embeddings of each location: (N, D), (N, D) -> (N,).

    Raises:
        ValueError: the metric has no meaning, the two differ in shape, or values are masked or no numbers.
    """
    before, after = (np.asarray(vectors, np.float64) for vectors in _embeddings(before, after))
    if metric == "euclidean":
        return np.linalg.norm(after - before, axis=1)
    check_metric(metric)
    lengths = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    return 1 - (before * after).sum(axis=1) / np.where(lengths == 0, 1, lengths)


def _embeddings(before: np.ndarray, after: np.ndarray, what: str = "features") -> tuple[np.ndarray, np.ndarray]:
    """Check that two are of one shape, (N, D), of numbers, and not masked; `what` is what errors name them."""
    for when, vectors in (("before", before), ("after", after)):
        check_unmasked(f"{what} {when}", vectors)
    before, after = as_numbers(f"{what} before", before), as_numbers(f"{what} after", after)
    if before.ndim != 2 or before.shape != after.shape:
        raise ValueError(f"{what} before {before.shape} and after {after.shape} do not fit; both must be (N, D)")
    return before, after


def change_probe(
    train: Pairs, test: Pairs, *, method: str = "linear", metric: str = "cosine", C: float = 1.0, resamples: int = 1000
) -> ProbeResult:
    """Tell changed locations from unchanged ones.

    Args:
        train, test: embeddings before and after, (N, D) each, and whether the location changed, (N,).
        method: "threshold", on the distance, where the training pairs' F1 is highest; or "linear", logistic regression on
            standardised `change_features`.
        metric: of the distance: "cosine" or "euclidean".
        C: of the logistic regression, one number.
        resamples: of the bootstrap confidence intervals; 0 for none.

    Returns:
        A result whose two columns are unchanged and changed. Metrics as in `classification_metrics`, and `f1`, `auroc` and
        `average_precision` of change. With "threshold" the scores are the share of training distances below.

    Raises:
        ValueError: shapes do not fit, values are masked, NaN or infinite, labels are others than 0 and 1, the training pairs
            have all changed or none, or an option has no meaning.
    """
    if method not in METHODS:
        raise ValueError(f"method = {method!r} is not one of {', '.join(METHODS)}")
    check_metric(metric)
    if not is_number(C):
        raise ValueError(f"C = {C!r} must be one number, as nothing is held out to choose on")
    positive("C", C)
    pairs = []
    for name, (before, after, changed) in (("train", train), ("test", test)):
        before, after = _embeddings(before, after, f"{name} features")
        if len(before) != len(changed):
            raise ValueError(f"{name}: before {before.shape}, after {after.shape} and {len(changed)} labels do not fit")
        if np.ndim(changed) != 1 or not len(changed):
            raise ValueError(f"{name} labels must be (N,), one of each pair, got {np.shape(changed)}")
        check_unmasked(f"{name} labels", changed)
        for when, vectors in (("before", before), ("after", after)):
            check_finite(f"{name} features {when}", vectors)
        if any(map(is_missing, changed)):
            raise ValueError(f"{name} labels are missing (None, NaN or NA) in some rows; leave these rows out")
        if not np.isin(np.asarray(changed, object), (0, 1)).all():
            raise ValueError(f"{name} labels must be True where a location changed and False where not, or 1 and 0")
        pairs.append((before, after))
    of_train, of_test = pairs
    if of_train[0].shape[1] != of_test[0].shape[1]:
        raise ValueError(f"train {of_train[0].shape} and test {of_test[0].shape} differ in width")
    truth, target = np.asarray(test[2], bool), np.asarray(train[2], bool)
    if target.all() or not target.any():
        raise ValueError("the training pairs have all changed or none; both kinds are needed")
    settings: dict[str, Any] = dict(probe=f"change {method}", metric=metric, train=len(target), test=len(truth))
    model: LinearModel | None = None
    if method == "linear":
        x, x_test = change_features(*of_train), change_features(*of_test)
        model = fit_logistic(x, _columns(target), task="multiclass", C=C, standardise=True)[0]
        score = model.probabilities(x_test)[:, 1]
        decided = score > 0.5
        settings["C"] = C
    else:
        train_distance, distance = change_distance(*of_train, metric), change_distance(*of_test, metric)
        threshold, inclusive = _best_threshold(train_distance, target)
        decided = distance >= threshold if inclusive else distance > threshold
        score = np.searchsorted(np.sort(train_distance), distance) / len(train_distance)
        settings["threshold"] = threshold
    scores = np.stack([1 - score, score], axis=1)
    result = classification_result(_columns(truth), scores, "multiclass", settings, resamples, model, _columns(decided))
    of_change = change_metrics(truth, decided, score)
    result.metrics.update({name: value for name, value in of_change.items() if not np.isnan(value)})
    spans = bootstrap_change(truth, decided, score, resamples)
    result.intervals.update({name: span for name, span in spans.items() if name in result.metrics})
    return result


def _columns(changed: np.ndarray) -> np.ndarray:
    """Flags (N,) as labels (N, 2): unchanged, changed."""
    return np.stack([~changed, changed], axis=1).astype(np.int32)


def _best_threshold(distance: np.ndarray, changed: np.ndarray) -> tuple[float, bool]:
    """The threshold with the highest F1 of change, halfway between two distances, and whether it counts as change itself."""
    order = np.argsort(-distance)
    hits = np.cumsum(changed[order])
    best = int(np.argmax(2 * hits / (np.arange(1, len(order) + 1) + changed.sum())))
    at = distance[order[best]]
    below = distance[order[best + 1]] if best + 1 < len(order) else at
    return float((at + below) / 2), not below < at
