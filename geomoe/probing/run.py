"""A probing run from its config to its results: a pretrained encoder and its baselines, under several probes and seeds."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable
from typing import Any

import ml_collections
import numpy as np

import geomoe
from geomoe.pretrained import embed_in_batches
from geomoe.probing.baselines import RandomConvFeatures, band_statistics
from geomoe.probing.change import METHODS, change_probe
from geomoe.probing.features import TARGETS, Features, embed_split, load_images
from geomoe.probing.finetune import finetune
from geomoe.probing.protocols import (
    PROTOCOLS,
    ProbeResult,
    cross_validate,
    knn_probe,
    label_efficiency,
    linear_probe,
    protocol_options,
    ridge_probe,
)
from geomoe.probing.results import KEY, Results
from geomoe.probing.tables import Row, save_tables

PRETRAINED, RANDOM, BANDS, RCF = "pretrained", "random weights", "band statistics", "random convolutional features"
BASELINES = (RANDOM, BANDS, RCF)
PROBES = ("linear", "knn", "ridge", "finetune")
CHANGE_DATA = "synthetic_pairs"
_RCF_IMAGES = 2048  # training images that filters are drawn from


def default_probe_config() -> ml_collections.ConfigDict:
    """Every key of a probing run, with its default. Locked, like `geomoe.training.default_config()`."""
    config = ml_collections.ConfigDict()
    config.checkpoint = ""  # a run directory or a published .pth
    config.which = "last"  # checkpoint of a run directory: last, best or a step
    config.pool = "mean"
    config.seeds = (0, 1, 2)  # of the random weights and filters, the training subset and the folds
    config.probes = ("linear", "knn")  # of linear, knn, ridge, finetune
    config.protocol = ""  # landsat_bench, moe_mae_paper, torchgeo_bench: sets linear and knn below
    config.baselines = BASELINES
    config.resamples = 1000  # of the 95 % bootstrap intervals; 0 for none
    config.label_fractions = ()  # label-efficiency curves, as (0.01, 0.05, 0.1, 0.5, 1.0)
    config.output = ""  # folder of results.csv and the tables; "" is CHECKPOINT/probes for a run directory
    config.resume = True  # take rows that results.csv has from there
    config.save_probe = True  # write the linear probe of the first seed beside the tables
    data = config.data = ml_collections.ConfigDict()
    data.name = ""  # a prepared dataset, or "synthetic_pairs" for change detection
    data.data_dir = "data"
    data.train_split = "train"
    data.val_split = ""  # where C and early stopping are decided; "" takes a fifth of the training split
    data.test_split = "test"  # "" for cross-validation on the training split
    data.folds = 5
    data.train_fraction = 1.0  # of the training split used by each seed, drawn anew
    data.pairs = 512  # of synthetic_pairs, half of them to train on
    data.resize_mode = "centre_crop"
    data.clip = ()
    data.hour = "utc"
    data.drop = ()  # of week, hour, lat and lon, what the encoder is not told
    data.batch_size = 256
    linear = config.linear = ml_collections.ConfigDict()  # Landsat-Bench
    linear.C = 1.0  # 0 sweeps 40 values from 1e-6 to 1e4 on the validation split
    linear.standardise = False
    linear.max_iter = 1000
    knn = config.knn = ml_collections.ConfigDict()
    knn.k = 5
    knn.metric = "euclidean"
    ridge = config.ridge = ml_collections.ConfigDict()
    ridge.target = "ndvi"  # ndvi, latitude or longitude
    tuning = config.finetune = ml_collections.ConfigDict()
    tuning.blocks = -1  # last blocks that learn; -1 all, 0 the head alone
    tuning.lr = 3e-4
    tuning.layer_decay = 0.75
    tuning.epochs = 20
    tuning.batch_size = 64
    tuning.patience = 3
    return config.lock()


def validate(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError, naming the key, for a configuration that cannot be run."""
    from geomoe.training.config import flatten

    defaults = default_probe_config()
    unknown = flatten(config.to_dict()).keys() - flatten(defaults.to_dict()).keys()
    if unknown:
        raise ValueError(f"unknown config key {sorted(unknown)[0]}")
    if not config.checkpoint:
        raise ValueError("config.checkpoint is empty: pass --config.checkpoint=RUN_DIR (or a published .pth)")
    if not config.data.name:
        raise ValueError("config.data.name is empty: name a prepared dataset")
    for key, allowed in (("probes", PROBES), ("baselines", BASELINES)):
        for name in config[key]:
            if name not in allowed:
                raise ValueError(f"config.{key} has {name!r}, which is not one of {', '.join(allowed)}")
    if not config.seeds or not config.probes:
        raise ValueError("config.seeds and config.probes must not be empty")
    if not 0 < config.data.train_fraction <= 1:
        raise ValueError(f"config.data.train_fraction = {config.data.train_fraction} must be in (0, 1]")
    if config.resamples < 0:
        raise ValueError(f"config.resamples = {config.resamples} must be 0 or more")
    if config.linear.C < 0:
        raise ValueError(f"config.linear.C = {config.linear.C} must be positive, or 0 for a sweep")
    if config.ridge.target not in TARGETS:
        raise ValueError(f"config.ridge.target = {config.ridge.target!r} is not one of {', '.join(TARGETS)}")
    if not config.data.test_split:
        if config.data.folds < 2:
            raise ValueError(f"config.data.folds = {config.data.folds} must be at least 2")
        for name in ("ridge", "finetune"):
            if name in config.probes:
                raise ValueError(f"the {name} probe needs config.data.test_split; it is not cross-validated")
        for key in ("label_fractions",):
            if config[key]:
                raise ValueError(f"config.{key} needs config.data.test_split")
    if config.protocol:
        if config.protocol not in PROTOCOLS:
            raise ValueError(f"config.protocol = {config.protocol!r} is not one of {', '.join(PROTOCOLS)}")
        for name in ("linear", "knn"):
            if name in config.probes:
                protocol_options(config.protocol, name)  # raises where the protocol has no such probe
            if config[name] != defaults[name]:
                raise ValueError(f"config.{name} is set, but config.protocol = {config.protocol!r} fixes it; leave one out")


