"""Logistic regression against scikit-learn, and how its strength is chosen."""

import numpy as np
import pytest
from probing_helpers import problem
from sklearn.linear_model import LogisticRegression

from geomoe.probing import LinearOptions, classification_metrics, fit_logistic, linear_probe
from geomoe.probing.splits import holdout


def sklearn_fit(x, y, C):
    return LogisticRegression(C=C, max_iter=10000, tol=1e-9, solver="newton-cholesky").fit(x.astype(float), y)


@pytest.mark.parametrize("C", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("task, classes", [("multiclass", 10), ("multiclass", 2), ("multilabel", 8)])
def test_logistic_regression_is_scikit_learns(task, classes, C):
    x, y = problem(1, 1200, 32, classes, task == "multilabel")
    x_test, y_test = x[800:], y[800:]
    x, y = x[:800], y[:800]
    onehot = y if y.ndim == 2 else np.eye(classes, dtype=int)[y]
    mine = fit_logistic(x, onehot, task=task, C=C)[0]
    if task == "multilabel":
        theirs = [sklearn_fit(x, y[:, k], C) for k in range(classes)]
        coef = np.stack([m.coef_[0] for m in theirs], axis=1)
        scores = np.stack([m.predict_proba(x_test)[:, 1] for m in theirs], axis=1)
        predictions, truth = (scores > 0.5).astype(int), y_test
        ours = mine.coef
    else:
        model = sklearn_fit(x, y, C)
        coef, scores = model.coef_.T, model.predict_proba(x_test)
        predictions, truth = np.eye(classes, dtype=int)[model.predict(x_test)], np.eye(classes, dtype=int)[y_test]
        ours = mine.coef if classes > 2 else mine.coef[:, 1:]
    assert np.linalg.norm(ours - coef) < 1e-3 * np.linalg.norm(coef)
    wanted = classification_metrics(truth, predictions, scores, task)
    found = linear_probe((x, y), (x_test, y_test), task=task, C=C, resamples=0).metrics
    assert {k: pytest.approx(v, abs=0.002) for k, v in wanted.items()} == found


def test_standardised_fits_and_paths_agree_with_single_fits():
    x, y = problem(2, 500, 20, 4, False)
    onehot = np.eye(4, dtype=int)[y]
    path = fit_logistic(x, onehot, task="multiclass", C=(1.0, 1e-3, 0.1), standardise=True)
    assert [m.C for m in path] == [1.0, 1e-3, 0.1]
    scaled = (x - x.mean(axis=0)) / x.std(axis=0)
    coef = sklearn_fit(scaled, y, 0.1).coef_.T / x.std(axis=0)[:, None]
    assert np.linalg.norm(path[2].coef - coef) < 1e-3 * np.linalg.norm(coef)


def test_classes_that_all_or_no_rows_have():
    x, y = problem(3, 200, 8, 4, True)
    y[:, 1], y[:, 2] = 0, 1
    result = linear_probe((x, y), (x, y), task="multilabel", resamples=0)
    assert (result.scores[:, 1] < 1e-6).all() and (result.scores[:, 2] > 1 - 1e-6).all()
    k = np.where(y[:, 0] == 1, 2, 0)  # classes 1 and 3 have no rows
    result = linear_probe((x, k), (x, np.append(k[:-1], 3)), task="multiclass", resamples=0)
    assert result.scores.shape == (200, 4) and (result.scores[:, [1, 3]] < 1e-6).all()
    with pytest.raises(ValueError, match="single class"):
        linear_probe((x, k * 0), (x, k), task="multiclass")


def test_sweep_chooses_on_validation_rows_alone():
    x, y = problem(4, 900, 30, 5, False)
    train, val, test = (x[:200], y[:200]), (x[200:500], y[200:500]), (x[500:], y[500:])
    result = linear_probe(train, test, val=val, task="multiclass", protocol="torchgeo_bench", resamples=0)
    scores = {}
    for C in np.logspace(-6, 4, 40):
        predictions = linear_probe(train, val, task="multiclass", C=float(C), resamples=0)
        scores[float(C)] = predictions.metrics["accuracy"]
    best = max(scores.values())
    assert result.settings["C"] == min(C for C, score in scores.items() if score == best)
    joined = np.concatenate([train[0], val[0]]), np.concatenate([train[1], val[1]])
    again = linear_probe(joined, test, task="multiclass", C=result.settings["C"], resamples=0)
    np.testing.assert_allclose(result.scores, again.scores, atol=2e-3)
    assert result.settings["protocol"] == "torchgeo_bench" and result.settings["grid"][2] == 40
    with pytest.raises(ValueError, match="protocol = 'nobody'"):
        linear_probe(train, test, task="multiclass", protocol="nobody")


@pytest.mark.parametrize("options", [dict(C=1e-3), dict(C=10.0), dict(C=0.1, standardise=True), dict(C=1.0, max_iter=1)])
def test_options_reach_the_fit(options):
    x, y = problem(8, 300, 12, 3, False)
    result = linear_probe((x[:200], y[:200]), (x[200:], y[200:]), task="multiclass", resamples=0, **options)
    model = fit_logistic(x[:200], np.eye(3, dtype=int)[y[:200]], task="multiclass", **options)[0]
    np.testing.assert_array_equal(result.model.coef, model.coef)
    plain = linear_probe((x[:200], y[:200]), (x[200:], y[200:]), task="multiclass", resamples=0, C=0.5)
    assert not np.allclose(result.scores, plain.scores, atol=1e-3)
    same = LinearOptions(**options)
    again = linear_probe((x[:200], y[:200]), (x[200:], y[200:]), task="multiclass", resamples=0, options=same)
    np.testing.assert_array_equal(result.scores, again.scores)
    with pytest.raises(TypeError, match="penalty"):
        linear_probe((x, y), (x, y), task="multiclass", penalty="l1")


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(C=[]), r"C = \[\] must be positive, one number or several"),
        (dict(C=None), "C = None must be positive"),
        (dict(max_iter=-3), "max_iter = -3 must be a whole number, 1 or more"),
        (dict(resamples=-1), "resamples = -1 must be a whole number, 0 or more"),
    ],
)
def test_options_without_a_meaning_are_named(options, message):
    x, y = problem(8, 60, 4, 3, False)
    with pytest.raises(ValueError, match=message):
        linear_probe((x, y), (x, y), task="multiclass", **options)


