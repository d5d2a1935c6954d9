"""Recipes pretrained for the same time and scored in the same way; and the choice among them by nested folds."""

import collections
import dataclasses
import hashlib
import math
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from geomoe import data
from geomoe.data.preprocess import InputSpec
from geomoe.experiments.recipe import UNTRAINED, Run, pretrain
from geomoe.experiments.scoring import (
    BASELINES,
    POOLS,
    STANDARD,
    WHOLE,
    Protocol,
    Scorer,
    ViewScore,
    embed_pools,
    load_patches,
    views_of,
)
from geomoe.models.pooling import Pool, check_pooled, pool_name
from geomoe.pretrained import load
from geomoe.probing.config import RANDOM
from geomoe.probing.evaluation import held_out_scores
from geomoe.probing.linear import fit_logistic
from geomoe.probing.metrics import TASKS
from geomoe.probing.results import RowFile, plain_text
from geomoe.probing.splits import Rows, random_folds
from geomoe.training import read_run
from geomoe.training.config import default_config, differences
from geomoe.training.run_file import is_run


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What recipes are compared by; dataset, split, data_dir and transfer as for `Scorer`."""

    minutes: float  # of pretraining, compiling aside
    output: str  # folder of the runs and of scores.csv
    dataset: str
    split: str
    data_dir: str
    transfer: str = ""
    pools: tuple[Pool, ...] = POOLS
    protocol: Protocol = STANDARD
    nodata: str = "masked"  # as for `geomoe.probing.embed_split`

    def __post_init__(self) -> None:
        InputSpec(nodata=self.nodata)  # checks it
        if not 0 < self.minutes < math.inf:
            raise ValueError(f"minutes = {self.minutes} must be a finite number above 0")
        for pool in self.pools:
            check_pooled(pool)

    def run_folder(self, recipe: str, seed: int) -> str:
        """The run directory of a recipe."""
        return os.path.join(self.output, f"{recipe}-{self.minutes:g}min-{seed}")

    @property
    def scores_path(self) -> str:
        """The file of the scores."""
        return os.path.join(self.output, "scores.csv")

    def scored_on(self) -> dict[str, Any]:
        """Open the datasets, and give what rows of scores.csv say of how they are scored: dataset, split, protocol ...

        Raises:
            ValueError: dataset or transfer is unknown, not prepared or without labels, or has no such split.
        """
        dataset = _labelled("dataset", self.dataset, self.data_dir, {self.split: self.protocol.folds})
        transfer = _labelled("transfer", self.transfer, self.data_dir, {"train": 1, "test": 1}) if self.transfer else ""
        row = dict(dataset=dataset, split=plain_text(self.split), transfer_dataset=transfer, nodata=self.nodata)
        return row | {"protocol": _digest([repr(self.protocol)])}


def _labelled(key: str, name: str, data_dir: str, splits: Mapping[str, int]) -> str:
    """Check that a dataset has labels, and so many patches in each split; its name and the start of its fingerprint."""
    try:
        source = data.builder(name, data_dir)
        if source.info.metadata["task"] not in TASKS:
            raise ValueError("it was prepared without labels; there is nothing to score on")
        for split, least in splits.items():
            if (count := data.num_examples(source, split)) < least:
                raise ValueError(f"split {split!r} has {count} patches, fewer than {least}")
    except (ValueError, OSError) as error:
        raise ValueError(f"{key} = {name!r}: {error}") from error
    return f"{source.info.full_name} {data.fingerprint(source)[:12]}"


def _digest(values: Sequence[str]) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()[:12]


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What of a recipe's configuration is other, without what the comparison sets."""
    set_here = ("seed: ", "train.num_steps: ", "data.data_dir: ")
    return [change for change in differences(old, new) if not change.startswith(set_here)]


def _config_digest(config: ml_collections.ConfigDict, sections: tuple[str, ...] = ("",)) -> str:
    """Of what a configuration, or its sections ("model."), has other than by default."""
    changed = _changed(default_config().to_dict(), config.to_dict())
    return _digest([change for change in changed if change.startswith(sections)])


