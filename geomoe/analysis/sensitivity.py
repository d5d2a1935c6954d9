"""Sensitivity to metadata: what happens to embeddings and probe scores when location and time are missing or wrong.

The model card of the published model warns that it may use them as priors; this measures it, and how much of what it is given
an embedding holds.
"""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from geomoe.checks import check_count
from geomoe.metadata import FIELDS, Metadata, from_uniform
from geomoe.models.pooling import Pool, check_pooled
from geomoe.pretrained import PretrainedEncoder, embed_in_batches
from geomoe.probing.linear import fit_ridge, linear_probe
from geomoe.probing.metrics import check_finite, check_unmasked, main_metric
from geomoe.probing.splits import labelled_splits

TRUE = "true metadata"
_LOCATION, _TIME = ("lat", "lon"), ("week", "hour")


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """One change of the metadata, and main metrics of probes, None without labels."""

    change: str  # what was done
    cosine: float  # mean similarity of embeddings with those under true metadata, both centred on the mean of the true ones
    score: float | None  # of a probe that was fitted on embeddings with true metadata, on changed ones
    refitted: float | None  # of a probe fitted and scored on changed embeddings


def _changes(fields: Mapping[str, np.ndarray], seed: int) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    order = np.random.default_rng(seed).permutation(len(fields["lat"]))

    def replaced(values: Mapping[str, np.ndarray], *names: str) -> dict[str, np.ndarray]:
        return {**fields, **{name: values[name] for name in names}}

    def shifted(name: str, degrees: float) -> dict[str, np.ndarray]:
        angle = np.radians(degrees)
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32)
        # [sin, cos] of angle + shift; a missing value, [0, 0], stays missing
        return {**fields, name: fields[name] @ rotation}

    missing = {name: np.zeros_like(v) for name, v in fields.items()}
    shuffled = {name: v[order] for name, v in fields.items()}
    yield TRUE, dict(fields)
    yield "no location", replaced(missing, *_LOCATION)
    yield "no time", replaced(missing, *_TIME)
    yield "no metadata", missing
    yield "locations shuffled", replaced(shuffled, *_LOCATION)
    yield "times shuffled", replaced(shuffled, *_TIME)
    yield "locations and times shuffled", shuffled
    yield "longitude shifted by 30 degrees", shifted("lon", 30)
    yield "week shifted by half a year", shifted("week", 180)
    yield "hour shifted by 6 hours", shifted("hour", 90)


def _check_images(images: np.ndarray, valid: np.ndarray | None, pool: Pool, batch_size: int) -> None:
    """Raise ValueError for what would go into an embedding as a number and is none, and for options without a meaning."""
    check_pooled(pool)
    check_count("batch_size", batch_size, 1)
    if valid is not None and np.shape(valid) != np.shape(images)[:3]:
        raise ValueError(f"valid must be {np.shape(images)[:3]}, as the images are, got {np.shape(valid)}")
    check_unmasked("images", images, "give the numbers below the mask, and by `valid` which pixels hold data")
    held = images if valid is None else np.where(np.asarray(valid, bool)[..., None], images, 0)
    check_finite("images", held, "say by `valid` that these pixels hold no data")


