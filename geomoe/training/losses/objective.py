"""What an objective of pretraining is: one file of this folder each, and one entry of `geomoe.training.losses.OBJECTIVES`.

Axes: B places of a batch, V views (crops) of each place, D width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from geomoe.landsat import Statistics
from geomoe.models import MAEOutput, ModelConfig

Array = jax.Array
Batch = Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class LossInputs:
    """What a forward pass gives an objective.

    Attributes:
        model: the architecture.
        out: the autoencoder's output on all V * B crops; its decoder may have seen the first ones alone.
        crops: the batch that went in, as `join_views` makes it.
        head: the objective's linear head, where it has one: (..., in) -> (..., out).
        options: the objective's own keys of the `loss` section.
        statistics: of the z-score, or None.
        teacher: parameters of the averaged encoder, or None.
        axis_name: of the devices, or None.
    """

    model: ModelConfig
    out: MAEOutput
    crops: Batch
    head: Callable[[Array], Array]
    options: Mapping[str, float]
    statistics: Statistics | None
    teacher: Any
    axis_name: str | None

    @property
    def embedding(self) -> Array:
        """The mean token of each crop: (V * B, D)."""
        return jnp.mean(self.out.encoded.tokens, axis=1)

    @property
    def views(self) -> tuple[Array, Array]:
        """The embeddings of the two views of each place: (B, D) each."""
        first, second = jnp.split(self.embedding, 2)
        return first, second


@dataclasses.dataclass(frozen=True)
class Objective:
    """One thing that pretraining asks of the model beside reconstruction.

    Attributes:
        name: its weight in the `loss` section is `NAME_weight`, its columns of metrics.csv `loss_NAME` and `val_loss_NAME`.
        title: what reports call it.
        loss: inputs -> scalar, without its weight.
        views: crops of each place that it compares.
        batch_keys: parts of a batch that it reads beside the images and their metadata.
        head: the sizes (in, out) of its linear head, by the architecture; None without.
        options: further keys of the `loss` section, with their defaults.
        needs_statistics: whether it reads the statistics of the z-score.
        needs_teacher: whether it compares with an average of past encoders, whose decay is the option "teacher_momentum".
        held_out: whether it is evaluated on held-out images.
        check: of a whole config and the number of views; raises ValueError where the objective would have nothing to learn.
    """

    name: str
    title: str
    loss: Callable[[LossInputs], Array]
    views: int = 1
    batch_keys: tuple[str, ...] = ()
    head: Callable[[ModelConfig], tuple[int, int]] | None = None
    options: Mapping[str, float] = dataclasses.field(default_factory=dict)
    needs_statistics: bool = False
    needs_teacher: bool = False
    held_out: bool = True
    check: Callable[[ml_collections.ConfigDict, int], None] | None = None

    @property
    def weight_key(self) -> str:
        return f"{self.name}_weight"