def _linear_options(config: ml_collections.ConfigDict) -> dict[str, Any]:
    if config.protocol:
        return dict(protocol=config.protocol)
    options = config.linear.to_dict()
    return options | ({"C": "sweep"} if options["C"] == 0 else {})


def _knn_options(config: ml_collections.ConfigDict) -> dict[str, Any]:
    return dict(protocol=config.protocol) if config.protocol else config.knn.to_dict()


def _rows_of(count: int, fraction: float, seed: int) -> np.ndarray:
    """The training rows of a seed."""
    return np.random.default_rng(seed).permutation(count)[: max(int(round(fraction * count)), 1)]


@dataclasses.dataclass
class _Data:
    """What the probes of a run are fitted and scored on; made when the first probe needs it."""

    config: ml_collections.ConfigDict
    encoder: geomoe.PretrainedEncoder
    source: Any
    task: str

    def _options(self) -> dict[str, Any]:
        d = self.config.data
        return dict(
            resize_mode=d.resize_mode, clip=tuple(d.clip) or None, hour=d.hour, batch_size=d.batch_size, drop=tuple(d.drop)
        )

    @functools.cached_property
    def encoders(self) -> dict[str, geomoe.PretrainedEncoder]:
        seeds = self.config.seeds if RANDOM in self.config.baselines else ()
        return {PRETRAINED: self.encoder} | {f"{RANDOM} {s}": self.encoder.random_weights(1000 + s) for s in seeds}

    @functools.cached_property
    def baselines(self) -> dict[str, Callable[..., np.ndarray]]:
        made: dict[str, Callable[..., np.ndarray]] = {}
        if BANDS in self.config.baselines:
            made[BANDS] = band_statistics
        if RCF in self.config.baselines:
            images = load_images(self.encoder, self.source, self.config.data.train_split, limit=_RCF_IMAGES, **self._options())[
                "image"
            ]
            for seed in self.config.seeds:
                filters = RandomConvFeatures(images, seed=seed)
                made[f"{RCF} {seed}"] = functools.partial(lambda rcf, x, valid: rcf(x), filters)
        return made

    @functools.cache  # noqa: B019  (one object a run)
    def split(self, name: str) -> Features:
        options = dict(pool=self.config.pool, baselines=self.baselines, **self._options())
        return embed_split(self.encoders, self.source, name, **options)

    @functools.cache  # noqa: B019
    def images(self, name: str) -> dict[str, np.ndarray]:
        return load_images(self.encoder, self.source, name, **self._options())

    def __hash__(self) -> int:
        return id(self)

    def features(self, split: str, features: str, seed: int) -> np.ndarray:
        return self.split(split).sets[f"{features} {seed}" if features in (RANDOM, RCF) else features]


