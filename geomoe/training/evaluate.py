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
from geomoe.training.losses.total import batch_losses

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

    A batch has beside the images, as for the training step, positions (B, views) int32: where its crops stand in the global
    batch, by which they have their masks. `val_loss_masked` and `val_loss_unmasked` are of the first crops; beside them each
    objective that is evaluated on held-out images. The key fixes the masks, so that evaluations of one run compare.
    """
    statistics = None if statistics is None else Statistics.of(statistics)

    def step(params: Any, batch: Batch, key: Array) -> dict[str, Any]:
        options: dict[str, Any] = dict(rngs={"mask": key}, positions=batch["positions"].T, statistics=statistics)
        values, usage = batch_losses(model, params, batch, loss, **options, axis_name=axis_name)
        metrics = {**{f"val_loss_{name}": value for name, value in values.items()}, "usage": usage}
        return metrics if axis_name is None else jax.lax.pmean(metrics, axis_name)

    return step


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Evaluate parameters on the same held-out batches with the same masks each time.

    Every example counts once. Of a last, smaller batch, as many examples as divide over the devices of all processes go over
    them; the rest, at most one a device, are evaluated on one device of the process that has them. Means weigh these pieces by
    their examples. What is no mean over examples (`LossConfig.of_batches`: the balance loss, InfoNCE, ...) is averaged over the
    pieces that are as large as the first: of a smaller one it would be of another scale.
    """

    mapped_step: Callable[..., Any]  # from `make_eval_step`, mapped over devices
    single_step: Callable[..., Any]  # the same for one device
    batches: Callable[[], Iterator[HostBatch]]  # starts the stream of this process's held-out batches
    share: int  # examples that every process has at least
    batch_size: int  # over all processes
    num_batches: int  # how many of them are evaluated, at most
    key: Array  # of the masks
    loss: LossConfig = LossConfig()

    def __call__(self, params: Any) -> Evaluation:
        """The means over the examples."""
        total: dict[str, Any] = {}
        weights: dict[str, int] = {}
        largest = 0
        for examples, metrics in self._pieces(params):
            largest = largest or examples
            usage = metrics.pop("usage")
            for name, value in {**metrics, **usage}.items():
                if examples == largest or name.removeprefix("val_loss_") not in self.loss.of_batches:
                    total[name] = total.get(name, 0) + examples * np.float64(value)
                    weights[name] = weights.get(name, 0) + examples
        total, weights = parallel.summed((total, weights))
        means = {name: value / weights[name] for name, value in total.items()}
        metrics = {name: float(value) for name, value in means.items() if np.ndim(value) == 0}
        usage = {name: value for name, value in means.items() if np.ndim(value) == 1}
        metrics["val_least_used_expert"] = min(float(shares.min() * shares.size) for shares in usage.values())
        return Evaluation(metrics, usage)

    def _pieces(self, params: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        """Examples of this process in each piece, and the metrics of the piece."""
        devices, process, seen = jax.local_device_count(), jax.process_index(), 0
        for i, batch in zip(range(self.num_batches), self.batches()):
            key, rows = jax.random.fold_in(self.key, i), len(batch["image"])
            together = min(rows, self.share - seen) // devices * devices  # the same in every process
            seen += rows
            if together:
                piece = self._piece(batch, slice(0, together), process * together)
                yield together, parallel.fetch(self.mapped_step(params, parallel.send(piece), key))
            if rest := rows - together:
                piece = self._piece(batch, slice(together, rows), jax.process_count() * together + process * devices)
                yield rest, jax.tree.map(np.asarray, self.single_step(parallel.on_one_device(params), piece, key))

    def _piece(self, batch: HostBatch, rows: slice, first: int) -> dict[str, np.ndarray]:
        """Rows of a batch, whose positions in the global batch begin with `first`."""
        part = {name: value[rows] for name, value in batch.items()}
        places = np.arange(first, first + len(part["image"]))
        views = np.arange(self.loss.views) * self.batch_size
        return part | {"positions": (places[:, None] + views).astype(np.int32)}


def reconstruction_images(
    model: MAE, params: Any, batch: HostBatch, count: int, statistics: Statistics, normalised_targets: bool, seed: int
) -> np.ndarray:
    """Original, masked and reconstructed images side by side: (count, S, 3 * S + 4, 3) in [0, 1].

    `batch` is of image, week, hour, lat, lon, and valid where pixels without data do not speak.
    """
    part = {name: batch[name][:count] for name in ("image", *FIELDS, "valid") if name in batch}
    return side_by_side(reconstruct(model, params, part, seed, normalised_targets, part.get("valid")), statistics)
