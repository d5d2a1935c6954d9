"""Probing runs from config to tables."""

import copy
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import DATA, PTH, ROOT, finish, start_script
from geotiffs import pixels, write_tif

from geomoe import data, probing
from geomoe.data import synthetic
from geomoe.data.builders import LandsatFolder, SyntheticConfig, SyntheticLandsat
from geomoe.pretrained import load
from geomoe.probing import ProbeResult, default_probe_config, embed_split, load_probe, run as probe_run
from geomoe.probing.config import BASELINES
from geomoe.probing.data import groups_of
from geomoe.probing.results import Results
from geomoe.probing.tables import verdict

FACTS = dict(class_names=synthetic.CLASSES, task="multilabel", description="")
SIZES = {"train": 96, "val": 32, "test": 48}


@pytest.mark.parametrize("name, test_split", [("small", "test"), ("small_dominant", "")])
def test_probing_run(run_dir, synthetic_dir, name, test_split):
    config = default_probe_config()
    config.checkpoint = str(run_dir)
    config.data.name = f"synthetic_landsat/{name}"
    config.data.data_dir = str(synthetic_dir)
    config.data.test_split = test_split
    config.data.folds = 5 if test_split else 3
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


@pytest.mark.parametrize("splits", [("train", "", "train[:5]"), ("train[:50]", "test[-3:]", "test"), ("train[:5]", "", "bad")])
def test_patches_that_are_fitted_on_are_not_scored(run_dir, synthetic_dir, splits):
    config = default_probe_config()
    config.checkpoint = str(run_dir)
    config.data.update(name="synthetic_landsat/small", data_dir=str(synthetic_dir))
    config.data.update(train_split=splits[0], val_split=splits[1], test_split=splits[2])
    shared = {
        "train[:5]": "5 patches of .*'train' as well",
        "test": r"3 patches of .*'test\[-3:\]' as well",
        "bad": "no split 'bad'",
    }
    with pytest.raises(ValueError, match=shared[splits[2]]):
        probe_run.run(config)


def test_corrected_labels_are_scored_anew(encoder, tmp_path, monkeypatch):
    """A dataset prepared again under its name with other labels, as many; and what was stored for the same records stays."""
    config = default_probe_config()
    config.checkpoint, config.output = str(PTH), str(tmp_path / "out")
    config.data.name, config.data.data_dir = "synthetic_landsat/own", str(tmp_path / "data")
    config.baselines, config.seeds, config.probes, config.resamples = (), (0,), ("knn",), 0
    counts = {"train": 24, "test": 24}

    def scores(dominant):
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        own = SyntheticConfig(name="own", counts=counts, dominant=dominant)
        SyntheticLandsat(config=own, data_dir=tmp_path / "data").download_and_prepare()
        return probe_run.run(config)[0][0].mean["micro_mAP"]

    fits = []
    knn_probe = probe_run.knn_probe
    monkeypatch.setattr(probe_run, "knn_probe", lambda *args, **options: fits.append(1) or knn_probe(*args, **options))
    monkeypatch.setattr(SyntheticLandsat, "facts", lambda self: FACTS)  # one task for both
    first = scores(False)
    assert scores(False) == pytest.approx(first) and len(fits) == 1
    assert scores(True) != pytest.approx(first) and len(fits) == 2


@pytest.mark.long
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


@pytest.mark.long
def test_two_processes_score_as_one(run_dir, synthetic_dir, tmp_path, free_port):
    """The first prints and writes; each of both computes features."""
    config = ["--config=configs/probe_synthetic.py", f"--config.checkpoint={run_dir}", "--config.data.val_split=val"]
    config += [f"--config.data.data_dir={synthetic_dir}", "--config.data.name=synthetic_landsat/small", "--config.seeds=(0,)"]
    config += ["--config.data.train_split=train", "--config.data.test_split=test"]
    alone = start_script(["probe.py", *config, f"--config.output={tmp_path / 'one'}"])
    together = [f"--coordinator=localhost:{free_port}", "--num_processes=2"]
    two = [f"--config.output={tmp_path / 'two'}", *together]
    outputs = finish(alone, *(start_script(["probe.py", *config, *two, f"--process_id={i}"]) for i in (0, 1)))
    assert "mAP mic" in outputs[0][0] and "mAP mic" in outputs[1][0] and "mAP" not in outputs[2][0]
    one, both = (Results(tmp_path / name / "results.csv").read() for name in ("one", "two"))
    assert set(one) == set(both) and len(one) >= 6
    for key, scores in one.items():
        assert both[key].metrics == pytest.approx(scores.metrics, abs=1e-6), key


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
    assert load_probe(next(tmp_path.glob("*.npz"))).coef.shape[0] == 16


