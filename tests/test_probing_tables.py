"""Tables of results: what they show, and what comes back from their files."""

import csv
import io

import pytest
import rich.console

from geomoe.probing.results import Scores
from geomoe.probing.tables import Row, markdown, print_table, read_tables, save_tables, verdict

FACTS = {"dataset": "d", "task": "multiclass", "train": 1000, "test": None, "protocol": "none"}


def row(features, probe, task, metric, *values):
    runs = [Scores({metric: v, "rmse": 1.0} if metric == "r2" else {metric: v, "micro_mAP": 0.9 - v}, {}) for v in values]
    runs[0].intervals[metric] = (values[0] - 0.1, values[0] + 0.1)
    return Row.of(features, probe, task, runs)


def rows_of():
    return [
        row("pretrained", "linear", "multiclass", "accuracy", 0.6, 0.8),
        row("pretrained", "ridge", "regression", "r2", 0.5, 0.5),
        row("worse", "linear", "multiclass", "accuracy", 0.3, 0.3),
        row("better", "linear", "multiclass", "accuracy", 0.9, 0.9),
        row("as good", "linear", "multiclass", "accuracy", 0.65, 0.65),
        row("worse", "ridge", "regression", "r2", 0.4, 0.4),
    ]


def test_a_verdict_goes_by_the_main_metric_and_the_spread():
    lines = verdict(rows_of()).splitlines()
    assert lines == [
        "linear: pretrained beats worse: accuracy +0.400 (spread 0.141)",
        "linear: pretrained does NOT clearly beat better: accuracy -0.200 (spread 0.141)",
        "linear: pretrained does NOT clearly beat as good: accuracy +0.050 (spread 0.141)",
        "ridge: pretrained beats worse: r2 +0.100 (spread 0.000)",
    ]


def test_tables_show_means_spreads_and_the_interval_of_the_main_metric():
    lines = markdown(rows_of(), FACTS).splitlines()
    assert lines[0] == "**d (multiclass): 1,000 train, cross-validation; protocol: none**"
    folds = markdown(rows_of(), {**FACTS, "splits": "spatial blocks of 5 km, buffer 0 km", "nodata": "masked"}).splitlines()[0]
    assert folds == (
        "**d (multiclass): 1,000 train, cross-validation, spatial blocks of 5 km, buffer 0 km; protocol: none; "
        "pixels without data: masked**"
    )
    assert lines[2] == "| features | probe | OA | mAP mic | R2 | RMSE | 95 % of main |"
    assert lines[4] == "| pretrained | linear | 0.700 ± 0.141 | 0.200 ± 0.141 |  |  | 0.500 to 0.700 |"
    assert lines[5].endswith("| 0.500 ± 0.000 | 1.000 ± 0.000 | 0.400 to 0.600 |")
    out = io.StringIO()
    print_table(rows_of(), FACTS, rich.console.Console(file=out, width=250))
    assert "0.700 ± 0.141" in out.getvalue() and "95 % of main" in out.getvalue()


def test_files_of_tables_hold_everything_and_come_back(tmp_path):
    save_tables(str(tmp_path / "x" / "t"), rows_of(), FACTS)
    rows, facts = read_tables(tmp_path / "x" / "t.json")
    assert rows == rows_of() and facts == FACTS
    assert (tmp_path / "x" / "t.md").read_text() == markdown(rows_of(), FACTS)
    with open(tmp_path / "x" / "t.csv") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 12 and lines[0]["metric"] == "accuracy" and lines[0]["seeds"] == "2"
    assert [float(lines[0][k]) for k in ("mean", "std", "low", "high")] == pytest.approx([0.7, 0.141421, 0.5, 0.7], abs=1e-6)
    assert lines[1]["metric"] == "micro_mAP" and lines[1]["low"] == "nan"
    (tmp_path / "old.json").write_text('{"rows": [{"features": "a"}]}')
    with pytest.raises(ValueError, match="old.json holds no table .*run probe.py again"):
        read_tables(tmp_path / "old.json")
