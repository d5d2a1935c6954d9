"""A pretraining run from its config to its last checkpoint."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import ml_collections
import numpy as np

import geomoe
from geomoe.metadata import PAIRS
from geomoe.models import MAE, ModelConfig, count_params
from geomoe.training import parallel
from geomoe.training.checkpoints import Checkpoints, known_statistics, open_run
from geomoe.training.config import check_batch, validate
from geomoe.training.logging import RunLog
from geomoe.training.schedule import build_optimizer
from geomoe.training.state import create_state
from geomoe.training.step import make_eval_step, make_train_step

_BATCH_KEYS = ("image", *PAIRS)


class TrainingDiverged(FloatingPointError):
    """The loss or a gradient became NaN or infinite."""


@dataclasses.dataclass
class _Data:
    """The input of a run: facts, and functions that start its two streams of numpy batches."""

    statistics: dict[str, Any]
    dataset: str
    examples: int
    train: Any  # start_batch -> iterator
    val: Any  # () -> iterator


def _open_data(config: ml_collections.ConfigDict, model: ModelConfig, known: dict[str, Any] | None) -> _Data:
    """Opens the datasets; `known` are the statistics of the run if it is there already."""
    if config.data.name == "fake":
        return _fake_data(config, model)
    from geomoe import data  # imports TensorFlow

    d = config.data
    source = data.builder(d.name, d.data_dir)
    kind, _, name = d.statistics.partition(":")
    if known is not None:
        statistics = data.Statistics(**known)
    elif kind == "computed":
        statistics = data.compute_statistics(source, d.train_split)
    elif kind == "published":
        statistics = data.published_statistics(name or source.name)
    else:
        raise ValueError(f"config.data.statistics = {d.statistics!r} is not 'published', 'published:NAME' or 'computed'")
    common = dict(
        img_size=model.img_size,
        batch_size=config.train.batch_size,
        statistics=statistics,
        clip=tuple(d.clip) or None,
        hour=d.hour,
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        cache=d.cache,
        train=True,
    )
    augment = data.Augment(d.flips, d.turns, d.metadata_dropout)

    def batches(dataset: Any, keys: tuple[str, ...] = _BATCH_KEYS) -> Iterator[dict[str, np.ndarray]]:
        return dataset.map(lambda batch: {key: batch[key] for key in keys}).as_numpy_iterator()

    def train(start_batch: int) -> Iterator[dict[str, np.ndarray]]:
        views = 2 if config.loss.contrast_weight else 1
        keys = _BATCH_KEYS if views == 1 else (*_BATCH_KEYS, "second_view")
        dataset = data.load(source, d.train_split, fit=d.fit, augment=augment, start_batch=start_batch, views=views, **common)
        return batches(dataset, keys)

    def val() -> Iterator[dict[str, np.ndarray]]:
        fit = "centre_crop" if d.fit == "random_crop" else d.fit
        return batches(data.load(source, d.val_split, fit=fit, **common))

    count = data.num_examples(source, d.val_split)
    if count < config.train.batch_size:
        raise ValueError(
            f"config.data.val_split = {d.val_split!r} of {d.name} has {count} examples, fewer than "
            f"config.train.batch_size = {config.train.batch_size}; hold out more or lower the batch"
        )
    return _Data(statistics.to_dict(), source.info.full_name, data.num_examples(source, d.train_split), train, val)


def _fake_data(config: ml_collections.ConfigDict, model: ModelConfig) -> _Data:
    """One batch of random numbers, again and again: the cost of a step without that of its input."""
    rng = np.random.default_rng([config.seed, jax.process_index()])
    local = config.train.batch_size // jax.process_count()
    batch = {"image": rng.standard_normal((local, model.img_size, model.img_size, model.in_channels), np.float32)}
    batch |= {name: rng.standard_normal((local, 2), np.float32) for name in PAIRS}

    if config.loss.contrast_weight:
        batch["second_view"] = rng.standard_normal(batch["image"].shape, np.float32)

    def stream(start_batch: int = 0) -> Iterator[dict[str, np.ndarray]]:
        del start_batch
        while True:
            yield batch

    zeros, ones = [0.0] * model.in_channels, [1.0] * model.in_channels
    return _Data({"mean": zeros, "std": ones, "source": "fake"}, "fake", config.train.batch_size, stream, stream)


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
    data = _open_data(config, model_config, known_statistics(workdir))
    steps_per_epoch = max(data.examples // config.train.batch_size, 1)
    total_steps = config.train.num_steps or int(round(config.train.num_epochs * steps_per_epoch))
    facts = {
        "geomoe_version": geomoe.__version__,
        "config": config.to_dict(),
        "model": model_config.to_dict(),
        "statistics": data.statistics,
        "dataset": data.dataset,
        "total_steps": total_steps,
    }
    open_run(workdir, facts)

    model = MAE(model_config)
    optimizer, schedule = build_optimizer(config.optimizer, total_steps)
    loss = config.loss
    train_step = parallel.map_train_step(
        make_train_step(
            model,
            optimizer,
            unmasked_weight=loss.unmasked_weight,
            balance_weight=loss.balance_weight,
            normalise_targets=loss.normalise_targets,
            contrast_weight=loss.contrast_weight,
            contrast_temperature=loss.contrast_temperature,
            accumulate=config.train.accumulate,
        )
    )
    eval_step = parallel.map_eval_step(make_eval_step(model, normalise_targets=loss.normalise_targets))
    checkpoints = Checkpoints(workdir, config.checkpoint.keep_last)
    state = parallel.replicate(create_state(model, optimizer, config.seed))
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


def _log_images(log: RunLog, step: int, model: MAE, state: Any, data: _Data, config: ml_collections.ConfigDict) -> None:
    """Original, masked and reconstructed held-out images, side by side."""
    if jax.process_count() > 1 or data.dataset == "fake":
        return
    from geomoe.analysis.reconstructions import reconstruct, side_by_side

    batch = next(iter(data.val()))
    part = {name: batch[name][: config.log.images] for name in _BATCH_KEYS}
    result = reconstruct(
        model, parallel.fetch(state.params), part, seed=config.seed, normalised_targets=config.loss.normalise_targets
    )
    log.images(step, side_by_side(result, data.statistics))
