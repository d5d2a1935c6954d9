"""Prepared records -> batches for the model.

The order of the examples and every random choice follow from (seed, epoch, position) alone, so a run that stopped goes on with
exactly the batches that would have come: `load(..., start_batch=n)`.
"""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from geomoe import landsat, metadata
from geomoe.data import records
from geomoe.data.augment import DRAWS, Augment, Preparation
from geomoe.data.builders import BUILDERS
from geomoe.data.builders.base import check_config_name, read_manifest, shard_content
from geomoe.data.preprocess import RANDOM_RESIZE_MODES, RESIZE_MODES, has_data
from geomoe.data.tensorflow_setup import tf, tfds
from geomoe.landsat import COMPUTED, LINEAR, Statistics

AUTOTUNE = tf.data.AUTOTUNE
_SHUFFLE_BUFFER = 16384  # records; they are shuffled once when they are written, so this only varies the epochs
_MODES = tuple(mode for mode in RESIZE_MODES + RANDOM_RESIZE_MODES if mode != "exact")


class DatasetNotPreparedError(FileNotFoundError):
    """There is no such prepared dataset."""


class DamagedDatasetError(ValueError):
    """A prepared dataset does not hold the records that it says it holds."""


def builder(name: str, data_dir: str | os.PathLike[str]) -> tfds.core.DatasetBuilder:
    """Open a prepared dataset, "name" or "name/config", as TFDS reads it.

    Raises:
        ValueError: no builder has this name, or it is prepared in several ways and none is named.
        DatasetNotPreparedError: it is not prepared in `data_dir`.
    """
    base, _, config = name.partition("/")
    if base not in BUILDERS:
        raise ValueError(f"unknown dataset {base!r}; there are {', '.join(BUILDERS)}")
    check_config_name(config)
    root = os.path.join(os.fspath(data_dir), base)
    if not config:
        default = BUILDERS[base].BUILDER_CONFIGS[0].name if BUILDERS[base].BUILDER_CONFIGS else ""
        folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir()) if os.path.isdir(root) else []
        # Without configs the folder of the version stands here.
        configs = [d for d in folders if d[0].isalpha() or os.path.isdir(os.path.join(root, d, "1.0.0"))]
        config = configs[0] if len(configs) == 1 else default
        if len(configs) > 1 and default not in configs:
            raise ValueError(f"{data_dir} holds {base} as {', '.join(configs)}; name one: {base}/{configs[0]}")
    folder = os.path.join(root, config, "1.0.0")
    if not os.path.exists(os.path.join(folder, "dataset_info.json")):
        source = "" if base == "synthetic_landsat" else "--source DIR "
        command = f"python -m geomoe.cli.prepare --dataset {name} {source}--data_dir {data_dir}"
        raise DatasetNotPreparedError(f"{name} is not prepared in {data_dir}: no {folder}. Prepare it with `{command}`")
    return tfds.builder_from_directory(folder)


