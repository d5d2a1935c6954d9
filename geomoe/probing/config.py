"""The configuration of a probing run: every key with its default, what may stand in it, and what it means to the probes."""

import hashlib
import math
import os
from typing import Any

import ml_collections
from ml_collections import config_dict

from geomoe.landsat import COMPUTED
from geomoe.metadata import FIELDS

PRETRAINED, RANDOM, BANDS, RCF = "pretrained", "random weights", "band statistics", "random convolutional features"
BASELINES = (RANDOM, BANDS, RCF)
PROBES = ("linear", "knn", "ridge", "finetune")
CHANGE_DATA = "synthetic_pairs"
# What pairs are scored by; of other keys they have no use.
_CHANGE_KEYS = {"checkpoint", "which", "pool", "seeds", "baselines", "resamples", "output", "resume", "save_probe"}
_CHANGE_KEYS |= {f"data.{key}" for key in ("name", "data_dir", "pairs", "drop", "nodata", "batch_size")}
_FEWEST_PAIRS = 4  # half of them to fit on
SPLITS = ("random", "stratified", "spatial", "group")  # how rows are divided into folds

# What published benchmarks fix of a probe, by the name that a result carries.
PROTOCOLS: dict[str, dict[str, dict[str, Any]]] = {
    # Corley et al. 2025, arXiv 2506.08780: logistic regression as scikit-learn has it, features unscaled; kNN with k = 5.
    "landsat_bench": {"linear": dict(C=1.0, standardise=False, max_iter=1000), "knn": dict(k=5, metric="euclidean")},
    # arXiv 2509.10919 compares itself with Landsat-Bench by its linear probe, on mean-pooled tokens.
    "moe_mae_paper": {"linear": dict(C=1.0, standardise=False, max_iter=1000)},
    # torchgeo-bench: C from a sweep on the validation split, then a fit on training plus validation; kNN-5, Euclidean.
    "torchgeo_bench": {
        "linear": dict(C="sweep", standardise=False, max_iter=1000, refit=True),
        "knn": dict(k=5, metric="euclidean"),
    },
}


