"""Metrics by hand, and bootstrap intervals against explicit resamples."""

import numpy as np
import pytest

from geomoe.probing import bootstrap, classification_metrics, main_metric, regression_metrics
from geomoe.probing.metrics import bootstrap_regression


def test_metrics_by_hand():
    labels = np.array([[1, 1, 0], [0, 1, 0], [1, 0, 0]])
    predictions = np.array([[1, 0, 0], [0, 1, 1], [1, 1, 0]])
    scores = np.array([[0.9, 0.4, 0.1], [0.2, 0.8, 0.7], [0.6, 0.5, 0.3]])
    m = classification_metrics(labels, predictions, scores, "multilabel")
    assert m["accuracy"] == 0
    assert m["micro_precision"] == pytest.approx(3 / 5) and m["micro_recall"] == pytest.approx(3 / 4)
    assert m["micro_f1"] == pytest.approx(2 * 0.6 * 0.75 / 1.35)
    assert m["macro_recall"] == pytest.approx((1 + 0.5) / 2)  # the third class does not occur
    assert m["macro_mAP"] == pytest.approx((1.0 + (1 + 2 / 3) / 2) / 2)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_bootstrap_is_that_of_explicit_resamples(task):
    rng = np.random.default_rng(0)
    y = (rng.random((300, 4)) < 0.3).astype(int)
    scores = np.round(np.clip(rng.normal(0.3, 0.2, y.shape) + 0.3 * y, 0, 1), 2)  # rounded: ties
    predictions = (scores > 0.5).astype(int)
    if task == "multiclass":
        y, predictions = (np.eye(4, dtype=int)[a.argmax(axis=1)] for a in (y + rng.random(y.shape), scores))
    found = bootstrap(y, predictions, scores, task, resamples=60, seed=3)
    rng = np.random.default_rng(3)
    runs = []
    for _ in range(60):
        rows = rng.integers(0, 300, 300)
        runs.append(classification_metrics(y[rows], predictions[rows], scores[rows], task))
    for name, interval in found.items():
        np.testing.assert_allclose(interval, np.quantile([run[name] for run in runs], [0.025, 0.975]), atol=1e-5)


def test_calibration_error_by_hand():
    scores = np.array([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.35, 0.65]])
    labels = np.array([[1, 0], [0, 1], [0, 1], [0, 1]])
    m = classification_metrics(labels, np.eye(2, dtype=int)[scores.argmax(axis=1)], scores, "multiclass")
    # 0.9 is one bin (one of two right), 0.7 another, 0.65 a third
    assert m["ece"] == pytest.approx((abs(1 - 1.8) + 0.3 + 0.35) / 4)


def test_bins_of_confidence_are_fifteenths():
    """A loop over the rows; 0.68 and 0.72 share a fifteenth, but no tenth and no twentieth."""
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.random((50, 2)), [[0.68, 0.32], [0.72, 0.28]]])
    labels = (rng.random(scores.shape) < 0.5).astype(int)
    bins = {}
    for score, label in zip(scores.ravel(), labels.ravel()):
        bins.setdefault(min(int(score * 15), 14), []).append(label - score)
    expected = sum(abs(sum(gaps)) for gaps in bins.values()) / scores.size
    metrics = classification_metrics(labels, (scores > 0.5).astype(int), scores, "multilabel")
    assert metrics["ece"] == pytest.approx(expected)
    two = scores[-2:]
    right = np.array([[1, 0], [0, 1]])
    one_bin = classification_metrics(right, np.array([[1, 0], [1, 0]]), two, "multiclass")
    assert one_bin["ece"] == pytest.approx(abs(1 - 0.68 - 0.72) / 2)


def test_resamples_leave_out_absent_classes_and_go_by_the_seed():
    rng = np.random.default_rng(0)
    y = (rng.random((200, 3)) < 0.4).astype(int)
    y[:, 2] = 0
    scores = np.clip(rng.normal(0.3, 0.2, y.shape) + 0.3 * y, 0, 1)
    predictions = (scores > 0.5).astype(int)
    point = classification_metrics(y, predictions, scores, "multilabel")
    intervals = bootstrap(y, predictions, scores, "multilabel", resamples=100)
    assert all(intervals[name][0] <= point[name] <= intervals[name][1] for name in ("macro_f1", "macro_mAP", "macro_recall"))
    assert point["macro_recall"] == pytest.approx(np.mean([predictions[y[:, k] > 0, k].mean() for k in (0, 1)]))
    assert intervals == bootstrap(y, predictions, scores, "multilabel", resamples=100, seed=0)
    assert intervals != bootstrap(y, predictions, scores, "multilabel", resamples=100, seed=1)


def test_intervals_of_a_regression_are_those_of_explicit_resamples():
    rng = np.random.default_rng(0)
    y = rng.standard_normal((80, 2))
    p = y + 0.3 * rng.standard_normal(y.shape)
    draws = np.random.default_rng(7)
    runs = [regression_metrics(y[rows], p[rows]) for rows in (draws.integers(0, 80, 80) for _ in range(40))]
    for name, interval in bootstrap_regression(y, p, resamples=40, seed=7).items():
        np.testing.assert_allclose(interval, np.quantile([run[name] for run in runs], [0.025, 0.975]))


