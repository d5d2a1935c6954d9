"""Scores of an encoder on a small set of labelled patches.

The protocol: logistic regression on standardised features, 5 folds drawn by 3 seeds, the folds of a seed scored together, the
best of C = 0.01, 0.1, 1. Micro mAP is over all classes, macro mAP over those with at least 8 positives. Labels are used by
the probe alone.

Axes: N patches, D features, K classes.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.metrics import average_precision_score

from geomoe import data, landsat, metadata
from geomoe.data import preprocess
from geomoe.models.pooling import Pool, check_pool, pool_name, pool_width
from geomoe.pretrained import PretrainedEncoder, embed_in_batches
from geomoe.probing.config import BANDS, RCF
from geomoe.probing.evaluation import held_out_scores
from geomoe.probing.features import RandomConvFeatures, band_statistics, load_images
from geomoe.probing.linear import fit_logistic
from geomoe.probing.splits import Rows, random_folds

SMALL = 22  # side of the crops that are resized to the model's size, in pixels
_POOLINGS = ("mean", "unit_mean", "stages")
POOLS: tuple[Pool, ...] = (*_POOLINGS, *((name, "metadata") for name in _POOLINGS))
WHOLE, NO_METADATA, CROPPED = VIEWS = ("whole patch", "no metadata", f"{SMALL} x {SMALL}")
METADATA = "metadata alone"
# Name and pool of the features without training: with "metadata" the probe is given it as well.
BASELINES = ((METADATA, "metadata"), (BANDS, ""), (BANDS, "+metadata"), (RCF, ""), (RCF, "+metadata"))
_TRANSFER = {"train": 768, "test": 384}  # patches of each split of the other dataset, at most
_TRANSFER_C = 0.1


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How features are scored."""

    strengths: tuple[float, ...] = (0.01, 0.1, 1.0)  # C, of which the best is taken
    folds: int = 5
    seeds: tuple[int, ...] = (0, 1, 2)  # that the folds are drawn by
    min_positives: int = 8  # of a class that counts in the macro average

    def path(self, train: Rows, test: Rows) -> np.ndarray:
        """Fit on training rows with each C; probabilities (strengths, n, K) of test rows."""
        models = fit_logistic(*train, task="multilabel", C=self.strengths, standardise=True)
        return np.stack([model.probabilities(test[0]) for model in models])

    def micro_macro(self, labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Micro and macro mAP of scores (N, K): (2,)."""
        frequent = labels.sum(axis=0) >= self.min_positives
        macro = average_precision_score(labels[:, frequent], scores[:, frequent], average="macro") if frequent.any() else 0.0
        return np.array([average_precision_score(labels, scores, average="micro"), macro])


STANDARD = Protocol()


def cross_validated(features: np.ndarray, labels: np.ndarray, protocol: Protocol = STANDARD) -> tuple[float, float]:
    """Score features (N, D) on labels (N, K) 0/1: micro and macro mAP, means over the seeds, of the best C by micro mAP."""
    sums = np.zeros((len(protocol.strengths), 2))
    for seed in protocol.seeds:
        path = held_out_scores(features, labels, random_folds(len(labels), protocol.folds, seed), protocol.path)
        sums += [protocol.micro_macro(labels, scores) for scores in path]
    micro, macro = sums[np.argmax(sums[:, 0])] / len(protocol.seeds)
    return float(micro), float(macro)


class Patches(NamedTuple):
    """Labelled patches in memory, as a model takes them."""

    whole: np.ndarray  # (N, S, S, C) z-scored, cropped in the middle to the model's size
    cropped: np.ndarray  # (N, S, S, C) z-scored, cropped to 22 x 22 and resized
    valid: np.ndarray  # (N, S, S) bool, the pixels of the whole ones that hold data
    cropped_valid: np.ndarray  # the same of the cropped ones
    metadata: list[np.ndarray]  # week, hour, lat, lon (N, 2)
    labels: np.ndarray  # (N, K) 0/1

    def view(self, name: str) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
        """Images, metadata and valid pixels of one of `VIEWS`; without metadata it is zeros."""
        images, valid = (self.cropped, self.cropped_valid) if name == CROPPED else (self.whole, self.valid)
        return images, [np.zeros_like(v) for v in self.metadata] if name == NO_METADATA else self.metadata, valid


def load_patches(encoder: PretrainedEncoder, name: str, split: str, data_dir: str, **options: Any) -> Patches:
    """Load the patches of a split that have a label; `options` as for `geomoe.probing.load_images`.

    Raises:
        ValueError: no patch has a label.
    """
    whole = load_images(encoder, name, split, data_dir=data_dir, **options)
    cropped = load_images(encoder, name, split, data_dir=data_dir, img_size=SMALL, **options)
    rows = whole["labels"].any(axis=1)
    if not rows.any():
        raise ValueError(f"{name} split {split} has no labelled patch to probe on")
    size = encoder.config.img_size
    fields = [whole[key][rows] for key in metadata.FIELDS]
    z_score = landsat.Statistics.of(options.get("statistics", encoder.statistics))
    resized = z_score.normalize(preprocess.resize(z_score.unnormalize(cropped["image"][rows]), size, size))
    holds = preprocess.resize(cropped["valid"][rows][..., None].astype(np.float32), size, size)[..., 0] > preprocess.WHOLE
    return Patches(whole["image"][rows], resized, whole["valid"][rows], holds, fields, whole["labels"][rows])


def embed_pools(
    encoder: PretrainedEncoder, images: np.ndarray, fields: Sequence[np.ndarray], valid: np.ndarray, pools: Sequence[Pool]
) -> dict[str, np.ndarray]:
    """Embed with several pools in one pass through the encoder: name of the pool -> (N, width)."""
    names = tuple(dict.fromkeys(name for pool in pools for name in check_pool(pool)))
    joined = embed_in_batches(encoder, images, fields, names, 32, valid)
    ends = np.cumsum([pool_width(encoder.config, name) for name in names])
    parts = dict(zip(names, np.split(joined, ends[:-1], axis=1)))
    return {pool_name(pool): np.concatenate([parts[name] for name in check_pool(pool)], axis=1) for pool in pools}


def views_of(pool: Pool) -> tuple[str, ...]:
    """The views that a pool is scored on: without metadata there is nothing to give to the probe."""
    return tuple(view for view in VIEWS if view != NO_METADATA or "metadata" not in check_pool(pool))


class ViewScore(NamedTuple):
    """Scores of one pool on one view of the patches, by the protocol."""

    pool: str
    view: str  # one of `VIEWS`
    micro_mAP: float
    macro_mAP: float
    transfer: float  # micro mAP on another dataset, by a probe fitted there; NaN where there is none


class Scorer:
    """The patches that recipes are scored on, and those of another dataset that the embeddings are tried on as well.

    Args:
        encoder: whose image size and statistics the patches are brought to.
        name, split, data_dir: a prepared dataset with labels.
        transfer: another one, with splits "train" and "test", z-scored by its own statistics; "" for none.
        protocol: of the scores.
        nodata: as for `geomoe.probing.embed_split`.
    """

    def __init__(
        self,
        encoder: PretrainedEncoder,
        name: str,
        split: str,
        data_dir: str,
        transfer: str = "",
        protocol: Protocol = STANDARD,
        nodata: str = "masked",
    ):
        self.statistics, self.protocol = encoder.statistics, protocol
        self.patches = load_patches(encoder, name, split, data_dir, nodata=nodata)
        self.transfer: list[Patches] = []
        if transfer:
            other = data.builder(transfer, data_dir)
            statistics = data.compute_statistics(other, "train")
            parts = [f"{part}[:{min(most, data.num_examples(other, part))}]" for part, most in _TRANSFER.items()]
            options: dict[str, Any] = dict(statistics=statistics, nodata=nodata)
            self.transfer = [load_patches(encoder, transfer, part, data_dir, **options) for part in parts]

    def scores(self, encoder: PretrainedEncoder, pools: Iterable[Pool] = POOLS) -> list[ViewScore]:
        """Score each pool of an encoder on each view."""
        pools = tuple(pools)
        others = [embed_pools(encoder, *patches.view(WHOLE), pools) for patches in self.transfer]
        rows = []
        for view in VIEWS:
            viewed = [pool for pool in pools if view in views_of(pool)]
            for pool, z in embed_pools(encoder, *self.patches.view(view), viewed).items() if viewed else ():
                transfer = self._transferred([sets[pool] for sets in others]) if view == WHOLE else float("nan")
                rows.append(ViewScore(pool, view, *cross_validated(z, self.patches.labels, self.protocol), transfer))
        return rows

    def baselines(self, seed: int) -> dict[tuple[str, str], ViewScore]:
        """Score features without training: (name, pool), as in `BASELINES`, -> scores."""
        filters = RandomConvFeatures(self.patches.whole, seed=seed, valid=self.patches.valid)
        make: dict[str, Callable[[Patches], list[np.ndarray]]] = {
            METADATA: lambda patches: [],
            BANDS: lambda patches: [band_statistics(patches.whole, patches.valid)],
            RCF: lambda patches: [filters(patches.whole, patches.valid)],
        }
        rows = {}
        for name, pool in BASELINES:
            z, *others = (
                np.concatenate([*make[name](patches), *(patches.metadata if pool else ())], axis=1)
                for patches in (self.patches, *self.transfer)
            )
            scores = cross_validated(z, self.patches.labels, self.protocol)
            rows[name, pool] = ViewScore(pool, WHOLE if pool else NO_METADATA, *scores, self._transferred(others))
        return rows

    def _transferred(self, features: Sequence[np.ndarray]) -> float:
        """Micro mAP of a probe on the other dataset, of its training and its test features."""
        if not self.transfer:
            return float("nan")
        train, test = self.transfer
        model = fit_logistic(features[0], train.labels, task="multilabel", C=_TRANSFER_C, standardise=True)[0]
        return float(average_precision_score(test.labels, model.probabilities(features[1]), average="micro"))
