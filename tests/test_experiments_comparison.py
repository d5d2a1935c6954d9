"""Recipes compared: what is trained and scored, what is taken from the file, and the command that does it all."""

import functools
import json
import types

import ml_collections
import numpy as np
import pytest
from conftest import DATA

from geomoe import data, experiments
from geomoe.cli import recipes as command
from geomoe.experiments import VIEWS, Comparison, Protocol, choose, compare, comparison as module, nested_choice, read_scores
from geomoe.experiments.recipe import Run
from geomoe.experiments.scoring import BASELINES, ViewScore, views_of
from geomoe.pretrained import load

RECIPE = """
from geomoe.training import multi_objective_config


def get_config():
    config = multi_objective_config("tiny")
    config.model.depth, config.model.stage_experts, config.model.decoder_depth = 1, (3,), 1
    config.data.name = "synthetic_landsat/small"
    config.data.val_split = "val"
    config.train.batch_size = 16
    config.log.eval_batches = 1
    config.loss.info_nce_weight = 0.0
    return config
"""


def recipe_config(**options):
    """Of a recipe; only data.data_dir is set."""
    return ml_collections.ConfigDict({"data": {"data_dir": "data"}, **options})


@pytest.fixture
def runs(monkeypatch):
    """Pretraining and scoring that only say what they were asked for."""
    asked = []
    encoder = load(DATA / "reference_tiny_random.pth")

    def pretrain(config, minutes, seed, workdir):
        asked.append(("pretrain", workdir, minutes, seed))
        return Run(60.0 * minutes, 10, 100.0, 0.5)

    class FakeScorer:
        statistics = encoder.statistics

        def __init__(self, encoder, *args):
            asked.append(("scorer", *args[:4]))

        def scores(self, scored, pools):
            asked.append(("scores", "random" if scored is not encoder else "trained", tuple(pools)))
            return [
                ViewScore(pool if isinstance(pool, str) else "+".join(pool), view, 0.5, 0.25, 0.75)
                for pool in pools
                for view in views_of(pool)
            ]

        def baselines(self, seed):
            asked.append(("baselines", seed))
            return {key: ViewScore(key[1], VIEWS[0], 0.1, 0.1, 0.1) for key in BASELINES}

    monkeypatch.setattr(module, "pretrain", pretrain)
    monkeypatch.setattr(module, "Scorer", FakeScorer)
    monkeypatch.setattr(module, "load", lambda workdir: encoder)
    monkeypatch.setattr(module, "_labelled", lambda key, name, *args: f"{name} 0123")
    return asked


def test_only_what_the_file_lacks_is_trained_and_scored(runs, tmp_path):
    comparison = Comparison(3.0, str(tmp_path), "some", "train", "folder", "other", pools=("mean", ("mean", "metadata")))
    recipes = {"a": recipe_config(), "b": recipe_config()}
    scores = compare(recipes, [0, 1], comparison)
    assert recipes["a"].data.data_dir == "folder"
    pools = comparison.pools
    assert runs == [
        ("pretrain", str(tmp_path / "a-3min-0"), 3.0, 0),
        ("scorer", "some", "train", "folder", "other"),
        ("scores", "trained", pools),
        ("scores", "random", pools),
        ("baselines", 0),
        ("pretrain", str(tmp_path / "b-3min-0"), 3.0, 0),
        ("scores", "trained", pools),
        ("pretrain", str(tmp_path / "a-3min-1"), 3.0, 1),
        ("scores", "trained", pools),
        ("scores", "random", pools),
        ("baselines", 1),
        ("pretrain", str(tmp_path / "b-3min-1"), 3.0, 1),
        ("scores", "trained", pools),
    ]
    assert len(scores) == 2 * (3 * 5 + len(BASELINES)) and str(scores) == str(read_scores(comparison.scores_path))
    runs.clear()
    assert str(compare(recipes, [0, 1], comparison)) == str(scores) and not runs
    more = Comparison(3.0, str(tmp_path), "some", "train", "folder", "other", pools=("cls", "mean"))
    rows = compare({"a": recipe_config()}, [0], more)
    assert [r for r in runs if r[0] == "scores"] == [("scores", "trained", ("cls",)), ("scores", "random", ("cls",))]
    assert {row.pool for row in rows if row.minutes} == {"cls", "mean"} and ("baselines", 0) not in runs
    runs.clear()
    compare({"a": recipe_config()}, [0], Comparison(4.0, str(tmp_path), "some", "train", "folder", pools=("cls",)))
    assert [r for r in runs if r[0] == "pretrain"] == [("pretrain", str(tmp_path / "a-4min-0"), 4.0, 0)]


