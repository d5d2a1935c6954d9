"""A prepared dataset -> features, labels and targets; or its images, for probes that need them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from geomoe import landsat
from geomoe.landsat import Statistics
from geomoe.metadata import FIELDS
from geomoe.models.pooling import Pool
from geomoe.pretrained import PretrainedEncoder
from geomoe.probing.baselines import band_statistics

TARGETS = ("ndvi", "latitude", "longitude")  # what a regression may learn
Baseline = Callable[[np.ndarray, np.ndarray], np.ndarray]  # images (n, S, S, C) z-scored, valid (n, S, S) -> (n, D)


class Features(NamedTuple):
    """Features of a split, for several feature sets at once.

    Attributes:
        sets: name -> (N, D) float32.
        labels: (N, K) int32.
        targets: name -> (N,): "ndvi", of the mean reflectance over the valid pixels; "latitude" and "longitude" in degrees.
    """

    sets: dict[str, np.ndarray]
    labels: np.ndarray
    targets: dict[str, np.ndarray]


def _batches(
    encoder: PretrainedEncoder, name: Any, split: str, drop: Sequence[str], limit: int | None, options: Mapping[str, Any]
) -> Iterator[dict[str, np.ndarray]]:
    from geomoe import data  # imports TensorFlow

    if unknown := set(drop) - set(FIELDS):
        raise ValueError(f"drop has {sorted(unknown)[0]!r}, which is not one of {', '.join(FIELDS)}")
    batches = data.load(name, split, **{"img_size": encoder.config.img_size, "statistics": encoder.statistics, **options})
    seen = 0
    for batch in batches.as_numpy_iterator():
        for field in drop:
            batch[field] = np.zeros_like(batch[field])
        yield batch
        seen += len(batch["image"])
        if limit is not None and seen >= limit:
            return


def embed_split(
    encoders: Mapping[str, PretrainedEncoder],
    name: Any,
    split: str,
    *,
    pool: Pool = "mean",
    drop: Sequence[str] = (),
    baselines: Mapping[str, Baseline] | None = None,
    batch_size: int = 256,
    **options: Any,
) -> Features:
    """Embed a split with each encoder, and compute the baselines' features, in one pass over the data.

    Args:
        encoders: name -> encoder; all take images of one size and have the same statistics.
        name, split: as for `geomoe.data.load`.
        pool: as for `PretrainedEncoder.embed`.
        drop: of week, hour, lat and lon, those that the encoders are not given.
        baselines: name -> a function of z-scored images and valid pixels; None is the band statistics.
        batch_size: images at once.
        **options: data_dir, resize_mode, clip, hour, as for `geomoe.data.load`.
    """
    first = next(iter(encoders.values()))
    baselines = {"band statistics": band_statistics} if baselines is None else baselines
    parts: dict[str, list[np.ndarray]] = {key: [] for key in (*baselines, *encoders)}
    columns: dict[str, list[np.ndarray]] = {key: [] for key in ("labels", *TARGETS)}
    for batch in _batches(first, name, split, drop, None, {**options, "batch_size": batch_size}):
        for key, baseline in baselines.items():
            parts[key].append(baseline(batch["image"], batch["valid"]))
        metadata = [batch[field] for field in FIELDS]
        for key, encoder in encoders.items():
            parts[key].append(encoder.embed_batch(batch["image"], metadata, pool, batch_size))
        for key in ("labels", "latitude", "longitude"):
            columns[key].append(batch[key])
        columns["ndvi"].append(_ndvi(batch, first.statistics))
    joined = {key: np.concatenate(value) for key, value in columns.items()}
    return Features({key: np.concatenate(value) for key, value in parts.items()}, joined.pop("labels"), joined)


def _ndvi(batch: Mapping[str, np.ndarray], statistics: Statistics) -> np.ndarray:
    """NDVI of the mean reflectance of each patch, (n,); 0 without a valid pixel."""
    weight = batch["valid"][..., None].astype(np.float64)
    mean = (batch["image"] * weight).sum(axis=(1, 2)) / np.maximum(weight.sum(axis=(1, 2)), 1)
    reflectance = statistics.unnormalize(mean) * landsat.REFLECTANCE_SCALE + landsat.REFLECTANCE_OFFSET
    return np.where(weight.any(axis=(1, 2, 3)), landsat.spectral_indices(reflectance)[:, 0], 0.0)


def load_images(
    encoder: PretrainedEncoder, name: Any, split: str, *, drop: Sequence[str] = (), limit: int | None = None, **options: Any
) -> dict[str, np.ndarray]:
    """Load a split into memory, as `finetune` takes it: image, valid, week, hour, lat, lon, labels.

    Args:
        encoder: whose image size and statistics the images are brought to.
        name, split: as for `geomoe.data.load`.
        drop: of week, hour, lat and lon, those that are left out (zeros).
        limit: the first so many images; None is all.
        **options: data_dir, resize_mode, clip, hour, batch_size, as for `geomoe.data.load`; img_size and statistics where they
            are not to be the encoder's.
    """
    parts = list(_batches(encoder, name, split, drop, limit, options))
    return {key: np.concatenate([part[key] for part in parts])[:limit] for key in ("image", "valid", *FIELDS, "labels")}
