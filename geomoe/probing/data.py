"""What the probes of a run are fitted and scored on, computed when the first probe needs it and kept."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import ml_collections
import numpy as np

from geomoe import metadata
from geomoe.data import preprocess, synthetic
from geomoe.pretrained import PretrainedEncoder, embed_in_batches
from geomoe.probing.baselines import RandomConvFeatures, band_statistics
from geomoe.probing.change import Pairs
from geomoe.probing.config import BANDS, PRETRAINED, RANDOM, RCF
from geomoe.probing.features import Baseline, Features, embed_split, load_images

T = TypeVar("T")

RCF_IMAGES = 2048  # training images that filters are drawn from


def _kept(cache: dict[Any, T], key: Any, make: Callable[[], T]) -> T:
    if key not in cache:
        cache[key] = make()
    return cache[key]


class _Encoders:
    """The pretrained encoder, and the same with the random weights of each seed."""

    def __init__(self, encoder: PretrainedEncoder):
        self._encoder = encoder
        self._random: dict[int, PretrainedEncoder] = {}

    def get(self, features: str, seed: int) -> PretrainedEncoder:
        if features == PRETRAINED:
            return self._encoder
        return _kept(self._random, seed, lambda: self._encoder.random_weights(1000 + seed))


class SplitData:
    """Features and images of the splits of a prepared dataset.

    Args:
        config: of the run.
        encoder: the pretrained encoder.
        source: the dataset's builder.
    """

    def __init__(self, config: ml_collections.ConfigDict, encoder: PretrainedEncoder, source: Any):
        self._config, self._encoder, self._source = config, encoder, source
        self._encoders = _Encoders(encoder)
        self._features: dict[str, Features] = {}
        self._images: dict[str, dict[str, np.ndarray]] = {}
        self._baselines: dict[str, Baseline] | None = None
        d = config.data
        self._options: dict[str, Any] = dict(
            resize_mode=d.resize_mode, clip=tuple(d.clip) or None, hour=d.hour, batch_size=d.batch_size, drop=tuple(d.drop)
        )

    def encoder(self, features: str, seed: int) -> PretrainedEncoder:
        """The pretrained encoder, or the random one of a seed."""
        return self._encoders.get(features, seed)

    def split(self, name: str) -> Features:
        """All features of a split, of every seed, with its labels and targets."""
        return _kept(self._features, name, lambda: self._embedded(name))

    def features(self, name: str, features: str, seed: int) -> np.ndarray:
        """One set of features of a split: (N, D)."""
        return self.split(name).sets[f"{features} {seed}" if features in (RANDOM, RCF) else features]

    def images(self, name: str) -> dict[str, np.ndarray]:
        """The images of a split, as `finetune` takes them."""
        return _kept(self._images, name, lambda: load_images(self._encoder, self._source, name, **self._options))

    def _embedded(self, name: str) -> Features:
        if self._baselines is None:
            self._baselines = self._fit_baselines()
        encoders = {PRETRAINED: self._encoder}
        if RANDOM in self._config.baselines:
            encoders |= {f"{RANDOM} {seed}": self.encoder(RANDOM, seed) for seed in self._config.seeds}
        return embed_split(encoders, self._source, name, pool=self._config.pool, baselines=self._baselines, **self._options)

    def _fit_baselines(self) -> dict[str, Baseline]:
        baselines: dict[str, Baseline] = {}
        if BANDS in self._config.baselines:
            baselines[BANDS] = band_statistics
        if RCF in self._config.baselines:
            train = self._config.data.train_split
            images = load_images(self._encoder, self._source, train, limit=RCF_IMAGES, **self._options)["image"]
            for seed in self._config.seeds:
                filters = RandomConvFeatures(images, seed=seed)
                baselines[f"{RCF} {seed}"] = functools.partial(_of_images, filters)
        return baselines


def _of_images(filters: RandomConvFeatures, images: np.ndarray, valid: np.ndarray) -> np.ndarray:
    return filters(images)


class ChangeData:
    """Features of pairs of synthetic images before and after, drawn by each seed.

    Args:
        config: of the run.
        encoder: the pretrained encoder.
    """

    def __init__(self, config: ml_collections.ConfigDict, encoder: PretrainedEncoder):
        self._config, self._encoder = config, encoder
        self._encoders = _Encoders(encoder)
        self._pairs: dict[int, dict[str, np.ndarray]] = {}
        self._features: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = {}

    def split(self, features: str, seed: int) -> tuple[Pairs, Pairs]:
        """Half of the pairs to train on and half to test on: before (N, D), after (N, D), changed (N,) each."""
        before, after = _kept(self._features, (features, seed), lambda: self._embedded(features, seed))
        changed, half = self._drawn(seed)["changed"], self._config.data.pairs // 2
        return (before[:half], after[:half], changed[:half]), (before[half:], after[half:], changed[half:])

    def _drawn(self, seed: int) -> dict[str, np.ndarray]:
        return _kept(self._pairs, seed, lambda: synthetic.change_pairs(seed, self._config.data.pairs))

    def _embedded(self, features: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
        drawn = self._drawn(seed)
        spec = preprocess.InputSpec(resize_mode="centre_crop")
        before, after = (self._encoder.prepare(drawn[view], spec) for view in ("before", "after"))
        if features == BANDS:
            return band_statistics(*before), band_statistics(*after)
        if features == RCF:
            filters = RandomConvFeatures(before[0], seed=seed)
            return filters(before[0]), filters(after[0])
        encoder = self._encoders.get(features, seed)

        def embed(images: np.ndarray, time: np.ndarray) -> np.ndarray:
            fields = metadata.encode(drawn["lat"], drawn["lon"], time)._asdict()
            kept = [np.zeros_like(v) if name in self._config.data.drop else v for name, v in fields.items()]
            return embed_in_batches(encoder, images, kept, self._config.pool, self._config.data.batch_size)

        return embed(before[0], drawn["time_before"]), embed(after[0], drawn["time_after"])