def _check_run(workdir: str, config: ml_collections.ConfigDict) -> None:
    """Raise ValueError where a folder holds the run of another configuration."""
    if is_run(workdir) and (changed := _changed(read_run(workdir)["config"], config.to_dict())):
        raise ValueError(
            f"{workdir} holds a run of another config than the recipe has now; move it away, or give another --output. "
            f"Differences: {'; '.join(changed)}"
        )


@dataclasses.dataclass(frozen=True)
class Score:
    """One row of scores.csv: a pool of one pretrained encoder (or a baseline) on one view of the patches."""

    recipe: str
    seed: int
    minutes: float  # that were asked for; 0 without training
    config: str  # digest of the recipe's; without training of what the first recipe has on model and data
    dataset: str  # its name and the start of its fingerprint
    split: str
    transfer_dataset: str  # as `dataset`; "" for none
    protocol: str  # digest of `Protocol`
    nodata: str  # what became of pixels without data where patches were embedded
    seconds: float  # this and what follows: see `Run`
    steps: int
    images_per_second: float
    least_used_expert: float
    pool: str  # this and what follows: see `ViewScore`
    view: str
    micro_mAP: float
    macro_mAP: float
    transfer: float


_KEY = ("recipe", "seed", "minutes", "config", "dataset", "split", "transfer_dataset", "protocol", "nodata", "pool", "view")


def read_scores(path: str) -> list[Score]:
    """Read the rows of a file of scores, the last one of each pool and view of an encoder that was scored in one way."""
    key = operator.attrgetter(*_KEY)
    return list({key(row): row for row in RowFile(path, Score).read()}.values())


def _missing(scores: Sequence[Score], recipe: str, seed: int, minutes: float, pools: Iterable[Pool]) -> list[Pool]:
    """The pools that a file lacks a view of."""
    done = {(s.pool, s.view) for s in scores if (s.recipe, s.seed, s.minutes) == (recipe, seed, minutes)}
    return [pool for pool in pools if not {(pool_name(pool), view) for view in views_of(pool)} <= done]


def _comparable(path: str, configs: Mapping[str, str], on: Mapping[str, Any]) -> list[Score]:
    """The rows of a file that were scored alike, with these digests of configs; of other recipes with the one last scored."""
    rows = [row for row in read_scores(path) if all(getattr(row, key) == value for key, value in on.items())]
    configs = {**{row.recipe: row.config for row in rows}, **configs}
    return [row for row in rows if row.config == configs[row.recipe]]


def compare(recipes: Mapping[str, ml_collections.ConfigDict], seeds: Sequence[int], comparison: Comparison) -> list[Score]:
    """Pretrain and score each recipe with each seed, and the baselines.

    What scores.csv has of the same configurations, scored on the same, is taken from there; a finished run in the folder is
    scored again where a pool is missing.

    Args:
        recipes: name -> configuration; data.data_dir is set to that of the comparison.

    Returns:
        The rows of the file, scored on the same, that have one of the pools, and those of the baselines.

    Raises:
        ValueError: before anything is trained: a dataset or split is not there, or a run in the folder has another
            configuration than its recipe.
    """
    c, file = comparison, RowFile(comparison.scores_path, Score)
    on, first, untrained = c.scored_on(), next(iter(recipes.values())), {name for name, _ in BASELINES}
    configs = {recipe: _config_digest(config) for recipe, config in recipes.items()}
    of_untrained = _config_digest(first, ("model.", "data."))  # they are scored with the first recipe
    configs |= dict.fromkeys((RANDOM, *untrained), of_untrained)
    for seed in seeds:
        for recipe, config in recipes.items():
            _check_run(c.run_folder(recipe, seed), config)

    def rows(recipe: str, seed: int, minutes: float, run: Run, scores: Iterable[ViewScore]) -> list[Score]:
        return [Score(recipe, seed, minutes, configs[recipe], **on, **run._asdict(), **row._asdict()) for row in scores]

    scorer: Scorer | None = None
    for seed in seeds:
        for recipe, config in recipes.items():
            scores = _comparable(c.scores_path, configs, on)
            missing = _missing(scores, recipe, seed, c.minutes, c.pools)
            random = _missing(scores, RANDOM, seed, 0.0, c.pools)
            baselines = not set(BASELINES) <= {(s.recipe, s.pool) for s in scores if s.seed == seed}
            if not (missing or random or baselines):
                continue
            with config.unlocked():
                config.data.data_dir = c.data_dir
            workdir = c.run_folder(recipe, seed)
            run = pretrain(config, c.minutes, seed, workdir)
            encoder = load(workdir)
            if scorer is None or scorer.statistics != encoder.statistics:
                scorer = Scorer(encoder, c.dataset, c.split, c.data_dir, c.transfer, c.protocol, c.nodata)
            new = rows(recipe, seed, c.minutes, run, scorer.scores(encoder, missing)) if missing else []
            if random:
                new += rows(RANDOM, seed, 0.0, UNTRAINED, scorer.scores(encoder.random_weights(seed), random))
            if baselines:
                for (name, _), row in scorer.baselines(seed).items():
                    new += rows(name, seed, 0.0, UNTRAINED, [row])
            file.append(new)
    names = {pool_name(pool) for pool in c.pools}
    scores = _comparable(c.scores_path, configs, on)
    return [score for score in scores if score.pool in names or score.recipe in untrained]


