"""Recipes pretrained for the same time and scored in the same way."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence

import ml_collections
import numpy as np

from geomoe.experiments.nested import NestedChoice, nested_choice
from geomoe.experiments.recipe import UNTRAINED, Run, pretrain
from geomoe.experiments.scoring import BASELINES, POOLS, WHOLE, Protocol, Scorer, ViewScore, embed_pools, load_patches, views_of
from geomoe.models.pooling import Pool, pool_name
from geomoe.pretrained import load
from geomoe.probing.config import RANDOM
from geomoe.probing.results import RowFile


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What recipes are compared by.

    Attributes:
        minutes: of pretraining, compiling aside.
        output: folder of the runs and of scores.csv.
        dataset, split, data_dir, transfer: as for `Scorer`.
        pools: to score.
        protocol: of the scores.
    """

    minutes: float
    output: str
    dataset: str
    split: str
    data_dir: str
    transfer: str = ""
    pools: tuple[Pool, ...] = POOLS
    protocol: Protocol = Protocol()

    def run_folder(self, recipe: str, seed: int) -> str:
        """The run directory of a recipe."""
        return os.path.join(self.output, f"{recipe}-{self.minutes:g}min-{seed}")

    @property
    def scores_path(self) -> str:
        """The file of the scores."""
        return os.path.join(self.output, "scores.csv")


@dataclasses.dataclass(frozen=True)
class Score:
    """One row of scores.csv: a pool of one pretrained encoder (or a baseline) on one view of the patches.

    Attributes:
        recipe, seed: what was pretrained, and from which seed.
        minutes: that were asked for; 0 without training.
        seconds, steps, images_per_second, least_used_expert: see `Run`.
        pool, view, micro_mAP, macro_mAP, transfer: see `ViewScore`.
    """

    recipe: str
    seed: int
    minutes: float
    seconds: float
    steps: int
    images_per_second: float
    least_used_expert: float
    pool: str
    view: str
    micro_mAP: float
    macro_mAP: float
    transfer: float

    @classmethod
    def of(cls, recipe: str, seed: int, minutes: float, run: Run, scores: ViewScore) -> Score:
        """Join what a row is of and what it scores."""
        return cls(recipe, seed, minutes, *dataclasses.astuple(run), *dataclasses.astuple(scores))


def read_scores(path: str) -> list[Score]:
    """Read the rows of a file of scores, the last one of each recipe, seed, minutes, pool and view."""
    rows = RowFile(path, Score).read()
    return list({(row.recipe, row.seed, row.minutes, row.pool, row.view): row for row in rows}.values())


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
            scores = read_scores(c.scores_path)
            missing = _missing(scores, recipe, seed, c.minutes, c.pools)
            if not missing:
                continue
            with config.unlocked():
                config.data.data_dir = c.data_dir
            workdir = c.run_folder(recipe, seed)
            run = pretrain(config, c.minutes, seed, workdir)
            encoder = load(workdir)
            if scorer is None or scorer.statistics != encoder.statistics:
                scorer = Scorer(encoder, c.dataset, c.split, c.data_dir, c.transfer, c.protocol)
            rows = [Score.of(recipe, seed, c.minutes, run, row) for row in scorer.scores(encoder, missing)]
            if missing := _missing(scores, RANDOM, seed, 0.0, c.pools):
                random = encoder.random_weights(seed)
                rows += [Score.of(RANDOM, seed, 0.0, UNTRAINED, row) for row in scorer.scores(random, missing)]
            if not set(BASELINES) <= {(s.recipe, s.pool) for s in scores if s.seed == seed}:
                baselines = scorer.baselines(seed)
                rows += [Score.of(name, seed, 0.0, UNTRAINED, row) for (name, _), row in baselines.items()]
            file.append(rows)
    names, untrained = {pool_name(pool) for pool in c.pools}, {name for name, _ in BASELINES}
    return [score for score in read_scores(c.scores_path) if score.pool in names or score.recipe in untrained]


def choose(recipes: Iterable[str], seed: int, comparison: Comparison) -> NestedChoice:
    """Choose by nested folds among the runs of recipes with one seed, each with every pool ("recipe, pool")."""
    candidates: dict[str, np.ndarray] = {}
    labels = np.zeros(0)
    for recipe in recipes:
        encoder = load(comparison.run_folder(recipe, seed))
        patches = load_patches(encoder, comparison.dataset, comparison.split, comparison.data_dir)
        labels = patches.labels
        for pool, z in embed_pools(encoder, *patches.view(WHOLE), comparison.pools).items():
            candidates[f"{recipe}, {pool}"] = z
    return nested_choice(candidates, labels, comparison.protocol)
