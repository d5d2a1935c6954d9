"""Nearest neighbours on device, exact.

Euclidean distances by |q|^2 + |x|^2 - 2 q x lose all digits in float32 where two vectors are close: a vector's distance
from itself comes out as some small number, or below zero. So that formula only draws up a shortlist, and the distances of those
on it are computed from differences. Where the formula's rounding could have kept a neighbour off the list, that query is done
again by differences from all rows.

Axes: N rows, Q queries, D features, M on the shortlist.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from geomoe import compilation
from geomoe.probing.config import protocol_options
from geomoe.probing.metrics import check_count, check_finite, check_unmasked
from geomoe.probing.probe_result import ProbeResult, classification_result
from geomoe.probing.splits import Split, labelled_splits

Array = jax.Array

METRICS = ("euclidean", "cosine")
_QUERIES = 1024  # at once
_GROUP = 32  # columns whose least member stands for them in the first stage of the search
_EXTRA = 16  # on the shortlist beyond twice the neighbours asked for


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
def _shortlist(rows: Array, squares: Array, queries: Array, listed: int) -> tuple[Array, Array, Array]:
    """Compute squared distances by difference of the M rows that the product formula puts first, their indices, and a margin.

    The margin (Q,) is a lower bound of the squared distance of any row off the list.
    """
    lengths = jnp.sum(queries * queries, axis=1)
    rough = squares + lengths[:, None] - 2 * jnp.matmul(queries, rows.T, precision="highest")
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
        ValueError: k or the metric has no meaning, or a row or query is masked, NaN or infinite.
    """
    for name, vectors in (("rows", rows), ("queries", queries)):
        check_unmasked(f"features of {name}", vectors)
    rows, queries = np.asarray(rows, np.float32), np.asarray(queries, np.float32)
    for name, vectors in (("rows", rows), ("queries", queries)):
        check_finite(f"features of {name}", vectors)
    check_count("k", k, 1)
    if k > len(rows):
        raise ValueError(f"k = {k} is more than the {len(rows)} training rows")
    if metric not in METRICS:
        raise ValueError(f"metric = {metric!r} is not one of {', '.join(METRICS)}")
    zero = np.zeros((0, 1), bool)
    if metric == "cosine":  # |a/|a| - b/|b||^2 = 2 (1 - cos)
        rows, _ = _unit(rows)
        queries, zero = _unit(queries)
    mean = rows.mean(axis=0)
    rows, queries = rows - mean, queries - mean  # the formula's rounding grows with the distance from 0
    squares = jnp.asarray((rows * rows).sum(axis=1))
    device_rows = jnp.asarray(rows)
    listed = min(len(rows), 2 * k + _EXTRA)
    indices, distances = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
    size = min(_QUERIES, 1 << (max(len(queries), 1) - 1).bit_length())
    for start in range(0, len(queries), size):
        part = queries[start : start + size]
        padded = np.pad(part, [(0, size - len(part)), (0, 0)])
        exact, index, margin = (np.asarray(a)[: len(part)] for a in _shortlist(device_rows, squares, padded, listed))
        order = np.lexsort((index, exact), axis=1)[:, :k]
        index, exact = np.take_along_axis(index, order, axis=1), np.take_along_axis(exact, order, axis=1)
        unsure = np.flatnonzero(exact[:, -1] >= margin) if listed < len(rows) else ()
        for i in unsure:
            all_exact = np.square(rows - part[i]).sum(axis=1)
            index[i] = np.argsort(all_exact, kind="stable")[:k]
            exact[i] = all_exact[index[i]]
        indices[start : start + size], distances[start : start + size] = index, exact
    if metric == "euclidean":
        return indices, np.sqrt(distances)
    return indices, np.where(zero, 1.0, distances / 2).astype(np.float32)


def _unit(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length == 0, 1, length), length == 0


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
