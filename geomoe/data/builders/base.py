"""What the TFDS builders share: the record, and a conversion that is parallel, resumable and loses nothing silently.

A builder lists its source as `Entry`s, one a patch, and says how one entry is read. Conversion shuffles the entries by a fixed
seed, cuts them into shards, and has worker processes write a shard each. A finished shard stands in a `.partial` folder with a
JSON beside it (records, bytes, what was skipped and why), so an interrupted conversion goes on with the shards that lack; at
the end the shards move to the dataset's folder and TFDS reads them like any dataset of its own.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import csv
import dataclasses
import hashlib
import io
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from geomoe import landsat, metadata
from geomoe.data import tensorflow_setup  # noqa: F401
from geomoe.data.geotiff import PatchError

VERSION = "1.0.0"
SKIPPED_FILE = "skipped.csv"
_SHARD_SIZE = 2048  # patches; about 50 MB
_MIN_PARALLEL = 2048  # patches; fewer are read before a second process has imported TensorFlow
_MIN_SHARDS = 8  # so that small sets too can be shuffled by file and split over workers


class Entry(NamedTuple):
    """One patch of a source, before it is read.

    Attributes:
        id: its name, unique in the dataset.
        path: the file that an error names.
        details: what else the builder's reader needs; plain values.
    """

    id: str
    path: str
    details: Any = None


class Skipped(NamedTuple):
    """A patch that was left out: the kind of flaw, its id and path, and what exactly was found."""

    kind: str
    id: str
    path: str
    message: str


@dataclasses.dataclass
class Listing:
    """A source's patches by split, and those that are out already at listing (an id named twice, a class unknown)."""

    splits: dict[str, list[Entry]]
    skipped: list[Skipped] = dataclasses.field(default_factory=list)

    def drop_duplicates(self) -> Listing:
        """Keeps the first of entries with one id, over all splits, and counts the others as skipped."""
        seen: dict[str, str] = {}
        for split, entries in self.splits.items():
            kept = []
            for entry in entries:
                if entry.id in seen:
                    message = f"the id stands in split {seen[entry.id]} already"
                    self.skipped.append(Skipped("duplicate id", entry.id, entry.path, message))
                else:
                    seen[entry.id] = split
                    kept.append(entry)
            self.splits[split] = kept
        return self


def features(class_names: Iterable[str]) -> tfds.features.FeaturesDict:
    """The record of every dataset.

    id: name of the patch; image: (H, W, 7) uint16 digital numbers, 0 without data; latitude, longitude: degrees of its
    middle, NaN if unknown; time: UTC, "2017-10-02T09:40:31" or "unknown"; labels: indices of its classes (one, where the task
    is multi-class).
    """
    return tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            "image": tfds.features.Tensor(
                shape=(None, None, len(landsat.BANDS)), dtype=np.uint16, encoding=tfds.features.Encoding.BYTES
            ),
            "latitude": np.float32,
            "longitude": np.float32,
            "time": tfds.features.Text(),
            "labels": tfds.features.Sequence(tfds.features.ClassLabel(names=list(class_names))),
        }
    )


def time_text(time: np.datetime64 | None) -> str:
    """A record's time: ISO 8601 in seconds, or "unknown"."""
    return metadata.UNKNOWN_TIME if time is None or np.isnat(time) else str(time.astype("datetime64[s]"))


