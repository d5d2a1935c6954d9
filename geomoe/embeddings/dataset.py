"""Embeddings of a prepared dataset."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from geomoe import data, metadata
from geomoe.embeddings import sink as sinks
from geomoe.embeddings.parts import Columns, Parts
from geomoe.embeddings.sink import Sink

if TYPE_CHECKING:
    from geomoe.pretrained import PretrainedEncoder


def embed_dataset(
    encoder: PretrainedEncoder,
    sink: Sink,
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike[str] = "data",
    resize_mode: str = "centre_crop",
    hour: str = "utc",
) -> dict[str, int]:
    """Embed a split of a prepared dataset; patches without any data are marked, not embedded.

    It runs in bounded memory, block by block, and goes on where an earlier run was interrupted.

    Args:
        encoder: from `geomoe.load`.
        sink: where the embeddings go.
        name, split, data_dir, resize_mode, hour: as for `geomoe.data.load`.

    Returns:
        How many patches there are, and how many of them were embedded.

    Raises:
        ValueError: the sink is a raster, or an option has no meaning.
    """
    sink.check_table()
    source = data.builder(name, data_dir)
    classes = list(source.info.features["labels"].feature.names or ())
    origin = dict(dataset=source.info.full_name, split=split, resize_mode=resize_mode, hour=hour, classes=classes)
    facts = sink.facts(encoder, None, origin)
    parts = Parts(sink.output, {**facts, "block": sinks.BLOCK})
    batches_a_part = max(sinks.BLOCK // sink.batch_size, 1)
    total, done = data.num_examples(source, split), parts.done
    options = data.LoadOptions(
        img_size=encoder.config.img_size,
        resize_mode=resize_mode,
        batch_size=sink.batch_size,
        statistics=encoder.statistics,
        hour=hour,
        start_batch=done * batches_a_part,
    )
    seen = min(done * batches_a_part * sink.batch_size, total)
    sink.progress(seen, total)
    block: list[Columns] = []
    for batch in data.load(source, split, options).as_numpy_iterator():
        block.append(_rows(encoder, sink, batch, bool(classes)))
        seen += len(batch["id"])
        sink.progress(seen, total)
        if len(block) == batches_a_part or seen >= total:
            parts.add(done, block)
            done, block = done + 1, []
    return sink.finish(parts, facts)


def _rows(encoder: PretrainedEncoder, sink: Sink, batch: dict[str, Any], labelled: bool) -> Columns:
    valid = batch["valid"].mean(axis=(1, 2))
    embedded = valid > 0
    encoded = [batch[key][embedded] for key in metadata.FIELDS]
    z = encoder.embed_batch(batch["image"][embedded], encoded, sink.pool, sink.batch_size)
    columns = {
        "id": batch["id"].astype(str),
        "latitude": batch["latitude"].astype(np.float64),
        "longitude": batch["longitude"].astype(np.float64),
        "time": np.array([metadata.parse_time(text) for text in batch["time"]], "datetime64[s]"),
        "valid_fraction": valid.astype(np.float32),
        "embedded": embedded,
        "vector": sink.vectors(encoder, embedded, z),
    }
    if labelled:
        columns["labels"] = batch["labels"].astype(np.int8)
    return columns
