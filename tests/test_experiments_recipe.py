"""Recipes: loaded from files, pretrained for the same time."""

import os
import types

import pytest

from geomoe.experiments import load_recipe, pretrain, recipe as module, steps_in
from geomoe.training import default_config


@pytest.fixture
def runs(monkeypatch):
    """Runs of pretraining that only write their metrics: 200 images/s after a first slow row; the configs that they had."""
    configs = []

    def train(config, workdir):
        configs.append(config)
        os.makedirs(workdir, exist_ok=True)
        with open(os.path.join(workdir, "metrics.csv"), "w") as file:
            file.write("step,images_per_second,val_least_used_expert\n1,50,\n2,200,0.1\n3,200,\n4,200,0.4\n")
        return types.SimpleNamespace(finished=True, step=config.train.num_steps)

    monkeypatch.setattr(module.loop, "train", train)
    return configs


@pytest.fixture
def config():
    config = default_config()
    config.train.batch_size = 40
    return config


def test_steps_fill_the_minutes(runs, config):
    assert [steps_in(config, minutes) for minutes in (1, 2, 10)] == [300, 600, 3000]  # 200 images/s, 40 a step
    assert steps_in(config, 1e-9) == 1
    assert all(c.train.num_steps < 20 for c in runs) and config.train.num_steps == default_config().train.num_steps


def test_a_run_takes_its_minutes_and_tells_what_it_took(runs, config, tmp_path, monkeypatch, capsys):
    run = pretrain(config, 2, 7, str(tmp_path / "run"))
    assert len(runs) == 2 and runs[1].train.num_steps == 600 and runs[1].seed == 7
    assert (run.steps, run.images_per_second, run.seconds, run.least_used_expert) == (600, 200.0, 120.0, 0.4)
    (tmp_path / "run" / "run.json").write_text("{}")
    monkeypatch.setattr(module, "read_run", lambda workdir: {"total_steps": 123})
    assert pretrain(config, 2, 7, str(tmp_path / "run")).steps == 123 and len(runs) == 3  # gone on with, not timed again
    monkeypatch.setattr(module.loop, "train", lambda *args: types.SimpleNamespace(finished=False, step=5))
    with pytest.raises(SystemExit) as stop:
        pretrain(config, 2, 7, str(tmp_path / "run"))
    assert stop.value.code == 75 and "stopped at step 5" in capsys.readouterr().out


def test_a_recipe_is_what_its_file_returns(tmp_path):
    (tmp_path / "a.py").write_text("def get_config():\n    return 'config'\n")
    assert load_recipe(tmp_path / "a.py") == "config"
    (tmp_path / "b.py").write_text("config = 1\n")
    with pytest.raises(ValueError, match=r"b.py has no get_config\(\)"):
        load_recipe(tmp_path / "b.py")
    with pytest.raises(FileNotFoundError, match="there is no recipe"):
        load_recipe(tmp_path / "c.py")
