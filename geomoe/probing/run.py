"""A probing run from its config to its table: pretrained encoder, random weights and band statistics, over several seeds."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable
from typing import Any

import ml_collections
import numpy as np
import rich.box
import rich.console
import rich.table

import geomoe
from geomoe.probing.embed import Features, embed_split
from geomoe.probing.protocols import ProbeResult, knn_probe, linear_probe

PROBES = ("linear", "knn")
PRETRAINED, RANDOM, BANDS = "pretrained", "random weights", "band statistics"


def default_probe_config() -> ml_collections.ConfigDict:
    """Every key of a probing run, with its default. Locked, like `geomoe.training.default_config()`."""
    config = ml_collections.ConfigDict()
    config.checkpoint = ""  # a run directory or a published .pth
    config.which = "last"  # checkpoint of a run directory: last, best or a step
    config.pool = "mean"
    config.seeds = (0, 1, 2)  # of the random weights, the training subset and the folds
    config.probes = PROBES
    config.output = ""  # a folder for results.json; "" is CHECKPOINT/probes for a run directory
    data = config.data = ml_collections.ConfigDict()
    data.name = ""
    data.data_dir = "data"
    data.train_split = "train"
    data.test_split = "test"  # "" for cross-validation on the training split
    data.folds = 5
    data.train_fraction = 1.0  # of the training split used by each seed, drawn anew
    data.fit = "centre_crop"
    data.clip = ()
    data.hour = "utc"
    data.batch_size = 256
    linear = config.linear = ml_collections.ConfigDict()  # Landsat-Bench
    linear.C = 1.0
    linear.standardise = False
    linear.max_iter = 1000
    knn = config.knn = ml_collections.ConfigDict()
    knn.k = 5
    knn.metric = "euclidean"
    return config.lock()


@dataclasses.dataclass(frozen=True)
class Row:
    """Scores of one feature set under one probe: mean and deviation over seeds (and folds) of each metric."""

    features: str
    probe: str
    mean: dict[str, float]
    std: dict[str, float]
    runs: list[dict[str, float]]


def _splits(
    config: ml_collections.ConfigDict, train: Features, test: Features | None, seed: int
) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Index pairs into the training and the test rows (for cross-validation both into the training rows)."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(train.labels))
    if test is None:
        parts = np.array_split(order, config.data.folds)
        for i, part in enumerate(parts):
            yield np.concatenate(parts[:i] + parts[i + 1 :]), part
    else:
        count = max(int(round(config.data.train_fraction * len(order))), 1)
        yield order[:count], np.arange(len(test.labels))


def _probe(config: ml_collections.ConfigDict, probe: str, train: tuple, test: tuple, task: str) -> ProbeResult:
    if probe == "linear":
        return linear_probe(train, test, task=task, **config.linear.to_dict())
    return knn_probe(train, test, task=task, **config.knn.to_dict())


def _score(
    config: ml_collections.ConfigDict, task: str, probe: str, seed: int, x: np.ndarray, y: np.ndarray, x_test: Any, y_test: Any
) -> dict[str, float]:
    """One seed's metrics. In cross-validation the rows of all folds are scored together."""
    from geomoe.probing.metrics import classification_metrics

    train, test = Features({}, y), None if x_test is None else Features({}, y_test)
    predictions, scores, truth = [], [], []
    for rows, test_rows in _splits(config, train, test, seed):
        held = (x[test_rows], y[test_rows]) if x_test is None else (x_test, y_test)
        result = _probe(config, probe, (x[rows], y[rows]), held, task)
        predictions.append(result.predictions)
        scores.append(result.scores)
        truth.append(held[1])
    return classification_metrics(np.concatenate(truth), np.concatenate(predictions), np.concatenate(scores), task)


