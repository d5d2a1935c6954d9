"""Change detection."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from geomoe.data import synthetic
from geomoe.probing import change_distance, change_features, change_probe


def test_change_detection():
    pairs = synthetic.change_pairs(0, 40)
    same = synthetic.change_pairs(0, 5, start=10)
    np.testing.assert_array_equal(same["after"], pairs["after"][10:15])
    assert 10 < pairs["changed"].sum() < 30 and (pairs["time_after"] - pairs["time_before"] > np.timedelta64(300, "D")).all()
    rng = np.random.default_rng(0)
    changed = rng.random(400) < 0.4
    before = rng.standard_normal((400, 8)) + 3
    after = before + 0.1 * rng.standard_normal((400, 8)) + changed[:, None] * rng.choice([-1, 1], (400, 8))
    train, test = ((before[s], after[s], changed[s]) for s in (slice(200), slice(200, None)))
    for method in ("threshold", "linear"):
        for metric in ("euclidean", "cosine"):
            result = change_probe(train, test, method=method, metric=metric, resamples=20)
            assert result.metrics["f1"] > 0.95 and result.metrics["auroc"] > 0.97
    shuffled = (before[:200], after[:200], rng.permutation(changed[:200]))
    assert change_probe(shuffled, test, method="linear", resamples=0).metrics["auroc"] < 0.9
    with pytest.raises(ValueError, match="all changed or none"):
        change_probe((before, after, changed | True), test)


def test_a_probe_learns_from_the_training_pairs_and_is_scored_on_the_others():
    rng = np.random.default_rng(0)
    changed = rng.random(140) < 0.5
    before = rng.standard_normal((140, 4))
    after = before + rng.standard_normal((140, 4)) * np.where(changed, 0.9, 0.5)[:, None]
    train, test = ((before[s], after[s], changed[s]) for s in (slice(100), slice(100, None)))
    result = change_probe(train, test, C=0.5, resamples=0)
    x, x_test = change_features(*train[:2]).astype(float), change_features(*test[:2]).astype(float)
    mean, std = x.mean(axis=0), x.std(axis=0)
    model = LogisticRegression(C=0.5, tol=1e-9, max_iter=1000).fit((x - mean) / std, train[2])
    score = model.predict_proba((x_test - mean) / std)[:, 1]
    np.testing.assert_allclose(result.scores[:, 1], score, atol=1e-3)
    assert result.metrics["auroc"] == pytest.approx(roc_auc_score(test[2], score), abs=1e-3)
    assert result.settings["train"] == 100 and result.settings["test"] == 40 == len(result.predictions)
    result = change_probe(train, test, method="threshold", metric="euclidean", resamples=0)
    distance = change_distance(*train[:2], "euclidean")
    f1 = {}
    for threshold in np.append(distance - 1e-9, np.inf):
        decided = distance > threshold
        f1[threshold] = 2 * (decided & train[2]).sum() / (decided.sum() + train[2].sum())
    decided = distance > result.settings["threshold"]
    assert 2 * (decided & train[2]).sum() / (decided.sum() + train[2].sum()) == pytest.approx(max(f1.values()))
    expected = change_distance(*test[:2], "euclidean") > result.settings["threshold"]
    np.testing.assert_array_equal(result.predictions[:, 1] > 0, expected)


def test_a_threshold_halfway_counts_what_lies_on_it():
    """Of distances 2 and 1 the second has changed: the best threshold takes both, F1 = 2/3."""
    pairs = np.zeros((2, 1)), np.array([[2.0], [1.0]]), np.array([False, True])
    result = change_probe(pairs, pairs, method="threshold", metric="euclidean", resamples=0)
    assert result.metrics["f1"] == pytest.approx(2 / 3)


def test_labels_that_do_not_say_whether_a_pair_changed_are_named():
    x = np.ones((4, 3))
    for labels, message in (
        (pd.array([True, None, False, True], "boolean"), "labels are (masked|missing) .*rows; leave these rows out"),
        ([True, pd.NA, False, True], r"labels are missing \(None, NaN or NA\) in some rows; leave these rows out"),
        (np.eye(2)[[0, 1, 0, 1]], r"labels must be \(N,\), one of each pair, got \(4, 2\)"),
    ):
        with pytest.raises(ValueError, match=f"train {message}"):
            change_probe((x, x + 1, labels), (x, x, np.ones(4)))
    with pytest.raises(ValueError, match="test labels must be"):
        change_probe((x, x + 1, [0, 1, 0, 1]), (x[:0], x[:0], []))


def test_intervals_of_change_are_those_of_scikit_learn_on_resampled_pairs():
    rng = np.random.default_rng(0)
    changed = rng.random(60) < 0.3
    before = rng.standard_normal((60, 3)).round(1)
    after = before + rng.standard_normal((60, 3)).round(1) * np.where(changed, 1.2, 0.6)[:, None]
    train, test = ((before[s], after[s], changed[s]) for s in (slice(30), slice(30, None)))
    for method in ("linear", "threshold"):
        result = change_probe(train, test, method=method, resamples=50)
        truth, decided, score = test[2], result.predictions[:, 1], result.scores[:, 1]
        metrics = {
            "f1": (f1_score, decided),
            "auroc": (roc_auc_score, score),
            "average_precision": (average_precision_score, score),
        }
        for name, (metric, values) in metrics.items():
            assert result.metrics[name] == pytest.approx(metric(truth, values))
            draws = np.random.default_rng(0)
            rows = [draws.integers(0, 30, 30) for _ in range(50)]
            each = [metric(truth[i], values[i]) for i in rows if 0 < truth[i].sum() < 30]
            np.testing.assert_allclose(result.intervals[name], np.quantile(each, [0.025, 0.975]))
    same = change_probe(train, (*test[:2], np.zeros(30, bool)), resamples=20)
    assert "auroc" not in same.metrics and "auroc" not in same.intervals and same.metrics["f1"] == same.intervals["f1"][1] == 0


def test_options_of_change_that_would_be_ignored_are_refused():
    x, y = np.random.default_rng(0).standard_normal((20, 3)), np.arange(20) % 2
    pairs = x, x[::-1], y
    for options, message in (
        (dict(C=(0.1, 1.0)), r"C = \(0.1, 1.0\) must be one number"),
        (dict(C="sweep"), "C = 'sweep' must be one number"),
        (dict(metric="cosin"), "metric = 'cosin' is not one of euclidean, cosine"),
    ):
        with pytest.raises(ValueError, match=message):
            change_probe(pairs, pairs, **options)
    for method in ("linear", "threshold"):
        with pytest.raises(ValueError, match=r"train \(20, 3\) and test \(20, 2\) differ in width"):
            change_probe(pairs, (x[:, :2], x[::-1, :2], y), method=method)


def test_embeddings_that_do_not_fit_or_are_masked_are_refused():
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    masked = np.ma.MaskedArray(x, np.arange(5)[:, None] < np.full(4, 2))
    for measure in (change_features, change_distance, lambda *pair: change_distance(*pair, "euclidean")):
        for pair, message in (
            ((x, x[:1]), r"features before \(5, 4\) and after \(1, 4\) do not fit; both must be \(N, D\)"),
            ((x[0], x[1]), r"features before \(4,\) and after \(4,\) do not fit"),
            ((masked, x + 1), "features before are masked in 2 of 5 rows"),
            ((x, masked), "features after are masked in 2 of 5 rows"),
            ((x, x.astype(str)), "features after must be an array of real numbers"),
        ):
            with pytest.raises(ValueError, match=message):
                measure(*pair)
        column = pd.Series(list(x[::-1]))
        np.testing.assert_array_equal(measure(x, column), measure(x, x[::-1]))
        some = np.where(np.arange(5)[:, None] == 3, np.nan, x)  # was not embedded: no change is known
        assert np.isnan(measure(x, some)).reshape(5, -1).any(axis=1).tolist() == [False, False, False, True, False]
