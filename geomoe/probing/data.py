"""What the probes of a run are fitted and scored on, computed when the first probe needs it and kept."""

import csv
import functools
import io
import re
from collections.abc import Sequence
from typing import Any

import ml_collections
import numpy as np

from geomoe import metadata
from geomoe.data import compute_statistics, synthetic
from geomoe.data.preprocess import InputSpec
from geomoe.data.tables import read_table, read_text
from geomoe.landsat import COMPUTED
from geomoe.pretrained import PretrainedEncoder, embed_in_batches
from geomoe.probing.change import Pairs
from geomoe.probing.config import BANDS, PRETRAINED, RANDOM, RCF
from geomoe.probing.features import Baseline, Features, RandomConvFeatures, band_statistics, embed_split, load_images
from geomoe.probing.splits import Folds, group_folds, random_folds, spatial_folds, stratified_folds

RCF_IMAGES = 2048  # training images that filters are drawn from


class _Data:
    """Of a run: its config, the pretrained encoder, and the same encoder with the random weights of each seed."""

    def __init__(self, config: ml_collections.ConfigDict, encoder: PretrainedEncoder):
        self._config, self._pretrained = config, encoder
        self._random = functools.cache(lambda seed: encoder.random_weights(1000 + seed))

    def encoder(self, features: str, seed: int) -> PretrainedEncoder:
        """The pretrained encoder, or the random one of a seed."""
        return self._pretrained if features == PRETRAINED else self._random(seed)


class SplitData(_Data):
    """Features and images of the splits of a prepared dataset, of which `source` is the builder."""

    def __init__(self, config: ml_collections.ConfigDict, encoder: PretrainedEncoder, source: Any):
        super().__init__(config, encoder)
        keys = ("resize_mode", "hour", "batch_size", "drop", "nodata")
        options: dict[str, Any] = {key: config.data[key] for key in keys} | {"clip": tuple(config.data.clip) or None}
        computed = config.data.statistics == COMPUTED
        own = compute_statistics(source, config.data.train_split) if computed else None
        read = {key: config.data[key] for key in ("resize_mode", "nodata")}
        self.spec = InputSpec(**read, statistics=own)  # what becomes of the images
        options["statistics"] = self.statistics = own or encoder.statistics
        self._source, self._options = source, options
        self.images = functools.cache(lambda name: load_images(encoder, source, name, **options))  # as `finetune` takes them
        self.split = functools.cache(self._embedded)
        self.folds = functools.cache(self._drawn_folds)
        self._baselines = functools.cache(self._fit_baselines)

    def features(self, name: str, features: str, seed: int) -> np.ndarray:
        """One set of features of a split: (N, D)."""
        return self.split(name).sets[f"{features} {seed}" if features in (RANDOM, RCF) else features]

    def _drawn_folds(self, seed: int) -> Folds:
        """The folds of the training split by a seed."""
        d, rows = self._config.data, self.split(self._config.data.train_split)
        if d.splits == "random":
            return random_folds(len(rows.labels), d.folds, seed)
        if d.splits == "stratified":
            return stratified_folds(rows.labels, d.folds, seed)
        if d.splits == "group":
            return group_folds(groups_of(rows.ids, d.group), d.folds, seed)
        where = rows.targets["latitude"], rows.targets["longitude"]
        return spatial_folds(*where, d.folds, seed, block_km=d.block_km, buffer_km=d.buffer_km)

    def _embedded(self, name: str) -> Features:
        """All features of a split, of every seed, with its labels and targets."""
        encoders = {PRETRAINED: self.encoder(PRETRAINED, 0)}
        if RANDOM in self._config.baselines:
            encoders |= {f"{RANDOM} {seed}": self.encoder(RANDOM, seed) for seed in self._config.seeds}
        pool, baselines = self._config.pool, self._baselines()
        return embed_split(encoders, self._source, name, pool=pool, baselines=baselines, **self._options)

    def _fit_baselines(self) -> dict[str, Baseline]:
        baselines: dict[str, Baseline] = {}
        if BANDS in self._config.baselines:
            baselines[BANDS] = band_statistics
        if RCF in self._config.baselines:
            train = self._config.data.train_split
            drawn = load_images(self._pretrained, self._source, train, limit=RCF_IMAGES, **self._options)
            for seed in self._config.seeds:
                baselines[f"{RCF} {seed}"] = RandomConvFeatures(drawn["image"], seed=seed, valid=drawn["valid"])
        return baselines


