"""A pretraining run from its config to its last checkpoint."""

import contextlib
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Self

import jax
import ml_collections
import numpy as np

from geomoe.models import MAE, count_params
from geomoe.training import parallel
from geomoe.training.checkpoints import Checkpoints, restore_latest
from geomoe.training.config import check_batch, validate
from geomoe.training.evaluate import Evaluator, make_eval_step, reconstruction_images
from geomoe.training.input import open_data
from geomoe.training.losses.config import LossConfig
from geomoe.training.losses.objective import Batch
from geomoe.training.optimizer import build_optimizer, router_noise_schedule
from geomoe.training.run_file import known_statistics, locked, open_run
from geomoe.training.run_log import RunLog
from geomoe.training.state import create_state
from geomoe.training.step import make_train_step
from geomoe.version import __version__


class TrainingDiverged(FloatingPointError):
    """The loss, a gradient or the parameters became NaN, infinite or huge; that state is not checkpointed."""


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


_EXPLODED = 10.0  # times the norm of the parameters at the last checkpoint; no sound run grows so between two of them


class StepMetrics:
    """The metrics of steps that may still be computing; reading them tells whether the run is sound.

    Args:
        param_norm: of the parameters that the run starts or goes on from.
        kept: gives the steps of the checkpoints that there are.
    """

    def __init__(self, param_norm: float, kept: Callable[[], list[int]]):
        self._sound_norm, self._kept = param_norm, kept
        self._pending: list[tuple[int, Any]] = []
        self.latest: dict[str, float] = {}

    def add(self, step: int, metrics: dict[str, Any]) -> None:
        self._pending.append((step, {name: value for name, value in metrics.items() if name != "usage"}))

    def read(self, keep: int = 0) -> None:
        """Wait for all but the last `keep` steps; `latest` is then of the newest that was read.

        Raises:
            TrainingDiverged: loss, gradient or parameters of one are not finite, or the parameters exploded.
        """
        while len(self._pending) > keep:
            step, metrics = self._pending.pop(0)
            self.latest = {name: float(value) for name, value in parallel.fetch(metrics).items()}
            loss, grad_norm, param_norm = (self.latest[name] for name in ("loss", "grad_norm", "param_norm"))
            if not np.isfinite([loss, grad_norm, param_norm]).all() or param_norm > _EXPLODED * self._sound_norm:
                raise self.diverged(step, f"loss {loss:g}, gradient norm {grad_norm:g}, parameter norm {param_norm:g}")

    def checkpointed(self) -> None:
        """The parameters of the newest step that was read are those of a checkpoint."""
        self._sound_norm = self.latest["param_norm"]

    def diverged(self, step: int, values: str) -> TrainingDiverged:
        """What to raise, with what the user can do."""
        kept = ", ".join(map(str, self._kept()))
        kept = (
            f"Checkpoints of steps {kept} are kept; going on from the last would end here again." if kept else "No checkpoint."
        )
        return TrainingDiverged(
            f"step {step}: {values} (was {self._sound_norm:g} at the last checkpoint or start). {kept} Lower "
            "config.optimizer.lr in another --workdir, or look for extreme values in the data."
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
        with contextlib.ExitStack() as opened:
            self._set_up(config, workdir, opened)
            self.close = opened.pop_all().close  # waits until everything is on disk

    def _set_up(self, config: ml_collections.ConfigDict, workdir: str | os.PathLike[str], opened: contextlib.ExitStack) -> None:
        model_config = validate(config)
        check_batch(config, jax.device_count(), jax.process_count())
        self.config, self.workdir = config, os.path.abspath(workdir)
        self.data = open_data(config, model_config, known_statistics(self.workdir))
        main_rows = config.train.batch_size - sum(dataset["rows"] for dataset in self.data.mix.values())
        self.steps_per_epoch = max(self.data.examples // main_rows, 1)
        self.total_steps = config.train.num_steps or max(round(config.train.num_epochs * self.steps_per_epoch), 1)
        facts = {
            "geomoe_version": __version__,
            "config": config.to_dict(),
            "model": model_config.to_dict(),
            "statistics": dict(self.data.statistics),
            "dataset": self.data.dataset,
            "mix": self.data.mix,
            "records": self.data.records,
            "total_steps": self.total_steps,
        }
        if jax.process_index() == 0:
            opened.enter_context(locked(self.workdir))
            open_run(self.workdir, facts)
        parallel.wait("the run was opened")  # before the others compare their config with what it says
        if jax.process_index() > 0:
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
        eval_steps = [
            make_eval_step(self.model, self.loss, statistics=self.data.statistics, axis_name=axis)
            for axis in (parallel.AXIS, None)
        ]
        self._evaluator = Evaluator(
            parallel.map_eval_step(eval_steps[0]),
            jax.jit(eval_steps[1]),
            self.data.val,
            self.data.val_share,
            config.train.batch_size,
            config.log.eval_batches,
            val_key,
            self.loss,
        )
        state = parallel.replicate(create_state(self.model, optimizer, config.seed, self.loss))
        restored = restore_latest(self.workdir, state)
        self.state = restored.state if restored else state
        self.val_loss = restored.val_loss if restored else float("nan")
        self.step = int(parallel.fetch(self.state.step))
        self._evaluated = -1  # the step that `val_loss` is of, where it is of this process
        self.checkpoints = Checkpoints(self.workdir, config.checkpoint.keep_last)
        opened.callback(self.checkpoints.close)
        self.log = RunLog(self.workdir, self.total_steps, self.step, active=jax.process_index() == 0)
        opened.callback(self.log.close)
        for note in restored.notes if restored else ():
            self.log.note(note)
        self.log.note(
            f"{count_params(self.state.params):,} parameters, {self.data.examples:,} examples, {self.total_steps:,} steps of "
            f"{config.train.batch_size}, {jax.device_count()} {jax.devices()[0].platform} devices"
            + (f"; resumed at step {self.step}" if self.step else "")
        )

    def run(self, stop: StopRequest) -> RunResult:
        """Train to the last step, or until a stop is requested, before the first step perhaps."""
        if stop.requested:
            return RunResult(self.step, self.step >= self.total_steps, self.val_loss)
        config, speed = self.config, Speed()
        norm = float(np.sqrt(sum(np.vdot(leaf, leaf) for leaf in jax.tree.leaves(parallel.fetch(self.state.params)))))
        metrics, stopping = StepMetrics(norm, self.checkpoints.steps), False
        batches = parallel.prefetch(self.data.train(self.step))
        speed.reset()
        while self.step < self.total_steps and not stopping:
            self.state, values = self._train_step(self.state, speed.next(batches), self._key)
            self.step += 1
            metrics.add(self.step, values)
            metrics.read(keep=2)
            last = self.step == self.total_steps
            if self.step % config.log.every_steps == 0 or self.step == 1 or last:
                metrics.read()
                timing = speed.columns(config.train.batch_size)
                self._log_step({"lr": float(self.schedule(self.step - 1)), **metrics.latest, **timing})
            if self.step % config.log.eval_every_steps == 0 or last:
                self._evaluate(metrics)
                self.log.note(f"step {self.step}: validation loss {self.val_loss:.3f} on hidden patches")
                self._log_images()
                speed.reset()
            due = self.step % config.checkpoint.every_steps == 0 or last
            if due and self._evaluated != self.step:  # the best checkpoint is chosen by losses of their own
                self._evaluate(metrics)
                speed.reset()
            # Read once, after all that takes long: a stop is answered by the checkpoint of this step or of the next.
            stopping = self.checkpoints.preempted(self.step) or stop.requested
            if due or stopping:
                metrics.read()
                val_loss = self.val_loss if self._evaluated == self.step else float("inf")  # of a stop
                self.checkpoints.save(parallel.snapshot(self.state), self.step, val_loss)
                metrics.checkpointed()
                speed.reset()
        return RunResult(self.step, self.step >= self.total_steps, self.val_loss)

    def _log_step(self, columns: dict[str, float]) -> None:
        self.log.steps({"step": self.step, "epoch": self.step / self.steps_per_epoch, **columns})

    def _evaluate(self, metrics: StepMetrics) -> None:
        metrics.read()
        evaluation = self._evaluator(self.state.params)
        self._log_step(evaluation.metrics)
        self.log.usage(self.step, evaluation.usage)
        self.val_loss, self._evaluated = evaluation.loss, self.step
        if not np.isfinite(self.val_loss):
            raise metrics.diverged(self.step, f"validation loss {self.val_loss:g}")

    def _log_images(self) -> None:
        count = self.config.log.images
        if not count or jax.process_count() > 1 or self.data.dataset == "fake":
            return
        params, batch = parallel.fetch(self.state.params), next(iter(self.data.val()))
        shown = self.data.val_statistics, self.loss.normalise_targets, self.config.seed
        self.log.images(self.step, reconstruction_images(self.model, params, batch, count, *shown))


def train(config: ml_collections.ConfigDict, workdir: str | os.PathLike[str]) -> RunResult:
    """Run or resume a pretraining run.

    Args:
        config: as from `default_config()`.
        workdir: the run directory; if it holds an earlier part of this run, the run goes on from its last checkpoint.

    Raises:
        ValueError: config, batch, data and devices do not go together, or the folder holds another run or is in use by one.
        TrainingDiverged: NaN, infinity or parameters that explode; earlier checkpoints are kept.
        DamagedCheckpoint: the run has checkpoints, but no whole one.
        OSError: a file cannot be written.
    """
    with StopRequest() as stop, contextlib.closing(Trainer(config, workdir)) as trainer:
        return trainer.run(stop)
