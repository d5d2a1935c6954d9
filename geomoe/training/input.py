"""The input of a run: its datasets, their statistics, and the two streams of batches that its steps read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from geomoe import landsat
from geomoe.metadata import FIELDS
from geomoe.models import ModelConfig
from geomoe.training.step import LossConfig


@dataclasses.dataclass
class RunData:
    """The input of a run: facts, and functions that start its two streams of numpy batches."""

    statistics: dict[str, Any]
    dataset: str
    mix: dict[str, Any]  # name of each dataset mixed in -> its rows of a batch and its statistics
    examples: int
    train: Any  # start_batch -> iterator
    val: Any  # () -> iterator


def open_data(config: ml_collections.ConfigDict, model: ModelConfig, known: dict[str, Any] | None) -> RunData:
    """Opens the datasets; `known` are the statistics of the run if it is there already."""
    if config.data.name == "fake":
        return _fake_data(config, model)
    from geomoe import data  # imports TensorFlow

    d = config.data
    source = data.builder(d.name, d.data_dir)
    kind, _, name = d.statistics.partition(":")
    if known is not None:
        statistics = landsat.Statistics.of(known)
    elif kind == "computed":
        statistics = data.compute_statistics(source, d.train_split)
    elif kind == "published":
        statistics = landsat.Statistics.published(name or source.name)
    else:
        raise ValueError(f"config.data.statistics = {d.statistics!r} is not 'published', 'published:NAME' or 'computed'")
    rows = rows_of_mix(d.mix, config.train.batch_size, jax.process_count())
    mixed = {}
    for other, count in rows.items():
        found = data.builder(other, d.data_dir)
        known_there = kind == "published" and found.name in landsat.STATISTICS
        own = landsat.Statistics.published(found.name) if known_there else data.compute_statistics(found, "train")
        mixed[other] = (found, count, own)
    batch_size = config.train.batch_size
    common = dict(
        img_size=model.img_size,
        clip=tuple(d.clip) or None,
        hour=d.hour,
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        cache=d.cache,
        train=True,
    )
    augment = data.Augment(d.flips, d.rot90, d.metadata_dropout, d.coastal_dropout, d.band_jitter, d.crop_sides)
    loss = LossConfig(**config.loss.to_dict())

    def batches(dataset: Any, keys: tuple[str, ...]) -> Iterator[dict[str, np.ndarray]]:
        return dataset.map(lambda batch: {key: batch[key] for key in keys}).as_numpy_iterator()

    def train(start_batch: int) -> Iterator[dict[str, np.ndarray]]:
        chosen = dict(resize_mode=d.resize_mode, augment=augment, start_batch=start_batch, views=loss.views, **common)
        main = batch_size - sum(rows.values())
        streams = [batches(data.load(source, d.train_split, batch_size=main, statistics=statistics, **chosen), loss.batch_keys)]
        for found, count, own in mixed.values():
            loaded = data.load(found, "train", batch_size=count, statistics=own, **chosen)
            streams.append(batches(loaded, loss.batch_keys))
        if len(streams) == 1:
            return streams[0]
        return ({key: np.concatenate([part[key] for part in parts]) for key in loss.batch_keys} for parts in zip(*streams))

    def val() -> Iterator[dict[str, np.ndarray]]:
        chosen = dict(batch_size=val_batch, statistics=statistics, **common)
        resize_mode = "centre_crop" if d.resize_mode in ("random_crop", "random_resized_crop") else d.resize_mode
        told = data.Augment(metadata_dropout=d.metadata_dropout)  # as much of place and time as in training
        keys = tuple(key for key in loss.batch_keys if key not in ("second_view", "second_valid"))
        first = batches(data.load(source, d.val_split, resize_mode=resize_mode, augment=told, **chosen), keys)
        if loss.views == 1:
            return first
        second = batches(
            data.load(source, d.val_split, resize_mode=d.resize_mode, augment=augment, **chosen), ("image", "valid")
        )
        return (a | {"second_view": b["image"], "second_valid": b["valid"]} for a, b in zip(first, second))

    count, devices = data.num_examples(source, d.val_split), jax.device_count()
    val_batch = min(batch_size, count) // devices * devices
    if not val_batch:
        raise ValueError(
            f"config.data.val_split = {d.val_split!r} of {d.name} has {count} examples, fewer than the {devices} devices; "
            "hold out more"
        )
    mix = {other: {"rows": count, "statistics": dict(own)} for other, (_, count, own) in mixed.items()}
    return RunData(dict(statistics), source.info.full_name, mix, data.num_examples(source, d.train_split), train, val)


def rows_of_mix(mix: Sequence[str], batch_size: int, processes: int) -> dict[str, int]:
    """Rows of a batch that each dataset of `config.data.mix` gives, a multiple of the number of processes.

    >>> rows_of_mix(("landsat_folder/scene=0.15",), 64, 2)
    {'landsat_folder/scene': 10}

    Raises:
        ValueError: an entry is not "NAME=SHARE", or nothing is left for the main dataset.
    """
    rows = {}
    for entry in mix:
        name, _, share = entry.partition("=")
        try:
            rows[name] = round(float(share) * batch_size / processes) * processes
        except ValueError:
            raise ValueError(
                f"config.data.mix has {entry!r}, which is not 'NAME=SHARE', as in 'synthetic_landsat=0.2'"
            ) from None
        if rows[name] < 1:
            raise ValueError(f"config.data.mix: {entry!r} gives no row of a batch of {batch_size}; raise it")
    if sum(rows.values()) >= batch_size:
        raise ValueError(f"config.data.mix = {tuple(mix)} leaves no row of a batch of {batch_size} for config.data.name")
    return rows


def _fake_data(config: ml_collections.ConfigDict, model: ModelConfig) -> RunData:
    """One batch of random numbers, again and again: the cost of a step without that of its input."""
    rng = np.random.default_rng([config.seed, jax.process_index()])
    local = config.train.batch_size // jax.process_count()
    batch = {"image": rng.standard_normal((local, model.img_size, model.img_size, model.in_channels), np.float32)}
    batch |= {name: rng.standard_normal((local, 2), np.float32) for name in FIELDS}
    batch["valid"] = batch["second_valid"] = np.ones(batch["image"].shape[:3], bool)
    batch["second_view"] = rng.standard_normal(batch["image"].shape, np.float32)
    batch["metadata"] = np.stack([batch[name] for name in FIELDS], axis=1)
    batch = {key: batch[key] for key in LossConfig(**config.loss.to_dict()).batch_keys}

    def stream(start_batch: int = 0) -> Iterator[dict[str, np.ndarray]]:
        del start_batch
        while True:
            yield batch

    zeros, ones = [0.0] * model.in_channels, [1.0] * model.in_channels
    return RunData({"mean": zeros, "std": ones, "source": "fake"}, "fake", {}, config.train.batch_size, stream, stream)
