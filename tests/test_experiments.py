"""Recipes compared: the protocol against scikit-learn, and the command from recipe files to a table."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from geomoe import experiments
from geomoe.cli import recipes
from geomoe.probing.protocols import folds

RECIPE = """
from geomoe.training import multi_objective_config


def get_config():
    config = multi_objective_config("tiny")
    config.model.depth, config.model.stage_experts, config.model.decoder_depth = 1, (3,), 1
    config.data.name = "synthetic_landsat/small"
    config.data.val_split = "val"
    config.train.batch_size = 16
    config.log.eval_batches = 1
    config.loss.info_nce_weight = {contrast}
    return config
"""


def test_the_protocol_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 5))
    labels = (x @ rng.standard_normal((5, 4)) + rng.standard_normal((60, 4)) > [0, 0.2, 0.5, 0]).astype(int)
    labels[np.flatnonzero(labels[:, 3])[5:], 3] = 0  # too few to count in the macro average
    assert labels.sum(axis=0)[3] < experiments.MIN_POSITIVES <= labels.sum(axis=0)[2]
    best = None
    for strength in (0.01, 0.1, 1.0):
        micro, macro = [], []
        for seed in (0, 1, 2):
            scores = np.zeros(labels.shape)
            for part in folds(labels, 5, seed):
                rest = np.setdiff1d(np.arange(60), part)
                one = LogisticRegression(C=strength, tol=1e-8, max_iter=1000)
                model = make_pipeline(StandardScaler(), OneVsRestClassifier(one))
                scores[part] = model.fit(x[rest], labels[rest]).predict_proba(x[part])
            micro.append(average_precision_score(labels, scores, average="micro"))
            macro.append(average_precision_score(labels[:, :3], scores[:, :3], average="macro"))
        if best is None or np.mean(micro) > best[0]:
            best = np.mean(micro), np.mean(macro)
    np.testing.assert_allclose(experiments.cross_validated(x, labels), best, atol=2e-3)


def test_a_nested_choice_is_scored_on_rows_without_part_in_it():
    """Among useless features chance finds none that scores; a telling one is taken every time."""
    rng = np.random.default_rng(1)
    labels = (rng.random((60, 3)) < 0.4).astype(int)
    noise = {f"noise {i}": rng.standard_normal((60, 4)) for i in range(6)}
    micro, _, chosen = experiments.nested_choice(noise, labels)
    best = max(experiments.cross_validated(z, labels)[0] for z in noise.values())
    assert micro < best and sum(chosen.values()) == 15
    telling = {**noise, "telling": labels + 0.3 * rng.standard_normal((60, 3))}
    micro, macro, chosen = experiments.nested_choice(telling, labels)
    assert chosen == {"telling": 15} and micro > 0.95 and macro > 0.95


def test_recipes_become_a_table_and_go_on(synthetic_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(experiments, "FOLD_SEEDS", (0,))
    files = []
    for name, contrast in (("with", 1.0), ("without", 0.0)):
        files.append(tmp_path / f"{name}.py")
        files[-1].write_text(RECIPE.format(contrast=contrast))
    table = tmp_path / "table.md"
    data = ["--dataset", "synthetic_landsat/small", "--data_dir", str(synthetic_dir), "--transfer", "synthetic_landsat/small"]
    command = [*map(str, files), "--minutes", "0.005", "--seeds", "0", "--output", str(tmp_path / "out"), "--pools", "mean"]
    command += ["stages+metadata", "--nested", "--markdown", str(table), *data]
    recipes.main(command)
    scores = experiments.read_scores(tmp_path / "out" / "scores.csv")
    made = {(s.recipe, s.pool, s.view) for s in scores if s.minutes}
    for recipe in ("with", "without"):
        assert {(recipe, "mean", view) for view in experiments.VIEWS} <= made
        assert (recipe, "stages+metadata", experiments.VIEWS[1]) not in made
    untrained = {s.recipe for s in scores if not s.minutes}
    assert untrained == {"random weights", "band statistics", "random convolutional features", "place and time alone"}
    assert all(0 < s.micro <= 1 and 0 < s.macro <= 1 for s in scores)
    trained = [s for s in scores if s.minutes]
    assert all(s.steps >= 1 and s.images_per_second > 0 and 0 <= s.least_used_expert <= 1 for s in trained)
    assert "| with | 0.005 | 1 | mean | " in table.read_text() and "Chosen by nested folds" in table.read_text()
    table.write_text(f"# Ours\n\nbefore\n{experiments.BEGIN}\nstale\n{experiments.END}\nafter\n")
    monkeypatch.setattr(experiments, "pretrain", lambda *args: pytest.fail("trained again what the file has"))
    recipes.main([argument for argument in command if argument != "--nested"])
    written = table.read_text()
    assert written.startswith("# Ours\n\nbefore\n") and written.endswith("\nafter\n")
    assert "stale" not in written and "| with |" in written
    monkeypatch.undo()
    start = command.index("mean")
    recipes.main([*command[:start], "unit_mean", *command[start + 2 :]])  # of the runs that are there
    written = table.read_text()
    assert "| with | 0.005 | 1 | unit_mean | " in written and "| mean |" not in written and "| band statistics |" in written
    assert len(experiments.read_scores(tmp_path / "out" / "scores.csv")) == len(scores) + 9
    table.write_text("nothing to put it between")
    with pytest.raises(ValueError, match="has no line"):
        recipes.main(command)
    with pytest.raises(FileNotFoundError, match="there is no recipe nowhere.py"):
        recipes.main(["nowhere.py", *command[2:]])
