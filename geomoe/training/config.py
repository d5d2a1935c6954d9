"""The configuration of a pretraining run: every key, with its default and its meaning."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import ml_collections

from geomoe.models.config import SIZES, ModelConfig
from geomoe.training.losses.config import LossConfig

# Keys of older versions, and what they are called today; `data.statistics = "published:NAME"` became two keys.
RETIRED_KEYS = {
    "data.fit": "data.resize_mode",
    "data.turns": "data.rot90",
    "loss.painted_views": "loss.decoded_views",
    "loss.contrast_weight": "loss.info_nce_weight",
    "loss.contrast_temperature": "loss.info_nce_temperature",
    "loss.variance_weight": "loss.vicreg_weight",
    "loss.latent_weight": "loss.data2vec_weight",
    "loss.indices_weight": "loss.spectral_indices_weight",
    "loss.place_time_weight": "loss.metadata_weight",
}
_RETIRED_NAMES = {old.rpartition(".")[2]: new for old, new in RETIRED_KEYS.items()}


class Config(ml_collections.ConfigDict):
    """A `ConfigDict` that names the new key where a retired one is asked for or set."""

    def __getattr__(self, name: str) -> Any:
        self._refuse_retired(name)
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._refuse_retired(name)
        super().__setattr__(name, value)

    def _refuse_retired(self, name: str) -> None:
        if name in _RETIRED_NAMES and name not in self:
            raise AttributeError(f"the config key {name} was renamed: it is now config.{_RETIRED_NAMES[name]}")


def default_config() -> ml_collections.ConfigDict:
    """The published recipe on an unnamed dataset. Files in `configs/` start from this and change what differs.

    The result is locked: assigning a key that does not exist is an error.
    """
    config = Config()
    config.seed = 0

    config.model = Config()  # the fields of geomoe.models.ModelConfig
    config.model.size = "S"  # or XS, XXS, tiny, custom
    for key, value in dataclasses.asdict(ModelConfig()).items():
        by_size = any(key in size for size in SIZES.values())
        config.model[key] = ml_collections.config_dict.placeholder(int) if by_size else value  # None: what `size` says

    data = config.data = Config()
    data.name = ""  # a prepared dataset, "name" or "name/config"; "fake" for random numbers without any input cost
    data.data_dir = "data"  # where `geomoe.cli.prepare` put it
    data.train_split = "train"  # TFDS notation
    data.val_split = "val"
    data.val_name = ""  # the dataset of val_split, z-scored by its own statistics where it is another; "" is data.name
    data.statistics = "published"  # with the dataset, or "computed" from the training split
    data.statistics_dataset = ""  # whose published statistics; "" for those of data.name itself
    data.resize_mode = "centre_crop"  # centre_crop, random_crop, random_resized_crop or resize to model.img_size
    data.crop_sides = ()  # smallest and largest side, in pixels, of random_resized_crop
    data.clip = ()  # (lowest, highest) digital number before the z-score; () clips nothing
    data.hour = "utc"  # or "published": the first digit of the hour, as the published preprocessing read it
    data.flips = False  # left-right and up-down, each for half of the images
    data.rot90 = False  # rotations by 0, 90, 180 or 270 degrees
    data.metadata_dropout = 0.0  # of each of week, hour, latitude and longitude, on its own
    data.random_metadata = 0.0  # share of places that are given any week, hour, latitude and longitude in place of their own
    data.coastal_dropout = 0.0  # of the coastal band, which Landsat 4 to 7 lack
    data.band_jitter = 0.0  # standard deviation of a random gain and offset of each band, of each view, in z-scores
    data.mix = ()  # of (name, share): other prepared datasets that give this share of each batch, each z-scored by its own
    data.cache = False  # keep the records in memory
    # Whether each process reads its own shards alone, as many hosts must; else all go through one order, and a run is the same
    # on any number of processes.
    data.own_shards = False

    train = config.train = Config()
    train.batch_size = 128  # over all devices, processes and accumulated parts
    train.accumulate = 1  # parts into which a device's batch is cut, one after the other, gradients averaged
    train.num_epochs = 500.0  # used where num_steps is 0
    train.num_steps = 0
    train.router_noise_end = 1.0  # factor of the routers' noise at the last step; it falls linearly from 1
    train.selection_rate = 0.001  # by which a step moves the routers' selection biases (model.selection_bias)

    optimizer = config.optimizer = Config(dict(lr=3e-4, weight_decay=0.05, b1=0.9, b2=0.999))
    optimizer.clip_norm = 1.0  # of the global gradient norm; 0 for none
    optimizer.warmup_fraction = 0.05  # of the steps; then cosine to 0

    config.loss = Config(LossConfig.default_section())  # geomoe/training/losses says what each is
    config.log = Config(dict(every_steps=10, eval_every_steps=500, eval_batches=8))
    config.log.images = 8  # reconstructions shown at each evaluation; 0 for none
    config.checkpoint = Config(dict(every_steps=500, keep_last=2))  # the last ones, and the best by validation loss
    return config.lock()


# What numbers may be, by the words of an error; NaN is none of these.
_BOUNDS: dict[str, Callable[[float], bool]] = {
    "at least 1": lambda value: value >= 1,
    "0 or more, or inf": lambda value: value >= 0,
    "0 or more": lambda value: 0 <= value < math.inf,
    "in [0, 1]": lambda value: 0 <= value <= 1,
    "in [0, 1)": lambda value: 0 <= value < 1,
}
_NUMBERS = {
    "at least 1": "train.batch_size train.accumulate log.every_steps log.eval_every_steps log.eval_batches "
    "checkpoint.every_steps",
    "0 or more": "seed optimizer.lr optimizer.weight_decay train.selection_rate log.images checkpoint.keep_last",
    "0 or more, or inf": "optimizer.clip_norm",
    "in [0, 1]": "optimizer.warmup_fraction train.router_noise_end data.metadata_dropout data.random_metadata "
    "data.coastal_dropout data.band_jitter",
    "in [0, 1)": "optimizer.b1 optimizer.b2",
}

# Keys that change what is shown or kept, not what is computed: a run may go on with other values of these.
_FREE_KEYS = ("log.", "checkpoint.", "data.data_dir", "data.cache")


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings to one dict with dotted keys; tuples become lists, as JSON has them.

    >>> flatten({"data": {"clip": (1, 2)}, "seed": 0})
    {'data.clip': [1, 2], 'seed': 0}
    """
    return flax.traverse_util.flatten_dict(json.loads(json.dumps(config)), sep=".")


