"""Prepared records -> batches for the model.

The order of the examples and every random choice follow from (seed, epoch, position) alone, so a run that stopped after any
number of batches goes on with exactly the batches that would have come: `load(..., start_batch=n)`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from geomoe import landsat, metadata
from geomoe.data import tensorflow_setup  # noqa: F401
from geomoe.data.augment import DRAWS, RESIZE_MODES, Augment, Preparation
from geomoe.data.builders import BUILDERS
from geomoe.landsat import Statistics

AUTOTUNE = tf.data.AUTOTUNE
_SHUFFLE_BUFFER = 16384  # records; they are shuffled once when they are written, so this only varies the epochs


class DatasetNotPreparedError(FileNotFoundError):
    """There is no such prepared dataset."""


def builder(name: str, data_dir: str | os.PathLike) -> tfds.core.DatasetBuilder:
    """A prepared dataset, "name" or "name/config", as TFDS reads it.

    Raises:
        ValueError: no builder has this name.
        DatasetNotPreparedError: it is not prepared in `data_dir`.
    """
    base, _, config = name.partition("/")
    if base not in BUILDERS:
        raise ValueError(f"unknown dataset {base!r}; there are {', '.join(BUILDERS)}")
    root = os.path.join(os.fspath(data_dir), base)
    if not config:
        default = BUILDERS[base].BUILDER_CONFIGS[0].name if BUILDERS[base].BUILDER_CONFIGS else None
        found = sorted(d for d in (os.listdir(root) if os.path.isdir(root) else ()) if os.path.isdir(os.path.join(root, d)))
        configs = [d for d in found if d[0].isalpha() or os.path.isdir(os.path.join(root, d, "1.0.0"))]
        config = default if default in configs or not configs else configs[0] if len(configs) == 1 else (default or "")
        if len(configs) > 1 and config not in configs:
            raise ValueError(f"{data_dir} holds {base} as {', '.join(configs)}; name one: {base}/{configs[0]}")
    folder = os.path.join(root, config or "", "1.0.0")
    if not os.path.exists(os.path.join(folder, "dataset_info.json")):
        given = "" if base == "synthetic_landsat" else "--source DIR "
        raise DatasetNotPreparedError(
            f"{name} is not prepared in {data_dir}: no {folder}. Prepare it with "
            f"`python -m geomoe.cli.prepare --dataset {name} {given}--data_dir {data_dir}`"
        )
    return tfds.builder_from_directory(folder)


def _parse(raw: tf.Tensor) -> dict[str, Any]:
    """(B,) serialized records to their fields; images as (B,) strings of uint16 and (B, 3) shapes, labels ragged."""
    return tf.io.parse_example(
        raw,
        {
            "id": tf.io.FixedLenFeature([], tf.string),
            "image/shape": tf.io.FixedLenFeature([3], tf.int64),
            "image/value": tf.io.FixedLenFeature([], tf.string),
            "latitude": tf.io.FixedLenFeature([], tf.float32),
            "longitude": tf.io.FixedLenFeature([], tf.float32),
            "time": tf.io.FixedLenFeature([], tf.string),
            "labels": tf.io.RaggedFeature(tf.int64),
        },
    )


def _encode_metadata(latitude, longitude, time, ids, hour: str) -> list[np.ndarray]:
    times = np.array([metadata.parse_time(t) for t in time], "datetime64[s]")
    pairs = metadata.encode(latitude, longitude, times)
    if hour == "published":
        hours = np.array([metadata.published_hour(i.decode()) for i in ids])
        pairs = pairs._replace(hour=metadata.hour_pairs(hours))
    return list(pairs)


def load(
    name_or_builder: str | tfds.core.DatasetBuilder,
    split: str,
    *,
    data_dir: str | os.PathLike | None = None,
    img_size: int = 40,
    resize_mode: str = "centre_crop",
    batch_size: int = 128,
    statistics: Statistics | Mapping[str, Any] | None = None,
    clip: tuple[float, float] | None = None,
    augment: Augment | None = None,
    hour: str = "utc",
    train: bool = False,
    seed: int = 0,
    start_batch: int = 0,
    views: int = 1,
    process_index: int = 0,
    process_count: int = 1,
    cache: bool = False,
) -> tf.data.Dataset:
    """Batches of a prepared dataset.

    Args:
        name_or_builder: "name", "name/config" (then `data_dir` says where it is prepared), or a TFDS builder.
        split: TFDS's notation: "train", "train[:90%]", "train+val" ...
        img_size: side of the images given, in pixels.
        resize_mode: how an image gets that side: "centre_crop" (offset rounded down), "random_crop", "resize" (bilinear), or
            "random_resized_crop" (a square of a side from `augment.crop_sides`, brought to it; training alone). The crops of
            the model's size enlarge an image with a shorter side first.
        batch_size: examples a batch, over all processes; this process gives `batch_size // process_count` of them.
        statistics: for the z-score of each band; None takes those published for the dataset. Pixels without data (0) are
            treated as any other number, as published.
        clip: (lowest, highest) digital number, applied before the z-score; None clips nothing.
        augment: random flips, turns, dropout of metadata and of the coastal band, jitter, sides of crops; training
            alone.
        hour: "utc", the true hour, or "published", the first digit of the time in a BigEarthNet patch's name.
        train: endless epochs, each in another seeded order, whole batches only; otherwise one pass in the order of the
            records, the last batch possibly smaller.
        seed, start_batch: the batches given are those of this seed from `start_batch` on.
        views: 2 adds `second_view` and `second_valid`, another crop and augmentation of the same images; training alone.
        process_index, process_count: each process reads its own part of the split.
        cache: keep the records in memory after the first pass.

    Returns:
        A dataset of dicts: image (B, S, S, 7) float32; valid (B, S, S) bool, False without data; week, hour, lat, lon (B, 2)
        float32; metadata (B, 4, 2) float32, these pairs before any was dropped; id, time (B,) string; latitude, longitude
        (B,) float32; labels (B, classes) int32, one-hot or multi-hot.

    Raises:
        ValueError: an option has no meaning, or the split holds fewer examples than a batch in training.
        DatasetNotPreparedError: the dataset is not prepared.
    """
    source = builder(name_or_builder, data_dir) if isinstance(name_or_builder, str) else name_or_builder
    augment = augment or Augment()
    if resize_mode not in RESIZE_MODES:
        raise ValueError(f"resize_mode = {resize_mode!r} is not one of {', '.join(RESIZE_MODES)}")
    if hour not in ("utc", "published"):
        raise ValueError(f"hour = {hour!r} is not 'utc' or 'published'")
    if batch_size % process_count:
        raise ValueError(f"batch_size = {batch_size} does not divide over {process_count} processes")
    if views not in (1, 2) or not train and (augment != Augment() or views != 1 or resize_mode == "random_resized_crop"):
        raise ValueError(
            f"views = {views} must be 1 or 2, and augment, two views and resize_mode = 'random_resized_crop' are for train=True"
        )
    if statistics is None:
        statistics = Statistics.published(source.name)
    else:
        statistics = Statistics.of(statistics)
    local_batch = batch_size // process_count
    if process_count > 1:
        split = tfds.split_for_jax_process(
            split, process_index=process_index, process_count=process_count, drop_remainder=train
        )
    count = num_examples(source, split)
    batches = count // local_batch
    if train and batches == 0:
        raise ValueError(
            f"{source.name} split {split} has {count} examples, fewer than a batch of {local_batch}; lower batch_size"
        )
    classes = source.info.features["labels"].feature.num_classes
    mean, std = (np.asarray(v, np.float32) for v in (statistics.mean, statistics.std))
    preparation = Preparation(img_size, resize_mode, augment, clip, mean, std)

    records = _raw_records(source, split)
    if cache:
        records = records.cache()

    def batch_of(index: tf.Tensor, raw: tf.Tensor, epoch: tf.Tensor) -> dict[str, tf.Tensor]:
        """Everything at once for the records of a batch: its cost is a few large operations, not some for each image."""
        fields = _parse(raw)
        rows = tf.shape(raw)[0]
        key = tf.stack([tf.constant(seed, tf.int64) * 1_000_003 + epoch, index * process_count + process_index])
        draws = tf.random.stateless_uniform([rows, 2 * DRAWS + 4], key) if train else tf.zeros([rows, 2 * DRAWS + 4])
        encoded, shapes = fields.pop("image/value"), fields.pop("image/shape")
        for view, name in enumerate(("image", "second_view")[:views]):
            mine = draws[:, DRAWS * view : DRAWS * (view + 1)]
            image, valid = tf.numpy_function(preparation, [encoded, shapes, mine], [tf.float32, tf.bool])
            fields[name] = tf.ensure_shape(image, (None, img_size, img_size, len(statistics.mean)))
            valid_name = "valid" if name == "image" else "second_valid"
            fields[valid_name] = tf.ensure_shape(valid, (None, img_size, img_size))
        labels = tf.zeros([rows, max(classes, 1)], tf.int32)
        if classes:
            padded = tf.concat([fields["labels"].to_tensor(-1), tf.fill([rows, 1], tf.constant(-1, tf.int64))], axis=1)
            labels = tf.cast(tf.reduce_max(tf.one_hot(padded, classes), axis=1), tf.int32)
        fields["labels"] = labels
        pairs = tf.numpy_function(
            lambda *args: _encode_metadata(*args, hour),
            [fields[k] for k in ("latitude", "longitude", "time", "id")],
            [tf.float32] * 4,
        )
        keep = tf.cast(draws[:, 2 * DRAWS :] >= augment.metadata_dropout, tf.float32)
        fields["metadata"] = tf.ensure_shape(tf.stack(pairs, axis=1), (None, len(metadata.FIELDS), 2))
        for i, (pair, values) in enumerate(zip(metadata.FIELDS, pairs)):
            fields[pair] = tf.ensure_shape(values, (None, 2)) * keep[:, i : i + 1]
        return fields

    if train:
        first_epoch, skip = divmod(start_batch, batches)

        def epoch_batches(epoch: tf.Tensor) -> tf.data.Dataset:
            shuffled = records.shuffle(
                min(count, _SHUFFLE_BUFFER), seed=tf.constant(seed, tf.int64) * 7919 + epoch + 1, reshuffle_each_iteration=False
            )
            skipped = tf.where(epoch == first_epoch, tf.constant(skip, tf.int64), tf.constant(0, tf.int64))
            numbered = shuffled.batch(local_batch, drop_remainder=True).enumerate().skip(skipped)
            return numbered.map(lambda index, raw: (index, raw, epoch))

        ds = tf.data.Dataset.range(first_epoch, np.iinfo(np.int64).max).flat_map(epoch_batches)
    else:
        ds = records.batch(local_batch).enumerate().skip(start_batch)
        ds = ds.map(lambda index, raw: (index, raw, tf.constant(0, tf.int64)))
    return ds.map(batch_of, num_parallel_calls=AUTOTUNE, deterministic=True).prefetch(2)


def _raw_records(source: tfds.core.DatasetBuilder, split: str) -> tf.data.Dataset:
    """The serialized records of a split, in the order in which they were written."""
    pieces = []
    for instruction in source.info.splits[split].file_instructions:
        piece = tf.data.TFRecordDataset(os.fspath(instruction.filename))
        if instruction.skip:
            piece = piece.skip(instruction.skip)
        if instruction.take != -1:
            piece = piece.take(instruction.take)
        pieces.append(piece)
    if not pieces:
        raise ValueError(f"{source.name} split {split} is empty")
    ds = pieces[0]
    for piece in pieces[1:]:
        ds = ds.concatenate(piece)
    return ds


def num_examples(source: tfds.core.DatasetBuilder, split: str) -> int:
    """Number of examples of a split in TFDS's notation.

    Raises:
        ValueError: the dataset has no such split.
    """
    try:
        return source.info.splits[split].num_examples
    except (KeyError, ValueError) as error:
        raise ValueError(f"{source.name} has no split {split!r}; it has {', '.join(source.info.splits)}") from error


def compute_statistics(
    name_or_builder: str | tfds.core.DatasetBuilder, split: str, data_dir: str | os.PathLike | None = None
) -> Statistics:
    """Band means and deviations over the valid pixels (no 0 in any band) of a split, in digital numbers."""
    source = builder(name_or_builder, data_dir) if isinstance(name_or_builder, str) else name_or_builder
    bands = len(landsat.BANDS)
    count, total, squares = 0, np.zeros(bands), np.zeros(bands)
    for fields in _raw_records(source, split).batch(64).map(_parse, AUTOTUNE):
        images = [np.frombuffer(value, np.uint16).reshape(-1, bands) for value in fields["image/value"].numpy()]
        pixels = np.concatenate([image[(image != landsat.NODATA).all(axis=-1)] for image in images]).astype(np.float64)
        count += len(pixels)
        total += pixels.sum(axis=0)
        squares += np.square(pixels).sum(axis=0)
    if count == 0:
        raise ValueError(f"{source.name} split {split} has no valid pixel")
    mean = total / count
    return Statistics(tuple(mean), tuple(np.sqrt(squares / count - mean**2)), f"computed:{source.info.full_name}:{split}")
