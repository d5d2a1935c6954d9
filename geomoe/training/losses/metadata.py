"""Metadata: week, hour, latitude and longitude are read from the embedding, predicted from the pixels where the encoder is not
given them, and kept where it is."""

import jax.numpy as jnp
import ml_collections
from jax import Array

from geomoe.metadata import FIELDS
from geomoe.training.losses.objective import LossInputs, Objective


def metadata_loss(predicted: Array, target: Array, hidden: Array, given_share: float = 0.0) -> Array:
    """Mean squared distance of predicted and true [sin, cos] pairs, over those that are known and hidden from the encoder.

    Args:
        predicted: (B, 4, 2), for week, hour, latitude and longitude.
        target: (B, 4, 2) true; [0, 0] where unknown.
        hidden: (B, 4) bool, which the encoder is not given.
        given_share: how much one that the encoder is given counts, where a hidden one counts 1.

    Returns:
        scalar; 0 where nothing counts. A prediction of [0, 0] has a distance of 1.
    """
    counted = jnp.where(hidden, 1.0, given_share) * jnp.any(target != 0, axis=-1).astype(predicted.dtype)
    distance = jnp.sum(jnp.square(predicted - target), axis=-1)
    return jnp.sum(distance * counted) / jnp.maximum(jnp.sum(counted), 1)


def _loss(inputs: LossInputs) -> Array:
    z = inputs.embedding
    predicted = inputs.head(z).reshape(len(z), len(FIELDS), 2)
    hidden = ~jnp.any(jnp.stack([inputs.crops[name] for name in FIELDS], axis=1) != 0, axis=-1)
    target = inputs.crops["metadata"]
    if inputs.shown is not None:  # of a crop without data nothing can be predicted: as where it is unknown
        target = target * inputs.shown[:, None, None]
    return metadata_loss(predicted, target, hidden, inputs.options["metadata_given_share"])


def _check(config: ml_collections.ConfigDict, views: int) -> None:
    if views == 1 and not config.data.metadata_dropout and not config.loss.metadata_given_share:
        raise ValueError(
            "config.loss.metadata_weight needs images whose encoder is not given their metadata: set "
            "config.data.metadata_dropout, an objective that compares two crops, or config.loss.metadata_given_share"
        )


OBJECTIVE = Objective(
    "metadata",
    "metadata from the embedding",
    _loss,
    batch_keys=("metadata",),
    head=lambda model, options: (model.width, 2 * len(FIELDS)),
    options={"metadata_given_share": 0.0},
    check=_check,
    per_example=False,  # a mean over what is hidden, of which a batch may have more or less
)