def test_a_torn_pool_is_scored_again_and_counts_once(runs, tmp_path):
    comparison = Comparison(3.0, str(tmp_path), "some", "train", "folder", pools=("mean",))
    path = tmp_path / "scores.csv"
    compare({"a": recipe_config()}, [0], comparison)
    header, *lines = path.read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith("a,") or VIEWS[0] in line]
    path.write_text(header + "".join(kept).replace("0.5,0.25", "0.4,0.2"))  # the other views were never written
    scores = [s for s in compare({"a": recipe_config()}, [0], comparison) if s.recipe == "a"]
    assert [s.view for s in scores] == list(VIEWS) and all(s.micro_mAP == 0.5 for s in scores)
    published = Comparison(3.0, str(tmp_path), "some", "train", "folder", pools=("mean",), nodata="published")
    runs.clear()
    others = compare({"a": recipe_config()}, [0], published)  # none of the file's rows is taken for one of the other mode
    assert ("baselines", 0) in runs and ("scores", "random", ("mean",)) in runs and ("scores", "trained", ("mean",)) in runs
    assert {s.nodata for s in others} == {"published"}
    runs.clear()
    again = compare({"a": recipe_config()}, [0], comparison)  # those of the other mode replace none
    assert not runs and [s for s in again if s.recipe == "a"] == scores
    assert len(again) == len(others) and len(read_scores(path)) == len(again) + len(others)
    with pytest.raises(ValueError, match="nodata = 'dark'"):
        Comparison(3.0, str(tmp_path), "some", "train", "folder", nodata="dark")
    path.write_text("recipe,seed,micro\na,0,0.5\n")
    with pytest.raises(ValueError, match="scores.csv has other columns"):
        compare({"a": recipe_config()}, [0], comparison)


def test_scores_of_another_config_dataset_split_or_transfer_are_not_taken(runs, tmp_path):
    options = dict(minutes=3.0, output=str(tmp_path), dataset="some", split="train", data_dir="folder", pools=("mean",))
    shared = recipe_config(lr=1e-3)
    before = compare({"a": shared, "b": shared}, [0], Comparison(**options))
    assert {(s.dataset, s.split, s.transfer_dataset) for s in before} == {("some 0123", "train", "")}
    for change in (dict(split="val"), dict(dataset="else"), dict(transfer="other"), dict(nodata="published")):
        runs.clear()
        rows = compare({"a": shared, "b": shared}, [0], Comparison(**{**options, **change}))
        asked = [r for r in runs if r[0] in ("scores", "baselines")]
        trained, random = (("scores", which, ("mean",)) for which in ("trained", "random"))
        assert asked == [trained, random, ("baselines", 0), trained] and len(rows) == len(before)
        found = {(s.dataset, s.split, s.transfer_dataset, s.nodata) for s in rows}
        expected = {"dataset": "some", "split": "train", "transfer": "", "nodata": "masked", **change}
        other = f"{expected['transfer']} 0123" if expected["transfer"] else ""
        assert found == {(f"{expected['dataset']} 0123", expected["split"], other, expected["nodata"])}
        runs.clear()
        assert str(compare({"b": shared}, [0], Comparison(**{**options, **change}))) == str(rows) and not runs
    changed = recipe_config(lr=1e-2)
    rows = compare({"a": changed, "b": shared}, [0], Comparison(**options))
    asked = [r for r in runs if r[0] != "scorer"]  # what is not trained depends on no learning rate
    assert asked == [("pretrain", str(tmp_path / "a-3min-0"), 3.0, 0), ("scores", "trained", ("mean",))]
    digests = {recipe: {s.config for s in rows if s.recipe == recipe} for recipe in "ab"}
    assert len(digests["a"]) == len(digests["b"]) == 1 and digests["a"] != digests["b"] and len(rows) == len(before)
    runs.clear()
    again = compare({"b": shared}, [0], Comparison(**options))  # of a recipe that is not asked for: its last config
    assert {str(row) for row in again} == {str(row) for row in rows} and not runs
    back = compare({"a": shared, "b": shared}, [0], Comparison(**options))
    assert {str(row) for row in back} == {str(row) for row in before} and not runs
    free = recipe_config(lr=1e-3, seed=7, log={"every_steps": 1}, train={"num_steps": 5})  # changes nothing of a result
    assert {str(row) for row in compare({"a": free}, [0], Comparison(**options))} == {str(row) for row in before} and not runs
    other = Comparison(**options, protocol=Protocol(folds=3))
    assert {row.protocol for row in compare({"a": shared}, [0], other)}.isdisjoint({row.protocol for row in before})
    assert ("scores", "trained", ("mean",)) in runs and ("baselines", 0) in runs
    runs.clear()
    deep = recipe_config(lr=1e-3, model={"depth": 2})
    compare({"b": shared, "deep": deep}, [0], Comparison(**options))
    assert [r for r in runs if r[0] != "scorer"] == [("pretrain", str(tmp_path / "deep-3min-0"), 3.0, 0), trained]
    runs.clear()
    compare({"deep": deep, "b": shared}, [0], Comparison(**options))  # random weights are those of the first recipe
    assert [r[:2] for r in runs if r[0] != "scorer"] == [
        ("pretrain", str(tmp_path / "deep-3min-0")),
        ("scores", "random"),
        ("baselines", 0),
    ]


