"""The input of a run: its datasets, their statistics, and the two streams of batches that its steps read."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from geomoe.landsat import STATISTICS, Statistics
from geomoe.metadata import FIELDS
from geomoe.models import ModelConfig
from geomoe.training.losses.config import LossConfig

Batches = Iterator[dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class RunData:
    """The input of a run."""

    statistics: Statistics  # of the main dataset's z-score
    dataset: str  # its full name
    mix: dict[str, dict[str, Any]]  # name of each dataset mixed in -> its "rows" of a batch and its "statistics"
    examples: int  # of the main dataset's training split
    train: Callable[[int], Batches]  # number of a batch -> the stream of this process's training batches from there on
    val: Callable[[], Batches]  # starts the stream of this process's held-out batches, the last one possibly smaller
    val_statistics: Statistics  # of their z-score
    val_share: int  # held-out examples that every process has at least; some have one more
    records: Mapping[str, str]  # name of each dataset -> SHA-256 of its records


def open_data(
    config: ml_collections.ConfigDict, model: ModelConfig, known_statistics: Mapping[str, Any] | None = None
) -> RunData:
    """Open the datasets of a config; `known_statistics` are those of the run if it is there already."""
    loss = LossConfig.from_section(config.loss.to_dict())
    if config.data.name == "fake":
        return _fake_data(config, model, loss)
    from geomoe import data  # imports TensorFlow

    d, batch_size = config.data, config.train.batch_size
    main = data.builder(d.name, d.data_dir)
    if known_statistics is not None:
        statistics = Statistics.of(known_statistics)
    elif d.statistics == "computed":
        statistics = data.compute_statistics(main, d.train_split)
    else:
        statistics = Statistics.published(d.statistics_dataset or main.name)
    rows = rows_of_mix(d.mix, batch_size, jax.process_count() if d.own_shards else 1)
    streams = [(main, d.train_split, batch_size - sum(rows.values()), statistics)]

    for name, count in rows.items():
        mixed = data.builder(name, d.data_dir)
        streams.append((mixed, "train", count, _own_statistics(d.statistics, mixed, "train")))
    held_out, val_statistics = held_out_data(d, statistics)
    augment = data.Augment(**{field.name: d[field.name] for field in dataclasses.fields(data.Augment)})
    common: dict[str, Any] = dict(img_size=model.img_size, hour=d.hour, seed=config.seed, cache=d.cache, train=True)
    common |= dict(clip=tuple(d.clip) or None)
    processes: dict[str, Any] = dict(process_index=jax.process_index(), process_count=jax.process_count())

    def batches(keys: Sequence[str], source: Any, split: str, count: int, z_score: Statistics, **options: Any) -> Batches:
        dataset = data.load(source, split, batch_size=count, statistics=z_score, **common, **options)
        return dataset.map(lambda batch: {key: batch[key] for key in keys}).as_numpy_iterator()

    def train(start_batch: int) -> Batches:
        options: dict[str, Any] = dict(resize_mode=d.resize_mode, augment=augment, start_batch=start_batch, views=loss.views)
        local = batch_size // jax.process_count()
        if d.own_shards:
            return joined([batches(loss.batch_keys, *stream, **(options | processes)) for stream in streams])
        first, parts = local * jax.process_index(), []  # where this process's rows of a batch begin, seen from each stream
        for source, split, count, z_score in streams:
            own = max(first, 0), min(first + local, count)
            if own[0] < own[1]:
                parts.append(batches(loss.batch_keys, source, split, count, z_score, batch_rows=own, **options))
            first -= count
        return joined(parts)

    def joined(parts: Sequence[Batches]) -> Batches:
        if len(parts) == 1:
            return parts[0]
        return ({key: np.concatenate([part[key] for part in row]) for key in loss.batch_keys} for row in zip(*parts))

    def val() -> Batches:
        split = held_out, d.val_split, batch_size, val_statistics
        cropped = "centre_crop" if d.resize_mode in ("random_crop", "random_resized_crop") else d.resize_mode
        dropout = data.Augment(metadata_dropout=d.metadata_dropout)  # of metadata alone, as much as in training
        keys = [key for key in loss.batch_keys if key not in ("second_view", "second_valid")]
        first = batches(keys, *split, resize_mode=cropped, augment=dropout, one_epoch=True, **processes)
        if loss.views == 1:
            return first
        options: dict[str, Any] = dict(resize_mode=d.resize_mode, augment=augment, one_epoch=True, **processes)
        second = batches(("image", "valid"), *split, **options)
        return (a | {"second_view": b["image"], "second_valid": b["valid"]} for a, b in zip(first, second))

    count = data.num_examples(held_out, d.val_split)
    if count < jax.process_count():
        split = f"config.data.val_split = {d.val_split!r} of {d.val_name or d.name}"
        raise ValueError(f"{split} has {count} examples, fewer than the {jax.process_count()} processes; hold out more")
    mix = {name: {"rows": stream[2], "statistics": dict(stream[3])} for name, stream in zip(rows, streams[1:])}
    examples, val_share = data.num_examples(main, d.train_split), count // jax.process_count()
    sources = {source.info.full_name: source for source in (*(stream[0] for stream in streams), held_out)}
    records = {name: data.fingerprint(source) for name, source in sources.items()}
    return RunData(statistics, main.info.full_name, mix, examples, train, val, val_statistics, val_share, records)


def _own_statistics(which: str, source: Any, split: str) -> Statistics:
    """Of a dataset beside the main one: published where `config.data.statistics` says so and it has some, else computed."""
    from geomoe import data  # imports TensorFlow

    published = which == "published" and source.name in STATISTICS
    return Statistics.published(source.name) if published else data.compute_statistics(source, split)


def held_out_data(
    section: Mapping[str, Any], statistics: Statistics, *, data_dir: str | None = None, split: str | None = None
) -> tuple[Any, Statistics]:
    """The dataset that a run holds out images of, and the statistics of their z-score.

    Args:
        section: the run's `config.data`.
        statistics: of the main dataset.
        data_dir, split: in place of the config's.
    """
    from geomoe import data  # imports TensorFlow

    other = section.get("val_name", "")
    source = data.builder(other or section["name"], data_dir or section["data_dir"])
    if other:
        statistics = _own_statistics(section["statistics"], source, split or section["val_split"])
    return source, statistics


def rows_of_mix(mix: Sequence[tuple[str, float]], batch_size: int, multiple: int = 1) -> dict[str, int]:
    """Rows of a batch of all processes that each dataset of `config.data.mix` gives, a multiple of `multiple`.

    >>> rows_of_mix([("landsat_folder/scene", 0.15)], 64)
    {'landsat_folder/scene': 10}

    Raises:
        ValueError: an entry is no (name, share), or nothing is left for the main dataset.
    """
    rows: dict[str, int] = {}
    for entry in mix:
        if isinstance(entry, str) or len(entry) != 2 or not isinstance(entry[0], str) or isinstance(entry[1], str):
            raise ValueError(f"config.data.mix has {entry!r}, which is no (name, share), as in ('synthetic_landsat', 0.2)")
        name, share = entry
        if name in rows:
            raise ValueError(f"config.data.mix names {name!r} twice")
        rows[name] = round(float(share) * batch_size / multiple) * multiple
        if rows[name] < 1:
            raise ValueError(f"config.data.mix: {tuple(entry)!r} gives no row of a batch of {batch_size}; raise it")
    if sum(rows.values()) >= batch_size:
        raise ValueError(f"config.data.mix = {tuple(mix)} leaves no row of a batch of {batch_size} for config.data.name")
    return rows


def _fake_data(config: ml_collections.ConfigDict, model: ModelConfig, loss: LossConfig) -> RunData:
    """One batch of random numbers, again and again: the cost of a step without that of its input."""
    rng, size = np.random.default_rng(config.seed), config.train.batch_size
    shape = (size, model.img_size, model.img_size, model.in_channels)
    batch = {"image": rng.standard_normal(shape, np.float32)}
    batch |= {name: rng.standard_normal((size, 2), np.float32) for name in FIELDS}
    batch["valid"] = batch["second_valid"] = np.ones(shape[:3], bool)
    batch["second_view"] = rng.standard_normal(shape, np.float32)
    batch["metadata"] = np.stack([batch[name] for name in FIELDS], axis=1)
    local = size // jax.process_count()
    rows = slice(local * jax.process_index(), local * (jax.process_index() + 1))
    batch = {key: batch[key][rows] for key in loss.batch_keys}

    def stream(start_batch: int = 0) -> Batches:
        del start_batch
        while True:
            yield batch

    statistics = Statistics((0.0,) * model.in_channels, (1.0,) * model.in_channels, "fake")
    val_share = local * config.log.eval_batches
    return RunData(statistics, "fake", {}, config.train.batch_size, stream, stream, statistics, val_share, {})