def test_r2_is_of_the_columns_that_vary():
    """Of the first column 1 - 2 / 8 by hand; the second is constant, and its mean is not quite 0.1."""
    y = np.stack([np.resize([0.0, 2.0], 8), np.full(8, 0.1)], axis=1)
    p = y + np.stack([np.resize([0.5, -0.5], 8), np.ones(8)], axis=1)
    found = regression_metrics(y, p)
    assert found["r2"] == pytest.approx(0.75) and found["rmse"] == pytest.approx(np.sqrt((0.25 + 1) / 2))
    assert np.isnan(regression_metrics(y[:, 1], p[:, 1])["r2"])


def test_a_number_of_resamples_and_rows_to_score_are_needed():
    y = np.eye(2, dtype=int)[[0, 1, 0]]
    for resamples in (-1, 2.5):
        with pytest.raises(ValueError, match=f"resamples = {resamples} must be a whole number, 0 or more"):
            bootstrap(y, y, y, "multiclass", resamples)
        with pytest.raises(ValueError, match=f"resamples = {resamples} must be a whole number, 0 or more"):
            bootstrap_regression(y, y, resamples)
    assert bootstrap(y, y, y, "multiclass", 0) == {} == bootstrap_regression(y, y, 0)
    for score in (
        lambda: classification_metrics(y[:0], y[:0], y[:0], "multiclass"),
        lambda: bootstrap_regression(y[:0], y[:0]),
    ):
        with pytest.raises(ValueError, match="are empty; give one row at least"):
            score()
    with pytest.raises(ValueError, match="targets are empty"):
        regression_metrics([], [])


def test_the_main_metric_of_each_task():
    tasks = ("multiclass", "multilabel", "change", "regression")
    assert [main_metric(task) for task in tasks] == ["accuracy", "micro_mAP", "average_precision", "r2"]


def test_micro_averages_count_classes_that_never_occur():
    """By score: right, wrong (of the class that no row has), right, wrong ...: precisions 1 and 2/3 at the two positives."""
    labels = np.array([[1, 0, 0], [0, 1, 0]])
    scores = np.array([[0.9, 0.1, 0.8], [0.2, 0.7, 0.1]])
    metrics = classification_metrics(labels, (scores > 0.5).astype(int), scores, "multilabel")
    assert metrics["micro_mAP"] == pytest.approx(5 / 6) and metrics["macro_mAP"] == 1
    assert metrics["micro_precision"] == pytest.approx(2 / 3) and metrics["macro_precision"] == 1


def test_where_one_class_occurs_its_numbers_are_the_macro_averages():
    """Seven of ten rows of the first class are found: precision 1, recall 0.7; the others count in micro alone."""
    labels = np.eye(3, dtype=int)[np.zeros(10, int)]
    predictions = np.eye(3, dtype=int)[[0] * 7 + [1, 2, 2]]
    m = classification_metrics(labels, predictions, predictions * 0.9, "multiclass")
    assert (m["macro_precision"], m["macro_recall"]) == (1.0, pytest.approx(0.7))
    assert m["macro_f1"] == pytest.approx(1.4 / 1.7) and m["micro_f1"] == pytest.approx(0.7)
    one = classification_metrics(*(a[:, :1] for a in (labels, predictions, predictions * 0.9)), "multilabel")
    assert one["micro_f1"] == pytest.approx(1.4 / 1.7) and one["macro_recall"] == pytest.approx(0.7)
    several = np.array([[1, 0], [0, 0], [0, 0], [1, 0]])
    m = classification_metrics(several, several[[0, 1, 0, 1]], several * 0.5, "multilabel")
    assert (m["macro_precision"], m["macro_recall"], m["macro_f1"]) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("rows", [4, 30])
def test_intervals_leave_out_classes_that_a_resample_lacks(rows):
    """Four rows of four classes, all found: no resample has anything but 1; and a rare class against explicit resamples."""
    rng = np.random.default_rng(0)
    labels = np.eye(4, dtype=int)[np.arange(4) if rows == 4 else np.r_[3, rng.integers(0, 3, rows - 1)]]
    scores = labels * 0.6 + 0.3 * rng.random(labels.shape) if rows == 4 else rng.random(labels.shape) + labels
    predictions = np.eye(4, dtype=int)[scores.argmax(axis=1)]
    found = bootstrap(labels, predictions, scores / 2, "multiclass", resamples=60, seed=3)
    rng, runs = np.random.default_rng(3), []
    for _ in range(60):
        at = rng.integers(0, rows, rows)
        runs.append(classification_metrics(labels[at], predictions[at], scores[at] / 2, "multiclass"))
    for name, interval in found.items():
        np.testing.assert_allclose(
            interval, np.nanquantile([run[name] for run in runs], [0.025, 0.975]), atol=1e-5, err_msg=name
        )
    assert found["macro_f1"] == (1.0, 1.0) or rows == 30


def test_a_resample_without_a_positive_leaves_an_interval():
    labels = np.zeros((12, 2), int)
    labels[0] = 1
    scores = np.linspace(0.9, 0.1, 24).reshape(12, 2)
    found = bootstrap(labels, (scores > 0.5).astype(int), scores, "multilabel", resamples=50)
    assert np.isfinite([*found["micro_mAP"], *found["macro_mAP"], *found["macro_recall"]]).all()
    nothing = bootstrap(labels * 0, (scores > 0.5).astype(int), scores, "multilabel", resamples=5)
    assert np.isnan(nothing["macro_mAP"]).all()


def test_class_indices_are_no_labels():
    y = np.array([0, 1, 1])
    for score in (classification_metrics, bootstrap):
        with pytest.raises(ValueError, match=r"labels \(3,\), predictions \(3,\) and scores \(3,\) must agree, \(N, K\) each"):
            score(y, y, y, "multiclass")
