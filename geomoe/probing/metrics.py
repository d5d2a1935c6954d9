"""Scores of classifiers and regressions, with bootstrap confidence intervals on device.

Axes: N rows, K classes, B resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.metrics import average_precision_score

from geomoe import compilation
from geomoe.checks import check_count
from geomoe.data.arrays import as_numpy

Array = jax.Array
Sorted = tuple[Array, Array, Array]  # what `_sorted_once` gives

TASKS = ("multiclass", "multilabel")
# The score that strengths are chosen, tables compared and reports headed by.
_MAIN_METRICS = {"multiclass": "accuracy", "multilabel": "micro_mAP", "change": "average_precision", "regression": "r2"}
_NO_DATA = 3.4e38  # below the largest float32, which GeoTIFFs of floats have, with either sign, where there is no data
_ECE_BINS = 15  # equally wide (Guo et al. 2017, arXiv 1706.04599)


def check_task(task: str) -> None:
    """Raise ValueError for a task that is neither "multiclass" nor "multilabel"."""
    if task not in TASKS:
        raise ValueError(f"task = {task!r} is not one of {', '.join(TASKS)}")


def check_unmasked(what: str, values: Any, advice: str = "leave these rows out") -> None:
    """Raise ValueError for an array of numpy's masked type with masked values, which would count as those below the mask."""
    of_objects = getattr(getattr(values, "dtype", None), "kind", "") == "O" and np.ndim(values)
    if (of_objects or isinstance(values, list | tuple)) and any(map(np.ma.is_masked, values)):
        values = np.ma.stack([np.ma.asarray(value) for value in values])
    if np.ma.is_masked(values):
        mask = np.ma.getmaskarray(values)
        raise ValueError(f"{what} are masked in {mask.reshape(len(mask), -1).any(axis=1).sum()} of {len(mask)} rows; {advice}")


def check_finite(what: str, values: np.ndarray, advice: str = "leave these rows out") -> None:
    """Raise ValueError for NaN or infinite values of rows, (N, ...), and for such as large as float32's extremes: no data."""
    usable = (values < np.float64(_NO_DATA)) & (values > np.float64(-_NO_DATA))  # of float16 too
    bad = np.asarray(~usable.all(axis=tuple(range(1, np.ndim(values)))))
    if not bad.any():
        return
    rows = f"in {bad.sum()} of {len(bad)} rows"
    if np.isfinite(values).all():
        row = int(np.flatnonzero(bad)[0])
        rows = f"{values[row][~usable[row]].flat[0]} {rows} (row {row} is the first), a value that stands for no data"
    else:
        rows = f"NaN or infinite values {rows}"
    raise ValueError(f"{what} hold {rows}; {advice}")


def as_array(values: Any) -> np.ndarray:
    """An array, also of torch's tensors, and of a column of rows, as pandas reads vectors from files."""
    array = np.asarray(as_numpy(values))
    is_column = array.dtype == object and array.ndim == 1 and any(map(np.ndim, array))
    return np.asarray([as_numpy(row) for row in array]) if is_column else array


def as_numbers(what: str, values: Any) -> np.ndarray:
    """Real numbers as an array of floats, float32 and float64 as they are; ValueError for text, dates, complex numbers."""
    try:
        numbers = as_array(values)
        if numbers.dtype.kind in "cmMSU":
            raise TypeError(f"they are {numbers.dtype}")
        return numbers if numbers.dtype.kind == "f" else numbers.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} must be an array of real numbers, or rows of equal length ({error})") from None


def check_rows(what: str, values: Any, advice: str = "leave these rows out") -> None:
    """Raise ValueError for values of no row, or of which some are masked."""
    check_unmasked(what, values, advice)
    if np.shape(values)[:1] == (0,):
        raise ValueError(f"{what} are empty; give one row at least")


def is_number(value: Any) -> bool:
    """Whether a value is one real number, of Python or numpy."""
    return isinstance(value, float | int | np.floating | np.integer)


def main_metric(task: str) -> str:
    """Name the one metric that results of a task are compared by.

    Args:
        task: "multiclass", "multilabel", "change" or "regression".

    >>> main_metric("multiclass"), main_metric("multilabel")
    ('accuracy', 'micro_mAP')
    """
    return _MAIN_METRICS[task]


