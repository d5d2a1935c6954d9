"""The tables of a run: read with torn and doubled lines, and gone on with."""

import os

import pytest

from geomoe.training.run_log import COLUMNS, RunLog, read_table


def written(folder, name, lines):
    (folder / name).write_text("".join(lines), newline="")
    return folder / name


def test_torn_and_doubled_lines_are_left_out(tmp_path):
    lines = [
        "step,epoch,loss,val_loss_masked\r\n",
        "1,0.1,5.0,\r\n",
        "2,0.2,4.0,\r\n",
        "2,,,3.5\r\n",  # the evaluation of step 2
        "2,0.2,4.5,\r\n",  # of a second process
        "step,epoch,loss,val_loss_masked\r\n",
        "3,0.3\r\n",
        "0.3,3,4.0,\r\n",
        "4,0.4,3.0,,9,9\r\n",
        "5,0.5,2.53,0.6,2.4,\r\n",
        "6,0.6,2.\0,\r\n",
        "7,0.7,x,\r\n",
        "8,0.8,2.0,\r\n",
        "9,0.9,1.0,3",
    ]
    rows = read_table(written(tmp_path, "metrics.csv", lines))
    assert [(row["step"], row["loss"], row["val_loss_masked"]) for row in rows] == [
        ("1", "5.0", ""),
        ("2", "4.5", ""),
        ("2", "", "3.5"),
        ("8", "2.0", ""),
    ]
    usage = ["step,block,expert,share\r\n", "4,a,0,0.5\r\n", "4,a,1,0.5\r\n", "4,a,0,0.25\r\n", "4,b,0,1.0\r\n", "8,a"]
    rows = read_table(written(tmp_path, "expert_usage.csv", usage))
    assert [tuple(row.values()) for row in rows] == [("4", "a", "0", "0.25"), ("4", "a", "1", "0.5"), ("4", "b", "0", "1.0")]
    assert read_table(tmp_path / "none.csv") == []


def test_a_resumed_log_goes_on_after_what_is_whole(tmp_path):
    written(tmp_path, "metrics.csv", [",".join(COLUMNS) + "\n", "1" + "," * (len(COLUMNS) - 1) + "\n", "torn"])
    log = RunLog(tmp_path, 10, 1)
    log.steps({"step": 2, "epoch": 0.5})
    log.usage(2, {"a": [0.25, 0.75]})
    log.close()
    assert [(row["step"], row["epoch"]) for row in read_table(tmp_path / "metrics.csv")] == [("1", ""), ("2", "0.5")]
    assert [row["share"] for row in read_table(tmp_path / "expert_usage.csv")] == ["0.250000", "0.750000"]


@pytest.mark.parametrize("value", ["cloudy, as it seems", "0.5"])
def test_columns_of_others_stay(tmp_path, value):
    """A note of the user's, a loss of another version."""
    header = [*COLUMNS, "note"]
    written(tmp_path, "metrics.csv", [",".join(header) + "\n", "1" + "," * len(COLUMNS) + f'"{value}"\n'])
    log = RunLog(tmp_path, 10, 1)
    log.steps({"step": 2, "epoch": 0.5})
    log.close()
    rows = read_table(tmp_path / "metrics.csv")
    assert [(row["step"], row["epoch"], row["note"]) for row in rows] == [("1", "", value), ("2", "0.5", "")]


def test_a_full_disk_names_the_table(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    log = RunLog(tmp_path, 10, 0)
    (tmp_path / "metrics.csv").unlink()
    os.symlink("/dev/full", tmp_path / "metrics.csv")
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/metrics.csv'"):
        log.steps({"step": 1})
    log.close()
