"""What probes take, and the errors for what they do not."""

import tracemalloc
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from probing_helpers import blobs

from geomoe.probing import (
    FineTuneOptions,
    bootstrap,
    change_probe,
    classification_metrics,
    cross_validate,
    fit_logistic,
    fit_ridge,
    group_folds,
    knn_probe,
    label_efficiency,
    linear_probe,
    nearest,
    regression_metrics,
    ridge_probe,
    spatial_folds,
    stratified_folds,
)
from geomoe.probing.splits import labelled_splits, regression_splits, strength_grid


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_probes_separate_what_is_separable_and_not_noise(task):
    rng = np.random.default_rng(0)
    train, test = (blobs(rng, 200, task == "multilabel") for _ in range(2))
    for probe in (linear_probe, knn_probe):
        assert probe(train, test, task=task).metrics["micro_f1"] > 0.97
        noise = rng.standard_normal(train[0].shape)
        assert probe((noise, train[1]), test, task=task).metrics["micro_f1"] < 0.6


def test_probe_errors_are_named():
    x, y = np.zeros((4, 2)), np.array([0, 1, 0, 1])
    for train, options, message in (
        ((x, y), dict(task="regression"), "task = 'regression'"),
        ((x, y[:3]), dict(task="multiclass"), "4 features but 3 labels"),
        ((x * np.nan, y), dict(task="multiclass"), "train features hold NaN"),
        ((x[:, :1], y), dict(task="multiclass"), "differ in width"),
    ):
        with pytest.raises(ValueError, match=message):
            linear_probe(train, (x, y), **options)
    with pytest.raises(ValueError, match="k = 9"):
        knn_probe((x, y), (x, y), task="multiclass", k=9)


def test_labels_become_one_width_and_files_are_read(tmp_path):
    x = np.arange(8, dtype=np.float64).reshape(4, 2)
    splits = labelled_splits(
        "multiclass", {"train": (x, np.array([0, 1, 0, 1])), "val": None, "test": (x, np.array([3, 0, 0, 0]))}
    )
    assert set(splits) == {"train", "test"} and splits["train"][0].dtype == np.float32
    np.testing.assert_array_equal(splits["test"][1], np.eye(4, dtype=int)[[3, 0, 0, 0]])
    np.testing.assert_array_equal(splits["train"][1], np.eye(4, dtype=int)[[0, 1, 0, 1]])
    path = tmp_path / "some.npz"
    vector = np.concatenate([x, np.full((1, 2), np.nan)]).astype(np.float32)
    labels = np.array([[1, 0], [1, 1], [0, 1], [0, 0], [1, 1]])
    np.savez(path, vector=vector, embedded=np.isfinite(vector[:, 0]), labels=labels, facts=np.array("{}"))
    features, y = labelled_splits("multilabel", {"train": path})["train"]
    np.testing.assert_array_equal(features, x)
    np.testing.assert_array_equal(y, labels[:4])


def test_a_column_of_labels_is_class_indices_of_a_multiclass_task_alone():
    x, y = blobs(np.random.default_rng(0), 60, False)
    frame = pd.DataFrame({"label": y})
    for probe in (linear_probe, knn_probe):
        flat = probe((x, y), (x, y), task="multiclass", resamples=0)
        for labels in (y[:, None], frame, y[:, None].astype(float)):
            column = probe((x, labels), (x, labels), task="multiclass", resamples=0)
            np.testing.assert_array_equal(column.scores, flat.scores)
    flags = (y[:, None] > 0).astype(int)
    one_class = labelled_splits("multilabel", {"train": (x, flags)})["train"][1]
    np.testing.assert_array_equal(one_class, flags)
    with pytest.raises(ValueError, match=r"train labels must be class indices \(N,\) from 0, or \(N, K\) of 0 and 1"):
        labelled_splits("multilabel", {"train": (x, y[:, None])})