def test_the_run_of_another_config_is_not_taken(runs, tmp_path, monkeypatch):
    """Its folder is named before anything is trained; seed and steps are those that the comparison set."""
    stored = {"data": {"data_dir": "elsewhere"}, "seed": 1, "train": {"num_steps": 7}, "optimizer": {"lr": 0.25}}
    folder = tmp_path / "b-3min-1"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({}))
    monkeypatch.setattr(module, "read_run", lambda workdir: {"config": stored})
    comparison = Comparison(3.0, str(tmp_path), "some", "train", "folder", pools=("mean",))
    with pytest.raises(ValueError, match=r"b-3min-1 holds a run of another config .*--output.* optimizer.lr: 0.25 -> 0.5$"):
        compare({"a": recipe_config(), "b": recipe_config(optimizer={"lr": 0.5})}, [0, 1], comparison)
    assert not runs
    compare({"a": recipe_config(), "b": recipe_config(optimizer={"lr": 0.25})}, [0, 1], comparison)
    assert ("pretrain", str(folder), 3.0, 1) in runs


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan"), float("inf")])
def test_minutes_are_above_0(minutes):
    with pytest.raises(ValueError, match=f"minutes = {minutes} must be a finite number above 0"):
        Comparison(minutes, "out", "some", "train", "folder")


@pytest.mark.parametrize("pool", ["tokens", "middle"])
def test_a_pool_gives_one_vector(pool):
    with pytest.raises(ValueError, match=f"pool = '{pool}'"):
        Comparison(3.0, "out", "some", "train", "folder", pools=("mean", pool))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(dataset="nope"), "dataset = 'nope': unknown dataset 'nope'"),
        (dict(dataset="eurosat_landsat"), "dataset = 'eurosat_landsat': eurosat_landsat is not prepared"),
        (dict(split="trian"), "dataset = 'synthetic_landsat/small': synthetic_landsat has no split 'trian'; it has "),
        (dict(split="train[500:]"), "dataset = 'synthetic_landsat/small': "),
        (dict(split="train[x"), "dataset = 'synthetic_landsat/small': "),
        (dict(split="train[:4]"), "dataset = 'synthetic_landsat/small': split 'train.:4.' has 4 patches, fewer than 5"),
        (dict(transfer="nope"), "transfer = 'nope': unknown dataset 'nope'"),
        (dict(transfer="landsat_folder/bare"), "transfer = 'landsat_folder/bare': it was prepared without labels"),
    ],
)
def test_what_is_scored_on_is_checked_before_training(change, message, synthetic_dir, tmp_path, monkeypatch):
    for name in ("pretrain", "load"):
        monkeypatch.setattr(module, name, lambda *args: pytest.fail("trained first"))
    bare = types.SimpleNamespace(info=types.SimpleNamespace(metadata={"task": "none"}))
    builder = data.builder
    monkeypatch.setattr(data, "builder", lambda name, *args: bare if name.endswith("/bare") else builder(name, *args))
    options = dict(minutes=3.0, output=str(tmp_path), dataset="synthetic_landsat/small", split="train")
    comparison = Comparison(**{**options, "data_dir": str(synthetic_dir), **change})
    with pytest.raises(ValueError, match=f"^{message}"):
        compare({"a": recipe_config()}, [0], comparison)


