"""Nearest neighbours against scikit-learn."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from geomoe.probing import knn_probe, nearest


def test_nearest_neighbours_are_exact_where_the_product_formula_is_not():
    rng = np.random.default_rng(0)
    rows = (100 + 1e-3 * rng.standard_normal((1500, 24))).astype(np.float32)
    queries = np.concatenate([rows[:200], (rows[:100] + np.float32(1e-4))])
    index, distance = nearest(rows, queries, 4)
    exact = ((queries[:, None].astype(float) - rows[None].astype(float)) ** 2).sum(axis=-1)
    np.testing.assert_array_equal(index, np.argsort(exact, axis=1, kind="stable")[:, :4])
    assert (distance[:200, 0] == 0).all()
    for metric in ("euclidean", "cosine"):
        x, q = rng.standard_normal((3000, 16)), rng.standard_normal((50, 16))
        x[7] = 0
        theirs, wanted = NearestNeighbors(n_neighbors=5, metric=metric, algorithm="brute").fit(x).kneighbors(q)[::-1]
        index, distance = nearest(x, q, 5, metric)
        np.testing.assert_array_equal(index, theirs)
        np.testing.assert_allclose(distance, wanted, rtol=1e-4)


def test_neighbours_in_far_clusters_are_exact():
    rng = np.random.default_rng(0)
    sides = 1000 * np.where(np.arange(4000) % 2, 1, -1)[:, None]
    rows = (sides + 0.1 * rng.standard_normal((4000, 16))).astype(np.float32)
    queries = (rows[:50] + 0.1 * rng.standard_normal((50, 16))).astype(np.float32)
    exact = ((queries[:, None].astype(float) - rows[None].astype(float)) ** 2).sum(axis=-1)
    np.testing.assert_allclose(nearest(rows, queries, 5)[1], np.sqrt(np.sort(exact, axis=1)[:, :5]), rtol=1e-3)


def test_a_number_of_neighbours_is_a_whole_one():
    x = np.arange(6.0)[:, None]
    for k, message in (
        (2.5, "k = 2.5 must be a whole number, 1 or more"),
        (0, "k = 0"),
        (7, "k = 7 is more than the 6 training"),
    ):
        with pytest.raises(ValueError, match=message):
            nearest(x, x, k)


@pytest.mark.parametrize("k", [1, 3, 8])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_votes_are_those_of_scikit_learn(k, metric):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 160)
    x = (rng.standard_normal((160, 5)) + 0.7 * np.eye(5)[y]) * np.exp(rng.normal(0, 1, 160))[:, None]  # uneven lengths
    result = knn_probe((x[:100], y[:100]), (x[100:], y[100:]), task="multiclass", k=k, metric=metric, resamples=0)
    model = KNeighborsClassifier(k, metric=metric, algorithm="brute").fit(x[:100], y[:100])
    np.testing.assert_allclose(result.scores, model.predict_proba(x[100:]), atol=1e-6)
    assert result.settings["k"] == k and result.settings["metric"] == metric
    options = dict(k=k, metric=metric, protocol="landsat_bench")  # which fixes both
    other = knn_probe((x[:100], y[:100]), (x[100:], y[100:]), task="multiclass", resamples=0, **options)
    assert other.settings["k"] == 5 and other.settings["metric"] == "euclidean"
    model = KNeighborsClassifier(5, algorithm="brute").fit(x[:100], y[:100])
    np.testing.assert_allclose(other.scores, model.predict_proba(x[100:]), atol=1e-6)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("scale", [1e-37, 1e-22, 1e20, 1e37])
def test_neighbours_do_not_depend_on_the_scale(metric, scale):
    rng = np.random.default_rng(0)
    rows, queries = (rng.standard_normal((count, 6)).astype(np.float32) for count in (1500, 40))
    rows_scaled, queries_scaled = rows * np.float32(scale), queries * np.float32(scale)
    model = NearestNeighbors(n_neighbors=5, metric=metric, algorithm="brute")
    expected, of = model.fit(rows.astype(float)).kneighbors(queries.astype(float))
    index, distance = nearest(rows_scaled, queries_scaled, 5, metric)
    np.testing.assert_array_equal(index, of)
    np.testing.assert_allclose(distance, expected * (1 if metric == "cosine" else scale), rtol=1e-4)


@pytest.mark.parametrize("count", [20, 1500])
@pytest.mark.parametrize("large", [1e5, 1e12, -1e24, 1e37])
def test_a_row_of_large_values_changes_no_other_neighbours(count, large):
    rng = np.random.default_rng(0)
    rows, queries = (rng.standard_normal((n, 6)).astype(np.float32) for n in (count, 40))
    rows[7, 2] = large
    queries[0] = rows[3]
    exact = np.sqrt(((queries[:, None].astype(float) - rows.astype(float)) ** 2).sum(axis=-1))
    index, distance = nearest(rows, queries, 5)
    np.testing.assert_array_equal(index, np.argsort(exact, axis=1)[:, :5])
    np.testing.assert_allclose(distance, np.sort(exact, axis=1)[:, :5], rtol=1e-6)


def test_vectors_of_zeros_are_at_a_cosine_distance_of_1_from_all():
    rng = np.random.default_rng(0)
    rows, queries = np.abs(rng.standard_normal((30, 2))), -np.abs(rng.standard_normal((6, 2)))
    rows[:, 0] *= 1 - 2 * (np.arange(30) < 15)
    rows[7] = queries[2] = 0
    expected, of = NearestNeighbors(n_neighbors=30, metric="cosine", algorithm="brute").fit(rows).kneighbors(queries)
    index, distance = nearest(rows, queries, 30, "cosine")
    np.testing.assert_allclose(distance, expected, rtol=1e-5, atol=1e-6)
    turned = np.arange(6) != 2
    np.testing.assert_array_equal(index[turned], of[turned])
    np.testing.assert_allclose(distance[index == 7], 1, rtol=1e-6)


def test_of_rows_at_the_same_place_the_first_is_nearest():
    rows = np.array([[1, 0], [0, 1], [1, 0], [1, 0]], np.float32)
    for metric in ("euclidean", "cosine"):
        index, distances = nearest(rows, rows[:1], 3, metric)
        assert index.tolist() == [[0, 2, 3]] and not distances.any()


def test_shapes_that_do_not_fit_are_named():
    x = np.random.default_rng(0).standard_normal((6, 4))
    for rows, queries in ((x, x[:, :3]), (x, x[0]), (x[:, 0], x), (x[None], x)):
        for metric in ("euclidean", "cosine"):
            with pytest.raises(ValueError, match=r"rows must be \(N, D\) and queries \(Q, D\), of one width D, got"):
                nearest(rows, queries, 1, metric)