class LandsatBuilder(tfds.core.dataset_builder.FileReaderBuilder, skip_registration=True):
    """Base of the builders: subclasses give `list_source`, `reader` and the dataset's facts.

    Args:
        source: the folder (or whatever the subclass reads) to convert; needed by `download_and_prepare` alone.
        workers: processes that convert; 1, like a small source, works in this process.
        strict: stop at the first flawed patch in place of skipping it.
        keep_nodata: keep patches in which every pixel is without data.
        progress: called with the number of patches done, now and then.
        **kwargs: as for any TFDS builder (`data_dir`, `config`, ...).
    """

    VERSION = tfds.core.Version(VERSION)

    def __init__(
        self,
        *,
        source: str | os.PathLike | None = None,
        workers: int = 1,
        strict: bool = False,
        keep_nodata: bool = False,
        progress: Callable[[int, int], None] | None = None,
        **kwargs: Any,
    ):
        self.source = None if source is None else os.fspath(source)
        self.workers, self.strict, self.keep_nodata = workers, strict, keep_nodata
        self._progress = progress or (lambda done, total: None)
        self.resumed_shards = 0
        super().__init__(**kwargs)

    def download_and_prepare(self, **kwargs: Any) -> None:
        """Converts the source; does nothing where that is done already."""
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces sizes that it does not know
            super().download_and_prepare(**kwargs)

    # What a subclass gives.

    def facts(self) -> dict[str, Any]:
        """class_names, task ("multilabel", "multiclass" or "none"), description, homepage."""
        raise NotImplementedError

    def list_source(self) -> Listing:
        """Lists the source."""
        raise NotImplementedError

    def reader(self) -> Callable[[Entry], dict[str, Any]]:
        """A picklable function from an entry to a record; raises `PatchError` for a patch that cannot be used."""
        raise NotImplementedError

    # What TFDS asks for.

    def _info(self) -> tfds.core.DatasetInfo:
        facts = self.facts()
        return tfds.core.DatasetInfo(
            builder=self,
            description=facts["description"],
            homepage=facts.get("homepage", ""),
            features=features(facts["class_names"]),
            metadata=tfds.core.MetadataDict(task=facts["task"], bands=list(landsat.BANDS), unit="collection2_dn"),
            disable_shuffling=True,  # the records are shuffled once, by a fixed seed, when they are written
        )

    def _download_and_prepare(self, dl_manager, download_config=None) -> None:
        del dl_manager, download_config
        self._require_source()
        listing = self.list_source()
        total = sum(len(entries) for entries in listing.splits.values())
        if total == 0:
            raise ValueError(f"no patch found in {self.source}; see the layout that {self.name} expects in its docstring")
        if self.strict and listing.skipped:
            first = listing.skipped[0]
            raise PatchError(first.kind, first.path, first.message)
        jobs = self._shards(listing)
        results = self._convert(jobs, total)
        skipped = sorted(listing.skipped + [Skipped(*row) for result in results for row in result["skipped"]])
        split_infos = []
        for split in listing.splits:
            shards = [(job, result) for job, result in zip(jobs, results) if job.split == split and result["records"]]
            if not shards:
                continue
            template = tfds.core.ShardedFileTemplate(
                data_dir=self.data_path, dataset_name=self.name, split=split, filetype_suffix="tfrecord"
            )
            for i, (job, _) in enumerate(shards):
                shutil.move(job.path, template.sharded_filepath(shard_index=i, num_shards=len(shards)))
            split_infos.append(
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[result["records"] for _, result in shards],
                    num_bytes=sum(result["bytes"] for _, result in shards),
                    filename_template=template,
                )
            )
        if not split_infos:
            self._write_skipped(os.path.dirname(jobs[0].path), skipped)
            raise ValueError(
                f"none of the {total} patches of {self.source} can be used ({_count(skipped)}); "
                f"see {os.path.join(os.path.dirname(jobs[0].path), SKIPPED_FILE)}"
            )
        self.info.set_splits(tfds.core.SplitDict(split_infos))
        self._write_skipped(os.fspath(self.data_path), skipped)
        shutil.rmtree(os.path.dirname(jobs[0].path))

    # How the conversion works.

    def _require_source(self) -> None:
        if self.source is None:
            raise ValueError(f"{self.name} is not prepared in {self.data_dir}; pass source=, or run geomoe.cli.prepare")
        if not os.path.isdir(self.source):
            raise FileNotFoundError(f"the source folder {self.source} does not exist")

    def _shards(self, listing: Listing) -> list[_ShardJob]:
        names = json.dumps([[s, e.id, e.path, e.details] for s, es in listing.splits.items() for e in es], default=str)
        fingerprint = hashlib.sha256(f"{VERSION} {self.keep_nodata} {names}".encode()).hexdigest()[:12]
        root = os.path.join(self._data_dir_root, ".partial", f"{self.name}-{self._config_name()}-{fingerprint}")
        os.makedirs(root, exist_ok=True)
        jobs = []
        for split, entries in listing.splits.items():
            order = np.random.default_rng(0).permutation(len(entries))
            count = max(-(-len(entries) // _SHARD_SIZE), min(_MIN_SHARDS, len(entries)))
            for i, part in enumerate(np.array_split(order, count) if len(entries) else []):
                path = os.path.join(root, f"{split}-{i:05d}.tfrecord")
                jobs.append(_ShardJob(split, path, [entries[j] for j in part], self.reader(), self.strict))
        return jobs

    def _config_name(self) -> str:
        return self.builder_config.name if self.builder_config else "default"

    def _convert(self, jobs: list[_ShardJob], total: int) -> list[dict[str, Any]]:
        """Runs the jobs that are not done yet; gives the result of each, in order."""
        results = {job.path: _finished(job) for job in jobs}
        todo = [job for job in jobs if results[job.path] is None]
        self.resumed_shards = len(jobs) - len(todo)
        done = sum(len(job.entries) for job in jobs if results[job.path] is not None)
        self._progress(done, total)
        if self.workers <= 1 or len(todo) <= 1 or sum(len(job.entries) for job in todo) < _MIN_PARALLEL:
            for job in todo:
                results[job.path] = _write_shard(job)
                done += len(job.entries)
                self._progress(done, total)
            return [results[job.path] for job in jobs]
        # Spawned, not forked: TensorFlow's threads do not survive a fork.
        with concurrent.futures.ProcessPoolExecutor(
            min(self.workers, len(todo)), mp_context=multiprocessing.get_context("spawn")
        ) as pool:
            futures = {pool.submit(_write_shard, job): job for job in todo}
            try:
                for future in concurrent.futures.as_completed(futures):
                    job = futures[future]
                    results[job.path] = future.result()
                    done += len(job.entries)
                    self._progress(done, total)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [results[job.path] for job in jobs]

    def _write_skipped(self, folder: str, skipped: list[Skipped]) -> None:
        with open(os.path.join(folder, SKIPPED_FILE), "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(Skipped._fields)
            writer.writerows(skipped)


class _ShardJob(NamedTuple):
    split: str
    path: str
    entries: list[Entry]
    reader: Callable[[Entry], dict[str, Any]]
    strict: bool


def _count(skipped: Iterable[Skipped]) -> str:
    return ", ".join(f"{n} {kind}" for kind, n in sorted(collections.Counter(row.kind for row in skipped).items()))


def read_skipped(folder: str | os.PathLike) -> list[Skipped]:
    """The patches that a prepared dataset left out."""
    path = os.path.join(folder, SKIPPED_FILE)
    if not os.path.exists(path):
        return []
    with open(path, newline="") as file:
        return [Skipped(*row) for row in list(csv.reader(file))[1:]]


def _finished(job: _ShardJob) -> dict[str, Any] | None:
    """The result of a job that an earlier run finished, or None."""
    try:
        with open(f"{job.path}.json") as file:
            result = json.load(file)
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    same = os.path.exists(job.path) and os.path.getsize(job.path) == result["bytes"]
    return result if same else None


def serialize(record: Mapping[str, Any]) -> bytes:
    """A record in the form in which TFDS stores `features`.

    Written out here because TFDS's own encoder takes several times as long as reading the patch; a test holds the two equal.
    """
    image = np.ascontiguousarray(record["image"], dtype="<u2")

    def of_bytes(*values: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))

    def of_ints(values: Iterable[int]) -> tf.train.Feature:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    def of_float(value: float) -> tf.train.Feature:
        return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))

    return tf.train.Example(
        features=tf.train.Features(
            feature={
                "id": of_bytes(record["id"].encode()),
                "image/shape": of_ints(image.shape),
                "image/value": of_bytes(image.tobytes()),
                "latitude": of_float(record["latitude"]),
                "longitude": of_float(record["longitude"]),
                "time": of_bytes(record["time"].encode()),
                "labels": of_ints(record["labels"]),
            }
        )
    ).SerializeToString(deterministic=True)


