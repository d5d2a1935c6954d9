"""Recipes: configurations from files, pretrained for a given time."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import os
import statistics
import tempfile

import ml_collections

from geomoe.training import loop, read_run

_TIMING_STEPS = 12


@dataclasses.dataclass(frozen=True)
class Run:
    """What pretraining took.

    Attributes:
        seconds: that the steps took, without compiling.
        steps: of the run.
        images_per_second: median over the run.
        least_used_expert: share of the held-out tokens of the least used expert of any block, over an even share.
    """

    seconds: float
    steps: int
    images_per_second: float
    least_used_expert: float


UNTRAINED = Run(0.0, 0, float("nan"), float("nan"))


def load_recipe(path: str | os.PathLike) -> ml_collections.ConfigDict:
    """Load the configuration of a recipe file: what its `get_config` returns.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it has no `get_config`.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f"there is no recipe {path}")
    spec = importlib.util.spec_from_file_location("recipe", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ValueError(f"{path} has no get_config()")
    return module.get_config()


def _metrics(workdir: str, column: str) -> list[float]:
    """A column of a run's metrics.csv, the rows that have it."""
    with open(os.path.join(workdir, "metrics.csv"), newline="") as file:
        return [float(row[column]) for row in csv.DictReader(file) if row[column]]


def steps_in(config: ml_collections.ConfigDict, minutes: float) -> int:
    """Estimate how many steps a run takes in `minutes` on this machine, compiling aside; measured on a few."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.train.num_steps = _TIMING_STEPS
        config.log.every_steps = _TIMING_STEPS // 2
        config.log.eval_batches = 1
        config.log.images = 0
    with tempfile.TemporaryDirectory() as folder:
        _stop_unless_finished(loop.train(config, folder))
        rate = _metrics(folder, "images_per_second")[-1]
    return max(int(minutes * 60 * rate / config.train.batch_size), 1)


def _stop_unless_finished(result: loop.RunResult) -> None:
    """A run that was asked to stop ends the comparison as well; its checkpoint stays."""
    if not result.finished:
        raise SystemExit(f"stopped at step {result.step}; the same command goes on from there")


def pretrain(config: ml_collections.ConfigDict, minutes: float, seed: int, workdir: str) -> Run:
    """Pretrain a recipe for about `minutes`. A run that the folder has is gone on with, or taken if it is finished."""
    config = config.copy_and_resolve_references()
    started = os.path.exists(os.path.join(workdir, "run.json"))
    with config.unlocked():
        config.seed = seed
        config.train.num_steps = read_run(workdir)["total_steps"] if started else steps_in(config, minutes)
        config.log.eval_every_steps = config.checkpoint.every_steps = max(config.train.num_steps // 4, 1)
        config.log.images = 0
    _stop_unless_finished(loop.train(config, workdir))
    rates = _metrics(workdir, "images_per_second")
    rate = statistics.median(rates[1:] or rates)  # the first one is compiling
    steps = config.train.num_steps
    return Run(steps * config.train.batch_size / rate, steps, rate, _metrics(workdir, "val_least_used_expert")[-1])
