"""What an objective of pretraining is: one file of this folder each, and one entry of `geomoe.training.losses.OBJECTIVES`.

Axes: B places of a batch, V views (crops) of each place, D width.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jax import Array

from geomoe.landsat import Statistics
from geomoe.models import MAEOutput, ModelConfig
from geomoe.models.pooling import mean_token

Batch = Mapping[str, Array]


def mean_over(values: Array, counted: Array | None, axis_name: str | None = None) -> Array:
    """Mean of (B,) values, of those that are counted, over the places of all devices: what this device adds to their average.

    Args:
        counted: (B,) 0 or 1; None is all. Where none is, the mean is 0.
    """
    if counted is None:
        return jnp.mean(values)
    total = jnp.sum(counted)
    if axis_name is not None:
        total = jax.lax.pmean(total, axis_name)
    return jnp.sum(values * counted) / jnp.maximum(total, 1e-6)


@dataclasses.dataclass(frozen=True)
class LossInputs:
    """What a forward pass gives an objective."""

    model: ModelConfig
    out: MAEOutput  # of all V * B crops; the decoder may have seen the first ones alone
    crops: Batch  # that went in, as `join_views` makes it
    head: Callable[[Array], Array]  # the objective's linear head, where it has one: (..., in) -> (..., out)
    options: Mapping[str, float]  # further keys of the `loss` section
    statistics: Statistics | None  # of the z-score
    teacher: Any  # parameters of the averaged encoder, or None
    axis_name: str | None  # of the devices
    valid: Array | None = None  # (V * B, S, S) bool, the pixels that speak; None is all

    @property
    def embedding(self) -> Array:
        """The mean token of each crop, over the tokens that hold data: (V * B, D)."""
        return mean_token(self.out.encoded.tokens, self.out.encoded.present)

    @property
    def views(self) -> tuple[Array, Array]:
        """The embeddings of the two views of each place: (B, D) each."""
        first, second = jnp.split(self.embedding, 2)
        return first, second

    @property
    def shown(self) -> Array | None:
        """Which crops hold any data, (V * B,) 0 or 1: an objective has nothing to learn of the others. None is all."""
        return None if self.valid is None else jnp.any(self.valid, axis=(1, 2)).astype(jnp.float32)

    def hidden_patch_error(self, targets: Callable[[Array, Array, int], tuple[Array, Array]]) -> Array:
        """Squared error of what the head says of the hidden patches by the decoder's tokens.

        Args:
            targets: (images (B', H, W, C), valid (B', H, W), patch size) -> what is to be said (B', P, K), and how much of each
                patch there is to say it of (B', P).

        Returns:
            scalar, the mean over the hidden patches of each decoded image, and over the images of all devices; images of which
            nothing hidden holds data do not count.
        """
        decoded = len(self.out.pred)
        target, share = targets(self.crops["image"][:decoded], self.crops["valid"][:decoded], self.model.patch_size)
        error = jnp.sum(jnp.square(self.head(self.out.decoder_tokens) - target), axis=-1)
        weight = share * self.out.mask[:decoded]
        hidden = jnp.sum(weight, axis=1)
        error = jnp.sum(error * weight, axis=1) / jnp.maximum(hidden, 1e-6)
        return mean_over(error, (hidden > 0).astype(error.dtype), self.axis_name)

    @property
    def both_shown(self) -> Array | None:
        """The places both views of which hold any data, (B,) 0 or 1; None is all."""
        return None if self.shown is None else jnp.prod(self.shown.reshape(2, -1), axis=0)


@dataclasses.dataclass(frozen=True)
class Objective:
    """One thing that pretraining asks of the model beside reconstruction.

    Its weight in the `loss` section is `NAME_weight`, its columns of metrics.csv are `loss_NAME` and `val_loss_NAME`.
    """

    name: str
    title: str  # in reports
    loss: Callable[[LossInputs], Array]  # scalar, without its weight
    views: int = 1  # crops of each place that it compares
    batch_keys: tuple[str, ...] = ()  # that it reads beside the images and their metadata
    # (model, options) -> sizes (in, out) of its linear head; an `out` of 0 is none.
    head: Callable[[ModelConfig, Mapping[str, float]], tuple[int, int]] | None = None
    options: Mapping[str, float] = dataclasses.field(default_factory=dict)  # further keys of the section, with defaults
    needs_statistics: bool = False  # of the z-score
    needs_teacher: bool = False  # an average of past encoders, whose decay is the option "teacher_momentum"
    held_out: bool = True  # whether it is evaluated on held-out images
    per_example: bool = True  # whether it is a mean over the places, each by itself, whatever else the batch holds
    check: Callable[[ml_collections.ConfigDict, int], None] | None = None  # (config, views); raises where nothing is to learn

    @property
    def weight_key(self) -> str:
        return f"{self.name}_weight"
