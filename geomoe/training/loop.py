"""A pretraining run from its config to its last checkpoint."""

import contextlib
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, Self

import jax
import ml_collections
import numpy as np

from geomoe.models import MAE, count_params
from geomoe.training import parallel
from geomoe.training.checkpoints import Checkpoints, known_statistics, open_run
from geomoe.training.config import check_batch, validate
from geomoe.training.evaluate import Evaluator, make_eval_step, reconstruction_images
from geomoe.training.input import open_data
from geomoe.training.losses.config import LossConfig
from geomoe.training.losses.objective import Batch
from geomoe.training.optimizer import build_optimizer, router_noise_schedule
from geomoe.training.run_log import RunLog
from geomoe.training.state import create_state
from geomoe.training.step import make_train_step
from geomoe.version import __version__


class TrainingDiverged(FloatingPointError):
    """The loss or a gradient became NaN or infinite."""


class StopRequest:
    """Takes SIGTERM and Ctrl-C as a request to stop after the step in hand, with a checkpoint.

    In a run of several processes JAX watches for SIGTERM, and all processes agree on the step (`Checkpoints.preempted`).
    """

    def __enter__(self) -> Self:
        self.requested = False
        catches = jax.process_count() == 1 and threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGTERM, signal.SIGINT) if catches else ()
        self._handlers = {number: signal.signal(number, self._request) for number in numbers}
        return self

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


@dataclasses.dataclass(frozen=True)
class RunResult:
    """How a run ended."""

    step: int  # the last one
    finished: bool  # whether all steps are done
    val_loss: float  # the last one


class StepMetrics:
    """The metrics of steps that may still be computing; reading them tells whether they are finite."""

    def __init__(self, workdir: str, checkpoints: Checkpoints):
        self._workdir, self._checkpoints = workdir, checkpoints
        self._pending: list[tuple[int, Any]] = []
        self.latest: dict[str, float] = {}

    def add(self, step: int, metrics: dict[str, Any]) -> None:
        self._pending.append((step, {name: value for name, value in metrics.items() if name != "usage"}))

    def read(self, keep: int = 0) -> None:
        """Wait for all but the last `keep` steps; `latest` is then of the newest that was read.

        Raises:
            TrainingDiverged: loss or gradient of one is not finite.
        """
        while len(self._pending) > keep:
            step, metrics = self._pending.pop(0)
            self.latest = {name: float(value) for name, value in parallel.fetch(metrics).items()}
            loss, grad_norm = self.latest["loss"], self.latest["grad_norm"]
            if not np.isfinite([loss, grad_norm]).all():
                last = self._checkpoints.latest_step()
                kept = "" if last is None else f"The checkpoint of step {last} in {self._workdir} is kept. "
                raise TrainingDiverged(
                    f"step {step}: loss {loss}, gradient norm {grad_norm}. {kept}"
                    "Lower config.optimizer.lr, or look for extreme values in the data."
                )


class Speed:
    """Images a second and the share of the time spent waiting for input, since the last `reset`."""

    def reset(self) -> None:
        self._waited, self._steps, self._since = 0.0, 0, time.monotonic()

    def next(self, batches: Iterator[Batch]) -> Batch:
        """The next batch, whose wait counts."""
        before = time.monotonic()
        batch = next(batches)
        self._waited += time.monotonic() - before
        self._steps += 1
        return batch

    def columns(self, batch_size: int) -> dict[str, float]:
        """The timing columns of metrics.csv; starts anew."""
        steps, waited, seconds = self._steps, self._waited, time.monotonic() - self._since
        self.reset()
        return {"images_per_second": steps * batch_size / seconds, "input_wait_share": waited / seconds}


