"""The frozen encoder and the probes."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import DATA, ROOT

import geomoe
from geomoe.probing import band_statistics, classification_metrics, default_probe_config, knn_probe, linear_probe
from geomoe.probing import run as probe_run
from geomoe.probing.config import BASELINES
from geomoe.probing.config import validate
from geomoe.probing.tables import verdict


@pytest.fixture(scope="module")
def encoder():
    return geomoe.load(DATA / "reference_tiny_random.pth")


def test_importing_geomoe_is_quick_and_brings_no_tensorflow():
    code = (
        "import time, sys; t = time.perf_counter(); import geomoe; d = time.perf_counter() - t\n"
        "assert d < 2, d\n"
        "geomoe.load, geomoe.models.build_encoder, geomoe.probing.linear_probe, geomoe.training.default_config\n"
        "assert not any(m == 'tensorflow' or m.startswith('tensorflow.') for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_embedding_of_published_weights(encoder):
    golden = np.load(DATA / "golden_tiny.npz")
    images = golden["images_nchw"].transpose(0, 2, 3, 1)
    out = encoder.apply_tokens(images, *(golden[name] for name in ("week", "hour", "lat", "lon")))
    np.testing.assert_allclose(out.tokens, golden["encoder_tokens"], atol=2e-5)
    bare = golden["encoder_tokens_no_metadata"]
    tokens = encoder.embed(images, normalized=True, pool="tokens")
    np.testing.assert_allclose(tokens, bare, atol=2e-5)
    np.testing.assert_allclose(encoder.embed(images, normalized=True), bare.mean(axis=1), atol=2e-5)
    np.testing.assert_allclose(encoder.embed(images, normalized=True, pool="patch_mean"), bare[:, 5:].mean(axis=1), atol=2e-5)
    np.testing.assert_allclose(encoder.embed(images, normalized=True, pool="cls", batch_size=3), bare[:, 4], atol=2e-5)
    assert encoder.embed_dim == 16 and encoder.num_params == 8788


def test_digital_numbers_and_metadata_of_each_sample(encoder):
    rng = np.random.default_rng(0)
    dn = rng.integers(1, 30000, (3, 8, 8, 7)).astype(np.uint16)
    mean, std = (np.array(encoder.statistics[k]) for k in ("mean", "std"))
    time = np.array(["2017-06-13T10:00", "NaT", "2018-01-01T00:30"], "datetime64[m]")
    z = encoder.embed(dn, lat=[48.2, None, np.nan], lon=[16.4, 3.0, None], time=time)
    week, hour = geomoe.metadata.encode_time(time)
    lat, lon = (geomoe.metadata.encode_degrees(v) for v in ([48.2, np.nan, np.nan], [16.4, 3.0, np.nan]))
    out = encoder.apply_tokens((dn - mean) / std, week, hour, lat, lon)
    np.testing.assert_allclose(z, np.mean(out.tokens, axis=1), atol=2e-5)
    assert not week[1].any() and not lat[2].any() and lat[0].any()


def test_bad_input_is_named(encoder):
    good = np.ones((2, 8, 8, 7), np.uint16)
    for arguments, message in (
        (dict(images=good[0]), r"images must be \(N, H, W, C\), got \(8, 8, 7\)"),
        (dict(images=good[..., :6]), r"\(N, H, W, 7\), got \(2, 8, 8, 6\)"),
        (dict(images=good[:, :7]), "images of 7 x 8 pixels for a model of 8 x 8"),
        (dict(images=good.astype(str)), "dtype"),
        (dict(images=good * np.float32("nan")), "NaN"),
        (dict(images=good, lat=[1.0]), r"lat must be \(2,\)"),
        (dict(images=good, lat=[1.0, 91.0], lon=[0, 0]), r"lat\[1\] = 91"),
        (dict(images=good, pool="max"), "pool = 'max'"),
    ):
        with pytest.raises(ValueError, match=message):
            encoder.embed(**arguments)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        geomoe.load("nowhere")


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


def blobs(rng, count, multilabel):
    centres = np.array([[0, 0, 3], [3, 0, 0], [0, 3, 0]], float)
    if multilabel:
        y = (rng.random((count, 3)) < 0.4).astype(int)
        return (y @ centres + rng.standard_normal((count, 3)) * 0.3).astype(np.float32), y
    k = rng.integers(0, 3, count)
    return (centres[k] + rng.standard_normal((count, 3)) * 0.3).astype(np.float32), k


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


def test_band_statistics_leave_out_pixels_without_data():
    images = np.random.default_rng(0).standard_normal((2, 5, 5, 3))
    valid = np.ones((2, 5, 5), bool)
    valid[0, :2] = False
    out = band_statistics(images, valid)
    wanted = images[0, 2:].reshape(-1, 3)
    np.testing.assert_allclose(out[0], [*wanted.mean(axis=0), *wanted.std(axis=0)], atol=1e-6)
    assert not band_statistics(images, valid & False).any()


@pytest.mark.parametrize("name, test_split", [("small", "test"), ("small_dominant", "test"), ("small_dominant", "")])
def test_probing_run(run_dir, synthetic_dir, name, test_split):
    config = default_probe_config()
    config.checkpoint = str(run_dir)
    config.data.name = f"synthetic_landsat/{name}"
    config.data.data_dir = str(synthetic_dir)
    config.data.test_split = test_split
    config.data.folds = 3
    config.seeds = (0, 1)
    rows, facts = probe_run.run(config)
    assert [(r.features, r.probe) for r in rows] == [(f, p) for f in ("pretrained", *BASELINES) for p in ("linear", "knn")]
    assert facts["task"] == ("multilabel" if name == "small" else "multiclass")
    for row in rows:
        values = [run["micro_mAP"] for run in row.runs]
        assert row.mean["micro_mAP"] == pytest.approx(np.mean(values))
        assert row.std["micro_mAP"] == pytest.approx(np.std(values, ddof=1))
        assert all(0 <= v <= 1 for r in row.runs for v in r.values())
    bands = {r.probe: r for r in rows if r.features == "band statistics"}
    if not test_split:
        assert bands["knn"].std["accuracy"] > 0  # other folds for other seeds
    saved = json.loads((run_dir / "probes" / f"synthetic_landsat_{name}.json").read_text())
    assert saved["rows"][0]["mean"] == rows[0].mean
    assert "pretrained" in verdict(rows)
    before = (run_dir / "probes" / "results.csv").read_text()
    again, _ = probe_run.run(config)  # from the results file
    assert [row.mean["micro_mAP"] for row in again] == pytest.approx([row.mean["micro_mAP"] for row in rows], abs=1e-6)
    assert (run_dir / "probes" / "results.csv").read_text() == before


def test_probe_script_prints_the_table(run_dir, synthetic_dir):
    command = [sys.executable, "probe.py", "--config=configs/probe_synthetic.py", f"--config.checkpoint={run_dir}"]
    command += [f"--config.data.data_dir={synthetic_dir}", "--config.data.name=synthetic_landsat/small"]
    command += ["--config.data.train_split=train", "--config.data.test_split=test", "--config.seeds=(0,)"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for text in ("pretrained", "random weights", "band statistics", "mAP mic", "knn"):
        assert text in done.stdout
    bad = subprocess.run(command[:2] + command[3:4], cwd=ROOT, capture_output=True, text=True)
    assert bad.returncode != 0
    missing = subprocess.run([*command[:3], "--config.checkpoint=/nowhere"], cwd=ROOT, capture_output=True, text=True)
    assert missing.returncode == 1 and "/nowhere" in missing.stderr and "Traceback" not in missing.stderr


@pytest.mark.parametrize("name", sorted(p.name for p in (ROOT / "configs").glob("probe*.py")))
def test_every_probing_config_is_valid(name):
    spec = importlib.util.spec_from_file_location("config", ROOT / "configs" / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    config.checkpoint = "somewhere"
    validate(config)


@pytest.mark.long
def test_a_run_with_every_other_probe(run_dir, synthetic_dir, tmp_path):
    config = default_probe_config()
    config.checkpoint, config.output = str(run_dir), str(tmp_path)
    config.data.name, config.data.data_dir = "synthetic_landsat/small", str(synthetic_dir)
    config.data.val_split = "val"
    config.linear.C = 0.0
    config.probes, config.baselines, config.seeds = ("linear", "ridge", "finetune"), (), (0,)
    config.finetune.blocks, config.finetune.epochs = 1, 1
    config.label_fractions = (0.25, 1.0)
    rows, facts = probe_run.run(config)
    found = {(row.features, row.probe): row for row in rows}
    assert set(found) == {("pretrained", p) for p in config.probes}
    assert 0 < found["pretrained", "ridge"].mean["r2"] <= 1 and found["pretrained", "ridge"].mean["rmse"] < 0.5  # NDVI
    linear, tuned = found["pretrained", "linear"].mean, found["pretrained", "finetune"].mean
    assert 0.2 < linear["micro_mAP"] <= 1 and abs(tuned["micro_mAP"] - linear["micro_mAP"]) < 0.3
    assert [point["rows"] for point in facts["label_efficiency"]["pretrained"]] == [24, 96]
    assert geomoe.probing.load_probe(next(tmp_path.glob("*.npz"))).coef.shape[0] == 16


def test_a_run_for_changes(run_dir, tmp_path):
    config = default_probe_config()
    config.checkpoint, config.output = str(run_dir), str(tmp_path)
    config.data.name, config.data.pairs = "synthetic_pairs", 64
    config.baselines, config.seeds = ("random weights", "band statistics"), (0,)
    rows, facts = probe_run.run(config)
    assert [row.probe for row in rows] == ["change threshold", "change linear"] * 3
    assert all(0.3 < row.mean["accuracy"] <= 1 for row in rows)
    assert "change linear" in (tmp_path / "results.csv").read_text()