def validate(config: ml_collections.ConfigDict) -> ModelConfig:
    """Check a configuration before anything is compiled, and give its model.

    Raises:
        ValueError: a key is unknown or missing, or a value makes no sense; the message names the key.
    """

    def require(ok: bool, message: str) -> None:
        if not ok:
            raise ValueError(message)

    data, steps = config.data, config.train
    defaults, values = flatten(default_config().to_dict()), flatten(config.to_dict())
    for key in values.keys() - defaults.keys():
        require(key not in RETIRED_KEYS, f"the config key {key} was renamed: it is now {RETIRED_KEYS.get(key)}")
        require(False, f"unknown config key {key}; known keys: {', '.join(sorted(defaults))}")
    for key in defaults.keys() - values.keys():
        require(False, f"the config lacks the key {key}; start from geomoe.training.default_config()")
    example = "name a prepared dataset, for example --config.data.name=landsat_folder/mine"
    require(bool(data.name), f"config.data.name is empty: {example}")
    for words, keys in _NUMBERS.items():
        for key in keys.split():
            require(_BOUNDS[words](values[key]), f"config.{key} = {values[key]} must be {words}")
    trains = steps.num_steps > 0 or (steps.num_steps == 0 and 0 < steps.num_epochs < math.inf)
    require(trains, "set config.train.num_steps or config.train.num_epochs above 0")
    clips = not data.clip or (len(data.clip) == 2 and data.clip[0] < data.clip[1])
    require(clips, f"config.data.clip = {tuple(data.clip)} must be () or (lowest, highest)")
    require(
        not data.crop_sides or data.resize_mode == "random_resized_crop",
        "config.data.crop_sides is for config.data.resize_mode = 'random_resized_crop'; "
        f"with {data.resize_mode!r} it would be ignored",
    )
    allowed = data.statistics in ("published", "computed")
    require(allowed, f"config.data.statistics = {data.statistics!r} is not 'published' or 'computed'")
    unused = f"config.data.statistics_dataset = {data.statistics_dataset!r} is for config.data.statistics = 'published'"
    require(data.statistics == "published" or not data.statistics_dataset, f"{unused}; with 'computed' it would be ignored")
    loss = LossConfig.from_section(config.loss.to_dict())
    for objective, _ in loss.active:
        if objective.check is not None:
            objective.check(config, loss.views)
    return ModelConfig.from_dict(config.model.to_dict())


def check_batch(config: ml_collections.ConfigDict, devices: int, processes: int) -> None:
    """Raise ValueError if the batch does not divide over devices and accumulated parts."""
    size, accumulate = config.train.batch_size, config.train.accumulate
    parts = devices * accumulate
    if size % parts:
        below = size // parts * parts
        raise ValueError(
            f"config.train.batch_size = {size} does not divide over {devices} devices ({processes} processes) x "
            f"{accumulate} accumulated parts; take {below or parts} or {below + parts}"
        )


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The keys whose values would change what a run computes, as "key: old -> new".

    A key that an older version did not know had what is now its default.
    """
    a, b = (flatten(default_config().to_dict()) | flatten(values) for values in (old, new))
    return [
        f"{key}: {a.get(key, 'absent')} -> {b.get(key, 'absent')}"
        for key in sorted(a.keys() | b.keys())
        if a.get(key) != b.get(key) and not key.startswith(_FREE_KEYS)
    ]


def modernised(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config that an older version wrote, with today's keys and values.

    >>> modernised({"data": {"fit": "resize", "mix": ["a/b=0.5"], "statistics": "published:eurosat_landsat"}})["data"]
    {'resize_mode': 'resize', 'mix': [['a/b', 0.5]], 'statistics': 'published', 'statistics_dataset': 'eurosat_landsat'}
    """
    new: dict[str, Any] = {}
    for section, values in config.items():
        if isinstance(values, Mapping):
            values = {RETIRED_KEYS.get(f"{section}.{key}", str(key)).rpartition(".")[2]: v for key, v in values.items()}
        new[section] = values
    data = new.get("data", {})
    if any(isinstance(entry, str) for entry in data.get("mix", ())):
        data["mix"] = [[name, float(share)] for name, _, share in (entry.partition("=") for entry in data["mix"])]
    if "statistics" in data:
        data["statistics"], _, dataset = data["statistics"].partition(":")
        data.setdefault("statistics_dataset", dataset)
    return new
