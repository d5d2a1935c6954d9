"""Metadata: week, hour, latitude and longitude are predicted from the pixels, where the encoder is not given them."""

import jax.numpy as jnp
import ml_collections
from jax import Array

from geomoe.metadata import FIELDS
from geomoe.training.losses.objective import LossInputs, Objective


def metadata_loss(predicted: Array, target: Array, hidden: Array) -> Array:
    """Mean squared distance of predicted and true [sin, cos] pairs, over those that are known and hidden from the encoder.

    Args:
        predicted: (B, 4, 2), for week, hour, latitude and longitude.
        target: (B, 4, 2) true; [0, 0] where unknown.
        hidden: (B, 4) bool, which the encoder is not given.

    Returns:
        scalar; 0 where nothing is both known and hidden. A prediction of [0, 0] has a distance of 1.
    """
    counted = (hidden & jnp.any(target != 0, axis=-1)).astype(predicted.dtype)
    distance = jnp.sum(jnp.square(predicted - target), axis=-1)
    return jnp.sum(distance * counted) / jnp.maximum(jnp.sum(counted), 1)


def _loss(inputs: LossInputs) -> Array:
    z = inputs.embedding
    predicted = inputs.head(z).reshape(len(z), len(FIELDS), 2)
    hidden = ~jnp.any(jnp.stack([inputs.crops[name] for name in FIELDS], axis=1) != 0, axis=-1)
    return metadata_loss(predicted, inputs.crops["metadata"], hidden)


def _check(config: ml_collections.ConfigDict, views: int) -> None:
    if views == 1 and not config.data.metadata_dropout:
        raise ValueError(
            "config.loss.metadata_weight needs images whose encoder is not given their metadata: set "
            "config.data.metadata_dropout, or an objective that compares two crops"
        )


OBJECTIVE = Objective(
    "metadata",
    "metadata from the embedding",
    _loss,
    batch_keys=("metadata",),
    head=lambda model: (model.width, 2 * len(FIELDS)),
    check=_check,
    per_example=False,  # a mean over what is hidden, of which a batch may have more or less
)
