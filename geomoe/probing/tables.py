"""Tables of probing results: on a terminal, as CSV, JSON and Markdown."""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import rich.box
import rich.console
import rich.table

from geomoe.files import atomic_open
from geomoe.probing.metrics import main_metric, mean_and_std
from geomoe.probing.results import Scores, csv_text

# metric -> heading, in the order of the columns
TITLES = {"accuracy": "OA"}
for average, short in (("micro", "mic"), ("macro", "mac")):
    for metric, title in (("precision", "P"), ("recall", "R"), ("f1", "F1"), ("mAP", "mAP")):
        TITLES[f"{average}_{metric}"] = f"{title} {short}"
TITLES |= {"ece": "ECE", "f1": "F1", "auroc": "AUROC", "average_precision": "AP", "r2": "R2", "rmse": "RMSE"}


@dataclasses.dataclass(frozen=True)
class Row:
    """Scores of one feature set under one probe: mean and standard deviation over the seeds of each metric."""

    features: str
    probe: str
    task: str  # what the probe does: "multiclass", "multilabel", "change" or "regression"
    mean: dict[str, float]
    std: dict[str, float]
    runs: list[dict[str, float]]  # the metrics of each seed
    intervals: dict[str, tuple[float, float]]  # metric -> (low, high): bootstrap over the test rows, of the first seed

    @classmethod
    def of(cls, features: str, probe: str, task: str, runs: Sequence[Scores]) -> Row:
        """Summarise the results of several seeds."""
        metrics = [run.metrics for run in runs]
        return cls(features, probe, task, *mean_and_std(metrics), metrics, dict(runs[0].intervals))

    @property
    def main(self) -> str:
        """The metric that rows of its task are compared by."""
        return main_metric(self.task)


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation as text; of one value that value, of none "".

    >>> spread([0.5, 0.7]), spread([0.5]), spread([])
    ('0.600 ± 0.141', '0.500', '')
    """
    if not values:
        return ""
    mean = f"{statistics.fmean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.3f}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], text: int = 1) -> str:
    """Lay out a table in Markdown, with `text` columns of words before those of numbers.

    >>> print(markdown_table(("features", "OA"), [("cls", "0.5")]), end="")
    | features | OA |
    |---|---:|
    | cls | 0.5 |
    """
    lines = [f"| {' | '.join(cells)} |" for cells in (header, *rows)]
    lines.insert(1, "|" + "---|" * text + "---:|" * (len(header) - text))
    return "\n".join(lines) + "\n"


def table_cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of a table: features, probe, the metrics, and the 95 % interval of the main one."""
    present = {name for row in rows for name in row.mean}
    if any(row.task == "change" for row in rows):
        present = {name for name in present if not name.startswith(("micro", "macro"))}
    metrics = [name for name in TITLES if name in present]
    cells = []
    for row in rows:
        interval = "{:.3f} to {:.3f}".format(*row.intervals[row.main]) if row.main in row.intervals else ""
        values = [spread([run[name] for run in row.runs if name in run]) for name in metrics]
        cells.append([row.features, row.probe, *values, interval])
    return ["features", "probe", *(TITLES[name] for name in metrics), "95 % of main"], cells


def _title(facts: Mapping[str, Any]) -> str:
    folds = f"cross-validation, {facts['splits']}" if facts.get("splits") else "cross-validation"
    test = f"{facts['test']:,} test" if facts["test"] is not None else folds
    nodata = f"; pixels without data: {facts['nodata']}" if "nodata" in facts else ""
    return f"{facts['dataset']} ({facts['task']}): {facts['train']:,} train, {test}; protocol: {facts['protocol']}{nodata}"


def print_table(rows: Sequence[Row], facts: Mapping[str, Any], console: rich.console.Console | None = None) -> None:
    """Print the table: means and standard deviations over the seeds, and the 95 % interval of the main metric."""
    console = console or rich.console.Console()
    console.width = max(console.width, 220)
    table = rich.table.Table(title=_title(facts), box=rich.box.SIMPLE)
    header, cells = table_cells(rows)
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i < 2 else "right", no_wrap=True)
    for row in cells:
        table.add_row(*row)
    console.print(table)
    metric = main_metric(facts["task"])
    for features, points in facts.get("label_efficiency", {}).items():
        curve = ", ".join(f"{p['size']:g} ({p['rows']}): {p['mean'][metric]:.3f} ± {p['std'][metric]:.3f}" for p in points)
        console.print(f"{metric} by share of labels, {features}: {curve}")


def markdown(rows: Sequence[Row], facts: Mapping[str, Any]) -> str:
    """The table as Markdown."""
    return f"**{_title(facts)}**\n\n" + markdown_table(*table_cells(rows), text=2)


def save_tables(stem: str, rows: Sequence[Row], facts: Mapping[str, Any]) -> None:
    """Write STEM.csv (a line for each metric of each row), STEM.json (everything) and STEM.md."""
    lines: list[tuple[Any, ...]] = [("features", "probe", "task", "metric", "mean", "std", "seeds", "low", "high")]
    for row in rows:
        for name, mean in row.mean.items():
            low, high = row.intervals.get(name, (float("nan"), float("nan")))
            lines.append((row.features, row.probe, row.task, name, mean, row.std[name], len(row.runs), low, high))
    whole = json.dumps({**facts, "rows": [dataclasses.asdict(row) for row in rows]}, indent=1)
    texts = {"csv": csv_text(lines), "json": whole, "md": markdown(rows, facts)}
    for suffix, text in texts.items():
        with atomic_open(f"{stem}.{suffix}") as file:
            file.write(text)


def read_tables(path: str | os.PathLike) -> tuple[list[Row], dict[str, Any]]:
    """Read the rows and facts of a JSON file that `save_tables` wrote; ValueError for a file of another version."""
    with open(path) as file:
        facts = json.load(file)
    try:
        rows = [Row(**row) for row in facts.pop("rows")]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no table of this version of geomoe ({error}): run probe.py again") from None
    for row in rows:
        row.intervals.update({name: (low, high) for name, (low, high) in row.intervals.items()})  # JSON has lists
    return rows, facts


def difference(a: Row, b: Row) -> tuple[float, float]:
    """By how much the main metric of a is above that of b, and the spread of both over the seeds together."""
    metric = a.main
    return a.mean[metric] - b.mean[metric], (a.std[metric] ** 2 + b.std[metric] ** 2) ** 0.5


def verdict(rows: Sequence[Row]) -> str:
    """Say whether the first features beat each of the others by more than the spread over the seeds, on the main metric."""
    lines = []
    for probe in dict.fromkeys(row.probe for row in rows):
        first, *others = [row for row in rows if row.probe == probe]
        metric = first.main
        for other in others:
            gain, both = difference(first, other)
            word = "beats" if gain > both else "does NOT clearly beat"
            lines.append(f"{probe}: {first.features} {word} {other.features}: {metric} {gain:+.3f} (spread {both:.3f})")
    return "\n".join(lines)