def test_splits_without_rows_or_numbers_are_named():
    x, y = blobs(np.random.default_rng(0), 60, False)
    for test, message in (
        ((x[:0], y[:0]), "test is empty"),
        ((x[:, :0], y), r"test is empty: features \(60, 0\)"),
        ((x, np.zeros((60, 0), int)), r"test is empty: .*labels \(60, 0\)"),
        ((x, y[:, None, None]), r"test labels must be \(N,\) or \(N, K\), got \(60, 1, 1\)"),
        ((x, 1), r"test labels must be \(N,\) or \(N, K\), got \(\)"),
    ):
        with pytest.raises(ValueError, match=message):
            knn_probe((x, y), test, task="multiclass")
    for probe in (linear_probe, knn_probe):
        with pytest.raises(ValueError, match="resamples = -1"):
            probe((x, y), (x, y), task="multiclass", resamples=-1)
        with pytest.raises(ValueError, match="resamples = -1"):
            cross_validate(x, y, task="multiclass", probe=probe, resamples=-1)
    with pytest.raises(ValueError, match="resamples = -1"):
        change_probe((x, x[::-1], y > 0), (x, x[::-1], y > 0), resamples=-1)
    with pytest.raises(ValueError, match="C = -1.0 must be positive"):
        change_probe((x, x[::-1], y > 0), (x, x[::-1], y > 0), C=-1.0)
    with pytest.raises(ValueError, match="folds = 2.5 must be between 2 and the 60 rows, a whole number"):
        stratified_folds(y, 2.5)


def test_targets_of_a_regression():
    x = np.ones((3, 2))
    assert regression_splits({"train": (x, np.arange(3.0))})["train"][1].shape == (3, 1)
    with pytest.raises(ValueError, match="test: features"):
        regression_splits({"train": (x, np.arange(3.0)), "test": (x, np.arange(2.0))})
    with pytest.raises(ValueError, match="C = 'best'"):
        strength_grid("C", "best", ())
    with pytest.raises(ValueError, match="alpha = 'best'"):
        ridge_probe((x, np.arange(3.0)), (x, np.arange(3.0)), alpha="best")


def test_labels_of_truth_values_are_classes_and_text_is_refused():
    x = np.random.default_rng(0).standard_normal((60, 3)).astype(np.float32)
    flags = x[:, 0] > 0
    fit = lambda labels: linear_probe((x[:40], labels[:40]), (x[40:], labels[40:]), task="multiclass", resamples=0)
    np.testing.assert_array_equal(fit(flags).scores, fit(flags.astype(int)).scores)
    names = np.array(["forest", "water"])[flags.astype(int)]
    for text in (names, names.astype(object), names.astype(bytes)):
        with pytest.raises(ValueError, match=r"train labels are text; pass class indices: .*np.unique"):
            fit(text)


@pytest.mark.filterwarnings("error")
def test_a_test_split_without_positives_has_no_average_precision():
    x = np.random.default_rng(0).standard_normal((60, 3)).astype(np.float32)
    labels = (x > 0.5).astype(int)
    for probe in (linear_probe, knn_probe):
        result = probe((x[:40], labels[:40]), (x[40:], 0 * labels[40:]), task="multilabel", resamples=20)
        none = {name for name, value in result.metrics.items() if np.isnan(value)}
        assert none == {"micro_mAP", "macro_mAP", "macro_precision", "macro_recall", "macro_f1"}
        assert result.metrics["accuracy"] == (result.predictions == 0).all(axis=1).mean()
        assert none == {name for name, (low, high) in result.intervals.items() if np.isnan(low) and np.isnan(high)}
    with pytest.raises(ValueError, match="no row of the validation split has a class"):
        linear_probe((x[:40], labels[:40]), (x[40:], labels[40:]), val=(x, 0 * labels), C=(0.1, 1.0), task="multilabel")