def protocol_options(protocol: str, probe: str) -> dict[str, Any]:
    """Return the options that a protocol fixes for a probe.

    >>> protocol_options("landsat_bench", "knn")
    {'k': 5, 'metric': 'euclidean'}
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol = {protocol!r} is not one of {', '.join(PROTOCOLS)}")
    if probe not in PROTOCOLS[protocol]:
        raise ValueError(f"protocol {protocol!r} has no {probe} probe; it has {', '.join(PROTOCOLS[protocol])}")
    return dict(PROTOCOLS[protocol][probe])


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
    data.splits = "stratified"  # how the folds are drawn: random, stratified (by class), spatial (by blocks), group
    data.block_km = 50.0  # of spatial folds, the side of a block
    data.buffer_km = 0.0  # of spatial folds: what is nearer to a test patch is not fitted on
    data.group = ""  # of group folds: "scene" (an id without its _ROW_COLUMN), "folder" (of an id), or TABLE.csv:COLUMN, by id
    data.train_fraction = 1.0  # of the training split used by each seed, drawn anew
    data.pairs = 512  # of synthetic_pairs, half of them to train on
    data.statistics = "encoder"  # whose statistics the z-score is by; "computed": those of the training split
    data.resize_mode = "centre_crop"
    data.clip = ()
    data.hour = "utc"
    data.drop = ()  # of week, hour, lat and lon, what the encoder is not given
    data.nodata = "masked"  # pixels without data do not speak; "published": they do, as in the published evaluation
    data.batch_size = 256
    # C = 0 sweeps 40 values from 1e-6 to 1e4 on the validation split; the defaults of linear and knn are Landsat-Bench's
    config.linear = ml_collections.ConfigDict(dict(C=1.0, standardise=False, max_iter=1000))
    config.knn = ml_collections.ConfigDict(dict(k=5, metric="euclidean"))
    config.ridge = ml_collections.ConfigDict(dict(target="ndvi"))  # ndvi, latitude or longitude
    tuning = dict(blocks=-1, lr=3e-4, layer_decay=0.75, epochs=20, batch_size=64, patience=3)
    config.finetune = ml_collections.ConfigDict(tuning)  # blocks: how many of the last ones learn; -1 all, 0 the head alone
    return config.lock()


def validate(config: ml_collections.ConfigDict) -> None:
    """Raise ValueError, naming the key, for a configuration that cannot be run."""
    from geomoe.data.preprocess import InputSpec
    from geomoe.models.pooling import check_pooled
    from geomoe.probing.features import TARGETS
    from geomoe.training.config import flatten

    def require(ok: bool, message: str) -> None:
        if not ok:
            raise ValueError(message)

    defaults, d, values = default_probe_config(), config.data, flatten(config.to_dict())
    unknown = sorted(values.keys() - flatten(defaults.to_dict()).keys())
    require(not unknown, f"unknown config key {', '.join(unknown)}")
    require(bool(config.checkpoint), "config.checkpoint is empty: pass --config.checkpoint=RUN_DIR (or a published .pth)")
    require(bool(d.name), "config.data.name is empty: name a prepared dataset")
    whose = ("encoder", COMPUTED)
    require(d.statistics in whose, f"config.data.statistics = {d.statistics!r} is not one of {', '.join(whose)}")
    for section, check in (("", lambda: check_pooled(config.pool)), ("data.", lambda: InputSpec(nodata=d.nodata))):
        try:
            check()
        except ValueError as error:
            raise ValueError(f"config.{section}{error}") from None
    for key, allowed in (("probes", PROBES), ("baselines", BASELINES)):
        for name in config[key]:
            require(name in allowed, f"config.{key} has {name!r}, which is not one of {', '.join(allowed)}")
    for key in ("probes", "baselines", "seeds"):
        require(len(set(config[key])) == len(config[key]), f"config.{key} = {config[key]} names one of them twice")
    for name in d.drop:
        require(name in FIELDS, f"config.data.drop has {name!r}, which is not one of {', '.join(FIELDS)}")
    if d.name == CHANGE_DATA:
        for key, default in flatten(defaults.to_dict()).items():
            used = key in _CHANGE_KEYS or values[key] == default
            of_prepared = f"config.{key} = {values[key]!r} is for prepared datasets; each seed draws its {CHANGE_DATA} anew"
            require(used, f"{of_prepared}, and scores them by a threshold and a linear probe")
        require(d.pairs >= _FEWEST_PAIRS, f"config.data.pairs = {d.pairs} must be at least {_FEWEST_PAIRS}")
    require(bool(config.seeds and config.probes), "config.seeds and config.probes must not be empty")
    require(0 < d.train_fraction <= 1, f"config.data.train_fraction = {d.train_fraction} must be in (0, 1]")
    require(config.resamples >= 0, f"config.resamples = {config.resamples} must be 0 or more")
    for key in ("data.batch_size", "knn.k", "linear.max_iter", "finetune.batch_size", "finetune.patience"):
        require(values[key] >= 1, f"config.{key} = {values[key]} must be at least 1")
    for key in ("finetune.lr", "finetune.epochs"):
        require(0 <= values[key] < math.inf, f"config.{key} = {values[key]} must be 0 or more")
    decay = config.finetune.layer_decay
    require(0 < decay <= 1, f"config.finetune.layer_decay = {decay} must be in (0, 1]")
    require(
        all(0 < f <= 1 for f in config.label_fractions), f"config.label_fractions = {config.label_fractions} must be in (0, 1]"
    )
    require(config.linear.C >= 0, f"config.linear.C = {config.linear.C} must be positive, or 0 for a sweep")
    target = config.ridge.target
    require(target in TARGETS, f"config.ridge.target = {target!r} is not one of {', '.join(TARGETS)}")
    require(d.splits in SPLITS, f"config.data.splits = {d.splits!r} is not one of {', '.join(SPLITS)}")
    # Each key, and the kind of folds that reads it.
    for key, kind in {"splits": "", "block_km": "spatial", "buffer_km": "spatial", "group": "group"}.items():
        used = not d.test_split and kind in ("", d.splits)
        needs = f"config.data.splits = {kind!r}" if kind else "config.data.test_split = ''"
        require(used or d[key] == defaults.data[key], f"config.data.{key} = {d[key]!r} needs {needs}; else it is ignored")
    folds = f"config.data.folds = {d.folds} needs config.data.test_split = ''; else it is ignored"
    require(not d.test_split or d.folds == defaults.data.folds, folds)
    fractions = "config.label_fractions draws its own rows; config.data.train_fraction would be ignored"
    require(not config.label_fractions or d.train_fraction == 1, fractions)
    require(d.block_km > 0, f"config.data.block_km = {d.block_km} must be above 0")
    require(d.buffer_km >= 0, f"config.data.buffer_km = {d.buffer_km} must be 0 or more")
    if not d.test_split:
        known = d.splits != "group" or d.group in ("scene", "folder") or ".csv:" in d.group
        require(known, f"config.data.group = {d.group!r} is not scene, folder or TABLE.csv:COLUMN")
        for key in ("train_fraction", "val_split"):
            named = f"config.data.{key} = {d[key]!r} needs config.data.test_split; cross-validation would ignore it"
            require(d[key] == defaults.data[key], named)
        require(d.folds >= 2, f"config.data.folds = {d.folds} must be at least 2")
        for name in ("ridge", "finetune"):
            require(name not in config.probes, f"the {name} probe needs config.data.test_split; it is not cross-validated")
        require(not config.label_fractions, "config.label_fractions needs config.data.test_split")
    if protocol := config.protocol:
        require(protocol in PROTOCOLS, f"config.protocol = {protocol!r} is not one of {', '.join(PROTOCOLS)}")
        for name in ("linear", "knn"):
            if name in config.probes:
                protocol_options(protocol, name)  # raises where the protocol has no such probe
            require(
                config[name] == defaults[name],
                f"config.{name} is set, but config.protocol = {protocol!r} fixes it; leave one out",
            )


def probe_options(config: ml_collections.ConfigDict, probe: str) -> dict[str, Any]:
    """The options of `linear_probe` or `knn_probe` that the configuration sets."""
    if config.protocol:
        return dict(protocol=config.protocol)
    options = config[probe].to_dict()
    return options | ({"C": "sweep"} if options.get("C") == 0 else {})


def _chooses_C(config: ml_collections.ConfigDict) -> bool:
    options = protocol_options(config.protocol, "linear") if config.protocol else config.linear
    return options["C"] in (0, "sweep")


def group_text(group: str) -> str:
    """What `data.group` says, with the start of the SHA-256 of a table's content: another table makes other folds."""
    path, _, column = group.rpartition(":")
    if not path:
        return group
    with open(path, "rb") as file:
        return f"{os.path.basename(path)}:{column}:{hashlib.sha256(file.read()).hexdigest()[:8]}"


