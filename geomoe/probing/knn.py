"""Nearest neighbours on device, exact.

Euclidean distances by |q|^2 + |x|^2 - 2 q x lose all digits in float32 where two vectors are close: a vector's distance
from itself comes out as some small number, or below zero. So that formula only draws up a shortlist, and the distances of those
on it are computed from differences. Where the formula's rounding could have kept a neighbour off the list, that query is done
again by differences from all rows, in float64.

Vectors are scaled by a power of two, which changes no digit, so that squares neither over- nor underflow; where those of the
nearest do next to some far larger row, that query is done again in float64, too.

Axes: N rows, Q queries, D features, M on the shortlist.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from geomoe import compilation
from geomoe.checks import check_count
from geomoe.probing.config import protocol_options
from geomoe.probing.metrics import as_numbers, check_finite, check_unmasked
from geomoe.probing.probe_result import ProbeResult, classification_result
from geomoe.probing.splits import Split, labelled_splits

Array = jax.Array

METRICS = ("euclidean", "cosine")
_QUERIES = 1024  # at once
_GROUP = 32  # columns whose least member stands for them in the first stage of the search
_TINY = 1e-28  # squared distances below, of vectors scaled to 1, lack digits in float32: their squares underflow at 1e-38
_EXTRA = 16  # on the shortlist beyond twice the neighbours asked for


def check_metric(metric: str) -> None:
    """Raise ValueError for a distance that is neither "euclidean" nor "cosine"."""
    if metric not in METRICS:
        raise ValueError(f"metric = {metric!r} is not one of {', '.join(METRICS)}")


def _smallest(values: Array, count: int) -> tuple[Array, Array]:
    """Find the `count` smallest of each row, (Q, N) -> values and indices (Q, count), in two stages.

    The `count` smallest values lie in the `count` groups whose least members are smallest; sorting those least members, and
    then the members of the groups taken, is a tenth of the work of sorting whole rows.
    """
    rows, columns = values.shape
    groups = columns // _GROUP
    if groups < 2 * count:
        negative, index = jax.lax.top_k(-values, count)
        return -negative, index
    grouped = jnp.pad(values, [(0, 0), (0, -columns % _GROUP)], constant_values=jnp.inf).reshape(rows, -1, _GROUP)
    _, chosen = jax.lax.top_k(-grouped.min(axis=2), count)
    members = jnp.take_along_axis(grouped, chosen[:, :, None], axis=1).reshape(rows, -1)
    negative, place = jax.lax.top_k(-members, count)
    index = jnp.take_along_axis(chosen, place // _GROUP, axis=1) * _GROUP + place % _GROUP
    return -negative, index


@functools.partial(jax.jit, static_argnames=("listed",))
def _shortlist(rows: Array, mean: Array, queries: Array, listed: int) -> tuple[Array, Array, Array]:
    """Compute squared distances by difference of the M rows that the product formula puts first, their indices, and a margin.

    The margin (Q,) is a lower bound of the squared distance of any row off the list. The formula takes vectors from the mean
    (D,), as its rounding grows with the distance from 0; differences do not, as small values lose digits next to a large mean.
    """
    centred, centred_queries = rows - mean, queries - mean
    squares, lengths = jnp.sum(centred * centred, axis=1), jnp.sum(centred_queries * centred_queries, axis=1)
    rough = squares + lengths[:, None] - 2 * jnp.matmul(centred_queries, centred.T, precision="highest")
    least, index = _smallest(rough, listed)
    exact = jnp.sum(jnp.square(rows[index] - queries[:, None]), axis=-1)
    epsilon = jnp.finfo(jnp.float32).eps * (queries.shape[1] + 4)
    rounding = epsilon * (jnp.max(squares) + lengths)
    return exact, index, least[:, -1] - rounding


@compilation.isolated
def nearest(rows: np.ndarray, queries: np.ndarray, k: int, metric: str = "euclidean") -> tuple[np.ndarray, np.ndarray]:
    """Find the k nearest rows of each query.

    Args:
        rows: (N, D); queries: (Q, D).
        metric: "euclidean", or "cosine": 1 - cosine similarity (a zero vector is at distance 1 from everything).

    Returns:
        indices (Q, k) int64 and distances (Q, k) float32, the nearest first; of equally near rows the one of lower index.

    Raises:
        ValueError: shapes do not fit, k or the metric has no meaning, or a row or query is masked, NaN or infinite.
    """
    for name, vectors in (("rows", rows), ("queries", queries)):
        check_unmasked(f"features of {name}", vectors)
    rows, queries = (as_numbers(f"features of {name}", v) for name, v in (("rows", rows), ("queries", queries)))
    if rows.ndim != 2 or queries.ndim != 2 or rows.shape[1] != queries.shape[1]:
        raise ValueError(f"rows must be (N, D) and queries (Q, D), of one width D, got {rows.shape} and {queries.shape}")
    for name, vectors in (("rows", rows), ("queries", queries)):
        check_finite(f"features of {name}", vectors)
    rows, queries = rows.astype(np.float32), queries.astype(np.float32)
    check_count("k", k, 1)
    if k > len(rows):
        raise ValueError(f"k = {k} is more than the {len(rows)} training rows")
    check_metric(metric)
    if metric == "cosine":  # |a/|a| - b/|b||^2 = 2 (1 - cos)
        rows, queries = _unit(rows, 0), _unit(queries, 1)
    exponent = np.frexp(max(np.abs(rows).max(initial=0), np.abs(queries).max(initial=0)))[1]
    scaled_rows, scaled_queries = np.ldexp(rows, -exponent), np.ldexp(queries, -exponent)
    mean, device_rows = jnp.asarray(scaled_rows.mean(axis=0)), jnp.asarray(scaled_rows)
    listed = min(len(rows), 2 * k + _EXTRA)
    indices, distances = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
    size = min(_QUERIES, 1 << (max(len(queries), 1) - 1).bit_length())
    for start in range(0, len(queries), size):
        part = scaled_queries[start : start + size]
        padded = np.pad(part, [(0, size - len(part)), (0, 0)])
        exact, index, margin = (np.asarray(a)[: len(part)] for a in _shortlist(device_rows, mean, padded, listed))
        order = np.lexsort((index, exact), axis=1)
        index, exact = np.take_along_axis(index, order, axis=1), np.take_along_axis(exact, order, axis=1)
        far = np.ldexp(np.sqrt(exact[:, :k].astype(np.float64)), exponent)
        unsure = (exact[:, k - 1] >= margin) & (listed < len(rows))
        for i in np.flatnonzero(unsure | (exact[:, 0] < _TINY)):
            among = np.arange(len(rows)) if unsure[i] else np.sort(index[i])
            every = np.linalg.norm(rows[among] - queries[start + i].astype(np.float64), axis=1)
            nearest_first = np.argsort(every, kind="stable")[:k]
            index[i, :k], far[i] = among[nearest_first], every[nearest_first]
        indices[start : start + size], distances[start : start + size] = index[:, :k], far
    return indices, distances if metric == "euclidean" else distances**2 / 2


def _unit(vectors: np.ndarray, axis: int) -> np.ndarray:
    """Vectors (N, D) at length 1, (N, D + 2): zero ones point along an added axis, 0 or 1, at right angles to all others.

    They are scaled before, so that no square over- or underflows.
    """
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0)
    vectors = np.ldexp(vectors, -np.frexp(largest)[1])
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    added = np.where(np.arange(2) == axis, length == 0, 0).astype(np.float32)
    return np.concatenate([vectors / np.where(length == 0, 1, length), added], axis=1)


def knn_probe(
    train: Split,
    test: Split,
    *,
    task: str,
    k: int = 5,
    metric: str = "euclidean",
    protocol: str | None = None,
    resamples: int = 1000,
) -> ProbeResult:
    """Classify by the k nearest neighbours on frozen features, exact; the scores are shares of the neighbours.

    Args:
        train, test, task, protocol, resamples: as for `linear_probe`.
        k: neighbours.
        metric: "euclidean" or "cosine".

    Raises:
        ValueError: shapes or labels do not fit the task, or k or the metric has no meaning.
    """
    if protocol is not None:
        options = protocol_options(protocol, "knn")
        k, metric = options["k"], options["metric"]
    splits = labelled_splits(task, {"train": train, "test": test})
    (x, y), (x_test, y_test) = splits["train"], splits["test"]
    neighbours, _ = nearest(x, x_test, k, metric)
    settings = dict(probe="knn", protocol=protocol, k=k, metric=metric, train=len(x), test=len(x_test))
    return classification_result(y_test, y[neighbours].mean(axis=1), task, settings, resamples)
