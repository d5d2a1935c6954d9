"""A pretraining run from its config to its last checkpoint."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from typing import Any

import jax
import ml_collections
import numpy as np

import geomoe
from geomoe.metadata import FIELDS
from geomoe.models import MAE, count_params
from geomoe.training import parallel
from geomoe.training.checkpoints import Checkpoints, known_statistics, open_run
from geomoe.training.config import check_batch, validate
from geomoe.training.input import RunData, open_data
from geomoe.training.optimizer import build_optimizer, noise_factor
from geomoe.training.run_log import RunLog
from geomoe.training.state import create_state
from geomoe.training.step import LossConfig, make_eval_step, make_train_step


class TrainingDiverged(FloatingPointError):
    """The loss or a gradient became NaN or infinite."""


class _StopRequest:
    """Turns SIGTERM and Ctrl-C into a wish to stop after the step in hand, with a checkpoint.

    In a run of several processes JAX watches for SIGTERM, and all processes agree on the step (`Checkpoints.preempted`).
    """

    def __init__(self):
        self.wanted = False

    def __enter__(self) -> _StopRequest:
        self._old = {}
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._old[number] = signal.signal(number, self._ask)
        return self

    def _ask(self, number: int, frame: Any) -> None:
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True

    def __exit__(self, *exc: Any) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)


@dataclasses.dataclass(frozen=True)
class RunResult:
    """How a run ended: its last step, whether all steps are done, and the last validation loss."""

    step: int
    finished: bool
    val_loss: float


def train(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> RunResult:
    """Runs or resumes a pretraining run.

    Args:
        config: as from `default_config()`.
        workdir: the run directory; if it holds an earlier part of this run, the run goes on from its last checkpoint.

    Raises:
        ValueError: config, batch, data and devices do not fit together, or the folder holds another run.
        TrainingDiverged: NaN or infinity; the last good checkpoint is kept.
    """
    model_config = validate(config)
    check_batch(config, jax.device_count(), jax.process_count())
    workdir = os.path.abspath(workdir)
    data = open_data(config, model_config, known_statistics(workdir))
    steps_per_epoch = max(data.examples // (config.train.batch_size - sum(d["rows"] for d in data.mix.values())), 1)
    total_steps = config.train.num_steps or int(round(config.train.num_epochs * steps_per_epoch))
    facts = {
        "geomoe_version": geomoe.__version__,
        "config": config.to_dict(),
        "model": model_config.to_dict(),
        "statistics": data.statistics,
        "dataset": data.dataset,
        "mix": data.mix,
        "total_steps": total_steps,
    }
    open_run(workdir, facts)

    model = MAE(model_config)
    optimizer, schedule = build_optimizer(config.optimizer, total_steps)
    loss = config.loss.to_dict()
    train_step = parallel.map_train_step(
        make_train_step(
            model,
            optimizer,
            accumulate=config.train.accumulate,
            router_noise=noise_factor(config.train.router_noise_end, total_steps),
            selection_rate=config.train.selection_rate,
            statistics=data.statistics,
            **loss,
        )
    )
    eval_step = parallel.map_eval_step(make_eval_step(model, statistics=data.statistics, **loss))
    checkpoints = Checkpoints(workdir, config.checkpoint.keep_last)
    state = parallel.replicate(create_state(model, optimizer, config.seed, LossConfig(**loss)))
    state = checkpoints.restore_latest(state) or state
    step = int(parallel.fetch(state.step))
    keys = jax.random.split(jax.random.key(config.seed + 1), 2)
    log = RunLog(workdir, total_steps, step, active=jax.process_index() == 0)
    log.note(
        f"{count_params(state.params):,} parameters, {data.examples:,} examples, {total_steps:,} steps of "
        f"{config.train.batch_size}, {jax.device_count()} {jax.devices()[0].platform} devices"
        + (f"; resumed at step {step}" if step else "")
    )
    val_loss = float("nan")
    pending: list[tuple[int, Any]] = []  # metrics that are still being computed

    def check_pending(keep: int = 0) -> dict[str, np.ndarray] | None:
        """Reads metrics but for the last `keep`; raises where one is not finite."""
        latest = None
        while len(pending) > keep:
            at, metrics = pending.pop(0)
            latest = parallel.fetch({k: v for k, v in metrics.items() if k != "usage"})
            if not (np.isfinite(latest["loss"]) and np.isfinite(latest["grad_norm"])):
                kept = checkpoints.latest_step()
                raise TrainingDiverged(
                    f"step {at}: loss {latest['loss']}, gradient norm {latest['grad_norm']}. "
                    + (f"The checkpoint of step {kept} in {workdir} is kept. " if kept is not None else "")
                    + "Lower config.optimizer.lr, or look for extreme values in the data."
                )
        return latest

    def evaluate() -> float:
        sums: Any = None
        count = 0
        batches = parallel.prefetch(data.val())
        for i, batch in zip(range(config.log.eval_batches), batches):
            metrics = parallel.fetch(eval_step(state.params, batch, jax.random.fold_in(keys[1], i)))
            sums = metrics if sums is None else jax.tree.map(np.add, sums, metrics)
            count += 1
        means = jax.tree.map(lambda x: x / count, sums)
        usage = means.pop("usage")
        means["val_least_used_expert"] = min(float(shares.min() * shares.size) for shares in usage.values())
        log.steps({"step": step, "epoch": step / steps_per_epoch, **{k: float(v) for k, v in means.items()}})
        log.usage(step, usage)
        return float(means["val_loss_masked"])

    try:
        with _StopRequest() as stop:
            batches = parallel.prefetch(data.train(step))
            waited, since, since_step = 0.0, time.monotonic(), step
            while step < total_steps and not stop.wanted:
                before = time.monotonic()
                batch = next(batches)
                waited += time.monotonic() - before
                state, metrics = train_step(state, batch, keys[0])
                step += 1
                pending.append((step, metrics))
                latest = check_pending(keep=2)
                stop.wanted = stop.wanted or checkpoints.preempted(step)
                last = step == total_steps or stop.wanted
                if step % config.log.every_steps == 0 or step == 1 or last:
                    latest = check_pending()
                    now = time.monotonic()
                    images = (step - since_step) * config.train.batch_size
                    log.steps(
                        {
                            "step": step,
                            "epoch": step / steps_per_epoch,
                            "lr": float(schedule(step - 1)),
                            **{k: float(v) for k, v in latest.items()},
                            "images_per_second": images / (now - since),
                            "input_wait_share": waited / (now - since),
                        }
                    )
                    waited, since, since_step = 0.0, now, step
                if step % config.log.eval_every_steps == 0 or step == total_steps:
                    check_pending()
                    val_loss = evaluate()
                    log.note(f"step {step}: validation loss {val_loss:.3f} on hidden patches")
                    if config.log.images:
                        _log_images(log, step, model, state, data, config)
                    since, since_step, waited = time.monotonic(), step, 0.0
                if step % config.checkpoint.every_steps == 0 or last:
                    check_pending()
                    if np.isnan(val_loss):
                        val_loss = evaluate()
                    checkpoints.save(parallel.snapshot(state), step, val_loss)
                    since, since_step, waited = time.monotonic(), step, 0.0
    finally:
        checkpoints.close()
        log.close()
    return RunResult(step, step >= total_steps, val_loss)


def _log_images(log: RunLog, step: int, model: MAE, state: Any, data: RunData, config: ml_collections.ConfigDict) -> None:
    """Original, masked and reconstructed held-out images, side by side."""
    if jax.process_count() > 1 or data.dataset == "fake":
        return
    from geomoe.data.composites import side_by_side
    from geomoe.models.reconstruction import reconstruct

    batch = next(iter(data.val()))
    part = {name: batch[name][: config.log.images] for name in ("image", *FIELDS)}
    result = reconstruct(
        model, parallel.fetch(state.params), part, seed=config.seed, normalised_targets=config.loss.normalise_targets
    )
    log.images(step, side_by_side(result, data.statistics))