class Trainer:
    """A run that is set up: everything that its steps need. Arguments as for `train`."""

    def __init__(self, config: ml_collections.ConfigDict, workdir: str | os.PathLike[str]):
        model_config = validate(config)
        check_batch(config, jax.device_count(), jax.process_count())
        self.config, self.workdir = config, os.path.abspath(workdir)
        self.data = open_data(config, model_config, known_statistics(self.workdir))
        main_rows = config.train.batch_size - sum(dataset["rows"] for dataset in self.data.mix.values())
        self.steps_per_epoch = max(self.data.examples // main_rows, 1)
        self.total_steps = config.train.num_steps or int(round(config.train.num_epochs * self.steps_per_epoch))
        facts = {
            "geomoe_version": __version__,
            "config": config.to_dict(),
            "model": model_config.to_dict(),
            "statistics": dict(self.data.statistics),
            "dataset": self.data.dataset,
            "mix": self.data.mix,
            "total_steps": self.total_steps,
        }
        open_run(self.workdir, facts)
        self.model, self.loss = MAE(model_config), LossConfig.from_section(config.loss.to_dict())
        optimizer, self.schedule = build_optimizer(config.optimizer, self.total_steps)
        train_step = make_train_step(
            self.model,
            optimizer,
            self.loss,
            accumulate=config.train.accumulate,
            router_noise=router_noise_schedule(config.train.router_noise_end, self.total_steps),
            selection_rate=config.train.selection_rate,
            statistics=self.data.statistics,
        )
        self._train_step = parallel.map_train_step(train_step)
        self._key, val_key = jax.random.split(jax.random.key(config.seed + 1), 2)
        eval_step = parallel.map_eval_step(make_eval_step(self.model, self.loss, statistics=self.data.statistics))
        self._evaluator = Evaluator(eval_step, self.data.val, config.log.eval_batches, val_key)
        self.checkpoints = Checkpoints(self.workdir, config.checkpoint.keep_last)
        state = parallel.replicate(create_state(self.model, optimizer, config.seed, self.loss))
        self.state = self.checkpoints.restore_latest(state) or state
        self.step = int(parallel.fetch(self.state.step))
        self.val_loss = float("nan")
        self.log = RunLog(self.workdir, self.total_steps, self.step, active=jax.process_index() == 0)
        self.log.note(
            f"{count_params(self.state.params):,} parameters, {self.data.examples:,} examples, {self.total_steps:,} steps of "
            f"{config.train.batch_size}, {jax.device_count()} {jax.devices()[0].platform} devices"
            + (f"; resumed at step {self.step}" if self.step else "")
        )

    def run(self) -> RunResult:
        """Train to the last step, or until a stop is requested."""
        config = self.config
        metrics, speed = StepMetrics(self.workdir, self.checkpoints), Speed()
        with StopRequest() as stop:
            batches = parallel.prefetch(self.data.train(self.step))
            speed.reset()
            while self.step < self.total_steps and not stop.requested:
                self.state, values = self._train_step(self.state, speed.next(batches), self._key)
                self.step += 1
                metrics.add(self.step, values)
                metrics.read(keep=2)
                stop.requested = stop.requested or self.checkpoints.preempted(self.step)
                last = self.step == self.total_steps or stop.requested
                if self.step % config.log.every_steps == 0 or self.step == 1 or last:
                    metrics.read()
                    timing = speed.columns(config.train.batch_size)
                    self._log_step({"lr": float(self.schedule(self.step - 1)), **metrics.latest, **timing})
                if self.step % config.log.eval_every_steps == 0 or self.step == self.total_steps:
                    metrics.read()
                    self._evaluate()
                    self.log.note(f"step {self.step}: validation loss {self.val_loss:.3f} on hidden patches")
                    self._log_images()
                    speed.reset()
                if self.step % config.checkpoint.every_steps == 0 or last:
                    metrics.read()
                    if np.isnan(self.val_loss):
                        self._evaluate()
                    self.checkpoints.save(parallel.snapshot(self.state), self.step, self.val_loss)
                    speed.reset()
        return RunResult(self.step, self.step >= self.total_steps, self.val_loss)

    def close(self) -> None:
        """Wait until everything is on disk."""
        self.checkpoints.close()
        self.log.close()

    def _log_step(self, columns: dict[str, float]) -> None:
        self.log.steps({"step": self.step, "epoch": self.step / self.steps_per_epoch, **columns})

    def _evaluate(self) -> None:
        evaluation = self._evaluator(self.state.params)
        self._log_step(evaluation.metrics)
        self.log.usage(self.step, evaluation.usage)
        self.val_loss = evaluation.loss

    def _log_images(self) -> None:
        count = self.config.log.images
        if not count or jax.process_count() > 1 or self.data.dataset == "fake":
            return
        params, batch = parallel.fetch(self.state.params), next(iter(self.data.val()))
        shown = self.data.statistics, self.loss.normalise_targets, self.config.seed
        self.log.images(self.step, reconstruction_images(self.model, params, batch, count, *shown))


def train(config: ml_collections.ConfigDict, workdir: str | os.PathLike[str]) -> RunResult:
    """Run or resume a pretraining run.

    Args:
        config: as from `default_config()`.
        workdir: the run directory; if it holds an earlier part of this run, the run goes on from its last checkpoint.

    Raises:
        ValueError: config, batch, data and devices do not go together, or the folder holds another run.
        TrainingDiverged: NaN or infinity; the last good checkpoint is kept.
    """
    with contextlib.closing(Trainer(config, workdir)) as trainer:
        return trainer.run()