def metadata_sensitivity(
    encoder: PretrainedEncoder,
    images: np.ndarray,
    fields: Mapping[str, np.ndarray] | Metadata,
    labels: np.ndarray | None = None,
    task: str | None = None,
    *,
    valid: np.ndarray | None = None,
    pool: Pool = "mean",
    batch_size: int = 256,
    seed: int = 0,
) -> list[Sensitivity]:
    """Embed images with true, missing, shuffled and shifted metadata.

    Args:
        images: (N, S, S, C) z-scored.
        fields: week, hour, lat, lon (N, 2), as from `geomoe.metadata.encode`, or a mapping of them.
        labels: (N, K) 0/1 or (N,) class indices, for the probe: fitted on one half of the images, scored on the other (C = 1,
            standardised).
        task: "multiclass" or "multilabel"; needed with labels.
        valid: (N, S, S) bool, the pixels that hold data; None is all.
        pool, batch_size: as for `PretrainedEncoder.embed`.
        seed: of the shuffling and of the halves.

    Returns:
        One entry for each change, the first being no change.

    Raises:
        ValueError: there are labels but no task, fields, labels or `valid` are not those of so many images, labels do not fit
            the task, images or fields are masked or NaN, or the pool is of tokens.
    """
    _check_images(images, valid, pool, batch_size)
    fields = fields._asdict() if isinstance(fields, Metadata) else fields
    if absent := [name for name in FIELDS if not isinstance(fields, Mapping) or name not in fields]:
        raise ValueError(f"fields have no {', '.join(absent)}; `geomoe.metadata.encode` gives {', '.join(FIELDS)}")
    for name in FIELDS:
        check_unmasked(name, fields[name], "[0, 0] is what is not known")
    fields = {name: np.asarray(fields[name], np.float32) for name in FIELDS}
    for name, values in fields.items():
        check_finite(name, values, "[0, 0] is what is not known")
        if values.shape != (len(images), 2):
            raise ValueError(f"{name} must be ({len(images)}, 2), for so many images, got {values.shape}")
    if labels is not None:
        if task is None:
            raise ValueError("labels need a task: 'multiclass' or 'multilabel'")
        if len(labels) != len(images):
            raise ValueError(f"{len(images)} images but {len(labels)} labels; give one label, or row of labels, an image")
        labels = labelled_splits(task, {"the images'": (fields["week"], labels)})["the images'"][1]
    train, test = np.split(np.random.default_rng(seed + 1).permutation(len(images)), [len(images) // 2])

    def score(fitted: np.ndarray, scored: np.ndarray) -> float | None:
        if labels is None or task is None:
            return None
        rows = (fitted[train], labels[train]), (scored[test], labels[test])
        return linear_probe(*rows, task=task, standardise=True, resamples=0).metrics[main_metric(task)]

    out: list[Sensitivity] = []
    true: np.ndarray | None = None
    for change, changed in _changes(fields, seed):
        z = embed_in_batches(encoder, images, [changed[name] for name in FIELDS], pool, batch_size, valid)
        true = z if true is None else true
        a, b = true - true.mean(axis=0), z - true.mean(axis=0)
        cosine = (a * b).sum(axis=1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-12)
        out.append(Sensitivity(change, float(cosine.mean()), score(true, z), score(z, z)))
    return out


@dataclasses.dataclass(frozen=True)
class MetadataProbe:
    """How much of the metadata that an encoder is given its embeddings hold."""

    r2: dict[str, float]  # field -> of ridge regression from embeddings of other images, the mean of sine and cosine
    share: float  # of the embeddings' variance: 0 where they do not depend on metadata

    def __str__(self) -> str:
        fields = ", ".join(f"{name} {r2:.2f}" for name, r2 in self.r2.items())
        return f"R2 of {fields}; {self.share:.3f} of the variance"


def metadata_probe(
    encoder: PretrainedEncoder,
    images: np.ndarray,
    *,
    valid: np.ndarray | None = None,
    pool: Pool = "mean",
    batch_size: int = 256,
    seed: int = 0,
) -> MetadataProbe:
    """Give images metadata drawn at random, which their pixels cannot tell, and read them from the embeddings.

    Ridge regression (alpha 1, standardised) is fitted on the embeddings of one half of the images and scored on the other. The
    share is the variance of the difference that metadata make to an embedding, over the variance of embeddings.

    Args:
        images: (N, S, S, C) z-scored; some hundreds, as many as an embedding has numbers or more in each half.
        valid, pool, batch_size: as for `metadata_sensitivity`.
        seed: of the metadata and of the halves.

    Raises:
        ValueError: there are fewer than 4 images, or as for `metadata_sensitivity`.
    """
    _check_images(images, valid, pool, batch_size)
    if len(images) < 4:
        raise ValueError(f"got {len(images)} images; metadata are read from embeddings of 4 and more")
    rng = np.random.default_rng(seed)
    drawn = from_uniform(rng.random((len(images), len(FIELDS)), np.float32))
    missing = [np.zeros_like(values) for values in drawn]
    given, without = (embed_in_batches(encoder, images, list(m), pool, batch_size, valid) for m in (drawn, missing))
    fitted, scored = np.split(rng.permutation(len(images)), [len(images) // 2])
    targets = np.concatenate(drawn, axis=1)
    (model,) = fit_ridge(given[fitted], targets[fitted], standardise=True)
    error = np.square(model.decision(given[scored]) - targets[scored]).mean(axis=0) / targets[scored].var(axis=0)
    r2 = (1 - error).reshape(len(FIELDS), 2).mean(axis=1)
    share = (given - without).var(axis=0).sum() / max(given.var(axis=0).sum(), 1e-12)
    return MetadataProbe(dict(zip(FIELDS, r2.tolist())), float(share))
