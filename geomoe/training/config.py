"""The configuration of a pretraining run: every key, with its default and its meaning."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_collections

from geomoe.models.config import ModelConfig
from geomoe.training.step import LossConfig


def default_config() -> ml_collections.ConfigDict:
    """The published recipe on an unnamed dataset. Files in `configs/` start from this and change what differs.

    The result is locked: assigning a key that does not exist is an error.
    """
    config = ml_collections.ConfigDict()
    config.seed = 0

    config.model = ml_collections.ConfigDict()  # the fields of geomoe.models.ModelConfig
    config.model.size = "S"  # or XS, XXS, tiny, custom
    for key, value in ModelConfig().to_dict().items():
        if key in ("width", "depth", "expert_width_first", "expert_width_last", "num_heads", "num_groups", "decoder_width"):
            config.model[key] = ml_collections.config_dict.placeholder(int)  # None: what `size` says
        else:
            config.model[key] = tuple(value) if isinstance(value, list) else value

    data = config.data = ml_collections.ConfigDict()
    data.name = ""  # a prepared dataset, "name" or "name/config"; "fake" for random numbers without any input cost
    data.data_dir = "data"  # where `geomoe.cli.prepare` put it
    data.train_split = "train"  # TFDS notation
    data.val_split = "val"
    data.statistics = "published"  # "published", "published:NAME", or "computed" from the training split
    data.resize_mode = "centre_crop"  # centre_crop, random_crop, random_resized_crop or resize to model.img_size
    data.crop_sides = ()  # smallest and largest side, in pixels, of random_resized_crop
    data.clip = ()  # (lowest, highest) digital number before the z-score; () clips nothing
    data.hour = "utc"  # or "published": the first digit of the hour, as the published preprocessing read it
    data.flips = False
    data.rot90 = False
    data.metadata_dropout = 0.0  # of each of week, hour, latitude and longitude, on its own
    data.coastal_dropout = 0.0  # of the coastal band, which Landsat 4 to 7 lack
    data.band_jitter = 0.0  # deviation of a random gain and offset of each band, of each view, in z-scores
    data.mix = ()  # "NAME=SHARE": other prepared datasets that give this share of each batch, each z-scored by its own
    data.cache = False  # keep the records in memory

    train = config.train = ml_collections.ConfigDict()
    train.batch_size = 128  # over all devices, processes and accumulated parts
    train.accumulate = 1  # parts into which a device's batch is cut, one after the other, gradients averaged
    train.num_epochs = 500.0  # used where num_steps is 0
    train.num_steps = 0
    train.router_noise_end = 1.0  # factor of the routers' noise at the last step; it falls linearly from 1
    train.selection_rate = 0.001  # by which a step moves the routers' selection biases (model.selection_bias)

    optimizer = config.optimizer = ml_collections.ConfigDict()
    optimizer.lr = 3e-4
    optimizer.weight_decay = 0.05
    optimizer.b1 = 0.9
    optimizer.b2 = 0.999
    optimizer.clip_norm = 1.0  # of the global gradient norm; 0 for none
    optimizer.warmup_fraction = 0.05  # of the steps; then cosine to 0

    config.loss = ml_collections.ConfigDict(dataclasses.asdict(LossConfig()))  # its docstring says what each is

    log = config.log = ml_collections.ConfigDict()
    log.every_steps = 10
    log.eval_every_steps = 500
    log.eval_batches = 8
    log.images = 8  # reconstructions shown at each evaluation; 0 for none

    checkpoint = config.checkpoint = ml_collections.ConfigDict()
    checkpoint.every_steps = 500
    checkpoint.keep_last = 2  # and the best by validation loss
    return config.lock()


# Keys that change what is shown or kept, not what is computed: a run may go on with other values of these.
_FREE_KEYS = ("log.", "checkpoint.", "data.data_dir", "data.cache")


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings to one dict with dotted keys; tuples become lists, as JSON has them."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


def validate(config: ml_collections.ConfigDict) -> ModelConfig:
    """Checks a configuration before anything is compiled, and gives its model.

    Raises:
        ValueError: a key is unknown or missing, or a value makes no sense; the message names the key.
    """
    wanted, given = flatten(default_config().to_dict()), flatten(config.to_dict())
    for key in given.keys() - wanted.keys():
        raise ValueError(f"unknown config key {key}; known keys: {', '.join(sorted(wanted))}")
    for key in wanted.keys() - given.keys():
        raise ValueError(f"the config lacks the key {key}; start from geomoe.training.default_config()")
    if not config.data.name:
        raise ValueError(
            "config.data.name is empty: name a prepared dataset, for example --config.data.name=landsat_folder/mine"
        )
    for key in ("train.batch_size", "train.accumulate", "log.every_steps", "log.eval_every_steps", "checkpoint.every_steps"):
        if given[key] < 1:
            raise ValueError(f"config.{key} = {given[key]} must be at least 1")
    if config.train.num_steps < 0 or (config.train.num_steps == 0 and config.train.num_epochs <= 0):
        raise ValueError("set config.train.num_steps or config.train.num_epochs above 0")
    if not 0 <= config.optimizer.warmup_fraction <= 1:
        raise ValueError(f"config.optimizer.warmup_fraction = {config.optimizer.warmup_fraction} must be in [0, 1]")
    if len(config.data.clip) not in (0, 2):
        raise ValueError(f"config.data.clip = {tuple(config.data.clip)} must be () or (lowest, highest)")
    if not 0 <= config.train.router_noise_end <= 1:
        raise ValueError(f"config.train.router_noise_end = {config.train.router_noise_end} must be in [0, 1]")
    if config.data.crop_sides and config.data.resize_mode != "random_resized_crop":
        raise ValueError(
            "config.data.crop_sides is for config.data.resize_mode = 'random_resized_crop'; "
            f"with {config.data.resize_mode!r} it would be ignored"
        )
    loss = LossConfig(**config.loss.to_dict())
    if loss.metadata_weight and loss.views == 1 and not config.data.metadata_dropout:
        raise ValueError(
            "config.loss.metadata_weight needs images whose encoder is not told place and time: set "
            "config.data.metadata_dropout, or compare two crops"
        )
    return ModelConfig.from_dict(config.model.to_dict())


def check_batch(config: ml_collections.ConfigDict, devices: int, processes: int) -> None:
    """Raises ValueError if the batch does not divide over devices and accumulated parts."""
    parts = devices * config.train.accumulate
    if config.train.batch_size % parts:
        below = config.train.batch_size // parts * parts
        raise ValueError(
            f"config.train.batch_size = {config.train.batch_size} does not divide over {devices} devices "
            f"({processes} processes) x {config.train.accumulate} accumulated parts; "
            f"take {below or parts} or {below + parts}"
        )


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The keys whose values would change what a run computes, as "key: old -> new".

    A key that an older version did not know had what is now its default.
    """
    a, b = flatten(default_config().to_dict()) | flatten(old), flatten(new)
    return [
        f"{key}: {a.get(key, 'absent')} -> {b.get(key, 'absent')}"
        for key in sorted(a.keys() | b.keys())
        if a.get(key) != b.get(key) and not key.startswith(_FREE_KEYS)
    ]
