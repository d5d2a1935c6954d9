"""What a run is: its run.json, read with suspicion, and its lock."""

import json
import os
import signal
import subprocess
import sys

import pytest
from conftest import MICRO, ROOT

from geomoe.models import build_mae
from geomoe.training import default_config, read_run
from geomoe.training.run_file import known_statistics, locked, open_run

FACTS = {
    "geomoe_version": "x",
    "config": default_config().to_dict(),
    "model": build_mae(**MICRO).config.to_dict(),
    "statistics": {"mean": [9000.25], "std": [3000.0], "source": "by hand"},
    "dataset": "fake",
}


@pytest.fixture
def workdir(tmp_path):
    """Of a run that has made a step."""
    open_run(tmp_path, FACTS)
    (tmp_path / "metrics.csv").write_text("step,loss\n1,0.5\n")
    return tmp_path


def test_a_run_that_never_made_a_step_begins_anew_with_another_config(tmp_path):
    open_run(tmp_path, FACTS)
    (tmp_path / "metrics.csv").write_text("step,loss\n")
    config = default_config()
    config.train.batch_size, other = 8, {**FACTS["statistics"], "std": [2000.0]}
    assert known_statistics(tmp_path) is None
    open_run(tmp_path, {**FACTS, "config": config.to_dict(), "statistics": other})
    assert read_run(tmp_path)["config"]["train"]["batch_size"] == 8 and read_run(tmp_path)["statistics"] == other
    (tmp_path / "metrics.csv").write_text("step,loss\n1,0.5\n")
    assert known_statistics(tmp_path) == other
    with pytest.raises(ValueError, match="train.batch_size: 8 -> "):
        open_run(tmp_path, FACTS)


def test_what_is_written_is_read(workdir):
    run = read_run(workdir)
    assert {key: run[key] for key in ("model", "statistics", "dataset")} == json.loads(
        json.dumps({key: FACTS[key] for key in ("model", "statistics", "dataset")})
    )


@pytest.mark.parametrize(
    "damage, reason",
    [
        (lambda text: text.replace("9000.25", "9800.25"), "not what was written"),
        (lambda text: text[: len(text) // 2], "run.json is damaged"),
        (lambda text: "", "run.json is damaged"),
        (lambda text: "[1, 2]", "no facts of a run"),
        (lambda text: "{}", "lacks config, model, statistics"),
        (lambda text: json.dumps({**json.loads(text), "config": None}), "lacks config"),
        (lambda text: text.encode().replace(b"by hand", b"by \xff\xfe").decode("latin1"), "run.json is damaged"),
        (lambda text: json.dumps({**FACTS, "statistics": {"mean": [1.0]}}), "run.json is damaged: statistics lack 'std'"),
        (lambda text: json.dumps({**FACTS, "model": {"width": "wide"}}), "run.json is damaged"),
    ],
)
def test_a_damaged_run_json_is_named(workdir, damage, reason):
    path = workdir / "run.json"
    path.write_text(damage(path.read_text()), encoding="latin1")
    for use in (read_run, lambda folder: open_run(folder, FACTS)):
        with pytest.raises(ValueError, match=reason) as error:
            use(workdir)
        assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_folder_that_is_no_run_is_named(workdir):
    with pytest.raises(FileNotFoundError, match="is no run directory"):
        read_run(workdir / "nothing")
    (workdir / "checkpoints").mkdir()
    (workdir / "run.json").unlink()
    with pytest.raises(ValueError, match="has checkpoints but no run.json"):
        open_run(workdir, FACTS)


def test_one_process_at_a_time_holds_a_run_and_a_killed_one_lets_go(tmp_path):
    code = f"from geomoe.training.run_file import locked\nwith locked({str(tmp_path)!r}): print('held', flush=True); input()"
    options = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    holder = subprocess.Popen([sys.executable, "-c", code], **options)
    assert holder.stdout.readline() == "held\n"
    with (
        pytest.raises(ValueError, match=rf"in use by process {holder.pid} on host {os.uname().nodename}, .*run.lock"),
        locked(tmp_path),
    ):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with locked(tmp_path):
        assert f"process {os.getpid()} on" in (tmp_path / "run.lock").read_text()
    with locked(tmp_path):  # as one that ended well
        pass


def test_a_path_below_which_checkpoints_would_be_lost_is_refused(tmp_path):
    for name in ("runs [a]", "back\\slash"):
        with pytest.raises(ValueError, match="checkpoints cannot be written where the path has a"):
            open_run(tmp_path / name / "run", FACTS)
        assert not (tmp_path / name).exists()
