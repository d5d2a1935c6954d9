"""Checkpoints: which is the best, which the last; damaged ones; run directories of encoders from elsewhere."""

import json
import os
import shutil
import subprocess

import jax
import numpy as np
import optax
import pytest
from conftest import MICRO

from geomoe.models import build_mae
from geomoe.training import checkpoints, create_state, load_params, parallel, read_run
from geomoe.training.checkpoints import Checkpoints, restore_latest, write_run
from geomoe.training.integrity import DamagedCheckpoint, DamagedCheckpointWarning

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


def restored(workdir):
    return restore_latest(workdir, parallel.replicate(create_state(build_mae(**MICRO), optax.sgd(0.1), 0)))


def test_the_newest_state_is_restored(workdir, tmp_path):
    found = restored(workdir)
    assert int(parallel.fetch(found.state.step)) == 5 and (found.val_loss, found.notes) == (3.0, [])
    assert all((leaf == 5).all() for leaf in jax.tree.leaves(parallel.fetch(found.state.params)))
    assert restored(tmp_path) is None


def flip(path):
    """One bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def biggest(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def drop_all_files(step):
    for path in step.rglob("*"):
        if path.is_file():
            path.unlink()


def drop_sums(step):
    (step / "SHA256SUMS").unlink()


# What befalls the folder of a step, and what is then said of it.
DAMAGES = {
    "a bit of the parameters": (lambda step: flip(biggest(step / "params" / "d")), r"params/d/\w+ is not what was written"),
    "a bit of a manifest": (lambda step: flip(step / "params" / "manifest.ocdbt"), "params/manifest.ocdbt is not what was"),
    "a bit of the sums": (lambda step: flip(step / "SHA256SUMS"), "SHA256SUMS is damaged|not what was|missing|not stand in"),
    "sums cut off": (lambda step: os.truncate(step / "SHA256SUMS", 300), "SHA256SUMS is damaged"),
    "sums cut at a line": (
        lambda step: (step / "SHA256SUMS").write_text((step / "SHA256SUMS").read_text().partition("\n")[0] + "\n"),
        "does not stand in SHA256SUMS|is missing",
    ),
    "a file cut off": (lambda step: os.truncate(biggest(step / "params" / "d"), 100), "is not what was written"),
    "data missing": (lambda step: shutil.rmtree(step / "params" / "d"), r"params/d/\w+ is missing"),
    "no parameters": (lambda step: shutil.rmtree(step / "params"), "params/ is missing"),
    "nothing but folders": (drop_all_files, "is missing"),
    "an old one without data": (lambda step: (drop_sums(step), shutil.rmtree(step / "params" / "d")), "params/d/ is missing"),
    "an old one without its mark": (
        lambda step: (drop_sums(step), (step / "params" / "commit_success.txt").unlink()),
        "params/commit_success.txt is missing",
    ),
    "an old one with a manifest of zeros": (
        lambda step: (drop_sums(step), (step / "params" / "manifest.ocdbt").write_bytes(b"\0" * 100)),
        r"params/ cannot be read \(ValueError: DATA_LOSS: .*manifest.ocdbt",
    ),
    "an old one with data cut off": (
        lambda step: (drop_sums(step), os.truncate(biggest(step / "params" / "d"), 100)),
        r"params/ cannot be read \(ValueError: OUT_OF_RANGE: ",
    ),
}
# These are no matter for loading the parameters alone.
STATE_DAMAGES = {
    "a bit of the optimizer": (lambda step: flip(biggest(step / "optimizer")), "optimizer/.* is not what was written"),
    "no optimizer": (lambda step: shutil.rmtree(step / "optimizer"), "optimizer/ is missing"),
    "no metrics": (lambda step: shutil.rmtree(step / "metrics"), "metrics/ is missing"),
    "a bit of the metrics": (lambda step: flip(step / "metrics" / "metrics"), "metrics/metrics is not what was written"),
    "no mark": (lambda step: (step / "commit_success.txt").unlink(), "commit_success.txt is missing"),
    "step metadata cut off": (lambda step: os.truncate(step / "_CHECKPOINT_METADATA", 50), "_CHECKPOINT_METADATA is damaged"),
}


@pytest.mark.parametrize("name", [*DAMAGES, *STATE_DAMAGES])
def test_a_damaged_newest_checkpoint_is_set_aside_and_an_older_one_taken(workdir, tmp_path, name, capfd):
    folder = shutil.copytree(workdir, tmp_path / "run")
    do, reason = (DAMAGES | STATE_DAMAGES)[name]
    do(folder / "checkpoints" / "5")
    if name in DAMAGES:
        with pytest.warns(DamagedCheckpointWarning, match=f"step 5 of .* is left out: .*(?:{reason}).*step 4 is taken"):
            step, params = load_params(folder)
        assert step == 4 and all((leaf == 4).all() for leaf in jax.tree.leaves(params))
        with pytest.raises(DamagedCheckpoint, match=reason):
            load_params(folder, 5)
    else:
        assert load_params(folder)[0] == 5
    found = restored(folder)
    assert int(parallel.fetch(found.state.step)) == 4 and found.val_loss == 9.0
    assert all((leaf == 4).all() for leaf in jax.tree.leaves(parallel.fetch(found.state.params)))
    (note,) = found.notes
    assert "step 5 is damaged" in note and steps_kept(folder) == [2, 4]
    assert os.path.isdir(folder / "damaged_checkpoints" / "5")
    assert "Traceback" not in capfd.readouterr().err  # which TensorStore would print of arrays whose reading is given up


def test_where_no_checkpoint_is_whole_nothing_is_moved_and_each_is_named(workdir, tmp_path):
    folder = shutil.copytree(workdir, tmp_path / "run")
    for step in (2, 4, 5):
        flip(biggest(folder / "checkpoints" / str(step) / "params" / "d"))
    for use in (restored, load_params):
        with pytest.raises(DamagedCheckpoint, match=r"no whole checkpoint \(step 2: params/d.*step 4: params.*step 5: params"):
            use(folder)
    assert steps_kept(folder) == [2, 4, 5]


def test_the_best_is_one_with_a_validation_loss(workdir, tmp_path):
    folder = shutil.copytree(workdir, tmp_path / "run")
    shutil.copytree(folder / "checkpoints" / "2" / "params", folder / "checkpoints" / "7" / "params")
    assert load_params(folder)[0] == 7  # parameters alone, whole
    with pytest.warns(DamagedCheckpointWarning, match="step 7 .* left out: metrics/ is missing; step 2 is taken"):
        assert load_params(folder, "best")[0] == 2
    (folder / "checkpoints" / "2" / "metrics" / "metrics").write_text(json.dumps({"val_loss": 100.0}))  # was 1.0
    with pytest.warns(DamagedCheckpointWarning, match="step 2 .*metrics/metrics is not what was written"):
        assert load_params(folder, "best")[0] == 5


def test_the_sums_are_those_of_sha256sum(workdir):
    folder = workdir / "checkpoints" / "5"
    assert subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=folder).returncode == 0
    listed = {line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text().splitlines()}
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files - listed == {"SHA256SUMS", "commit_success.txt", "_CHECKPOINT_METADATA"}


def test_a_run_directory_of_parameters_from_elsewhere(tmp_path):
    params = {"encoder": {"a": np.arange(3.0, dtype=np.float32)}, "decoder": {"b": np.zeros(2, np.float32)}}
    model, statistics = build_mae(**MICRO).config.to_dict(), {"mean": [1.0], "std": [2.0], "source": "x"}
    facts = {"geomoe_version": "x", "model": model, "statistics": statistics, "dataset": "elsewhere"}
    write_run(tmp_path / "run", {**facts, "config": {"data.name": "converted", "loss.normalise_targets": True}}, params)
    run = read_run(tmp_path / "run")
    assert run["dataset"] == "elsewhere" and run["config"]["loss"]["normalise_targets"] is True and run["total_steps"] == 0
    step, again = load_params(tmp_path / "run", "best")
    assert step == 0
    np.testing.assert_array_equal(again["encoder"]["a"], params["encoder"]["a"])
    with pytest.raises(ValueError, match="holds a run already"):
        write_run(tmp_path / "run", {**facts, "config": {}}, params)


def test_a_state_of_which_a_part_is_not_there_is_not_called_whole(tmp_path, monkeypatch):
    """Orbax writes the parts of a state to files of each process and joins them; below a path that it misreads it does not."""
    monkeypatch.setattr(checkpoints, "open_run", lambda workdir, facts: os.makedirs(workdir))
    with pytest.raises(OSError, match=r"cannot be written \(OSError: params/manifest.ocdbt was not written\)"):
        write_run(tmp_path / "runs [a]", {"config": {}}, {"encoder": {"w": np.ones(3, np.float32)}})