def test_a_run_for_changes(run_dir, tmp_path):
    config = default_probe_config()
    config.checkpoint, config.output = str(run_dir), str(tmp_path)
    config.data.name, config.data.pairs = "synthetic_pairs", 64
    config.baselines, config.seeds = ("random weights", "band statistics"), (0,)
    rows, facts = probe_run.run(config)
    assert [row.probe for row in rows] == ["change threshold", "change linear"] * 3
    assert all(0.3 < row.mean["accuracy"] <= 1 for row in rows)
    assert "change linear" in (tmp_path / "results.csv").read_text()


@pytest.fixture
def calls(monkeypatch):
    """Every probe that a run fits, with the rows and options that it is given; it scores by the number of the call."""
    made = []

    def recorder(probe):
        def record(train, test, **options):
            made.append((probe, train, test, options))
            metrics = {"accuracy": len(made) / 100, "micro_mAP": len(made) / 100, "r2": 0.5, "average_precision": 0.5}
            return ProbeResult(metrics, np.zeros(0), np.zeros(0), {}, {"micro_mAP": (0.1, 0.2)})

        return record

    for probe in ("linear_probe", "knn_probe", "ridge_probe", "finetune", "change_probe"):
        monkeypatch.setattr(probe_run, probe, recorder(probe))
    return made


@pytest.fixture
def config(synthetic_dir, tmp_path):
    config = default_probe_config()
    config.checkpoint, config.output = str(DATA / "reference_tiny_random.pth"), str(tmp_path)
    config.data.name, config.data.data_dir = "synthetic_landsat/small", str(synthetic_dir)
    config.seeds, config.baselines, config.probes = (0, 3), (), ("linear",)
    return config


def test_random_weights_are_tuned_from_random_weights_of_each_seed(config, calls):
    config.probes, config.baselines = ("finetune",), ("random weights",)
    probe_run.run(config)
    encoders = [options["encoder"].fingerprint for *_, options in calls]
    assert encoders[0] == encoders[1] == load(config.checkpoint).fingerprint and len(set(encoders)) == 3


def test_probes_are_given_the_rows_of_their_splits_and_seeds(config, calls):
    config.probes, config.data.val_split, config.data.train_fraction = ("linear", "knn", "ridge", "finetune"), "val", 0.25
    config.linear.C, config.knn.k, config.finetune.blocks, config.resamples = 0.0, 3, 1, 7
    rows, _ = probe_run.run(config)
    assert [probe for probe, *_ in calls] == [
        name for name in ("linear_probe", "knn_probe", "ridge_probe", "finetune") for _ in config.seeds
    ]
    encoder = load(config.checkpoint)
    splits = {name: embed_split({"z": encoder}, config.data.name, name, data_dir=config.data.data_dir) for name in SIZES}
    for i, (probe, train, test, options) in enumerate(calls):
        seed = config.seeds[i % 2]
        index = np.random.default_rng(seed).permutation(96)[:24]
        assert options["resamples"] == 7
        if probe == "finetune":
            np.testing.assert_array_equal(train["labels"], splits["train"].labels[index])
            assert len(test["labels"]) == 48 and len(options["val"]["labels"]) == 32
            assert options["blocks"] == 1 and options["seed"] == seed
            continue
        np.testing.assert_allclose(train[0], splits["train"].sets["z"][index], atol=2e-5)
        np.testing.assert_allclose(test[0], splits["test"].sets["z"], atol=2e-5)
        y = {name: s.targets["ndvi"] if probe == "ridge_probe" else s.labels for name, s in splits.items()}
        np.testing.assert_allclose(train[1], y["train"][index], atol=1e-6)
        np.testing.assert_allclose(test[1], y["test"], atol=1e-6)
        if probe == "knn_probe":
            assert options["k"] == 3 and "val" not in options
        else:
            np.testing.assert_allclose(options["val"][1], y["val"], atol=1e-6)
    assert calls[0][3]["C"] == "sweep" and calls[1][3]["seed"] == 3
    assert [row.task for row in rows] == ["multilabel", "multilabel", "regression", "multilabel"]
    assert rows[0].runs[0]["micro_mAP"] == 0.01 and rows[0].intervals == {"micro_mAP": (0.1, 0.2)}


