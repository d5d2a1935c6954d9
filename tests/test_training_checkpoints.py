"""Checkpoints: which is the best, which the last; run directories of encoders from elsewhere."""

import jax
import numpy as np
import optax
import pytest
from conftest import MICRO

from geomoe.models import build_mae
from geomoe.training import create_state, load_params, parallel, read_run
from geomoe.training.checkpoints import Checkpoints, open_run, write_run

LOSSES = {1: 5.0, 2: 1.0, 3: 4.0, 4: 9.0, 5: 3.0}


def save_five(folder, keep_last):
    """Five checkpoints whose parameters are the number of their step."""
    model, optimizer = build_mae(**MICRO), optax.sgd(0.1)
    state = create_state(model, optimizer, 0)
    checkpoints = Checkpoints(folder, keep_last)
    for step, loss in LOSSES.items():
        numbered = state.replace(step=np.int32(step), params=jax.tree.map(lambda x, s=step: np.full_like(x, s), state.params))
        checkpoints.save(parallel.snapshot(parallel.replicate(numbered)), step, loss)
    checkpoints.close()
    return folder


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return save_five(tmp_path_factory.mktemp("run"), 2)


def steps_kept(folder):
    return sorted(int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdigit())


def test_the_last_ones_and_the_best_are_kept(workdir, tmp_path):
    assert steps_kept(workdir) == [2, 4, 5]
    assert steps_kept(save_five(tmp_path / "one", 1)) == [2, 5]
    assert steps_kept(save_five(tmp_path / "three", 3)) == [2, 3, 4, 5]


def test_a_snapshot_outlives_the_donated_state():
    state = parallel.replicate({"a": np.arange(3.0)})
    saved = parallel.snapshot(state)
    state["a"].delete()
    np.testing.assert_array_equal(saved["a"], np.arange(3.0))


@pytest.mark.parametrize("which, step", [("last", 5), ("best", 2), (4, 4), ("4", 4)])
def test_a_checkpoint_is_chosen(workdir, which, step):
    found, params = load_params(workdir, which)
    assert found == step and all((leaf == step).all() for leaf in jax.tree.leaves(params))


def test_missing_checkpoints_are_named(workdir, tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint 1; it has last, best, 2, 4, 5"):
        load_params(workdir, 1)
    with pytest.raises(FileNotFoundError, match="no checkpoint 'first'"):
        load_params(workdir, "first")
    with pytest.raises(FileNotFoundError, match="has no checkpoint yet"):
        load_params(tmp_path)
    with pytest.raises(FileNotFoundError, match="is no run directory"):
        read_run(tmp_path)
    with pytest.raises(ValueError, match="has checkpoints but no run.json"):
        open_run(workdir, {"config": {}})


def test_the_newest_state_is_restored(workdir):
    model, optimizer = build_mae(**MICRO), optax.sgd(0.1)
    like = parallel.replicate(create_state(model, optimizer, 0))
    checkpoints = Checkpoints(workdir)
    state = checkpoints.restore_latest(like)
    checkpoints.close()
    assert int(parallel.fetch(state.step)) == 5
    assert all((leaf == 5).all() for leaf in jax.tree.leaves(parallel.fetch(state.params)))


def test_a_run_directory_of_parameters_from_elsewhere(tmp_path):
    params = {"encoder": {"a": np.arange(3.0, dtype=np.float32)}, "decoder": {"b": np.zeros(2, np.float32)}}
    facts = {"geomoe_version": "x", "model": {}, "statistics": {}, "dataset": "elsewhere"}
    write_run(tmp_path / "run", {**facts, "config": {"data.name": "converted", "loss.normalise_targets": True}}, params)
    run = read_run(tmp_path / "run")
    assert run["dataset"] == "elsewhere" and run["config"]["loss"]["normalise_targets"] is True and run["total_steps"] == 0
    step, again = load_params(tmp_path / "run", "best")
    assert step == 0
    np.testing.assert_array_equal(again["encoder"]["a"], params["encoder"]["a"])
    with pytest.raises(ValueError, match="holds a run already"):
        write_run(tmp_path / "run", {**facts, "config": {}}, params)
