"""Tables of probing results: on a terminal, as JSON and as Markdown."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import rich.box
import rich.console
import rich.table

COLUMNS = {
    "accuracy": "OA",
    "micro_precision": "P mic",
    "micro_recall": "R mic",
    "micro_f1": "F1 mic",
    "micro_mAP": "mAP mic",
    "macro_precision": "P mac",
    "macro_recall": "R mac",
    "macro_f1": "F1 mac",
    "macro_mAP": "mAP mac",
    "ece": "ECE",
    "f1": "F1",
    "auroc": "AUROC",
    "average_precision": "AP",
    "r2": "R2",
    "rmse": "RMSE",
}


@dataclasses.dataclass(frozen=True)
class Row:
    """Scores of one feature set under one probe: mean and deviation over the seeds of each metric.

    Attributes:
        intervals: metric -> (low, high): the bootstrap interval over the test rows, of the first seed.
    """

    features: str
    probe: str
    mean: dict[str, float]
    std: dict[str, float]
    runs: list[dict[str, float]]
    intervals: dict[str, tuple[float, float]]

    @classmethod
    def of(cls, features: str, probe: str, runs: list[dict[str, float]], intervals: Mapping[str, Any]) -> Row:
        names = runs[0].keys()
        mean = {name: float(np.mean([r[name] for r in runs])) for name in names}
        std = {name: float(np.std([r[name] for r in runs], ddof=1)) if len(runs) > 1 else 0.0 for name in names}
        return cls(features, probe, mean, std, runs, {k: tuple(v) for k, v in intervals.items()})


def headline(row: Row, task: str) -> str:
    """The metric that rows of a probe are compared by."""
    if "r2" in row.mean:
        return "r2"
    return {"multiclass": "accuracy", "multilabel": "micro_mAP", "change": "average_precision"}[task]


def _shown(rows: list[Row]) -> list[str]:
    change = any("auroc" in row.mean for row in rows)
    hidden = {key for key in COLUMNS if key.startswith(("micro", "macro"))} if change else set()
    return [key for key in COLUMNS if key not in hidden and any(key in row.mean for row in rows)]


def _title(facts: Mapping[str, Any]) -> str:
    how = f"{facts['test']:,} test" if facts["test"] is not None else "cross-validation"
    return f"{facts['dataset']} ({facts['task']}): {facts['train']:,} train, {how}; protocol: {facts['protocol']}"


def _interval(row: Row, task: str) -> str:
    span = row.intervals.get(headline(row, task))
    return f"{span[0]:.3f} to {span[1]:.3f}" if span else ""


def print_table(rows: list[Row], facts: dict[str, Any], console: rich.console.Console | None = None) -> None:
    """The table on a terminal: means and deviations over the seeds, and the 95 % interval of the main score."""
    console = console or rich.console.Console()
    if console.width < 200:
        console = rich.console.Console(width=200)
    table = rich.table.Table(title=_title(facts), box=rich.box.SIMPLE)
    table.add_column("features", no_wrap=True)
    table.add_column("probe", no_wrap=True)
    shown = _shown(rows)
    for key in shown:
        table.add_column(COLUMNS[key], justify="right", no_wrap=True)
    table.add_column("95 % of main", justify="right", no_wrap=True)
    for row in rows:
        cells = [f"{row.mean[key]:.3f}±{row.std[key]:.3f}" if key in row.mean else "" for key in shown]
        table.add_row(row.features, row.probe, *cells, _interval(row, facts["task"]))
    console.print(table)
    for features, points in facts.get("label_efficiency", {}).items():
        key = headline(rows[0], facts["task"])
        curve = ", ".join(f"{p['size']:g} ({p['rows']}): {p['mean'][key]:.3f}±{p['std'][key]:.3f}" for p in points)
        console.print(f"{key} by share of labels, {features}: {curve}")


def markdown(rows: list[Row], facts: Mapping[str, Any]) -> str:
    """The table as Markdown."""
    shown = _shown(rows)
    lines = [f"**{_title(facts)}**", ""]
    lines.append("| features | probe | " + " | ".join(COLUMNS[key] for key in shown) + " | 95 % of main |")
    lines.append("|---|---|" + "---:|" * (len(shown) + 1))
    for row in rows:
        cells = [f"{row.mean[key]:.3f} ± {row.std[key]:.3f}" if key in row.mean else "" for key in shown]
        lines.append(f"| {row.features} | {row.probe} | " + " | ".join(cells) + f" | {_interval(row, facts['task'])} |")
    return "\n".join(lines) + "\n"


def save_tables(stem: str, rows: list[Row], facts: Mapping[str, Any]) -> None:
    """Writes STEM.json and STEM.md."""
    os.makedirs(os.path.dirname(stem) or ".", exist_ok=True)
    texts = {
        "json": json.dumps({**facts, "rows": [dataclasses.asdict(row) for row in rows]}, indent=1),
        "md": markdown(rows, facts),
    }
    for suffix, text in texts.items():
        with open(f"{stem}.{suffix}.partial", "w") as file:
            file.write(text)
        os.replace(f"{stem}.{suffix}.partial", f"{stem}.{suffix}")


def verdict(rows: list[Row], task: str) -> str:
    """Whether the pretrained encoder beats each baseline by more than the spread over the seeds, on the main score."""
    lines = []
    for probe in dict.fromkeys(row.probe for row in rows):
        mine, *others = [row for row in rows if row.probe == probe]
        metric = headline(mine, task)
        for other in others:
            gain = mine.mean[metric] - other.mean[metric]
            spread = (mine.std[metric] ** 2 + other.std[metric] ** 2) ** 0.5
            word = "beats" if gain > spread else "does NOT clearly beat"
            lines.append(f"{probe}: {mine.features} {word} {other.features}: {metric} {gain:+.3f} (spread {spread:.3f})")
    return "\n".join(lines)