def test_changes_are_learned_from_the_first_half_of_the_pairs(config, calls):
    config.data.name, config.data.pairs, config.baselines, config.seeds = "synthetic_pairs", 11, ("band statistics",), (3,)
    config.probes = default_probe_config().probes
    rows, facts = probe_run.run(config)
    methods = [(probe, options["method"]) for probe, _, _, options in calls]
    assert methods == [("change_probe", "threshold"), ("change_probe", "linear")] * 2
    changed = synthetic.change_pairs(3, 11)["changed"]
    for _, train, test, _ in calls:
        np.testing.assert_array_equal(train[2], changed[:5])
        np.testing.assert_array_equal(test[2], changed[5:])
        assert len(train[0]) == len(train[1]) == 5 and len(test[0]) == len(test[1]) == 6
    assert (facts["train"], facts["test"]) == (5, 6) and {row.task for row in rows} == {"change"}


def test_a_protocol_reaches_the_probes(config, calls):
    config.protocol, config.probes = "torchgeo_bench", ("linear", "knn")
    probe_run.run(config)
    assert all(options["protocol"] == "torchgeo_bench" and "C" not in options for *_, options in calls)


def test_the_saved_probe_is_that_of_the_result_beside_it(run_dir, synthetic_dir, tmp_path):
    """Also where the result is taken from an earlier run: another run may have written its probe there, or none is there."""
    config = default_probe_config()
    config.checkpoint, config.output = str(run_dir), str(tmp_path)
    config.data.name, config.data.data_dir = "synthetic_landsat/small", str(synthetic_dir)
    config.probes, config.baselines, config.seeds, config.resamples = ("linear",), (), (0,), 0
    path, found = tmp_path / "synthetic_landsat_small_linear.npz", {}
    for C in (1.0, 1e-4, 1.0, None):
        if C is None:
            path.unlink()
        else:
            config.linear.C = C
        probe_run.run(config)
        model = load_probe(path)
        assert model.C == config.linear.C
        np.testing.assert_array_equal(found.setdefault(model.C, model.coef), model.coef)
    assert len(Results(tmp_path / "results.csv").read()) == 2  # one row of each, whatever was fitted again


def test_results_are_taken_for_their_own_key_alone(config, calls, monkeypatch):
    config.save_probe = False
    probe_run.run(config)
    assert len(calls) == 2
    rows, _ = probe_run.run(config)
    assert len(calls) == 2 and [run["micro_mAP"] for run in rows[0].runs] == [0.01, 0.02]
    changes = [
        {"pool": "cls"},
        {"pool": ("mean", "metadata")},
        {"data.drop": ("lat",)},
        {"data.nodata": "published"},
        {"data.train_fraction": 0.5},
        {"data.val_split": "val"},
        {"data.test_split": "val"},
        {"linear.C": 0.1},
        {"linear.standardise": True},
        {"seeds": (4, 5)},
        {"protocol": "landsat_bench"},
        {"data.name": "synthetic_landsat/small_dominant"},
    ]
    for number, change in enumerate(changes, start=1):
        other = copy.deepcopy(config)
        with other.unlocked():
            other.update_from_flattened_dict(change)
        probe_run.run(other)
        assert len(calls) == 2 + 2 * number, change
    encoder = load(config.checkpoint)
    retrained = encoder.random_weights(0)
    retrained.source = encoder.source  # another run in the same folder
    monkeypatch.setattr(probe_run, "load", lambda *args: retrained)
    probe_run.run(config)
    assert len(calls) == 4 + 2 * len(changes)
    config.resume = False
    probe_run.run(config)
    assert len(calls) == 6 + 2 * len(changes)