def mean_and_std(runs: Sequence[Mapping[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and standard deviation of each metric over runs; the std of one run is 0.

    >>> mean_and_std([{"r2": 0.5}, {"r2": 0.7}])[0]
    {'r2': 0.6}
    """
    mean = {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}
    std = {name: float(np.std([run[name] for run in runs], ddof=1)) if len(runs) > 1 else 0.0 for name in runs[0]}
    return mean, std


def _precision_recall_f1(hit: Any, predicted: Any, true: Any) -> list[Any]:
    """Precision, recall and F1 by counts, NumPy's or JAX's, of hits, of what was predicted and of what is true; 0 for 0 / 0."""
    pairs = ((hit, predicted), (hit, true), (2 * hit, predicted + true))
    return [above / (below + (below == 0)) for above, below in pairs]


def classification_metrics(labels: np.ndarray, predictions: np.ndarray, scores: np.ndarray, task: str) -> dict[str, float]:
    """Score one set of predictions.

    Args:
        labels: (N, K) 0/1: the true classes (one a row where the task is multi-class).
        predictions: (N, K) 0/1: the predicted ones.
        scores: (N, K): probabilities. Average precision needs their order alone, the calibration error their values.
        task: "multiclass" or "multilabel".

    Returns:
        `accuracy` (multi-class: overall accuracy; multi-label: share of rows that are right in every class); precision,
        recall, f1 and mAP as `micro_...` and `macro_...`; `ece`, the expected calibration error in 15 bins (multi-class: of the
        predicted class; multi-label: over all rows and classes). Macro averages are over the classes that occur in `labels`;
        micro ones count all. Where no class occurs in any row, the macro averages and micro mAP are NaN.
    """
    labels, predictions, scores = _checked(labels, predictions, scores, task)
    present = labels.any(axis=0)
    metrics = {"accuracy": float((labels == predictions).all(axis=1).mean())}
    counts = [np.sum(values != 0, axis=0) for values in (labels * predictions, predictions, labels)]
    micro = [float(value) for value in _precision_recall_f1(*(count.sum() for count in counts))]
    macro, average_precision = [float("nan")] * 3, dict.fromkeys(("micro_mAP", "macro_mAP"), float("nan"))
    if present.any():
        macro = [float(values.mean()) for values in _precision_recall_f1(*(count[present] for count in counts))]
        average_precision["micro_mAP"] = average_precision_score(labels, scores, average="micro")
        average_precision["macro_mAP"] = average_precision_score(labels[:, present], scores[:, present], average="macro")
    for name, values in (("micro", micro), ("macro", macro)):
        metrics |= {f"{name}_precision": values[0], f"{name}_recall": values[1], f"{name}_f1": values[2]}
    metrics |= average_precision
    gaps, sizes = _calibration(labels, scores, task)
    metrics["ece"] = float(np.abs(gaps.sum(axis=0)).sum() / sizes.sum())
    return {name: float(value) for name, value in metrics.items()}


def regression_metrics(targets: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """Compute `r2` and `rmse` of (N,) or (N, K) values.

    R2 is the mean over the columns whose targets vary, as there is none of one that is the same in all rows; NaN where none
    varies.

    Raises:
        ValueError: there is no row, or the shapes differ.
    """
    for name, values in (("targets", targets), ("predictions", predictions)):
        check_rows(name, values)
    targets, predictions = (np.asarray(v, np.float64).reshape(len(v), -1) for v in (targets, predictions))
    if targets.shape != predictions.shape:
        raise ValueError(f"targets {targets.shape} and predictions {predictions.shape} differ in shape")
    error, variance = ((targets - predictions) ** 2).mean(axis=0), targets.var(axis=0)
    varies = np.ptp(targets, axis=0) > 0  # the variance of equal numbers is not always 0, by rounding
    r2 = float((1 - error[varies] / variance[varies]).mean()) if varies.any() else float("nan")
    return {"r2": r2, "rmse": float(np.sqrt(error.mean()))}


def change_metrics(changed: np.ndarray, decided: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Compute `f1`, `auroc` and `average_precision` of change.

    Args:
        changed: (N,) bool, whether each pair changed. decided: (N,) bool, the prediction. scores: (N,), high for change.

    Returns:
        The metrics; `auroc` and `average_precision` are NaN where all pairs changed, or none.
    """
    f1 = float(2 * (decided & changed).sum() / max(decided.sum() + changed.sum(), 1))
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # pairs of one score are taken together
    hits = np.append(0, np.cumsum(changed[order])[ends])
    if not 0 < hits[-1] < len(changed):
        return {"f1": f1, "auroc": float("nan"), "average_precision": float("nan")}
    misses = np.append(0, ends + 1) - hits
    area = (np.diff(misses) * (hits[1:] + hits[:-1])).sum() / 2
    precision = (np.diff(hits) * hits[1:] / (ends + 1)).sum() / hits[-1]
    return {"f1": f1, "auroc": float(area / (hits[-1] * misses[-1])), "average_precision": float(precision)}


@compilation.isolated
def bootstrap(
    labels: np.ndarray,
    predictions: np.ndarray,
    scores: np.ndarray,
    task: str,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Compute percentile confidence intervals of `classification_metrics` over the rows (Efron 1979), on device.

    Scores are sorted once; a resample is a count for each row, so that each costs a few cumulative sums.

    Args:
        resamples: B; 0 gives no interval.
        level: of confidence.
        seed: of the resampling; the same rows are drawn for every set of predictions of the same size, so that intervals of
            differences can be formed from two calls.

    Returns:
        metric -> (low, high).

    Raises:
        ValueError: resamples is no number of them, there is no row, or the shapes differ.
    """
    check_count("resamples", resamples or 0)
    if not resamples:
        return {}
    labels, predictions, scores = _checked(labels, predictions, scores, task)
    present = labels.any(axis=0)
    micro = _sorted_once(labels.reshape(-1, 1), scores.reshape(-1, 1), labels.shape[1])
    macro = _sorted_once(labels[:, present], scores[:, present], 1)
    right = (labels == predictions).all(axis=1)
    table = [np.asarray(a, np.float32) for a in (right, labels, predictions, *_calibration(labels, scores, task))]
    rng = np.random.default_rng(seed)
    n, out = len(labels), []
    for start in range(0, resamples, 100):  # counts of 100 resamples at once are kept
        size = min(100, resamples - start)
        counts = np.stack([np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(size)]).astype(np.float32)
        counts = np.pad(counts, [(0, 100 - size), (0, 0)], constant_values=1)
        out.append({k: np.asarray(v)[:size] for k, v in _resampled(counts, table, micro, macro).items()})
    return _spans({k: np.concatenate([part[k] for part in out]) for k in out[0]}, level)


def bootstrap_regression(
    targets: np.ndarray, predictions: np.ndarray, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Compute percentile confidence intervals of `regression_metrics` over the rows; arguments as for `bootstrap`."""
    return _bootstrap(regression_metrics, {"targets": targets, "predictions": predictions}, resamples, level, seed)


def bootstrap_change(
    changed: np.ndarray, decided: np.ndarray, scores: np.ndarray, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Compute percentile confidence intervals of `change_metrics` over the pairs; other arguments as for `bootstrap`."""
    return _bootstrap(change_metrics, {"changed": changed, "decided": decided, "scores": scores}, resamples, level, seed)


def _bootstrap(
    metrics: Callable[..., dict[str, float]], columns: Mapping[str, np.ndarray], resamples: int, level: float, seed: int
) -> dict[str, tuple[float, float]]:
    """Intervals of metrics of columns (N, ...) over resamples of their rows, the rows that `bootstrap` draws by the seed."""
    check_count("resamples", resamples or 0)
    if not resamples:
        return {}
    for name, values in columns.items():
        check_rows(name, values)
    rng, arrays = np.random.default_rng(seed), [np.asarray(values) for values in columns.values()]
    rows = [rng.integers(0, len(arrays[0]), len(arrays[0])) for _ in range(resamples)]
    each = [metrics(*(values[i] for values in arrays)) for i in rows]
    return _spans({name: np.array([values[name] for values in each]) for name in each[0]}, level)


def _spans(values: Mapping[str, np.ndarray], level: float) -> dict[str, tuple[float, float]]:
    """The middle share `level` of each metric's values over the resamples that have one; NaN where none has."""
    ends = [(1 - level) / 2, (1 + level) / 2]
    spans = {name: np.nanquantile(v, ends) if not np.isnan(v).all() else (np.nan, np.nan) for name, v in values.items()}
    return {name: (float(low), float(high)) for name, (low, high) in spans.items()}


def _checked(
    labels: np.ndarray, predictions: np.ndarray, scores: np.ndarray, task: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    check_task(task)
    for name, values in (("labels", labels), ("predictions", predictions), ("scores", scores)):
        check_rows(name, values)
    labels, predictions, scores = np.asarray(labels), np.asarray(predictions), np.asarray(scores)
    if not labels.shape == predictions.shape == scores.shape or labels.ndim != 2:
        shapes = f"labels {labels.shape}, predictions {predictions.shape} and scores {scores.shape}"
        raise ValueError(f"{shapes} must agree, (N, K) each")
    return labels, predictions, scores


def _calibration(labels: np.ndarray, scores: np.ndarray, task: str) -> tuple[np.ndarray, np.ndarray]:
    """For each row and bin of confidence: sum of (right - confidence), and number of decisions; (N, bins) each."""
    if task == "multiclass":
        best = scores.argmax(axis=1)[:, None]
        scores, labels = np.take_along_axis(scores, best, axis=1), np.take_along_axis(labels, best, axis=1)
    bins = np.clip((scores * _ECE_BINS).astype(int), 0, _ECE_BINS - 1)
    gaps, sizes = (np.zeros((len(scores), _ECE_BINS)) for _ in range(2))
    rows = np.broadcast_to(np.arange(len(scores))[:, None], scores.shape)
    np.add.at(gaps, (rows, bins), labels - scores)
    np.add.at(sizes, (rows, bins), 1)
    return gaps, sizes


def _sorted_once(labels: np.ndarray, scores: np.ndarray, per_row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each column by falling score: row index, label, and the last place of each run of equal scores; (K, M) each."""
    order = np.argsort(-scores, axis=0, kind="stable")
    ordered = np.take_along_axis(scores, order, axis=0)
    places = np.broadcast_to(np.arange(len(scores))[:, None], scores.shape)
    last = np.concatenate([ordered[1:] != ordered[:-1], np.ones((1, scores.shape[1]), bool)])
    ends = np.minimum.accumulate(np.where(last, places, len(scores))[::-1], axis=0)[::-1]
    positive = np.take_along_axis(labels, order, axis=0).astype(np.float32)
    return (order // per_row).T.astype(np.int32), positive.T, ends.T.astype(np.int32)


@jax.jit
def _resampled(counts: Array, table: Sequence[Array], micro: Sorted, macro: Sorted) -> dict[str, Array]:
    """Metrics of resamples in which row n stands counts[b, n] times: name -> (B,)."""
    right, labels, predictions, gaps, sizes = table

    def average_precision(count: Array, rows: Array, positive: Array, ends: Array) -> Array:
        weight = count[rows]
        positives = jnp.cumsum(weight * positive)
        precision = positives / jnp.maximum(jnp.cumsum(weight), 1)
        return jnp.sum(weight * positive * precision[ends]) / positives[-1]

    hits = labels * predictions

    def one(count: Array) -> dict[str, Array]:
        true, predicted, hit = (jnp.matmul(count, a, precision="highest") for a in (labels, predictions, hits))
        out = {"accuracy": jnp.sum(count * right) / jnp.sum(count)}
        occurs = true > 0  # a class without a row in the resample is left out
        scores = {
            "micro": _precision_recall_f1(hit.sum(), predicted.sum(), true.sum()),
            "macro": [jnp.sum(occurs * v) / occurs.sum() for v in _precision_recall_f1(hit, predicted, true)],
        }
        for name, values in scores.items():
            out |= dict(zip((f"{name}_precision", f"{name}_recall", f"{name}_f1"), values))
        out["micro_mAP"] = average_precision(count, *(a[0] for a in micro))
        out["macro_mAP"] = jnp.nanmean(jax.lax.map(lambda a: average_precision(count, *a), macro))
        gap, size = (jnp.matmul(count, a, precision="highest") for a in (gaps, sizes))
        out["ece"] = jnp.abs(gap).sum() / size.sum()
        return out

    return jax.lax.map(one, counts)


def one_hot(indices: np.ndarray, classes: int) -> np.ndarray:
    """Class indices (N,) as labels (N, K) 0/1 int32."""
    labels = np.zeros((len(indices), classes), np.int32)  # no row of np.eye, which is (K, K)
    labels[np.arange(len(indices)), indices] = 1
    return labels


def decide(scores: np.ndarray, task: str) -> np.ndarray:
    """Probabilities (N, K) as predictions (N, K) 0/1: the likeliest class, or every class above one half."""
    if task == "multiclass":
        return one_hot(scores.argmax(axis=1), scores.shape[1])
    return (scores > 0.5).astype(np.int32)


def main_score(labels: np.ndarray, scores: np.ndarray, task: str) -> float:
    """The main metric of the task for probabilities (N, K) against labels (N, K) 0/1; ValueError where it is none."""
    score = classification_metrics(labels, decide(scores, task), scores, task)[main_metric(task)]
    if np.isnan(score):
        raise ValueError("no row of the validation split has a class, so nothing can be chosen on it")
    return score