def _fit(data: _Data, features: str, probe: str, seed: int) -> ProbeResult:
    """One probe on one set of features with one seed."""
    config, d = data.config, data.config.data
    if probe == "finetune":
        train, test = data.images(d.train_split), data.images(d.test_split)
        rows = _rows_of(len(train["labels"]), d.train_fraction, seed)
        tuning = config.finetune.to_dict()
        tuning["blocks"] = None if tuning["blocks"] < 0 else tuning["blocks"]
        return finetune(
            {key: value[rows] for key, value in train.items()},
            test,
            encoder=data.encoders[PRETRAINED if features == PRETRAINED else f"{features} {seed}"],
            task=data.task,
            val=data.images(d.val_split) if d.val_split else None,
            pool=config.pool,
            seed=seed,
            resamples=config.resamples,
            **tuning,
        )
    x, y = data.features(d.train_split, features, seed), data.split(d.train_split).labels
    fit, options = (linear_probe, _linear_options(config)) if probe == "linear" else (knn_probe, _knn_options(config))
    if not d.test_split:
        return cross_validate(x, y, task=data.task, probe=fit, count=d.folds, seed=seed, resamples=config.resamples, **options)
    rows = _rows_of(len(x), d.train_fraction, seed)
    x_test, test = data.features(d.test_split, features, seed), data.split(d.test_split)
    val = None
    if d.val_split and probe != "knn":
        val = data.features(d.val_split, features, seed), data.split(d.val_split).labels
    if probe == "ridge":
        target = config.ridge.target
        targets = data.split(d.train_split).targets[target]
        if val is not None:
            val = val[0], data.split(d.val_split).targets[target]
        return ridge_probe((x[rows], targets[rows]), (x_test, test.targets[target]), val=val, resamples=config.resamples)
    if probe == "linear":
        options |= dict(val=val, seed=seed, info={"pool": config.pool, "features": features, "encoder": data.encoder.source})
    return fit((x[rows], y[rows]), (x_test, test.labels), task=data.task, resamples=config.resamples, **options)


