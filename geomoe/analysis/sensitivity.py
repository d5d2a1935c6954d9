"""How much an encoder leans on place and time: what happens to embeddings and probe scores when they go or lie.

The model card of the published model warns that it may use them as priors; this measures it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from geomoe import metadata
from geomoe.pretrained import PretrainedEncoder, embed_in_batches
from geomoe.probing.metrics import main_metric
from geomoe.probing.protocols import linear_probe

_LAT, _LON, _WEEK, _HOUR = ("lat",), ("lon",), ("week",), ("hour",)
_PLACE, _TIME = _LAT + _LON, _WEEK + _HOUR


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """One way of telling the encoder something else.

    Attributes:
        change: what was done.
        cosine: mean cosine similarity of an image's embedding with that under the true metadata, both centred on the mean of
            all true embeddings.
        score: of a probe that was fitted on embeddings with true metadata, on changed ones; None without labels.
        refitted: of a probe fitted and scored on changed embeddings; None without labels.
    """

    change: str
    cosine: float
    score: float | None
    refitted: float | None


def _changes(pairs: Mapping[str, np.ndarray], seed: int) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    count = len(pairs["lat"])
    order = np.random.default_rng(seed).permutation(count)

    def without(names: tuple[str, ...]) -> dict[str, np.ndarray]:
        return {k: np.zeros_like(v) if k in names else v for k, v in pairs.items()}

    def shuffled(names: tuple[str, ...]) -> dict[str, np.ndarray]:
        return {k: v[order] if k in names else v for k, v in pairs.items()}

    def shifted(names: tuple[str, ...], degrees: float) -> dict[str, np.ndarray]:
        angle = np.radians(degrees)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32)
        # [sin, cos] of angle + shift; a missing pair, [0, 0], stays missing
        return {k: v @ turn if k in names else v for k, v in pairs.items()}

    yield "as they are", dict(pairs)
    yield "no place", without(_PLACE)
    yield "no time", without(_TIME)
    yield "neither place nor time", without(_PLACE + _TIME)
    yield "places shuffled", shuffled(_PLACE)
    yield "times shuffled", shuffled(_TIME)
    yield "places and times shuffled", shuffled(_PLACE + _TIME)
    yield "longitude shifted by 30 degrees", shifted(_LON, 30)
    yield "half a year later", shifted(_WEEK, 180)
    yield "six hours later", shifted(_HOUR, 90)


def metadata_sensitivity(
    encoder: PretrainedEncoder,
    images: np.ndarray,
    pairs: Mapping[str, np.ndarray],
    labels: np.ndarray | None = None,
    task: str | None = None,
    *,
    pool: str = "mean",
    batch_size: int = 256,
    seed: int = 0,
) -> list[Sensitivity]:
    """Embeds images under true, missing, shuffled and shifted metadata.

    Args:
        images: (N, S, S, C) z-scored.
        pairs: week, hour, lat, lon (N, 2), as from `geomoe.metadata.encode`.
        labels: (N, K) 0/1, for the probe: fitted on one half of the images, scored on the other (C = 1, standardised).
        task: "multiclass" or "multilabel"; needed with labels.

    Returns:
        One entry a change, the first being no change.
    """
    pairs = {name: np.asarray(pairs[name], np.float32) for name in metadata.FIELDS}
    count = len(images)
    order = np.random.default_rng(seed + 1).permutation(count)
    train, test = order[: count // 2], order[count // 2 :]
    out: list[Sensitivity] = []
    true = None
    for change, told in _changes(pairs, seed):
        z = embed_in_batches(encoder, images, [told[name] for name in metadata.FIELDS], pool, batch_size)
        true = z if true is None else true
        middle = true.mean(axis=0)
        a, b = true - middle, z - middle
        cosine = (a * b).sum(axis=1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-12)
        score = refitted = None
        if labels is not None:
            held, options = (z[test], labels[test]), dict(task=task, standardise=True, resamples=0)
            score, refitted = (
                linear_probe((x[train], labels[train]), held, **options).metrics[main_metric(task)] for x in (true, z)
            )
        out.append(Sensitivity(change, float(cosine.mean()), score, refitted))
    return out