@dataclasses.dataclass(frozen=True)
class LoadOptions:
    """How `load` makes batches; ValueError where a value has no meaning, or does not go with the others.

    Attributes:
        data_dir: where a dataset that is named by text is prepared.
        img_size: side S of the images, in pixels.
        resize_mode: how an image gets that side: "centre_crop" (offset rounded down), "resize" (bilinear), or, in training,
            "random_crop" or "random_resized_crop" (a square of a side from `augment.crop_sides`, brought to it). The crops of
            the model's size enlarge an image with a shorter side first.
        batch_size: examples a batch, over all processes; this process gives `batch_size // process_count` of them.
        statistics: for the z-score of each band; None takes those published for the dataset. Pixels without data (0) are
            treated as any other number, as published.
        clip: (lowest, highest) digital number, applied before the z-score; None clips nothing.
        augment: random flips, rotations, dropout of metadata and of the coastal band, jitter, sides of crops; training alone.
        hour: "utc", the true hour, or "published", the first digit of the time in a BigEarthNet patch's name.
        train: endless epochs, each in another seeded order, whole batches only; otherwise one pass in the order of the
            records, the last batch possibly smaller.
        one_epoch: with `train`, the first epoch alone and all of it, the last batch possibly smaller; the shares of the
            processes then differ by one example at most.
        seed, start_batch: the batches are those of this seed from `start_batch` on.
        views: 2 adds `second_view` and `second_valid`, another crop and augmentation of the same images; training alone.
        process_index, process_count: each process reads its own part of the split.
        batch_rows: (first, stop): of each batch of training without end, these rows alone: several processes that go through
            one order, each making its rows, make what one process would. Each reads the whole split.
        rows: (first, stop): of the split's examples, in the order of the records, these alone; not in training.
        cache: keep the records in memory after the first pass.
    """

    data_dir: str | os.PathLike[str] | None = None
    img_size: int = 40
    resize_mode: str = "centre_crop"
    batch_size: int = 128
    statistics: Statistics | Mapping[str, Any] | None = None
    clip: tuple[float, float] | None = None
    augment: Augment = Augment()
    hour: str = "utc"
    train: bool = False
    one_epoch: bool = False
    seed: int = 0
    start_batch: int = 0
    views: int = 1
    process_index: int = 0
    process_count: int = 1
    batch_rows: tuple[int, int] | None = None
    rows: tuple[int, int] | None = None
    cache: bool = False

    def __post_init__(self) -> None:
        if self.resize_mode not in _MODES:
            raise ValueError(f"resize_mode = {self.resize_mode!r} is not one of {', '.join(_MODES)}")
        if self.clip is not None and not (len(self.clip) == 2 and self.clip[0] < self.clip[1]):
            raise ValueError(f"clip = {self.clip} must be (lowest, highest)")
        if self.hour not in ("utc", "published"):
            raise ValueError(f"hour = {self.hour!r} is not 'utc' or 'published'")
        if self.batch_size % self.process_count:
            raise ValueError(f"batch_size = {self.batch_size} does not divide over {self.process_count} processes")
        if self.one_epoch and not self.train:
            raise ValueError("one_epoch = True is for train=True; without it there is one pass anyway")
        if self.batch_rows is not None:
            first, stop = self.batch_rows
            if not self.endless or self.process_count > 1 or not 0 <= first < stop <= self.batch_size:
                of = f"a batch of {self.batch_size} in training without end, with process_count=1"
                raise ValueError(f"batch_rows = {self.batch_rows} must be rows of {of}")
        if self.rows is not None and (self.train or self.process_count > 1):
            raise ValueError(f"rows = {self.rows} are for train=False and process_count=1")
        random = self.augment != Augment() or self.views != 1 or self.resize_mode in RANDOM_RESIZE_MODES
        if self.views not in (1, 2) or random and not self.train:
            training_only = f"augment, two views and resize_mode = {' or '.join(RANDOM_RESIZE_MODES)} are for train=True"
            raise ValueError(f"views = {self.views} must be 1 or 2, and {training_only}")

    @property
    def endless(self) -> bool:
        """Whether there is training without end."""
        return self.train and not self.one_epoch