def groups_of(ids: Sequence[str] | np.ndarray, group: str) -> list[str]:
    """Find the group of each patch by its name.

    Args:
        ids: of the patches.
        group: "scene": the id without the row and column (or the two numbers of BigEarthNet) at its end; "folder": the id up to
            its last "/"; or "TABLE.csv:COLUMN": a column of a table that has another one, `id`.

    Raises:
        ValueError: a patch has no group by it; the message says which.
    """
    path, _, column = group.rpartition(":")
    if path:
        columns = next(csv.reader(io.StringIO(read_text(path))), [])
        if column not in (name.strip() for name in columns):
            raise ValueError(f"{path} has no column {column!r}; it has {', '.join(columns)}")
        table = read_table(path, ("id", *(name.strip() for name in columns)))
        known: dict[str, str] = {}
        for row in table:
            name, value = row.fields["id"], row.fields[column]
            if known.setdefault(name, value) != value:
                raise ValueError(f"{path} gives {name!r} two groups, {known[name]!r} and {value!r}")
        groups = [known.get(name, "") for name in ids]
    elif group == "folder":
        groups = [name.rpartition("/")[0] for name in ids]
    else:
        matches = [re.fullmatch(r"(.+)_\d+_\d+", name) for name in ids]
        groups = [match[1] if match else "" for match in matches]
    if lacking := [name for name, found in zip(ids, groups) if not found]:
        few = f"{len(lacking)} of {len(groups)} patches no group, as {lacking[0]!r}"
        raise ValueError(f"config.data.group = {group!r} gives {few}")
    return groups


class ChangeData(_Data):
    """Features of pairs of synthetic images before and after, drawn by each seed."""

    def __init__(self, config: ml_collections.ConfigDict, encoder: PretrainedEncoder):
        super().__init__(config, encoder)
        self._drawn = functools.cache(lambda seed: synthetic.change_pairs(seed, config.data.pairs))
        self._features = functools.cache(self._embedded)

    def split(self, features: str, seed: int) -> tuple[Pairs, Pairs]:
        """Half of the pairs to train on and half to test on: before (N, D), after (N, D), changed (N,) each."""
        before, after = self._features(features, seed)
        changed, half = self._drawn(seed)["changed"], self._config.data.pairs // 2
        return (before[:half], after[:half], changed[:half]), (before[half:], after[half:], changed[half:])

    def _embedded(self, features: str, seed: int) -> Sequence[np.ndarray]:
        drawn, d = self._drawn(seed), self._config.data
        spec = InputSpec(resize_mode="centre_crop")
        before, after = (self._pretrained.prepare(drawn[view], spec) for view in ("before", "after"))
        if d.nodata == "published":
            before, after = ((images, np.ones_like(valid)) for images, valid in (before, after))
        if features == BANDS:
            return band_statistics(*before), band_statistics(*after)
        if features == RCF:
            filters = RandomConvFeatures(before[0], seed=seed, valid=before[1])
            return filters(*before), filters(*after)
        embedded = []
        for (images, valid), time in ((before, drawn["time_before"]), (after, drawn["time_after"])):
            fields = metadata.encode(drawn["lat"], drawn["lon"], time)._asdict()
            kept = [np.zeros_like(v) if name in d.drop else v for name, v in fields.items()]
            of = self.encoder(features, seed)
            embedded.append(embed_in_batches(of, images, kept, self._config.pool, d.batch_size, valid))
        return embedded
