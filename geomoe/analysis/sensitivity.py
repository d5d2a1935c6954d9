"""Sensitivity to metadata: what happens to embeddings and probe scores when location and time are missing or wrong.

The model card of the published model warns that it may use them as priors; this measures it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from geomoe.metadata import FIELDS
from geomoe.models.pooling import Pool
from geomoe.pretrained import PretrainedEncoder, embed_in_batches
from geomoe.probing.linear import linear_probe
from geomoe.probing.metrics import main_metric

TRUE = "true metadata"
_LOCATION, _TIME = ("lat", "lon"), ("week", "hour")


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """One change of the metadata.

    Attributes:
        change: what was done.
        cosine: mean cosine similarity of an image's embedding with that under the true metadata, both centred on the mean of
            all true embeddings.
        score: main metric of a probe that was fitted on embeddings with true metadata, on changed ones; None without labels.
        refitted: of a probe fitted and scored on changed embeddings; None without labels.
    """

    change: str
    cosine: float
    score: float | None
    refitted: float | None


def _changes(fields: Mapping[str, np.ndarray], seed: int) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    order = np.random.default_rng(seed).permutation(len(fields["lat"]))

    def without(*names: str) -> dict[str, np.ndarray]:
        return {k: np.zeros_like(v) if k in names else v for k, v in fields.items()}

    def shuffled(*names: str) -> dict[str, np.ndarray]:
        return {k: v[order] if k in names else v for k, v in fields.items()}

    def shifted(name: str, degrees: float) -> dict[str, np.ndarray]:
        angle = np.radians(degrees)
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32)
        # [sin, cos] of angle + shift; a missing value, [0, 0], stays missing
        return {**fields, name: fields[name] @ rotation}

    yield TRUE, dict(fields)
    yield "no location", without(*_LOCATION)
    yield "no time", without(*_TIME)
    yield "no metadata", without(*FIELDS)
    yield "locations shuffled", shuffled(*_LOCATION)
    yield "times shuffled", shuffled(*_TIME)
    yield "locations and times shuffled", shuffled(*FIELDS)
    yield "longitude shifted by 30 degrees", shifted("lon", 30)
    yield "week shifted by half a year", shifted("week", 180)
    yield "hour shifted by 6 hours", shifted("hour", 90)


def metadata_sensitivity(
    encoder: PretrainedEncoder,
    images: np.ndarray,
    fields: Mapping[str, np.ndarray],
    labels: np.ndarray | None = None,
    task: str | None = None,
    *,
    pool: Pool = "mean",
    batch_size: int = 256,
    seed: int = 0,
) -> list[Sensitivity]:
    """Embed images with true, missing, shuffled and shifted metadata.

    Args:
        images: (N, S, S, C) z-scored.
        fields: week, hour, lat, lon (N, 2), as from `geomoe.metadata.encode`.
        labels: (N, K) 0/1, for the probe: fitted on one half of the images, scored on the other (C = 1, standardised).
        task: "multiclass" or "multilabel"; needed with labels.
        pool: as for `PretrainedEncoder.embed`.
        batch_size: images at once.
        seed: of the shuffling and of the halves.

    Returns:
        One entry for each change, the first being no change.

    Raises:
        ValueError: there are labels but no task.
    """
    if labels is not None and task is None:
        raise ValueError("labels need a task: 'multiclass' or 'multilabel'")
    fields = {name: np.asarray(fields[name], np.float32) for name in FIELDS}
    count = len(images)
    order = np.random.default_rng(seed + 1).permutation(count)
    train, test = order[: count // 2], order[count // 2 :]

    def score(fitted: np.ndarray, scored: np.ndarray) -> float | None:
        if labels is None or task is None:
            return None
        rows = (fitted[train], labels[train]), (scored[test], labels[test])
        return linear_probe(*rows, task=task, standardise=True, resamples=0).metrics[main_metric(task)]

    out: list[Sensitivity] = []
    true: np.ndarray | None = None
    for change, changed in _changes(fields, seed):
        z = embed_in_batches(encoder, images, [changed[name] for name in FIELDS], pool, batch_size)
        true = z if true is None else true
        a, b = true - true.mean(axis=0), z - true.mean(axis=0)
        cosine = (a * b).sum(axis=1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-12)
        out.append(Sensitivity(change, float(cosine.mean()), score(true, z), score(z, z)))
    return out