def _encode_metadata(hour: str, latitude: np.ndarray, longitude: np.ndarray, time: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """(B,) each -> (B, 4, 2) float32."""
    encoded = metadata.encode(latitude, longitude, time)
    if hour == "published":
        hours = np.array([metadata.published_hour(patch_id.decode()) for patch_id in ids])
        encoded = encoded._replace(hour=metadata.encode_hour(hours))
    return np.stack(encoded, axis=1)


def load(
    name_or_builder: str | tfds.core.DatasetBuilder, split: str, options: LoadOptions = LoadOptions(), **changes: Any
) -> tf.data.Dataset:
    """Load batches of a prepared dataset.

    Args:
        name_or_builder: "name", "name/config" (then `data_dir` says where it is prepared), or a TFDS builder.
        split: TFDS's notation: "train", "train[:90%]", "train+val" ...
        options, **changes: of the batches, and its fields to change, as `batch_size=32`.

    Returns:
        A dataset of dicts: image (B, S, S, 7) float32; valid (B, S, S) bool, False without data; week, hour, lat, lon (B, 2)
        float32; metadata (B, 4, 2) float32, the same before any was dropped; id, time (B,) string; latitude, longitude
        (B,) float32; labels (B, classes) int32, one-hot or multi-hot.

    Raises:
        ValueError: an option has no meaning, or the split holds fewer examples than a batch in training.
        DatasetNotPreparedError: the dataset is not prepared.
        DamagedDatasetError: a shard of the split lacks records.
    """
    options = dataclasses.replace(options, **changes)
    source = name_or_builder
    if isinstance(source, str):
        if options.data_dir is None:
            raise ValueError(f"data_dir says where {source} is prepared; it is None")
        source = builder(source, options.data_dir)
    statistics = Statistics.published(source.name) if options.statistics is None else Statistics.of(options.statistics)
    endless = options.endless
    local_batch = options.batch_size // options.process_count
    if options.process_count > 1:
        processes = dict(process_index=options.process_index, process_count=options.process_count)
        split = tfds.split_for_jax_process(split, **processes, drop_remainder=endless)
    count = num_examples(source, split)
    if options.rows is not None and not 0 <= options.rows[0] < options.rows[1] <= count:
        raise ValueError(f"rows = {options.rows} are none of the {count} examples of {source.name} split {split}")
    batches = count // local_batch
    if endless and batches == 0:
        few = f"{source.name} split {split} has {count} examples"
        raise ValueError(f"{few}, fewer than a batch of {local_batch}; lower batch_size")
    raw_records = _raw_records(source, split, options.rows)
    if options.hour == "published":
        for fields in raw_records.take(1).batch(1).map(records.parse):
            metadata.published_hour(fields["id"].numpy()[0].decode())  # raises where names of this dataset have no stamp
    if options.cache:
        raw_records = raw_records.cache()
    classes = source.info.features["labels"].feature.num_classes
    make_batch = functools.partial(_make_batch, classes, statistics, options)
    first_epoch, skip = divmod(options.start_batch, batches) if endless else (0, options.start_batch)

    def epoch_batches(epoch: tf.Tensor) -> tf.data.Dataset:
        ordered = raw_records
        if options.train:
            seed = tf.constant(options.seed, tf.int64) * 7919 + epoch + 1
            ordered = raw_records.shuffle(min(count, _SHUFFLE_BUFFER), seed=seed, reshuffle_each_iteration=False)
        skipped = tf.where(epoch == first_epoch, tf.constant(skip, tf.int64), tf.constant(0, tf.int64))
        numbered = ordered.batch(local_batch, drop_remainder=endless).enumerate().skip(skipped)
        return numbered.map(lambda index, raw: (index, raw, epoch))

    if endless:
        ds = tf.data.Dataset.range(first_epoch, np.iinfo(np.int64).max).flat_map(epoch_batches)
    else:
        ds = epoch_batches(tf.constant(0, tf.int64))
    return ds.map(make_batch, num_parallel_calls=AUTOTUNE, deterministic=True).prefetch(2)


def _make_batch(
    classes: int, statistics: Statistics, options: LoadOptions, index: tf.Tensor, raw: tf.Tensor, epoch: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Make batch `index` of an epoch out of (B,) serialized records, in a few large operations."""
    size, augment = options.img_size, options.augment
    preparation = Preparation(size, options.resize_mode, statistics, augment, options.clip)
    position = index * options.process_count + options.process_index
    key = tf.stack([tf.constant(options.seed, tf.int64) * 1_000_003 + epoch, position])
    shape = [tf.shape(raw)[0], 2 * DRAWS + len(metadata.FIELDS)]
    draws = tf.random.stateless_uniform(shape, key) if options.train else tf.zeros(shape)
    if options.batch_rows is not None:
        raw, draws = (x[slice(*options.batch_rows)] for x in (raw, draws))
    fields, rows = records.parse(raw), tf.shape(raw)[0]
    values, shapes = fields.pop("image/value"), fields.pop("image/shape")
    for view, (name, valid_name) in enumerate((("image", "valid"), ("second_view", "second_valid"))[: options.views]):
        view_draws = draws[:, DRAWS * view : DRAWS * (view + 1)]
        image, valid = tf.numpy_function(preparation, [values, shapes, view_draws], [tf.float32, tf.bool])
        fields[name] = tf.ensure_shape(image, (None, size, size, len(statistics.mean)))
        fields[valid_name] = tf.ensure_shape(valid, (None, size, size))
    padded = tf.concat([fields["labels"].to_tensor(-1), tf.fill([rows, 1], tf.constant(-1, tf.int64))], axis=1)
    fields["labels"] = tf.cast(tf.reduce_max(tf.one_hot(padded, max(classes, 1)), axis=1), tf.int32)
    inputs = [fields[key] for key in ("latitude", "longitude", "time", "id")]
    encoded = tf.numpy_function(functools.partial(_encode_metadata, options.hour), inputs, tf.float32)
    fields["metadata"] = tf.ensure_shape(encoded, (None, len(metadata.FIELDS), 2))
    keep = tf.cast(draws[:, 2 * DRAWS :] >= augment.metadata_dropout, tf.float32)[:, :, None]
    if augment.random_metadata:
        numbers = tf.random.stateless_uniform([shape[0], 1 + len(metadata.FIELDS)], tf.stack([key[0], -1 - position]))
        if options.batch_rows is not None:
            numbers = numbers[slice(*options.batch_rows)]
        made_up = tf.numpy_function(metadata.from_uniform, [numbers[:, 1:]], [tf.float32] * len(metadata.FIELDS))
        made_up = tf.stack(made_up, axis=1) * keep
        fields["metadata"] = tf.where(numbers[:, :1, None] < augment.random_metadata, made_up, fields["metadata"])
    for i, name in enumerate(metadata.FIELDS):
        fields[name] = fields["metadata"][:, i] * keep[:, i]
    return fields


def _raw_records(source: tfds.core.DatasetBuilder, split: str, rows: tuple[int, int] | None = None) -> tf.data.Dataset:
    """Read the serialized records of a split, or its rows from the first to the one before the stop, as they were written."""
    files = source.info.splits[split].file_instructions
    check_whole(source, {os.path.basename(file.filename) for file in files})
    if not files:
        raise ValueError(f"{source.name} split {split} is empty")
    return _read_files(files if rows is None else _cut(files, *rows))


def _cut(files: Sequence[Any], first: int, stop: int) -> list[Any]:
    """The instructions that read some of the rows that TFDS's file instructions read."""
    kept = []
    for file in files:
        start, end = max(first, 0), min(stop, file.take)
        if start < end:
            kept.append(dataclasses.replace(file, skip=file.skip + start, take=end - start))
        first, stop = first - file.take, stop - file.take
    return kept


def _read_files(files: Sequence[Any]) -> tf.data.Dataset:
    """The records of TFDS's file instructions, one file after the other.

    In one loop: a chain of `concatenate` takes minutes for its first record from some hundred files on.
    """
    columns = zip(*((os.fspath(file.filename), file.skip, file.take) for file in files))
    pieces = tuple(tf.constant(column, dtype) for column, dtype in zip(columns, (tf.string, tf.int64, tf.int64)))
    read = lambda path, skip, take: tf.data.TFRecordDataset(path).skip(skip).take(take)
    return tf.data.Dataset.from_tensor_slices(pieces).flat_map(read)


def check_whole(source: tfds.core.DatasetBuilder, names: set[str] | None = None) -> None:
    """Compare the shards of a prepared dataset with what it says of them: their size, and where that differs their records.

    Args:
        source: the builder.
        names: file names of shards; the splits that have none of them are left out. None is all splits.

    Raises:
        DamagedDatasetError: a shard is absent, or holds another number of records.
    """
    for split in source.info.splits.values():
        paths = list(split.filepaths)
        if names is not None and names.isdisjoint(path.name for path in paths):
            continue
        sizes = {path: path.stat().length for path in paths if path.exists()}
        if len(sizes) == len(paths) and sum(sizes.values()) == split.num_bytes:
            continue
        for path, expected in zip(paths, split.shard_lengths):
            found = records.count(path) if path in sizes else -1
            if found != expected:
                state = f"holds {found} records" if found >= 0 else "is cut within a record" if path in sizes else "is absent"
                what = f"{path} {state}, and {source.name} says {expected}"
                raise DamagedDatasetError(f"{what}; `python -m geomoe.cli.prepare ... --verify` rebuilds it from its source")


def fingerprint(source: tfds.core.DatasetBuilder) -> str:
    """SHA-256 in hex of a prepared dataset's records and class names: distinguishes two that were prepared under one name.

    Shards that have the size and time of modification that `shards.json` notes are not read again.
    """
    digest = hashlib.sha256(repr(source.info.features["labels"].feature.names).encode())
    folder = os.fspath(source.data_path)
    rows = {row["file"]: row for row in (read_manifest(folder) or {"shards": []})["shards"]}
    for split in source.info.splits.values():
        for name in sorted(split.filenames):
            digest.update(f"{split.name} {shard_content(folder, name, rows.get(name))}".encode())
    return digest.hexdigest()


def num_examples(source: tfds.core.DatasetBuilder, split: str) -> int:
    """Count the examples of a split in TFDS's notation; ValueError where the dataset has no such split."""
    try:
        return source.info.splits[split].num_examples
    except (KeyError, ValueError) as error:
        raise ValueError(f"{source.name} has no split {split!r}; it has {', '.join(source.info.splits)}") from error


def shared_examples(source: tfds.core.DatasetBuilder, first: str, second: str) -> int:
    """Count the examples that two splits in TFDS's notation have in common; ValueError where there is no such split."""
    files, others = ([] if not num_examples(source, s) else source.info.splits[s].file_instructions for s in (first, second))
    pairs = ((a, b) for a in files for b in others if a.filename == b.filename)
    return sum(max(min(a.skip + a.take, b.skip + b.take) - max(a.skip, b.skip), 0) for a, b in pairs)


def compute_statistics(
    name_or_builder: str | tfds.core.DatasetBuilder,
    split: str,
    data_dir: str | os.PathLike[str] = "data",
    *,
    scale: str = LINEAR,
) -> Statistics:
    """Compute band means and standard deviations over the valid pixels (no 0 in any band) of a split.

    Args:
        scale: "linear", in digital numbers, or "log", of the logarithm of reflectance (`geomoe.landsat.Statistics`).
    """
    source = builder(name_or_builder, data_dir) if isinstance(name_or_builder, str) else name_or_builder
    bands = len(landsat.BANDS)
    moments = landsat.Moments(bands, scale)
    for fields in _raw_records(source, split).batch(64).map(records.parse, AUTOTUNE):
        images = [np.frombuffer(value, np.uint16).reshape(-1, bands) for value in fields["image/value"].numpy()]
        moments.add(np.concatenate([image[has_data(image)] for image in images]))
    if not moments.count.any():
        raise ValueError(f"{source.name} split {split} has no valid pixel")
    try:
        return moments.statistics(f"{COMPUTED}:{source.info.full_name}:{split}")
    except ValueError as error:
        raise ValueError(f"{source.name} split {split}: {error}") from None