def test_folds_are_drawn_as_the_config_says(config, monkeypatch, tmp_path):
    """The rows of each fold, by locations, names and labels read apart; other seeds draw others."""
    seen = []

    def record(x, y, *, folds, **options):
        seen.append(folds)
        return ProbeResult({"micro_mAP": 0.5}, np.zeros(0), np.zeros(0), {}, {})

    monkeypatch.setattr(probe_run, "cross_validate", record)
    rows = embed_split({"z": load(config.checkpoint)}, config.data.name, "train", data_dir=config.data.data_dir)
    table = tmp_path / "sites.csv"
    table.write_text("site,id,note\n" + "".join(f"s{i % 7},{name},x\n" for i, name in enumerate(rows.ids)))
    where = rows.targets["latitude"], rows.targets["longitude"]
    groups = np.arange(96) % 7
    config.data.test_split, config.data.folds = "", 3
    tables = []
    for changes, expected in (
        ({"splits": "random"}, [probing.random_folds(96, 3, seed) for seed in (0, 3)]),
        ({"splits": "stratified"}, [probing.stratified_folds(rows.labels, 3, seed) for seed in (0, 3)]),
        (
            {"splits": "spatial", "block_km": 900.0, "buffer_km": 100.0},
            [probing.spatial_folds(*where, 3, seed, block_km=900.0, buffer_km=100.0) for seed in (0, 3)],
        ),
        ({"splits": "group", "group": f"{table}:site"}, [probing.group_folds(groups, 3, seed) for seed in (0, 3)]),
    ):
        changed = copy.deepcopy(config)
        changed.data.update(changes)
        seen.clear()
        _, facts = probe_run.run(changed)
        assert len(seen) == 2
        for folds, theirs in zip(seen, expected):
            assert [(a.tolist(), b.tolist()) for a, b in folds] == [(a.tolist(), b.tolist()) for a, b in theirs]
        tables.append(facts["splits"])
    assert tables == ["random folds", "stratified folds", "spatial blocks of 900 km, buffer 100 km", f"groups by {table}:site"]
    files = sorted(path.name for path in tmp_path.glob("*.json"))
    assert files == [f"synthetic_landsat_small{kind}.json" for kind in ("", "_group", "_random", "_spatial")]


def test_groups_of_patches_by_their_names(tmp_path):
    names = ["S2A_2017_73_7", "S2A_2017_82_79", "S2B_2018_3_4"]
    assert groups_of(names, "scene") == ["S2A_2017", "S2A_2017", "S2B_2018"]
    assert groups_of(["a/b/1", "a/b/2", "c/1"], "folder") == ["a/b", "a/b", "c"]
    (tmp_path / "sites.csv").write_text("id,label,site\nx,1,north\ny,2,\n")
    group = f"{tmp_path}/sites.csv:site"
    assert groups_of(["x", "x"], group) == ["north", "north"]
    (tmp_path / "twice.csv").write_text("id,site\nx,north\nx,north\nx,south\n")
    with pytest.raises(ValueError, match="gives 'x' two groups, 'north' and 'south'"):
        groups_of(["x"], f"{tmp_path}/twice.csv:site")
    for ids, given, message in (
        (["x", "y", "z"], group, "gives 2 of 3 patches no group, as 'y'"),
        (["S2A_1_2", "plain"], "scene", "gives 1 of 2 patches no group, as 'plain'"),
        (["plain"], "folder", "gives 1 of 1 patches no group, as 'plain'"),
        (["x"], f"{tmp_path}/sites.csv:place", "sites.csv has no column 'place'; it has id, label, site"),
    ):
        with pytest.raises(ValueError, match=message):
            groups_of(ids, given)