def test_a_fit_on_no_row_or_by_no_tolerance_is_refused():
    x, y = problem(8, 60, 4, 3, True)
    with pytest.raises(ValueError, match="features are empty; give one row at least"):
        fit_logistic(x[:0], y[:0], task="multilabel")
    with pytest.raises(ValueError, match="tol = nan must be 0 or more"):
        fit_logistic(x, y, task="multilabel", tol=np.nan)
    with pytest.raises(ValueError, match="none of 1 training rows can be held out"):
        linear_probe((x[:1], y[:1]), (x, y), task="multilabel", C="sweep")


def test_without_a_second_fit_the_validation_rows_are_not_learned():
    x, y = problem(9, 400, 20, 3, False)
    onehot = np.eye(3, dtype=int)[y]
    grid, test = (1e-3, 0.1, 10.0), (x[300:], y[300:])
    fixed = dict(task="multiclass", C=grid, resamples=0)
    split = linear_probe((x[:200], y[:200]), test, val=(x[200:300], y[200:300]), refit=False, **fixed)
    path = fit_logistic(x[:200], onehot[:200], task="multiclass", C=grid)
    scores = [(model.predict(x[200:300]) == y[200:300]).mean() for model in path]
    best = int(np.argmax(scores))
    assert split.settings["C"] == grid[best] and split.settings["val_score"] == pytest.approx(max(scores))
    assert max(scores) > min(scores)
    np.testing.assert_array_equal(split.model.coef, path[best].coef)
    rows, rest = holdout(200, 5)
    drawn = linear_probe((x[:200], y[:200]), test, seed=5, refit=False, **fixed)
    explicit = linear_probe((x[rows], y[rows]), test, val=(x[rest], y[rest]), refit=False, **fixed)
    np.testing.assert_array_equal(drawn.scores, explicit.scores)
    assert drawn.settings["val"] == 40
    again = linear_probe((x[:200], y[:200]), test, seed=5, **fixed)
    whole = linear_probe((x[:200], y[:200]), test, task="multiclass", C=again.settings["C"], resamples=0)
    np.testing.assert_allclose(again.scores, whole.scores, atol=2e-3)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_labels_that_do_not_fit_are_named(task):
    x, y = problem(8, 60, 4, 3, False)
    one_hot = np.eye(3, dtype=int)[y]
    shapes = r"features must be \(N, D\) and labels \(N, K\) of 0 and 1.*, got "
    for features, labels, message in (
        (x, y, shapes + r"\(60, 4\) and \(60,\); linear_probe takes class indices"),
        (x[:9], one_hot, shapes + r"\(9, 4\) and \(60, 3\)"),
        (x[:, 0], one_hot, shapes + r"\(60,\) and \(60, 3\)"),
        (x, y[:, None], r"labels must be \(N, K\) of 0 and 1"),
        (x, one_hot * 0.5, r"labels must be \(N, K\) of 0 and 1"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_logistic(features, labels, task=task)
    with pytest.raises(ValueError, match="labels must be .* of 0 and 1, one 1 in each row; some rows have others"):
        fit_logistic(x, 1 - one_hot, task="multiclass")
    with pytest.raises(ValueError, match="task = 'binary' is not one of multiclass, multilabel"):
        fit_logistic(x, one_hot, task="binary")