def test_masked_labels_targets_and_features_are_refused():
    rng = np.random.default_rng(0)
    x, y = blobs(rng, 60, False)
    hide = lambda values: np.ma.MaskedArray(values, np.broadcast_to(np.arange(60) < 3, np.shape(values)[::-1]).T)
    masked_y, masked_x = hide(y), hide(x)
    labels, features = "train labels are masked in 3 of 60 rows; leave these rows out", "train features are masked in 3 of 60"
    for probe in (linear_probe, knn_probe):
        task = dict(task="multiclass", resamples=0)
        for train, message in (((x, masked_y), labels), ((masked_x, y), features)):
            with pytest.raises(ValueError, match=message):
                probe(train, (x, y), **task)
            with pytest.raises(ValueError, match=message):
                cross_validate(*train, probe=probe, **task)
        with pytest.raises(ValueError, match="test labels are masked in 3 of 60 rows"):
            probe((x, y), (x, masked_y), **task)
        unmasked = probe((x, np.ma.MaskedArray(y)), (x, y), **task)  # the type alone says nothing
        np.testing.assert_array_equal(unmasked.scores, probe((x, y), (x, y), **task).scores)
    one_hot, degrees = np.eye(3, dtype=int)[y], np.linspace(-60, 60, 60)
    masked, pairs = hide(one_hot), (x, x, y > 0)
    for use, message in (
        (lambda: label_efficiency((x, masked_y), (x, y), task="multiclass"), labels),
        (lambda: ridge_probe((x, hide(degrees)), (x, degrees)), "train targets are masked in 3 of 60 rows"),
        (lambda: ridge_probe((masked_x, degrees), (x, degrees)), features),
        (lambda: change_probe((x, x, hide(y > 0)), pairs), labels),
        (lambda: change_probe((x, masked_x, y > 0), pairs), "train features after are masked in 3 of 60 rows"),
        (lambda: fit_logistic(x, masked, task="multiclass"), "labels are masked"),
        (lambda: fit_logistic(x, one_hot, task="multiclass")[0].decision(masked_x), "features are masked"),
        (lambda: fit_ridge(x, hide(degrees)), "targets are masked"),
        (lambda: nearest(masked_x, x, 1), "features of rows are masked"),
        (lambda: stratified_folds(masked_y), "labels are masked"),
        (lambda: group_folds(masked_y), "groups are masked"),
        (lambda: spatial_folds(hide(degrees), degrees), "values of latitude are masked"),
        (lambda: classification_metrics(masked, one_hot, one_hot, "multiclass"), "labels are masked"),
        (lambda: bootstrap(masked, one_hot, one_hot, "multiclass"), "labels are masked"),
        (lambda: regression_metrics(hide(degrees), degrees), "targets are masked"),
    ):
        with pytest.raises(ValueError, match=message):
            use()


def test_codes_of_classes_are_refused_before_memory_is_taken():
    x, y = blobs(np.random.default_rng(0), 60, False)
    for probe in (linear_probe, knn_probe):
        for step in (3_000, 25_000, 2_000_000, 10**9, 2**60):
            with pytest.raises(ValueError, match=f"labels of 3 classes go up to {2 * step}; they are codes.*np.unique"):
                probe((x, y * step), (x, y * step), task="multiclass", resamples=0)


def test_classes_that_no_row_has_change_no_score_and_take_no_square_of_memory():
    x, y = blobs(np.random.default_rng(0), 60, False)
    few, codes = (knn_probe((x, y * step), (x, y * step), task="multiclass", resamples=0) for step in (1, 250))
    assert codes.predictions.shape == (60, 501) and codes.metrics["accuracy"] == few.metrics["accuracy"]
    np.testing.assert_array_equal(codes.predictions.argmax(axis=1), few.predictions.argmax(axis=1) * 250)
    many = np.arange(1200)  # of 10 792 classes a ninth occur
    tracemalloc.start()
    labels = labelled_splits("multiclass", {"train": (np.ones((1200, 1)), many * 9), "test": (x[:1, :1], many[1:2] * 9)})
    assert labels["test"][1].shape == (1, 10792) and tracemalloc.get_traced_memory()[1] < 4 * 10792 * 10792 / 3
    tracemalloc.stop()


