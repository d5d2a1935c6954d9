"""Recipes pretrained for the same time and scored in the same way; and the choice among them by nested folds."""

import collections
import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import ml_collections
import numpy as np

from geomoe.data.preprocess import InputSpec
from geomoe.experiments.recipe import UNTRAINED, pretrain
from geomoe.experiments.scoring import BASELINES, POOLS, STANDARD, WHOLE, Protocol, Scorer, embed_pools, load_patches, views_of
from geomoe.models.pooling import Pool, pool_name
from geomoe.pretrained import load
from geomoe.probing.config import RANDOM
from geomoe.probing.evaluation import held_out_scores
from geomoe.probing.linear import fit_logistic
from geomoe.probing.results import RowFile
from geomoe.probing.splits import Rows, random_folds


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

    def run_folder(self, recipe: str, seed: int) -> str:
        """The run directory of a recipe."""
        return os.path.join(self.output, f"{recipe}-{self.minutes:g}min-{seed}")

    @property
    def scores_path(self) -> str:
        """The file of the scores."""
        return os.path.join(self.output, "scores.csv")


@dataclasses.dataclass(frozen=True)
class Score:
    """One row of scores.csv: a pool of one pretrained encoder (or a baseline) on one view of the patches."""

    recipe: str
    seed: int
    minutes: float  # that were asked for; 0 without training
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


def read_scores(path: str) -> list[Score]:
    """Read the rows of a file of scores, the last one of each recipe, seed, minutes, nodata, pool and view."""
    rows = RowFile(path, Score).read()
    return list({(row.recipe, row.seed, row.minutes, row.nodata, row.pool, row.view): row for row in rows}.values())


def _missing(scores: Sequence[Score], recipe: str, seed: int, minutes: float, pools: Iterable[Pool]) -> list[Pool]:
    """The pools that a file lacks a view of."""
    done = {(s.pool, s.view) for s in scores if (s.recipe, s.seed, s.minutes) == (recipe, seed, minutes)}
    return [pool for pool in pools if not {(pool_name(pool), view) for view in views_of(pool)} <= done]


def compare(recipes: Mapping[str, ml_collections.ConfigDict], seeds: Sequence[int], comparison: Comparison) -> list[Score]:
    """Pretrain and score each recipe with each seed, and the baselines.

    What scores.csv has is taken from there; a finished run in the folder is scored again where a pool is missing.

    Args:
        recipes: name -> configuration; data.data_dir is set to that of the comparison.

    Returns:
        The rows of the file that have one of the pools, and those of the baselines.
    """
    c, file = comparison, RowFile(comparison.scores_path, Score)
    scorer: Scorer | None = None
    for seed in seeds:
        for recipe, config in recipes.items():
            scores = [score for score in read_scores(c.scores_path) if score.nodata == c.nodata]
            missing = _missing(scores, recipe, seed, c.minutes, c.pools)
            if not missing:
                continue
            with config.unlocked():
                config.data.data_dir = c.data_dir
            workdir = c.run_folder(recipe, seed)
            run = pretrain(config, c.minutes, seed, workdir)
            encoder = load(workdir)
            if scorer is None or scorer.statistics != encoder.statistics:
                scorer = Scorer(encoder, c.dataset, c.split, c.data_dir, c.transfer, c.protocol, c.nodata)
            rows = [Score(recipe, seed, c.minutes, c.nodata, *(run + row)) for row in scorer.scores(encoder, missing)]
            if missing := _missing(scores, RANDOM, seed, 0.0, c.pools):
                random = encoder.random_weights(seed)
                rows += [Score(RANDOM, seed, 0.0, c.nodata, *(UNTRAINED + row)) for row in scorer.scores(random, missing)]
            if not set(BASELINES) <= {(s.recipe, s.pool) for s in scores if s.seed == seed}:
                baselines = scorer.baselines(seed).items()
                rows += [Score(name, seed, 0.0, c.nodata, *(UNTRAINED + row)) for (name, _), row in baselines]
            file.append(rows)
    names, untrained = {pool_name(pool) for pool in c.pools}, {name for name, _ in BASELINES}
    scores = [score for score in read_scores(c.scores_path) if score.nodata == c.nodata]
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
