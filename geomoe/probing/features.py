"""A prepared dataset -> features, labels and targets; or its images, for probes that need them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from geomoe.metadata import FIELDS
from geomoe.pretrained import PretrainedEncoder
from geomoe.probing.baselines import band_statistics

TARGETS = ("ndvi", "latitude", "longitude")  # what a regression may learn
Baseline = Callable[..., np.ndarray]  # images (n, S, S, C) z-scored, valid (n, S, S) -> (n, D)


class Features(NamedTuple):
    """Features of a split, for several feature sets at once.

    Attributes:
        sets: name -> (N, D) float32.
        labels: (N, K) int32.
        targets: name -> (N,): "ndvi", the mean over the valid pixels; "latitude" and "longitude" in degrees.
    """

    sets: dict[str, np.ndarray]
    labels: np.ndarray
    targets: dict[str, np.ndarray]


def _batches(
    encoder: PretrainedEncoder, name: Any, split: str, drop: Sequence[str], limit: int | None = None, **options: Any
) -> Iterator[dict[str, np.ndarray]]:
    from geomoe import data  # imports TensorFlow

    if unknown := set(drop) - set(FIELDS):
        raise ValueError(f"drop has {sorted(unknown)[0]!r}, which is not one of {', '.join(FIELDS)}")
    batches = data.load(name, split, **{"img_size": encoder.config.img_size, "statistics": encoder.statistics, **options})
    seen = 0
    for batch in batches.as_numpy_iterator():
        for pair in drop:
            batch[pair] = np.zeros_like(batch[pair])
        yield batch
        seen += len(batch["image"])
        if limit is not None and seen >= limit:
            return


def embed_split(
    encoders: Mapping[str, PretrainedEncoder],
    name: Any,
    split: str,
    *,
    data_dir: str | os.PathLike | None = None,
    pool: str = "mean",
    resize_mode: str = "centre_crop",
    clip: tuple[float, float] | None = None,
    hour: str = "utc",
    batch_size: int = 256,
    drop: Sequence[str] = (),
    baselines: Mapping[str, Baseline] | None = None,
) -> Features:
    """Embeds a split with each encoder, and computes the baselines' features, in one pass over the data.

    Args:
        encoders: name -> encoder; all take images of one size and have the same statistics.
        name, split, data_dir, resize_mode, clip, hour: as for `geomoe.data.load`.
        pool: as for `PretrainedEncoder.embed`.
        batch_size: images at once.
        drop: of week, hour, lat and lon, those that the encoders are not told.
        baselines: name -> a function of z-scored images and valid pixels; None is the band statistics.
    """
    first = next(iter(encoders.values()))
    baselines = {"band statistics": band_statistics} if baselines is None else baselines
    parts: dict[str, list[np.ndarray]] = {key: [] for key in (*baselines, *encoders)}
    columns: dict[str, list[np.ndarray]] = {key: [] for key in ("labels", *TARGETS)}
    options = dict(data_dir=data_dir, resize_mode=resize_mode, clip=clip, hour=hour, batch_size=batch_size)
    for batch in _batches(first, name, split, drop, **options):
        for key, baseline in baselines.items():
            parts[key].append(baseline(batch["image"], batch["valid"]))
        pairs = [batch[key] for key in FIELDS]
        for key, encoder in encoders.items():
            parts[key].append(encoder.embed_batch(batch["image"], pairs, pool, batch_size))
        columns["labels"].append(batch["labels"])
        columns["latitude"].append(batch["latitude"])
        columns["longitude"].append(batch["longitude"])
        columns["ndvi"].append(_ndvi(batch, first))
    joined = {key: np.concatenate(value) for key, value in columns.items()}
    return Features({key: np.concatenate(value) for key, value in parts.items()}, joined.pop("labels"), joined)


def _ndvi(batch: Mapping[str, np.ndarray], encoder: PretrainedEncoder) -> np.ndarray:
    """(NIR - red) / (NIR + red) of the mean reflectance of each patch; 0 without a valid pixel."""
    from geomoe import landsat

    weight = batch["valid"][..., None].astype(np.float64)
    mean = (batch["image"] * weight).sum(axis=(1, 2)) / np.maximum(weight.sum(axis=(1, 2)), 1)
    dn = mean * np.asarray(encoder.statistics["std"]) + np.asarray(encoder.statistics["mean"])
    red, nir = (np.maximum(dn[:, i] * landsat.REFLECTANCE_SCALE + landsat.REFLECTANCE_OFFSET, 1e-3) for i in (3, 4))
    return np.where(weight.any(axis=(1, 2, 3)), (nir - red) / (nir + red), 0.0)


def load_images(
    encoder: PretrainedEncoder, name: Any, split: str, *, drop: Sequence[str] = (), limit: int | None = None, **options: Any
) -> dict[str, np.ndarray]:
    """A split in memory, as `finetune` takes it: image, valid, week, hour, lat, lon, labels.

    Args:
        limit: stop after about so many images (whole batches).
        **options: data_dir, resize_mode, clip, hour, batch_size, as for `geomoe.data.load`; img_size and statistics where they are not
            to be the encoder's.
    """
    parts = list(_batches(encoder, name, split, drop, limit, **options))
    return {key: np.concatenate([part[key] for part in parts])[:limit] for key in ("image", "valid", *FIELDS, "labels")}
