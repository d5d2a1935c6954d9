"""Recipes compared: what is trained and scored, what is taken from the file, and the command that does it all."""

import contextlib
import functools
import types

import numpy as np
import pytest
from conftest import DATA

from geomoe import experiments
from geomoe.cli import recipes as command
from geomoe.experiments import (
    VIEWS,
    Comparison,
    Protocol,
    Score,
    choose,
    compare,
    comparison as module,
    nested_choice,
    read_scores,
)
from geomoe.experiments.recipe import Run
from geomoe.experiments.scoring import BASELINES, ViewScore, views_of
from geomoe.pretrained import load
from geomoe.probing.results import RowFile

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


class Config:
    """Of a recipe; only data.data_dir is set."""

    def __init__(self):
        self.data = types.SimpleNamespace()

    def unlocked(self):
        return contextlib.nullcontext()


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
    return asked


def test_only_what_the_file_lacks_is_trained_and_scored(runs, tmp_path):
    comparison = Comparison(3.0, str(tmp_path), "some", "train", "folder", "other", pools=("mean", ("mean", "metadata")))
    recipes = {"a": Config(), "b": Config()}
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
    rows = compare({"a": Config()}, [0], more)
    assert [r for r in runs if r[0] == "scores"] == [("scores", "trained", ("cls",)), ("scores", "random", ("cls",))]
    assert {row.pool for row in rows if row.minutes} == {"cls", "mean"} and ("baselines", 0) not in runs
    runs.clear()
    compare({"a": Config()}, [0], Comparison(4.0, str(tmp_path), "some", "train", "folder", pools=("cls",)))
    assert [r for r in runs if r[0] == "pretrain"] == [("pretrain", str(tmp_path / "a-4min-0"), 4.0, 0)]


def test_a_torn_pool_is_scored_again_and_counts_once(runs, tmp_path):
    comparison = Comparison(3.0, str(tmp_path), "some", "train", "folder", pools=("mean",))
    path = tmp_path / "scores.csv"
    row = Score("a", 0, 3.0, "masked", 1.0, 2, 3.0, 0.5, "mean", VIEWS[0], 0.4, 0.3, 0.2)
    RowFile(path, Score).append([row])  # the other views were never written
    scores = [s for s in compare({"a": Config()}, [0], comparison) if s.recipe == "a"]
    assert [s.view for s in scores] == list(VIEWS) and all(s.micro_mAP == 0.5 for s in scores)
    published = Comparison(3.0, str(tmp_path), "some", "train", "folder", pools=("mean",), nodata="published")
    runs.clear()
    others = compare({"a": Config()}, [0], published)  # none of the file's rows is taken for one of the other mode
    assert ("baselines", 0) in runs and ("scores", "random", ("mean",)) in runs and ("scores", "trained", ("mean",)) in runs
    assert {s.nodata for s in others} == {"published"}
    runs.clear()
    again = compare({"a": Config()}, [0], comparison)  # those of the other mode replace none
    assert not runs and [s for s in again if s.recipe == "a"] == scores
    assert len(again) == len(others) and len(read_scores(path)) == len(again) + len(others)
    with pytest.raises(ValueError, match="nodata = 'dark'"):
        Comparison(3.0, str(tmp_path), "some", "train", "folder", nodata="dark")
    path.write_text("recipe,seed,micro\na,0,0.5\n")
    with pytest.raises(ValueError, match="scores.csv has other columns"):
        compare({"a": Config()}, [0], comparison)


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
    data = ["--dataset", "synthetic_landsat/small", "--data_dir", str(synthetic_dir), "--transfer", "synthetic_landsat/small"]
    arguments = [*map(str, files), "--minutes", "0.005", "--seeds", "0", "--output", str(tmp_path / "out"), "--pools", "mean"]
    arguments += ["stages+metadata", "--nested", "--markdown", str(table), *data]
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
    with pytest.raises(FileNotFoundError, match="there is no recipe nowhere.py"):
        command.main(["nowhere.py", *arguments[2:]])