def folds_title(config: ml_collections.ConfigDict) -> str:
    """How the folds of a cross-validation are drawn, in words; "" where there is a test split."""
    d = config.data
    if d.test_split:
        return ""
    if d.splits == "spatial":
        return f"spatial blocks of {d.block_km:g} km, buffer {d.buffer_km:g} km"
    return f"groups by {d.group}" if d.splits == "group" else f"{d.splits} folds"


def settings_text(config: ml_collections.ConfigDict, probe: str) -> str:
    """Every option that a result of a probe depends on and no other column of the results file has, as text."""
    d = config.data
    shown = {key: d[key] for key in ("resize_mode", "clip", "hour", "drop", "nodata")} | {"fraction": d.train_fraction}
    if d.val_split:
        shown["val"] = d.val_split
    if not d.test_split:
        shown |= {"folds": d.folds, "splits": d.splits}
        if d.splits in ("spatial", "group") and probe == "linear" and _chooses_C(config):
            shown["val"] = d.splits
        if d.splits == "spatial":
            shown |= {"block_km": d.block_km, "buffer_km": d.buffer_km}
        if d.splits == "group":
            shown["group"] = group_text(d.group)
    if d.name == CHANGE_DATA:
        shown["pairs"] = d.pairs
    if probe in PROBES and not (config.protocol and probe in ("linear", "knn")):
        shown |= config[probe].to_dict()
    shown["resamples"] = config.resamples
    return ";".join(f"{k}={v}".replace(" ", "") for k, v in shown.items())
