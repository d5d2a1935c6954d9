"""A conversion that is parallel, resumable and loses nothing silently.

Worker processes write a shard each; a finished one has a JSON beside it, so an interrupted conversion goes on with the others.
"""

import concurrent.futures
import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from geomoe import beam
from geomoe.data.builders.listing import Entry, Listing, Reader, Skipped
from geomoe.data.geotiff import PatchError
from geomoe.data.records import serialize
from geomoe.data.tensorflow_setup import tf
from geomoe.files import atomic_open, atomic_path

Progress = Callable[[int, int], None]  # patches done, of how many
_SHARD_SIZE = 2048  # patches; about 50 MB
_MIN_PARALLEL = 2048  # patches; fewer are read before a second process has imported TensorFlow
_MIN_SHARDS = 8  # so that small sets too can be shuffled by file and split over workers


class Shard(NamedTuple):
    """One file of a split, to be written: its patches in their order; if strict, the first flawed one is an error."""

    split: str
    path: str
    entries: list[Entry]
    reader: Reader
    strict: bool


class ShardResult(NamedTuple):
    """What a finished shard holds."""

    records: int
    bytes: int
    sha256: str  # of the records, one after the other
    skipped: list[Skipped]


def cut_into_shards(listing: Listing, folder: str, reader: Reader, strict: bool) -> list[Shard]:
    """Shuffle the entries of each split, always the same way, and cut them into shards below a folder."""
    shards = []
    for split, entries in listing.splits.items():
        if not entries:
            continue
        order = np.random.default_rng(0).permutation(len(entries))
        count = max(-(-len(entries) // _SHARD_SIZE), min(_MIN_SHARDS, len(entries)))
        for i, part in enumerate(np.array_split(order, count)):
            path = os.path.join(folder, f"{split}-{i:05d}.tfrecord")
            shards.append(Shard(split, path, [entries[j] for j in part], reader, strict))
    return shards


def convert(
    shards: list[Shard], workers: int, progress: Progress, beam_options: Sequence[str] | None = None
) -> tuple[list[ShardResult], int]:
    """Write the shards that are not finished yet; one worker, like few patches, works in this process.

    With `beam_options`, of Apache Beam's pipeline, Beam's workers write them, who have to reach source and folder.

    Gives the result of each shard, in order, and how many an earlier run had finished.
    """
    results = {shard.path: result for shard in shards if (result := finished(shard)) is not None}
    resumed = len(results)
    todo = [shard for shard in shards if shard.path not in results]
    total, left = (sum(len(shard.entries) for shard in some) for some in (shards, todo))
    progress(total - left, total)

    def add(shard: Shard, result: ShardResult) -> None:
        results[shard.path] = result
        progress(sum(len(shard.entries) for shard in shards if shard.path in results), total)

    if beam_options is not None and todo:
        beam.run(todo, write_shard, beam_options)
        for shard in todo:
            if (written := finished(shard)) is None:
                raise OSError(f"{shard.path} was not written: Beam's workers have to reach the folder")
            add(shard, written)
        return [results[shard.path] for shard in shards], resumed
    if workers <= 1 or len(todo) <= 1 or left < _MIN_PARALLEL:
        for shard in todo:
            add(shard, write_shard(shard))
        return [results[shard.path] for shard in shards], resumed
    # Spawned, not forked: TensorFlow's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(min(workers, len(todo)), mp_context=context) as pool:
        futures = {pool.submit(write_shard, shard): shard for shard in todo}
        try:
            for future in concurrent.futures.as_completed(futures):
                add(futures[future], future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [results[shard.path] for shard in shards], resumed


def finished(shard: Shard) -> ShardResult | None:
    """Read the result of a shard that an earlier run finished; None if there is none, or the shard has another size."""
    try:
        with open(f"{shard.path}.json") as file:
            result = ShardResult(**json.load(file))
    except (FileNotFoundError, json.JSONDecodeError, TypeError):  # TypeError: of an earlier version
        return None
    if not os.path.exists(shard.path) or os.path.getsize(shard.path) != result.bytes:
        return None
    return result._replace(skipped=[Skipped(*row) for row in result.skipped])


def write_shard(shard: Shard) -> ShardResult:
    """Convert one shard, read it back (OSError if it reads otherwise than it was written), and write down what it holds."""
    skipped: list[Skipped] = []
    written, records = hashlib.sha256(), 0
    with atomic_path(shard.path) as path:
        with tf.io.TFRecordWriter(path) as writer:
            for entry in shard.entries:
                try:
                    raw = serialize(shard.reader(entry))
                except PatchError as error:
                    if shard.strict:
                        raise
                    skipped.append(Skipped(error.kind, entry.id, error.path, error.message))
                    continue
                written.update(raw)
                writer.write(raw)
                records += 1
        if content(path) != (records, written.hexdigest()):
            raise OSError(f"{path} does not read back as written; is the disk full or failing?")
    result = ShardResult(records, os.path.getsize(shard.path), written.hexdigest(), skipped)
    with atomic_open(f"{shard.path}.json") as file:
        json.dump(result._asdict(), file)
    return result


def content(path: str) -> tuple[int, str]:
    """Read a shard, which checks every record's checksum: number of records, and their SHA-256; (-1, "") if it is damaged."""
    digest, count = hashlib.sha256(), 0
    try:
        for raw in tf.data.TFRecordDataset(path).as_numpy_iterator():
            digest.update(raw)
            count += 1
    except (tf.errors.DataLossError, tf.errors.NotFoundError):
        return -1, ""
    return count, digest.hexdigest()
