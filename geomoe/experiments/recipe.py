"""Recipes: configurations from files, pretrained for a given time."""

import os
import runpy
import statistics
import tempfile
from typing import NamedTuple

import ml_collections

from geomoe.training import loop, read_run
from geomoe.training.run_log import METRICS, read_table

_TIMING_STEPS = 12


class Run(NamedTuple):
    """What pretraining took."""

    seconds: float  # that the steps took, without compiling
    steps: int
    images_per_second: float  # median over the run
    least_used_expert: float  # share of the held-out tokens of the least used expert of any block, over an even share


UNTRAINED = Run(0.0, 0, float("nan"), float("nan"))


def load_recipe(path: str | os.PathLike) -> ml_collections.ConfigDict:
    """Load the configuration of a recipe file: what its `get_config` returns.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it has no `get_config`.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f"there is no recipe {path}")
    if not os.fspath(path).endswith(".py"):
        raise ValueError(f"{path} is no Python file")
    recipe = runpy.run_path(os.fspath(path))
    if "get_config" not in recipe:
        raise ValueError(f"{path} has no get_config()")
    return recipe["get_config"]()


def _train(config: ml_collections.ConfigDict, workdir: str) -> dict[str, list[float]]:
    """Train, and read two columns of the run's metrics.csv: the values of the rows that have them."""
    result = loop.train(config, workdir)
    if not result.finished:  # a run that was asked to stop ends the comparison as well; its checkpoint stays
        print(f"stopped at step {result.step}; the same command goes on from there")
        raise SystemExit(os.EX_TEMPFAIL)  # 75, as train.py
    rows = read_table(os.path.join(workdir, METRICS))
    columns = ("images_per_second", "val_least_used_expert")
    return {column: [float(row[column]) for row in rows if row.get(column)] for column in columns}


def steps_in(config: ml_collections.ConfigDict, minutes: float) -> int:
    """Estimate how many steps a run takes in `minutes` on this machine, compiling aside; measured on a few."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.train.num_steps = _TIMING_STEPS
        config.log.every_steps = _TIMING_STEPS // 2
        config.log.eval_batches = 1
        config.log.images = 0
    with tempfile.TemporaryDirectory() as folder:
        rate = _train(config, folder)["images_per_second"][-1]
    return max(int(minutes * 60 * rate / config.train.batch_size), 1)


def pretrain(config: ml_collections.ConfigDict, minutes: float, seed: int, workdir: str) -> Run:
    """Pretrain a recipe for about `minutes`. A run that the folder has is gone on with, or taken if it is finished."""
    config = config.copy_and_resolve_references()
    started = os.path.exists(os.path.join(workdir, "run.json"))
    with config.unlocked():
        config.seed = seed
        config.train.num_steps = read_run(workdir)["total_steps"] if started else steps_in(config, minutes)
        config.log.eval_every_steps = config.checkpoint.every_steps = max(config.train.num_steps // 4, 1)
        config.log.images = 0
    metrics, steps = _train(config, workdir), config.train.num_steps
    rates = metrics["images_per_second"]
    rate = statistics.median(rates[1:] or rates)  # the first one is compiling
    return Run(steps * config.train.batch_size / rate, steps, rate, metrics["val_least_used_expert"][-1])