def test_datasets_are_told_apart_by_their_records(synthetic_dir):
    small, dominant = (f"synthetic_landsat/{name}" for name in ("small", "small_dominant"))
    on = Comparison(3.0, "out", small, "val", str(synthetic_dir), dominant).scored_on()
    starts = [data.fingerprint(data.builder(name, synthetic_dir))[:12] for name in (small, dominant)]
    assert starts[0] != starts[1] and on["dataset"] == f"{small}/1.0.0 {starts[0]}" and on["split"] == "val"
    assert on["transfer_dataset"] == f"{dominant}/1.0.0 {starts[1]}" and on["nodata"] == "masked"


def test_two_recipe_files_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r"old/a.py and new/a.py are both named a, and a recipe is named after its file"):
        command.main(["old/a.py", "b.py", "new/a.py"])


def test_a_choice_is_among_every_recipe_and_pool(monkeypatch, tmp_path):
    z = {name: np.random.default_rng(i).standard_normal((40, 3)) for i, name in enumerate("ab")}
    labels = (z["b"] > 0).astype(int)
    monkeypatch.setattr(module, "load", lambda folder: folder)
    patches = types.SimpleNamespace(labels=labels, view=lambda view: (view, [], None))
    monkeypatch.setattr(module, "load_patches", lambda encoder, *args, nodata: patches)

    def embed_pools(folder, view, fields, valid, pools):
        assert view == VIEWS[0]
        name = folder.rsplit("/", 1)[1].split("-")[0]
        assert folder == str(tmp_path / f"{name}-3min-5")
        return {"mean": z[name], "mean+metadata": z[name][:, :1]}

    monkeypatch.setattr(module, "embed_pools", embed_pools)
    choice = choose(["a", "b"], 5, Comparison(3.0, str(tmp_path), "some", "train", "folder"))
    expected = {f"{name}, {pool}": z[name][:, :w] for name in "ab" for pool, w in (("mean", 3), ("mean+metadata", 1))}
    assert choice == nested_choice(expected, labels) and choice.counts == {"b, mean": 15}


@pytest.mark.long
def test_the_command_pretrains_scores_and_writes_the_table(synthetic_dir, tmp_path, monkeypatch):
    files = [tmp_path / "one.py", tmp_path / "two.py"]
    for file in files:
        file.write_text(RECIPE)
    table = tmp_path / "table.md"
    flags = ["--dataset", "synthetic_landsat/small", "--data_dir", str(synthetic_dir), "--transfer", "synthetic_landsat/small"]
    arguments = [*map(str, files), "--minutes", "0.005", "--seeds", "0", "--output", str(tmp_path / "out"), "--pools", "mean"]
    arguments += ["stages+metadata", "--nested", "--markdown", str(table), *flags]
    short = functools.partial(Comparison, protocol=Protocol(strengths=(0.1,), folds=3, seeds=(0,)))
    monkeypatch.setattr(experiments, "Comparison", short)
    command.main(arguments)
    scores = read_scores(str(tmp_path / "out" / "scores.csv"))
    rows = {(s.recipe, s.pool, s.view) for s in scores if s.minutes}
    for recipe in ("one", "two"):
        assert {(recipe, "mean", view) for view in VIEWS} <= rows
        assert (recipe, "stages+metadata", VIEWS[1]) not in rows
    untrained = {s.recipe for s in scores if not s.minutes}
    assert untrained == {"random weights", *(name for name, _ in BASELINES)}
    assert all(0 < s.micro_mAP <= 1 and 0 < s.macro_mAP <= 1 for s in scores)
    trained = [s for s in scores if s.minutes]
    assert all(s.steps >= 1 and s.images_per_second > 0 and 0 <= s.least_used_expert <= 1 for s in trained)
    assert "| one | 0.005 | 1 | mean | " in table.read_text() and "Chosen by nested folds" in table.read_text()
    monkeypatch.setattr(module, "pretrain", lambda *args: pytest.fail("trained again what the file has"))
    command.main([argument for argument in arguments if argument != "--nested"])
    assert "| two |" in table.read_text() and "Chosen" not in table.read_text()
    files[1].write_text(RECIPE.replace("batch_size = 16", "batch_size = 8"))
    with pytest.raises(ValueError, match="two-0.005min-0 holds a run of another config.* train.batch_size: 16 -> 8"):
        command.main(arguments)
    with pytest.raises(FileNotFoundError, match="there is no recipe nowhere.py"):
        command.main(["nowhere.py", *arguments[2:]])