def test_rows_without_a_value_are_named():
    """NaN features, of images without data say, have no class and are near to nothing; labels that are none are no change."""
    x = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
    y, some = np.arange(8) % 2, x.copy()
    some[2] = np.nan
    model = linear_probe((x, y), (x, y), task="multiclass", resamples=0).model
    pairs, lacking = (x, x[::-1], y == 1), "in 1 of 8 rows"
    for call in (
        lambda: model.predict(some),
        lambda: nearest(some, x, 2),
        lambda: nearest(x, some, 2),
        lambda: change_probe((some, *pairs[1:]), pairs, method="threshold"),
        lambda: change_probe(pairs, (x, some, y == 1)),
    ):
        with pytest.raises(ValueError, match=lacking):
            call()
    for labels in (np.where(y == 1, 1, np.nan), np.where(y == 1, 255, 0), np.where(y == 1, "changed", "unchanged")):
        with pytest.raises(ValueError, match="test labels (must be True where|are missing)"):
            change_probe(pairs, (x, x[::-1], labels))
    assert change_probe(pairs, (x, x[::-1], y), resamples=0).settings["test"] == 8
    for labels in ([0, 1, None, 1, 0, 1, 0, 1], [0, 1, pd.NA, 1, 0, 1, 0, 1]):
        with pytest.raises(ValueError, match="train labels are missing"):
            linear_probe((x, np.array(labels, object)), (x, y), task="multiclass")
    with pytest.raises(ValueError, match="1 of 8 rows have no group"):
        group_folds([*"aabbcc", pd.NA, "c"], 2)
    with pytest.raises(ValueError, match=r"train features are a sparse matrix; pass features.toarray\(\)"):
        linear_probe((scipy.sparse.csr_matrix(x), y), (x, y), task="multiclass")
    with pytest.raises(ValueError, match="train targets are datetime64"):
        ridge_probe((x, np.arange(8).astype("datetime64[D]")), (x, y))


def test_values_that_stand_for_no_data_are_refused():
    x, y = blobs(np.random.default_rng(0), 60, False)
    hole, lowest = x.copy(), np.finfo(np.float32).min
    hole[7, 1] = lowest
    model = linear_probe((x, y), (x, y), task="multiclass", resamples=0).model
    message = (
        r"hold -3.40282\S*e\+38 in 1 of 60 rows \(row 7 is the first\), a value that stands for no data; leave these rows out"
    )
    for probe in (linear_probe, knn_probe):
        for splits, name in ((((hole, y), (x, y)), "train"), (((x, y), (hole.astype(float), y)), "test")):
            with pytest.raises(ValueError, match=f"{name} features {message}"):
                probe(*splits, task="multiclass")
    for call, name in (
        (lambda: ridge_probe((hole, y), (x, y)), "train features"),
        (lambda: ridge_probe((x, np.where(np.arange(60) == 7, lowest, y)), (x, y)), "train targets"),
        (lambda: change_probe((x, hole, y > 0), (x, x, y > 0)), "train features after"),
        (lambda: nearest(x, hole, 2), "features of queries"),
        (lambda: model.predict(hole), "features"),
    ):
        with pytest.raises(ValueError, match=f"{name} {message}"):
            call()
    assert linear_probe((x * 1e30, y), (x * 1e30, y), task="multiclass", resamples=0).metrics["accuracy"] > 0.9


@pytest.mark.filterwarnings("error")
def test_what_is_no_number_is_refused_by_name():
    x, y = blobs(np.random.default_rng(0), 60, False)
    table = pd.DataFrame(x).assign(name="a")
    ragged = [[0], [0, 1], *[[0]] * 58]
    for labels in (y.astype("timedelta64[s]"), y.astype("datetime64[s]"), y + 0j):
        with pytest.raises(ValueError, match=f"train labels must be class indices or 0/1, got {labels.dtype.name[:8]}"):
            linear_probe((x, labels), (x, y), task="multiclass")
    for call, name in (
        (lambda: linear_probe((x + 1j, y), (x, y), task="multiclass"), "train features"),
        (lambda: knn_probe((table, y), (x, y), task="multiclass"), "train features"),
        (lambda: linear_probe((x, ragged), (x, y), task="multilabel"), "train labels"),
        (lambda: ridge_probe((x, y), (x, y + 1j)), "test targets"),
        (lambda: nearest(x + 1j, x, 1), "features of rows"),
    ):
        with pytest.raises(ValueError, match=f"{name} must be an array"):
            call()


