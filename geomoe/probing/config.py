"""The configuration of a probing run: every key with its default, what may stand in it, and what it means to the probes."""

from __future__ import annotations

from typing import Any

import ml_collections
from ml_collections import config_dict

from geomoe.probing.protocols import PROTOCOLS, protocol_options

PRETRAINED, RANDOM, BANDS, RCF = "pretrained", "random weights", "band statistics", "random convolutional features"
BASELINES = (RANDOM, BANDS, RCF)
PROBES = ("linear", "knn", "ridge", "finetune")
CHANGE_DATA = "synthetic_pairs"


def default_probe_config() -> ml_collections.ConfigDict:
    """Make the configuration of a probing run, every key with its default. Locked, like `geomoe.training.default_config()`."""
    config = ml_collections.ConfigDict()
    config.checkpoint = ""  # a run directory or a published .pth
    config.which = "last"  # checkpoint of a run directory: last, best or a step
    config.pool = config_dict.FieldReference("mean", field_type=object)  # a name, or a tuple of several
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
    data.drop = ()  # of week, hour, lat and lon, what the encoder is not given
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
    """Raise ValueError, naming the key, for a configuration that cannot be run."""
    from geomoe.models.pooling import check_pool
    from geomoe.probing.features import TARGETS
    from geomoe.training.config import flatten

    defaults = default_probe_config()
    unknown = flatten(config.to_dict()).keys() - flatten(defaults.to_dict()).keys()
    if unknown:
        raise ValueError(f"unknown config key {sorted(unknown)[0]}")
    if not config.checkpoint:
        raise ValueError("config.checkpoint is empty: pass --config.checkpoint=RUN_DIR (or a published .pth)")
    if not config.data.name:
        raise ValueError("config.data.name is empty: name a prepared dataset")
    try:
        check_pool(config.pool)
    except ValueError as error:
        raise ValueError(f"config.{error}") from None
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
        if config.label_fractions:
            raise ValueError("config.label_fractions needs config.data.test_split")
    if config.protocol:
        if config.protocol not in PROTOCOLS:
            raise ValueError(f"config.protocol = {config.protocol!r} is not one of {', '.join(PROTOCOLS)}")
        for name in ("linear", "knn"):
            if name in config.probes:
                protocol_options(config.protocol, name)  # raises where the protocol has no such probe
            if config[name] != defaults[name]:
                raise ValueError(f"config.{name} is set, but config.protocol = {config.protocol!r} fixes it; leave one out")


def linear_options(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The options of `linear_probe` that the configuration sets."""
    if config.protocol:
        return dict(protocol=config.protocol)
    options = config.linear.to_dict()
    return options | ({"C": "sweep"} if options["C"] == 0 else {})


def knn_options(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The options of `knn_probe` that the configuration sets."""
    return dict(protocol=config.protocol) if config.protocol else config.knn.to_dict()


def settings_text(config: ml_collections.ConfigDict, probe: str) -> str:
    """Every option that a result of a probe depends on and no other column of the results file has, as text."""
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