def validate(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError, naming the key, for a configuration that cannot be run."""
    from geomoe.training.config import flatten

    unknown = flatten(config.to_dict()).keys() - flatten(default_probe_config().to_dict()).keys()
    if unknown:
        raise ValueError(f"unknown config key {sorted(unknown)[0]}")
    if not config.checkpoint:
        raise ValueError("config.checkpoint is empty: pass --config.checkpoint=RUN_DIR (or a published .pth)")
    if not config.data.name:
        raise ValueError("config.data.name is empty: name a prepared dataset")
    for probe in config.probes:
        if probe not in PROBES:
            raise ValueError(f"config.probes has {probe!r}, which is not one of {', '.join(PROBES)}")
    if not 0 < config.data.train_fraction <= 1:
        raise ValueError(f"config.data.train_fraction = {config.data.train_fraction} must be in (0, 1]")
    if not config.data.test_split and config.data.folds < 2:
        raise ValueError(f"config.data.folds = {config.data.folds} must be at least 2")


def run(config: ml_collections.ConfigDict) -> tuple[list[Row], dict[str, Any]]:
    """Embeds, fits and scores.

    Args:
        config: as from `default_probe_config()`.

    Returns:
        The rows of the table, and facts: task, sizes, encoder, settings.
    """
    validate(config)
    from geomoe import data

    encoder = geomoe.load(config.checkpoint, int(config.which) if str(config.which).isdigit() else config.which)
    source = data.builder(config.data.name, config.data.data_dir)
    task = source.info.metadata["task"]
    if task not in ("multiclass", "multilabel"):
        raise ValueError(f"{config.data.name} was prepared without labels; there is nothing to probe")
    d = config.data
    options = dict(pool=config.pool, fit=d.fit, clip=tuple(d.clip) or None, hour=d.hour, batch_size=d.batch_size)
    encoders = {PRETRAINED: encoder} | {f"{RANDOM} {seed}": encoder.random_weights(1000 + seed) for seed in config.seeds}
    train = embed_split(encoders, source, d.train_split, **options)
    test = embed_split(encoders, source, d.test_split, **options) if d.test_split else None
    rows = []
    for features in (PRETRAINED, RANDOM, BANDS):
        for probe in config.probes:
            runs = []
            for seed in config.seeds:
                key = f"{RANDOM} {seed}" if features == RANDOM else features
                held = (None, None) if test is None else (test.sets[key], test.labels)
                runs.append(_score(config, task, probe, seed, train.sets[key], train.labels, *held))
            names = runs[0].keys()
            mean = {name: float(np.mean([r[name] for r in runs])) for name in names}
            std = {name: float(np.std([r[name] for r in runs], ddof=1)) if len(runs) > 1 else 0.0 for name in names}
            rows.append(Row(features, probe, mean, std, runs))
    facts = {
        "dataset": source.info.full_name,
        "task": task,
        "classes": source.info.features["labels"].feature.names,
        "train": len(train.labels),
        "test": None if test is None else len(test.labels),
        "encoder": repr(encoder),
        "statistics": encoder.statistics,
        "geomoe_version": geomoe.__version__,
        "config": config.to_dict(),
    }
    _save(config, rows, facts)
    return rows, facts


def _save(config: ml_collections.ConfigDict, rows: list[Row], facts: dict[str, Any]) -> None:
    folder = config.output or (os.path.join(config.checkpoint, "probes") if os.path.isdir(config.checkpoint) else "")
    if not folder:
        return
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, f"{config.data.name.replace('/', '_')}.json")
    with open(f"{path}.partial", "w") as file:
        json.dump({**facts, "rows": [dataclasses.asdict(row) for row in rows]}, file, indent=1)
    os.replace(f"{path}.partial", path)


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
}


def print_table(rows: list[Row], facts: dict[str, Any], console: rich.console.Console | None = None) -> None:
    """The table on a terminal: means, and deviations over the seeds."""
    console = console or rich.console.Console()
    if console.width < 160:
        console = rich.console.Console(width=160)
    how = f"{facts['test']:,} test" if facts["test"] is not None else "cross-validation"
    table = rich.table.Table(
        title=f"{facts['dataset']} ({facts['task']}): {facts['train']:,} train, {how}", box=rich.box.SIMPLE
    )
    table.add_column("features", no_wrap=True)
    table.add_column("probe")
    for title in COLUMNS.values():
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        cells = [f"{row.mean[key]:.3f}±{row.std[key]:.3f}" for key in COLUMNS]
        table.add_row(row.features, row.probe, *cells)
    console.print(table)


def verdict(rows: list[Row]) -> str:
    """Whether the pretrained encoder beats each baseline by more than the spread over the seeds, on the task's main score."""
    lines = []
    metric = "micro_mAP"
    for probe in dict.fromkeys(row.probe for row in rows):
        of = {row.features: row for row in rows if row.probe == probe}
        mine = of[PRETRAINED]
        for other in (RANDOM, BANDS):
            gain = mine.mean[metric] - of[other].mean[metric]
            spread = (mine.std[metric] ** 2 + of[other].std[metric] ** 2) ** 0.5
            word = "beats" if gain > spread else "does NOT clearly beat"
            lines.append(f"{probe}: pretrained {word} {other}: micro mAP {gain:+.3f} (spread {spread:.3f})")
    return "\n".join(lines)
