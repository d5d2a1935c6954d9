"""A prepared dataset -> features and labels."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np

from geomoe.pretrained import PretrainedEncoder


class Features(NamedTuple):
    """Features of a split, for several feature sets at once.

    Attributes:
        sets: name -> (N, D) float32.
        labels: (N, K) int32.
    """

    sets: dict[str, np.ndarray]
    labels: np.ndarray


def band_statistics(images: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Mean and deviation of each band over the valid pixels: (N, H, W, C), (N, H, W) -> (N, 2 * C).

    The baseline that any encoder must beat. An image without a valid pixel gives zeros.
    """
    weight = valid[..., None].astype(np.float64)
    count = np.maximum(weight.sum(axis=(1, 2)), 1)
    mean = (images * weight).sum(axis=(1, 2)) / count
    variance = (np.square(images - mean[:, None, None]) * weight).sum(axis=(1, 2)) / count
    return np.concatenate([mean, np.sqrt(variance)], axis=1).astype(np.float32)


def embed_split(
    encoders: dict[str, PretrainedEncoder],
    name: Any,
    split: str,
    *,
    data_dir: str | os.PathLike | None = None,
    pool: str = "mean",
    fit: str = "centre_crop",
    clip: tuple[float, float] | None = None,
    hour: str = "utc",
    batch_size: int = 256,
) -> Features:
    """Embeds a split with each encoder, and computes band statistics.

    Args:
        encoders: name -> encoder; all take images of one size and have the same statistics.
        name, split, data_dir, fit, clip, hour: as for `geomoe.data.load`.
        pool: as for `PretrainedEncoder.embed`.
        batch_size: images at once.
    """
    from geomoe import data  # imports TensorFlow

    first = next(iter(encoders.values()))
    batches = data.load(
        name,
        split,
        data_dir=data_dir,
        img_size=first.config.img_size,
        fit=fit,
        clip=clip,
        hour=hour,
        batch_size=batch_size,
        statistics=first.statistics,
    )
    parts: dict[str, list[np.ndarray]] = {key: [] for key in ("band statistics", *encoders)}
    labels = []
    for batch in batches.as_numpy_iterator():
        parts["band statistics"].append(band_statistics(batch["image"], batch["valid"]))
        pairs = [batch[key] for key in ("week", "hour", "lat", "lon")]
        for key, encoder in encoders.items():
            parts[key].append(encoder.embed_batch(batch["image"], pairs, pool, batch_size))
        labels.append(batch["labels"])
    return Features({key: np.concatenate(value) for key, value in parts.items()}, np.concatenate(labels))
