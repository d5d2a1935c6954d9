"""A probing run from its config to its results: a pretrained encoder and its baselines, under several probes and seeds."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections

from geomoe import data as datasets
from geomoe.models.pooling import pool_name
from geomoe.pretrained import PretrainedEncoder, load
from geomoe.probing.change import METHODS, change_probe
from geomoe.probing.config import BANDS, CHANGE_DATA, PRETRAINED, RCF, knn_options, linear_options, settings_text, validate
from geomoe.probing.crossval import cross_validate
from geomoe.probing.data import ChangeData, SplitData
from geomoe.probing.efficiency import label_efficiency
from geomoe.probing.finetuning import finetune
from geomoe.probing.knn import knn_probe
from geomoe.probing.linear import linear_probe
from geomoe.probing.metrics import TASKS
from geomoe.probing.results import ResultKey, Results, Scores
from geomoe.probing.ridge import ridge_probe
from geomoe.probing.scoring import ProbeResult
from geomoe.probing.splits import subset
from geomoe.probing.tables import Row, save_tables
from geomoe.version import __version__

Fit = Callable[[str, str, int], ProbeResult]  # features, probe, seed


def _fit(config: ml_collections.ConfigDict, task: str, data: SplitData, features: str, probe: str, seed: int) -> ProbeResult:
    """One probe on one set of features with one seed."""
    if probe == "finetune":
        return _finetune(config, task, data, features, seed)
    d = config.data
    train = data.split(d.train_split)
    x = data.features(d.train_split, features, seed)
    if not d.test_split:
        fit, options = (linear_probe, linear_options(config)) if probe == "linear" else (knn_probe, knn_options(config))
        return cross_validate(
            x, train.labels, task=task, probe=fit, count=d.folds, seed=seed, resamples=config.resamples, **options
        )

    def rows(split: str) -> tuple[Any, Any]:
        y = data.split(split)
        return data.features(split, features, seed), y.targets[config.ridge.target] if probe == "ridge" else y.labels

    index = subset(len(x), d.train_fraction, seed)
    fitted, test = tuple(values[index] for values in rows(d.train_split)), rows(d.test_split)
    if probe == "knn":
        return knn_probe(fitted, test, task=task, resamples=config.resamples, **knn_options(config))
    val = rows(d.val_split) if d.val_split else None
    if probe == "ridge":
        return ridge_probe(fitted, test, val=val, resamples=config.resamples)
    info = {"pool": config.pool, "features": features, "encoder": data.encoder(PRETRAINED, seed).source}
    options = linear_options(config)
    return linear_probe(fitted, test, task=task, val=val, resamples=config.resamples, seed=seed, info=info, **options)


def _finetune(config: ml_collections.ConfigDict, task: str, data: SplitData, features: str, seed: int) -> ProbeResult:
    d = config.data
    train = data.images(d.train_split)
    index = subset(len(train["labels"]), d.train_fraction, seed)
    options = config.finetune.to_dict()
    return finetune(
        {name: values[index] for name, values in train.items()},
        data.images(d.test_split),
        encoder=data.encoder(features, seed),
        task=task,
        val=data.images(d.val_split) if d.val_split else None,
        pool=config.pool,
        seed=seed,
        resamples=config.resamples,
        **options | {"blocks": None if options["blocks"] < 0 else options["blocks"]},
    )


def _fit_change(config: ml_collections.ConfigDict, data: ChangeData, features: str, probe: str, seed: int) -> ProbeResult:
    """One probe of change on one set of features with one seed."""
    train, test = data.split(features, seed)
    return change_probe(train, test, method=probe.removeprefix("change "), resamples=config.resamples)


def _output_folder(config: ml_collections.ConfigDict) -> str:
    """Where results go; "" keeps none."""
    return config.output or (os.path.join(config.checkpoint, "probes") if os.path.isdir(config.checkpoint) else "")


def run(config: ml_collections.ConfigDict) -> tuple[list[Row], dict[str, Any]]:
    """Embed, fit and score; results that the results file has are taken from there, others are added to it.

    Args:
        config: as from `default_probe_config()`.

    Returns:
        The rows of the table, and facts: task, sizes, encoder, settings.
    """
    validate(config)
    encoder = load(config.checkpoint, int(config.which) if str(config.which).isdigit() else config.which)
    d = config.data
    facts: dict[str, Any] = {"protocol": config.protocol or "none"}
    splits: SplitData | None = None
    fit: Fit
    if d.name == CHANGE_DATA:
        task, fit = "change", functools.partial(_fit_change, config, ChangeData(config, encoder))
        probes: Sequence[str] = [f"change {method}" for method in METHODS]
        facts |= {"dataset": CHANGE_DATA, "classes": ["unchanged", "changed"]}
        facts |= {"train": d.pairs // 2, "test": d.pairs - d.pairs // 2}
    else:
        source = datasets.builder(d.name, d.data_dir)
        task = source.info.metadata["task"]
        if task not in TASKS:
            raise ValueError(f"{d.name} was prepared without labels; there is nothing to probe")
        splits = SplitData(config, encoder, source)
        fit, probes = functools.partial(_fit, config, task, splits), config.probes
        facts |= {"dataset": source.info.full_name, "classes": list(source.info.features["labels"].feature.names)}
        facts["train"] = datasets.num_examples(source, d.train_split)
        facts["test"] = datasets.num_examples(source, d.test_split) if d.test_split else None
    facts |= {
        "task": task,
        "encoder": repr(encoder),
        "statistics": dict(encoder.statistics),
        "geomoe_version": __version__,
        "config": config.to_dict(),
    }
    folder = _output_folder(config)
    stem = os.path.join(folder, d.name.replace("/", "_")) if folder else ""
    results = _Stored(config, encoder, facts, fit, Results(os.path.join(folder, "results.csv")) if folder else None, stem)
    rows = []
    for features in (PRETRAINED, *config.baselines):
        for probe in probes:
            if probe == "finetune" and features in (BANDS, RCF):
                continue  # there is nothing to tune
            scores = [results.scores(features, probe, seed) for seed in config.seeds]
            rows.append(Row.of(features, probe, _task_of(probe, task), scores))
    if config.label_fractions and splits is not None:
        facts["label_efficiency"] = _efficiency(config, task, splits)
    if stem:
        save_tables(stem, rows, facts)
    return rows, facts


def _task_of(probe: str, task: str) -> str:
    return "regression" if probe == "ridge" else task


@dataclasses.dataclass(frozen=True)
class _Stored:
    """Scores from the results file, or from a probe, whose result is then added to the file.

    Attributes:
        config, encoder, facts: of the run.
        fit: one probe.
        results: the file; None for none.
        stem: of the tables' files, beside which the linear probe is saved; "" for none.
    """

    config: ml_collections.ConfigDict
    encoder: PretrainedEncoder
    facts: dict[str, Any]
    fit: Fit
    results: Results | None
    stem: str

    def key(self, features: str, probe: str, seed: int) -> ResultKey:
        d = self.config.data
        return ResultKey(
            dataset=self.facts["dataset"],
            train_split=d.train_split,
            test_split=d.test_split or "folds",
            task=_task_of(probe, self.facts["task"]),
            protocol=self.facts["protocol"],
            probe=probe,
            features=features,
            encoder=f"{self.encoder.source} {self.encoder.fingerprint[:12]}",
            pool=pool_name(self.config.pool),
            settings=settings_text(self.config, probe),
            seed=seed,
        )

    def scores(self, features: str, probe: str, seed: int) -> Scores:
        key = self.key(features, probe, seed)
        stored = self.results.find(key) if self.results is not None and self.config.resume else None
        if stored is not None:
            return stored
        result = self.fit(features, probe, seed)
        if self.results is not None:
            source = self.encoder.statistics["source"]
            self.results.add(key, result.metrics, result.intervals, unit="collection2_dn", statistics=source)
        if self.stem and self.config.save_probe and (features, probe, seed) == (PRETRAINED, "linear", self.config.seeds[0]):
            self._save(result)
        return Scores(result.metrics, result.intervals)

    def _save(self, result: ProbeResult) -> None:
        if result.model is None:  # cross-validation fits one on each fold
            return
        info = {**result.model.info, "classes": self.facts["classes"], "input": self.encoder.record()}
        dataclasses.replace(result.model, info=info).save(f"{self.stem}_linear.npz")


def _efficiency(config: ml_collections.ConfigDict, task: str, data: SplitData) -> dict[str, list[dict[str, Any]]]:
    """Label-efficiency curves of the linear probe: features -> points."""
    train, test = config.data.train_split, config.data.test_split
    fractions, seeds = config.label_fractions, config.seeds
    curves = {}
    for features in (PRETRAINED, *config.baselines):
        rows = [(data.features(split, features, seeds[0]), data.split(split).labels) for split in (train, test)]
        points = label_efficiency(*rows, task=task, fractions=fractions, seeds=seeds, **linear_options(config))
        curves[features] = [dataclasses.asdict(point) for point in points]
    return curves