def test_options_that_are_no_numbers_are_named():
    x, y = blobs(np.random.default_rng(0), 60, False)
    split, task = (x, y), dict(task="multiclass")
    for call, message in (
        (lambda: label_efficiency(split, split, fractions="0.1", **task), "fractions = '0.1' must be"),
        (lambda: linear_probe(split, split, C=(c for c in (0.1, 1.0)), **task), "C = <generator .* must be positive"),
        (lambda: linear_probe(split, split, C="sweep", seed=-1, **task), "seed = -1 must be a whole number, 0 or more"),
        (lambda: linear_probe((x[:2], [0, 1]), split, C="sweep", **task), "1 of 2 training rows are held out to choose C on"),
        (lambda: linear_probe((x[:2], [0, 0]), split, C="sweep", **task), "the training split holds a single class"),
        (lambda: FineTuneOptions(lr="a"), "lr = 'a' must be 0 or more"),
        (lambda: FineTuneOptions(layer_decay="a"), "layer_decay = 'a' must be in"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_half_precision_features_are_as_good_as_others():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 4)).astype(np.float16)
    y = (x[:, 0] > 0).astype(int)
    split = (x[:40], y[:40]), (x[40:], y[40:])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        half = linear_probe(*split, task="multiclass", resamples=0)
    whole = linear_probe(*((a.astype(np.float32), b) for a, b in split), task="multiclass", resamples=0)
    np.testing.assert_allclose(half.scores, whole.scores, atol=1e-6)


def test_columns_of_vectors_are_arrays():
    """As pandas reads them from Parquet: one array a row."""
    rng = np.random.default_rng(0)
    x, y = blobs(rng, 60, False)
    several = np.eye(3, dtype=int)[y]
    column, labels, ragged = pd.Series(list(x)), pd.Series(list(several)), pd.Series([*x[1:], x[0, :2]])
    holes = pd.Series([*x[1:], None])
    for probe, task in ((linear_probe, "multiclass"), (linear_probe, "multilabel"), (knn_probe, "multilabel")):
        plain = probe((x, several), (x, several), task=task, resamples=0)
        for split in ((column, several), (x, labels), (column.to_numpy(), labels.to_numpy())):
            np.testing.assert_array_equal(probe(split, split, task=task, resamples=0).scores, plain.scores)
        for wrong in (ragged, holes):
            with pytest.raises(ValueError, match="train features must be an array of real numbers, or rows of equal length"):
                probe((wrong, y), (x, y), task=task)
    model = linear_probe((column, y), (column, y), task="multiclass", resamples=0).model
    np.testing.assert_array_equal(model.predict(column), model.predict(x))
    degrees = np.linspace(-60, 60, 60)
    for found, expected in (
        (nearest(column, column, 2)[0], nearest(x, x, 2)[0]),
        (ridge_probe((column, degrees), (column, degrees)).scores, ridge_probe((x, degrees), (x, degrees)).scores),
        (fit_ridge(column, degrees)[0].coef, fit_ridge(x, degrees)[0].coef),
        (fit_logistic(column, labels, task="multilabel")[0].coef, fit_logistic(x, several, task="multilabel")[0].coef),
        (
            change_probe((x, column[::-1].reset_index(drop=True), y > 0), (column, x[::-1], y > 0), resamples=0).scores,
            change_probe((x, x[::-1], y > 0), (x, x[::-1], y > 0), resamples=0).scores,
        ),
    ):
        np.testing.assert_array_equal(found, expected)
    rows = [np.ma.MaskedArray(row, [i == 3, False, False]) for i, row in enumerate(x)]
    masked = np.empty(60, object)
    masked[:] = rows
    with pytest.raises(ValueError, match="train features are masked in 1 of 60 rows"):
        linear_probe((masked, y), (x, y), task="multiclass")
