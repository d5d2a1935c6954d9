"""Evaluation on held-out images: one call, parameters in, metrics out."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax import Array

from geomoe.data.composites import side_by_side
from geomoe.landsat import Statistics
from geomoe.metadata import FIELDS
from geomoe.models import MAE
from geomoe.models.reconstruction import reconstruct
from geomoe.training import parallel
from geomoe.training.losses.config import LossConfig
from geomoe.training.losses.objective import Batch
from geomoe.training.losses.total import batch_losses, global_positions

HostBatch = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What held-out images give."""

    metrics: dict[str, float]  # columns of metrics.csv: `val_loss_NAME` and `val_least_used_expert`
    usage: dict[str, np.ndarray]  # block -> (E,), the share of the token assignments of each expert

    @property
    def loss(self) -> float:
        """The reconstruction loss on hidden patches, by which checkpoints are compared."""
        return self.metrics["val_loss_masked"]


def make_eval_step(
    model: MAE,
    loss: LossConfig = LossConfig(),
    *,
    statistics: Statistics | Mapping[str, Any] | None = None,
    axis_name: str | None = parallel.AXIS,
) -> Callable[[Any, Batch, Array], dict[str, Any]]:
    """Build `step(params, batch, key) -> metrics`, without router noise and dropout.

    `val_loss_masked` and `val_loss_unmasked` are of the first crops; beside them each objective that is evaluated on held-out
    images. The key fixes the masks, so that evaluations of one run compare.
    """
    statistics = None if statistics is None else Statistics.of(statistics)

    def step(params: Any, batch: Batch, key: Array) -> dict[str, Any]:
        positions = global_positions(len(batch["image"]), loss.views, axis_name)
        values, usage = batch_losses(
            model, params, batch, loss, rngs={"mask": key}, positions=positions, statistics=statistics, axis_name=axis_name
        )
        metrics = {**{f"val_loss_{name}": value for name, value in values.items()}, "usage": usage}
        return metrics if axis_name is None else jax.lax.pmean(metrics, axis_name)

    return step


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Evaluate parameters on the same held-out batches with the same masks each time."""

    eval_step: Callable[..., Any]  # from `make_eval_step`, mapped over devices
    batches: Callable[[], Iterator[HostBatch]]  # starts the stream of this process's held-out batches
    num_batches: int  # how many of them are averaged over, at most
    key: Array  # of the masks

    def __call__(self, params: Any) -> Evaluation:
        """The means over the batches."""
        each = [
            parallel.fetch(self.eval_step(params, batch, jax.random.fold_in(self.key, i)))
            for i, batch in zip(range(self.num_batches), parallel.prefetch(self.batches()))
        ]
        means = jax.tree.map(lambda *values: np.mean(values, axis=0), *each)
        usage = means.pop("usage")
        metrics = {name: float(value) for name, value in means.items()}
        metrics["val_least_used_expert"] = min(float(shares.min() * shares.size) for shares in usage.values())
        return Evaluation(metrics, usage)


def reconstruction_images(
    model: MAE, params: Any, batch: HostBatch, count: int, statistics: Statistics, normalised_targets: bool, seed: int
) -> np.ndarray:
    """Original, masked and reconstructed images side by side: (count, S, 3 * S + 4, 3) in [0, 1].

    `batch` is of image, week, hour, lat, lon, and valid where pixels without data do not speak.
    """
    part = {name: batch[name][:count] for name in ("image", *FIELDS, "valid") if name in batch}
    return side_by_side(reconstruct(model, params, part, seed, normalised_targets, part.get("valid")), statistics)