def test_baselines_are_fitted_on_features_of_their_own(config, calls):
    config.baselines, config.seeds = BASELINES, (0,)
    rows, _ = probe_run.run(config)
    features = [call[1][0] for call in calls]
    assert [row.features for row in rows] == ["pretrained", *BASELINES]
    assert [x.shape[1] for x in features] == [16, 16, 14, 256]
    encoder = load(config.checkpoint).random_weights(1000)
    random = embed_split({"z": encoder}, config.data.name, "train", data_dir=config.data.data_dir).sets["z"]
    np.testing.assert_allclose(np.sort(features[1], axis=0), np.sort(random, axis=0), atol=2e-5)


def test_a_run_z_scores_by_the_statistics_of_its_training_split_where_asked(encoder, synthetic_dir, tmp_path):
    config = default_probe_config()
    config.checkpoint, config.output = str(PTH), str(tmp_path)
    config.data.name, config.data.data_dir = "synthetic_landsat/small", str(synthetic_dir)
    config.baselines, config.seeds, config.probes, config.resamples = ("band statistics",), (0,), ("linear",), 0
    by_encoder, facts = probe_run.run(config)
    assert facts["statistics"] == dict(encoder.statistics)
    config.data.statistics = "computed"
    rows, facts = probe_run.run(config)
    own = data.compute_statistics("synthetic_landsat/small", "train", synthetic_dir)
    assert facts["statistics"] == dict(own)
    options = dict(data_dir=synthetic_dir, resize_mode="centre_crop", statistics=own)
    train, test = (embed_split({"a": encoder}, config.data.name, split, **options) for split in ("train", "test"))
    pairs = [(split.sets["a"], split.labels) for split in (train, test)]
    result = probing.linear_probe(*pairs, task="multilabel", resamples=0)
    assert rows[0].mean["micro_mAP"] == pytest.approx(result.metrics["micro_mAP"], abs=1e-4)
    assert rows[0].mean["micro_mAP"] != by_encoder[0].mean["micro_mAP"]
    table = (tmp_path / "results.csv").read_text()
    assert own.source in table and encoder.statistics.source in table
    saved = load_probe(tmp_path / "synthetic_landsat_small_linear.npz")
    assert saved.info["input"]["statistics"] == dict(own)
    config.data.clip, config.data.drop = (1, 20000), ("lat",)
    probe_run.run(config)
    read = {"clip": [1, 20000], "drop": ["lat"], "hour": "utc", "resize_mode": "centre_crop"}
    info = load_probe(tmp_path / "synthetic_landsat_small_linear.npz").info
    assert info["data"] == read and info["input"]["resize_mode"] == "centre_crop"
    config.data.statistics = "mine"
    with pytest.raises(ValueError, match="config.data.statistics = 'mine' is not one of encoder, computed"):
        probe_run.run(config)
    config.probes, config.data.clip = default_probe_config().probes, ()
    config.data.statistics, config.data.name = "computed", "synthetic_pairs"
    with pytest.raises(ValueError, match="'computed' is for prepared datasets"):
        probe_run.run(config)


def test_patches_without_data_do_not_end_fine_tuning(tmp_path):
    """Of one patch the middle, which the model is given, holds no data: it is left out, as there is nothing to learn from."""
    rows = []
    for i in range(10):
        image = pixels(seed=i, size=(12, 12))
        image[2:10, 2:10] *= i != 3
        write_tif(tmp_path / "in" / f"p{i}.tif", image)
        rows.append(f"p{i},{'ab'[i % 2]},{'train' if i < 6 else 'test'}\n")
    (tmp_path / "labels.csv").write_text("id,label,split\n" + "".join(rows))
    LandsatFolder(source=tmp_path / "in", labels=tmp_path / "labels.csv", data_dir=tmp_path / "d").download_and_prepare()
    config = default_probe_config()
    config.checkpoint, config.output = str(PTH), str(tmp_path / "out")
    config.data.name, config.data.data_dir, config.probes = "landsat_folder", str(tmp_path / "d"), ("finetune",)
    config.baselines, config.seeds, config.finetune.epochs, config.resamples = (), (0,), 1, 0
    rows, facts = probe_run.run(config)
    assert facts["train"] == 6 and 0 <= rows[0].mean["accuracy"] <= 1
