"""The probes' algorithms against scikit-learn and against plain definitions."""

import concurrent.futures
import multiprocessing

import numpy as np
import pytest
from conftest import DATA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import r2_score, root_mean_squared_error
from sklearn.neighbors import NearestNeighbors

import geomoe
from geomoe import metadata
from geomoe.data import synthetic
from geomoe.probing import (
    LinearModel,
    RandomConvFeatures,
    Results,
    bootstrap,
    change_probe,
    classification_metrics,
    cross_validate,
    finetune,
    fit_logistic,
    fit_ridge,
    knn_probe,
    label_efficiency,
    linear_probe,
    load_probe,
    nearest,
    ridge_probe,
)
from geomoe.probing.results import KEY


def problem(seed, rows, width, classes, multilabel):
    """Correlated features of uneven scale and offset, as embeddings have them, and labels that a linear model half explains."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, width)) @ rng.standard_normal((width, width)) * np.exp(rng.normal(0, 1, width)) * 0.05
    x = (x + rng.standard_normal(width)).astype(np.float32)
    w = rng.standard_normal((width, classes)) / x.std(axis=0)[:, None] / width**0.5
    logits = (x - x.mean(axis=0)) @ w * 2 + rng.normal(-1.5 if multilabel else 0, 0.7, classes)
    if multilabel:
        return x, (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.int32)
    return x, (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)


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


def test_ridge_is_scikit_learns():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 10)) + 5
    y = x @ rng.standard_normal((10, 2)) + rng.standard_normal((300, 2))
    model = Ridge(alpha=3.0).fit(x, y)
    np.testing.assert_allclose(fit_ridge(x, y, alpha=3.0)[0].coef, model.coef_.T, rtol=1e-4)
    result = ridge_probe((x[:200], y[:200]), (x[200:], y[200:]), resamples=50)
    assert result.metrics["r2"] == pytest.approx(r2_score(y[200:], result.predictions))
    both = [root_mean_squared_error(y[200:, i], result.predictions[:, i]) ** 2 for i in range(2)]
    assert result.metrics["rmse"] == pytest.approx(np.mean(both) ** 0.5)
    assert result.intervals["r2"][0] < result.metrics["r2"] < result.intervals["r2"][1]
    with pytest.raises(ValueError, match="NaN"):
        ridge_probe((x, y * np.nan), (x, y))


def test_cross_validation_scores_every_row_by_others():
    x, y = problem(5, 200, 10, 3, False)
    result = cross_validate(x, y, task="multiclass", count=4, seed=1, resamples=0)
    assert result.scores.shape == (200, 3) and result.settings["folds"] == 4
    noise = np.random.default_rng(0).standard_normal((200, 150))
    assert cross_validate(noise, y, task="multiclass", C=100.0, resamples=0).metrics["accuracy"] < 0.6
    neighbour = cross_validate(x, y, task="multiclass", probe=knn_probe, k=1, resamples=0)
    assert neighbour.metrics["accuracy"] < 1  # a row is not its own neighbour


def test_label_efficiency_rises_and_keeps_every_class():
    x, y = problem(6, 700, 16, 6, False)
    points = label_efficiency((x[:400], y[:400]), (x[400:], y[400:]), task="multiclass", fractions=(0.02, 1.0), seeds=(0, 1))
    assert points[0].rows >= 6 and points[1].rows == 400
    assert points[1].mean["accuracy"] > points[0].mean["accuracy"] + 0.1
    assert points[0].std["accuracy"] > 0 == points[1].std["accuracy"]
    each = label_efficiency((x, y), (x, y), task="multiclass", per_class=(3,), seeds=(0,), probe=knn_probe, k=5)
    assert each[0].rows == 18
    with pytest.raises(ValueError, match="fractions"):
        label_efficiency((x, y), (x, y), task="multiclass", fractions=(2.0,))


def test_saved_probes_are_plain_and_come_back(tmp_path):
    x, y = problem(7, 100, 16, 3, False)
    model = linear_probe((x, y), (x, y), task="multiclass", resamples=0, info={"classes": ["a", "b", "c"]}).model
    for name in ("probe.npz", "probe.safetensors"):
        if name.endswith("safetensors"):
            pytest.importorskip("safetensors")
        model.save(tmp_path / name)
        again = load_probe(tmp_path / name)
        np.testing.assert_array_equal(again.probabilities(x), model.probabilities(x))
        assert again.info["classes"] == ["a", "b", "c"] and again.task == "multiclass"
    encoder = geomoe.load(DATA / "reference_tiny_random.pth")
    images = np.full((4, 8, 8, 7), 12000, np.uint16)
    assert again.predict_images(encoder, images).tolist() == again.predict(encoder.embed(images)).tolist()
    with pytest.raises(ValueError, match="saved as .npz or .safetensors"):
        model.save(tmp_path / "probe.pkl")
    (tmp_path / "other.npz").write_bytes(b"not an archive")
    with pytest.raises(ValueError, match="other.npz is no saved probe"):
        load_probe(tmp_path / "other.npz")
    with pytest.raises(ValueError, match=r"features must be \(N, 16\)"):
        model.predict(x[:, :3])


def test_random_convolutional_features_follow_their_definition():
    rng = np.random.default_rng(0)
    images = rng.standard_normal((20, 9, 9, 2)).astype(np.float32).cumsum(axis=1)
    features = RandomConvFeatures(images, num_filters=12, size=3, seed=1)
    out = features(images[:3])
    assert out.shape == (3, 12) and (out >= 0).all()
    kernels, bias = np.asarray(features._kernels), np.asarray(features._bias)
    windows = np.lib.stride_tricks.sliding_window_view(images[:3], (3, 3), axis=(1, 2)).transpose(0, 1, 2, 4, 5, 3)
    response = np.einsum("nyxabc,abck->nyxk", windows, kernels) + bias
    np.testing.assert_allclose(out, np.maximum(response, 0).mean(axis=(1, 2)), rtol=1e-3, atol=1e-5)
    # whitened: over the data, responses have about the same size in every direction
    assert response.std(axis=(0, 1, 2)).max() < 4 * response.std(axis=(0, 1, 2)).min()


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


def test_fine_tuning_keeps_what_is_frozen_and_the_best_epoch():
    from geomoe.models import MAE, ModelConfig
    from geomoe.pretrained import PretrainedEncoder
    from geomoe.training.state import init_params

    cfg = ModelConfig(
        width=16,
        depth=1,
        expert_width_first=16,
        expert_width_last=8,
        num_heads=4,
        num_groups=2,
        decoder_width=12,
        stage_experts=(3,),
        decoder_depth=1,
        img_size=8,
    )
    encoder = PretrainedEncoder(cfg, init_params(MAE(cfg), 0), {"mean": [0] * 7, "std": [1] * 7, "source": "none"}, "fresh")
    rng = np.random.default_rng(0)
    count = 240
    images = rng.standard_normal((count, 8, 8, 7)).astype(np.float32)
    place = metadata.encode(np.full(count, np.nan), np.full(count, np.nan), np.full(count, np.datetime64("NaT")))._asdict()
    labels = (np.abs(images[:, :4, :4, 0].mean(axis=(1, 2))) > 0.17).astype(int)
    data = {"image": images, **place, "labels": labels}
    train, test = ({k: v[s] for k, v in data.items()} for s in (slice(160), slice(160, None)))
    result = finetune(train, test, encoder=encoder, task="multiclass", epochs=2, lr=3e-3, batch_size=32, resamples=0)
    assert result.settings["val"] == 32 and len(result.settings["val_scores"]) in (2, 3)
    params = result.settings["params"]
    assert set(params) == {"encoder", "head"}
    scores = result.settings["val_scores"]
    assert scores[result.settings["best_epoch"]] == max(scores)
    tuned = finetune(train, train, encoder=encoder, task="multiclass", val=train, epochs=8, lr=3e-3, batch_size=32, resamples=0)
    assert tuned.settings["val_scores"][-1] > tuned.settings["val_scores"][0] + 0.02  # it learns
    frozen = finetune(train, test, encoder=encoder, task="multiclass", epochs=1, blocks=0, batch_size=32, resamples=0)
    np.testing.assert_array_equal(frozen.settings["params"]["encoder"]["pos_embed"], encoder.params["encoder"]["pos_embed"])
    with pytest.raises(ValueError, match="blocks = 5"):
        finetune(train, test, encoder=encoder, task="multiclass", blocks=5)


def add_rows(path, seeds):
    for seed in seeds:
        Results(path).add({name: seed if name == "seed" else 'a, "b"' for name in KEY}, {"accuracy": seed / 100}, {}, "unit=x")


def test_results_are_safe_under_parallel_runs_and_survive_a_torn_line(tmp_path):
    path = tmp_path / "results.csv"
    with concurrent.futures.ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(add_rows, [path] * 4, [range(i * 5, i * 5 + 5) for i in range(4)]))
    rows = Results(path).rows()
    assert sorted(int(r["seed"]) for r in rows) == list(range(20))
    with open(path, "a") as file:
        file.write("half a li")
    add_rows(path, [20])
    assert len(Results(path).rows()) == 21
    assert Results(path).find({name: 7 if name == "seed" else 'a, "b"' for name in KEY})["metrics"] == {"accuracy": 0.07}
    assert Results(path).find({name: 99 for name in KEY}) is None
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="no results file"):
        add_rows(tmp_path / "other.csv", [1])


def test_a_model_of_a_regression_has_no_probabilities():
    model = LinearModel(np.ones((2, 1), np.float32), np.zeros(1, np.float32), "regression", 1.0)
    assert model.predict(np.ones((3, 2))).tolist() == [[2.0]] * 3
    with pytest.raises(ValueError, match="no probabilities"):
        model.probabilities(np.ones((3, 2)))