class NestedChoice(NamedTuple):
    """Score of a choice: of the rows of all folds, means over the seeds."""

    micro_mAP: float
    macro_mAP: float
    counts: dict[str, int]  # how often each candidate was chosen, the most frequent first


def nested_choice(candidates: Mapping[str, np.ndarray], labels: np.ndarray, protocol: Protocol = STANDARD) -> NestedChoice:
    """Score the choosing among features, not the best of them.

    In each fold the candidate and its C are those with the highest micro mAP in cross-validation within the other folds; the
    fold is then scored by them: the rows that a choice is scored on have no part in it.

    Args:
        candidates: name -> (N, D).
        labels: (N, K) 0/1.
        protocol: of the folds, C and scores; the inner folds are one less.
    """
    counts: collections.Counter[str] = collections.Counter()
    total = np.zeros(2)
    for seed in protocol.seeds:

        def fit(train: Rows, test: Rows, seed: int = seed) -> np.ndarray:
            (rows, y), (test_rows, _) = train, test
            inner = random_folds(len(y), protocol.folds - 1, seed)
            micro: dict[tuple[str, float], float] = {}
            for candidate, features in candidates.items():
                path = held_out_scores(features[rows], y, inner, protocol.path)
                micro |= {(candidate, C): protocol.micro_macro(y, z)[0] for C, z in zip(protocol.strengths, path)}
            name, strength = max(micro, key=micro.__getitem__)
            counts[name] += 1
            features = candidates[name]
            model = fit_logistic(features[rows], y, task="multilabel", C=strength, standardise=True)[0]
            return model.probabilities(features[test_rows])

        parts = random_folds(len(labels), protocol.folds, seed)
        total += protocol.micro_macro(labels, held_out_scores(np.arange(len(labels)), labels, parts, fit))
    micro, macro = total / len(protocol.seeds)
    return NestedChoice(float(micro), float(macro), dict(counts.most_common()))


def choose(recipes: Iterable[str], seed: int, comparison: Comparison) -> NestedChoice:
    """Choose by nested folds among the runs of recipes with one seed, each with every pool ("recipe, pool")."""
    candidates, labels = {}, np.zeros(0)
    for recipe in recipes:
        encoder = load(comparison.run_folder(recipe, seed))
        patches = load_patches(encoder, comparison.dataset, comparison.split, comparison.data_dir, nodata=comparison.nodata)
        labels = patches.labels
        for pool, z in embed_pools(encoder, *patches.view(WHOLE), comparison.pools).items():
            candidates[f"{recipe}, {pool}"] = z
    return nested_choice(candidates, labels, comparison.protocol)