def _change(config: ml_collections.ConfigDict, encoder: geomoe.PretrainedEncoder) -> Callable[[str, str, int], ProbeResult]:
    """Probes on the synthetic pairs: a function of features, method and seed."""
    from geomoe import metadata
    from geomoe.data import preprocess, synthetic

    @functools.cache
    def pairs(seed: int) -> dict[str, np.ndarray]:
        return synthetic.change_pairs(seed, config.data.pairs)

    @functools.cache
    def views(seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
        return [
            encoder.prepare(pairs(seed)[view], preprocess.InputSpec(resize_mode="centre_crop")) for view in ("before", "after")
        ]

    def features_of(features: str, seed: int) -> list[np.ndarray]:
        if features == BANDS:
            return [band_statistics(*view) for view in views(seed)]
        if features == RCF:
            filters = RandomConvFeatures(views(seed)[0][0], seed=seed)
            return [filters(z) for z, _ in views(seed)]
        model = encoder if features == PRETRAINED else encoder.random_weights(1000 + seed)
        made, known = [], pairs(seed)
        for (z, _), time in zip(views(seed), ("time_before", "time_after")):
            pairs_of = metadata.encode(known["lat"], known["lon"], known[time])
            told = [np.zeros_like(v) if k in config.data.drop else v for k, v in pairs_of._asdict().items()]
            made.append(embed_in_batches(model, z, told, config.pool, config.data.batch_size))
        return made

    cached = functools.cache(features_of)

    def fit(features: str, method: str, seed: int) -> ProbeResult:
        before, after = cached(features, seed)
        changed, half = pairs(seed)["changed"], config.data.pairs // 2
        train, test = ((before[part], after[part], changed[part]) for part in (slice(half), slice(half, None)))
        return change_probe(train, test, method=method.removeprefix("change "), resamples=config.resamples)

    return fit


def _settings(config: ml_collections.ConfigDict, probe: str) -> str:
    """What else a row of results stands for, short enough for a cell."""
    d = config.data
    shown = {
        "resize_mode": d.resize_mode,
        "clip": tuple(d.clip),
        "hour": d.hour,
        "drop": tuple(d.drop),
        "fraction": d.train_fraction,
    }
    if d.val_split:
        shown["val"] = d.val_split
    if not d.test_split:
        shown["folds"] = d.folds
    if d.name == CHANGE_DATA:
        shown["pairs"] = d.pairs
    section = probe if probe in ("linear", "knn", "ridge", "finetune") else None
    if section and not (config.protocol and section in ("linear", "knn")):
        shown |= config[section].to_dict()
    shown["resamples"] = config.resamples
    return ";".join(f"{k}={v}".replace(" ", "") for k, v in shown.items())


def run(config: ml_collections.ConfigDict) -> tuple[list[Row], dict[str, Any]]:
    """Embeds, fits and scores; rows that the results file has are taken from there, others are added to it.

    Args:
        config: as from `default_probe_config()`.

    Returns:
        The rows of the table, and facts: task, sizes, encoder, settings.
    """
    validate(config)
    encoder = geomoe.load(config.checkpoint, int(config.which) if str(config.which).isdigit() else config.which)
    d = config.data
    change = d.name == CHANGE_DATA
    facts: dict[str, Any] = {"protocol": config.protocol or "none"}
    if change:
        task, fit = "change", _change(config, encoder)
        probes: Iterable[str] = [f"change {method}" for method in METHODS]
        facts |= {"dataset": CHANGE_DATA, "classes": ["unchanged", "changed"]}
        facts |= {"train": d.pairs // 2, "test": d.pairs - d.pairs // 2}
    else:
        from geomoe import data as datasets

        source = datasets.builder(d.name, d.data_dir)
        task = source.info.metadata["task"]
        if task not in ("multiclass", "multilabel"):
            raise ValueError(f"{d.name} was prepared without labels; there is nothing to probe")
        held = _Data(config, encoder, source, task)
        fit, probes = functools.partial(_fit, held), config.probes
        facts |= {"dataset": source.info.full_name, "classes": source.info.features["labels"].feature.names}
        facts["train"] = datasets.num_examples(source, d.train_split)
        facts["test"] = datasets.num_examples(source, d.test_split) if d.test_split else None
    folder = config.output or (os.path.join(config.checkpoint, "probes") if os.path.isdir(config.checkpoint) else "")
    results = Results(os.path.join(folder, "results.csv")) if folder else None
    identity = f"{encoder.source} {encoder.fingerprint[:12]}"
    normalisation = encoder.record()["statistics"]["source"]
    stem = os.path.join(folder, d.name.replace("/", "_")) if folder else ""

    rows = []
    for features in (PRETRAINED, *config.baselines):
        for probe in probes:
            if probe == "finetune" and features in (BANDS, RCF):
                continue  # there is nothing to tune
            runs, intervals = [], {}
            for seed in config.seeds:
                key = dict(zip(KEY, (facts["dataset"], d.train_split, d.test_split or "folds", task, facts["protocol"], probe)))
                key |= dict(features=features, encoder=identity, pool=config.pool, settings=_settings(config, probe), seed=seed)
                known = results.find(key) if results and config.resume else None
                if known is None:
                    found = fit(features, probe, seed)
                    known = {"metrics": found.metrics, "intervals": found.intervals}
                    if results:
                        results.add(key, found.metrics, found.intervals, f"unit=collection2_dn;statistics={normalisation}")
                    wanted = config.save_probe and (features, probe, seed) == (PRETRAINED, "linear", config.seeds[0])
                    if stem and wanted and found.model is not None:
                        classes = {"classes": list(facts["classes"]), "input": encoder.record()}
                        model = dataclasses.replace(found.model, info={**found.model.info, **classes})
                        model.save(f"{stem}_linear.npz")
                runs.append(known["metrics"])
                intervals = intervals or known["intervals"]
            rows.append(Row.of(features, probe, runs, intervals))
    facts |= {
        "task": task,
        "encoder": repr(encoder),
        "statistics": encoder.statistics,
        "geomoe_version": geomoe.__version__,
        "config": config.to_dict(),
    }
    if config.label_fractions and not change:
        facts["label_efficiency"] = _efficiency(config, held)
    if stem:
        save_tables(stem, rows, facts)
    return rows, facts


def _efficiency(config: ml_collections.ConfigDict, data: _Data) -> dict[str, list[dict[str, Any]]]:
    """Label-efficiency curves of the linear probe: features -> points."""
    train, test = config.data.train_split, config.data.test_split
    curves = {}
    for features in (PRETRAINED, *config.baselines):
        seed = config.seeds[0]
        x, y = data.features(train, features, seed), data.split(train).labels
        held = data.features(test, features, seed), data.split(test).labels
        points = label_efficiency(
            (x, y), held, task=data.task, fractions=config.label_fractions, seeds=config.seeds, **_linear_options(config)
        )
        curves[features] = [dataclasses.asdict(point) for point in points]
    return curves