def _write_shard(job: _ShardJob) -> dict[str, Any]:
    """Converts one shard, reads it back, and says what it holds."""
    skipped: list[Skipped] = []
    digest, records = hashlib.sha256(), 0
    partial = f"{job.path}.incomplete"
    with tf.io.TFRecordWriter(partial) as writer:
        for entry in job.entries:
            try:
                record = job.reader(entry)
            except PatchError as error:
                if job.strict:
                    raise
                skipped.append(Skipped(error.kind, entry.id, error.path, error.message))
                continue
            raw = serialize(record)
            digest.update(raw)
            writer.write(raw)
            records += 1
    # Reading back checks the checksum of every record against what reached the disk.
    read, found = hashlib.sha256(), 0
    for raw in _raw_records(partial):
        read.update(raw)
        found += 1
    if (found, read.digest()) != (records, digest.digest()):
        raise OSError(f"{partial} does not read back as written: {found} of {records} records; is the disk full or failing?")
    os.replace(partial, job.path)
    result = {"records": records, "bytes": os.path.getsize(job.path), "skipped": skipped}
    with open(f"{job.path}.json.incomplete", "w") as file:
        json.dump(result, file)
    os.replace(f"{job.path}.json.incomplete", f"{job.path}.json")
    return result


def _raw_records(path: str) -> Iterator[bytes]:
    return iter(tf.data.TFRecordDataset(path).as_numpy_iterator())
