"""A probing run from its config to its results: a pretrained encoder and its baselines, under several probes and seeds."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections

from geomoe import data as datasets
from geomoe.data.preprocess import InputSpec
from geomoe.models.pooling import pool_name
from geomoe.pretrained import load
from geomoe.probing.change import METHODS, change_probe
from geomoe.probing.config import BANDS, CHANGE_DATA, PRETRAINED, RCF, folds_title, probe_options, settings_text, validate
from geomoe.probing.data import ChangeData, SplitData
from geomoe.probing.evaluation import cross_validate, label_efficiency
from geomoe.probing.finetuning import finetune
from geomoe.probing.knn import knn_probe
from geomoe.probing.linear import linear_probe, ridge_probe
from geomoe.probing.linear_model import load_probe
from geomoe.probing.metrics import TASKS
from geomoe.probing.probe_result import ProbeResult
from geomoe.probing.results import ResultKey, Results, Scores
from geomoe.probing.splits import subset
from geomoe.probing.tables import Row, save_tables
from geomoe.training import parallel
from geomoe.version import __version__

Fit = Callable[[str, str, int], ProbeResult]  # features, probe, seed


def _fit(config: ml_collections.ConfigDict, task: str, data: SplitData, features: str, probe: str, seed: int) -> ProbeResult:
    if probe == "finetune":
        return _finetune(config, task, data, features, seed)
    d, shared = config.data, dict(task=task, resamples=config.resamples)

    def rows(split: str) -> tuple[Any, Any]:
        y = data.split(split)
        return data.features(split, features, seed), y.targets[config.ridge.target] if probe == "ridge" else y.labels

    x, y = rows(d.train_split)
    if not d.test_split:
        fit = linear_probe if probe == "linear" else knn_probe
        return cross_validate(x, y, probe=fit, folds=data.folds(seed), **shared, **probe_options(config, probe))
    index = subset(len(x), d.train_fraction, seed)
    train, test = (x[index], y[index]), rows(d.test_split)
    if probe == "knn":
        return knn_probe(train, test, **shared, **probe_options(config, probe))
    val = rows(d.val_split) if d.val_split else None
    if probe == "ridge":
        return ridge_probe(train, test, val=val, seed=seed, resamples=config.resamples)
    encoder = data.encoder(PRETRAINED, seed)
    info = {"pool": config.pool, "features": features, "encoder": encoder.source, "encoder_sha256": encoder.fingerprint}
    return linear_probe(train, test, val=val, seed=seed, info=info, **shared, **probe_options(config, probe))


def _with_data(images: dict[str, Any]) -> dict[str, Any]:
    """The images some pixel of which holds data: there is nothing to learn from the others."""
    some = images["valid"].any(axis=(1, 2))
    return {name: values[some] for name, values in images.items()}


def _finetune(config: ml_collections.ConfigDict, task: str, data: SplitData, features: str, seed: int) -> ProbeResult:
    d = config.data
    train, test = data.images(d.train_split), data.images(d.test_split)
    val = data.images(d.val_split) if d.val_split else None
    index = subset(len(train["labels"]), d.train_fraction, seed)
    options = config.finetune.to_dict() | dict(pool=config.pool, seed=seed, resamples=config.resamples)
    options["blocks"] = None if options["blocks"] < 0 else options["blocks"]
    train = {name: values[index] for name, values in train.items()}
    train, test = _with_data(train), _with_data(test)
    val = None if val is None else _with_data(val)
    return finetune(train, test, encoder=data.encoder(features, seed), task=task, val=val, **options)


def _fit_change(config: ml_collections.ConfigDict, data: ChangeData, features: str, probe: str, seed: int) -> ProbeResult:
    train, test = data.split(features, seed)
    return change_probe(train, test, method=probe.removeprefix("change "), resamples=config.resamples)


def run(config: ml_collections.ConfigDict) -> tuple[list[Row], dict[str, Any]]:
    """Embed, fit and score; results that the results file has are taken from there, others are added to it.

    Of several processes each computes a share of the features; the first fits, scores and writes, and the others wait.

    Args:
        config: as from `default_probe_config()`.

    Returns:
        The rows of the table, and facts: task, sizes, encoder, settings; nothing in the others of several processes.
    """
    validate(config)
    encoder = load(config.checkpoint, config.which)
    d = config.data
    splits: SplitData | None = None
    fit: Fit
    if d.name == CHANGE_DATA:
        task, fit = "change", functools.partial(_fit_change, config, ChangeData(config, encoder))
        probes: Sequence[str] = [f"change {method}" for method in METHODS]
        dataset, content, classes = CHANGE_DATA, "", ["unchanged", "changed"]
        train, test = d.pairs // 2, d.pairs - d.pairs // 2
    else:
        source = datasets.builder(d.name, d.data_dir)
        task = source.info.metadata["task"]
        if task not in TASKS:
            raise ValueError(f"{d.name} was prepared without labels; there is nothing to probe")
        splits = SplitData(config, encoder, source)
        fit, probes = functools.partial(_fit, config, task, splits), config.probes
        dataset, content = source.info.full_name, f" {datasets.fingerprint(source)[:12]}"
        classes = list(source.info.features["labels"].feature.names)
        train = datasets.num_examples(source, d.train_split)
        test = datasets.num_examples(source, d.test_split) if d.test_split else None
        for name in filter(None, (d.train_split, d.val_split) if d.test_split else ()):
            if common := datasets.shared_examples(source, name, d.test_split):
                fitted = f"{common} patches of config.data.test_split = {d.test_split!r} are of {name!r} as well"
                raise ValueError(f"{fitted}, which probes are fitted or tuned on; give splits that share none")
        if jax.process_count() > 1 and (config.label_fractions or set(probes) != {"finetune"}):
            for name in filter(None, (d.train_split, d.val_split, d.test_split)):
                splits.split(name)  # together: what follows is for the first process
    if jax.process_index() > 0:
        parallel.wait("probes are done")
        return [], {}
    facts: dict[str, Any] = dict(protocol=config.protocol or "none", dataset=dataset, classes=classes, train=train, test=test)
    spec, statistics = (splits.spec, splits.statistics) if splits else (InputSpec(nodata=d.nodata), encoder.statistics)
    facts |= dict(task=task, encoder=repr(encoder), statistics=dict(statistics), geomoe_version=__version__)
    facts |= dict(splits=folds_title(config), nodata=d.nodata, config=config.to_dict())
    folder = config.output or (os.path.join(config.checkpoint, "probes") if os.path.isdir(config.checkpoint) else "")
    kind = "" if d.test_split or d.splits == "stratified" else f"_{d.splits}"
    stem = os.path.join(folder, d.name.replace("/", "_") + kind)
    results = Results(os.path.join(folder, "results.csv")) if folder else None

    shared: dict[str, Any] = dict(dataset=dataset + content, train_split=d.train_split, test_split=d.test_split or "folds")
    shared |= dict(protocol=facts["protocol"], pool=pool_name(config.pool))
    shared["encoder"] = f"{encoder.source} {encoder.fingerprint[:12]} {statistics.digest}"
    task_of = lambda probe: "regression" if probe == "ridge" else task

    def scores(features: str, probe: str, seed: int) -> Scores:
        which: dict[str, Any] = dict(features=features, probe=probe, seed=seed, task=task_of(probe))
        key = ResultKey(**shared, **which, settings=settings_text(config, probe))
        stored = results.find(key) if results is not None and config.resume else None
        first = (features, probe, seed) == (PRETRAINED, "linear", config.seeds[0])
        saves = first and config.save_probe and bool(folder and d.test_split)  # cross-validation fits one on each fold
        path, of = f"{stem}_linear.npz", hashlib.sha256(repr(key).encode()).hexdigest()
        if stored is not None and not (saves and _result_of(path) != of):
            return stored
        result = fit(features, probe, seed)
        if saves and result.model is not None:
            read = {"clip": list(d.clip), "drop": list(d.drop), "hour": d.hour, "resize_mode": d.resize_mode}
            info = {**result.model.info, "classes": classes, "input": encoder.record(spec), "data": read, "result": of}
            dataclasses.replace(result.model, info=info).save(path)
        if stored is not None:
            return stored
        if results is not None:
            results.add(key, result.metrics, result.intervals, unit="collection2_dn", statistics=statistics.source)
        return Scores(result.metrics, result.intervals)

    rows = []
    for features in (PRETRAINED, *config.baselines):
        for probe in probes:
            if probe == "finetune" and features in (BANDS, RCF):
                continue  # there is nothing to tune
            runs = [scores(features, probe, seed) for seed in config.seeds]
            rows.append(Row.of(features, probe, task_of(probe), runs))
    if config.label_fractions and splits is not None:
        facts["label_efficiency"] = _efficiency(config, task, splits)
    if folder:
        save_tables(stem, rows, facts)
    parallel.wait("probes are done")
    return rows, facts


def _result_of(path: str) -> str:
    """Which result the probe saved at a path is of; "" where there is none, or none that says it."""
    try:
        return str(load_probe(path).info.get("result", ""))
    except (OSError, ValueError):
        return ""


def _efficiency(config: ml_collections.ConfigDict, task: str, data: SplitData) -> dict[str, list[dict[str, Any]]]:
    """Label-efficiency curves of the linear probe: features -> points."""
    d, seeds = config.data, config.seeds
    options = dict(task=task, fractions=config.label_fractions, seeds=seeds, **probe_options(config, "linear"))
    curves = {}
    for features in (PRETRAINED, *config.baselines):
        rows = [(data.features(split, features, seeds[0]), data.split(split).labels) for split in (d.train_split, d.test_split)]
        curves[features] = [dataclasses.asdict(point) for point in label_efficiency(*rows, **options)]
    return curves
