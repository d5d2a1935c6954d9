"""Spectral indices: vegetation, water and burn, predicted from the embedding of the visible patches."""

import jax.numpy as jnp
from jax import Array

from geomoe import landsat
from geomoe.landsat import Statistics
from geomoe.training.losses.objective import LossInputs, Objective, mean_over


def index_statistics(images: Array, valid: Array, statistics: Statistics) -> Array:
    """Mean and standard deviation of each spectral index over the valid pixels.

    Args:
        images: (B, H, W, 7) z-scored by `statistics`, which are in Collection 2 digital numbers. Rows that a run mixes in are
            z-scored by their own, of which the encoder sees nothing: theirs are the indices of what it does see.
        valid: (B, H, W).

    Returns:
        (B, 2 * indices): the means, then the standard deviations; 0 without a valid pixel.
    """
    dn = statistics.unnormalize(images)
    values = landsat.spectral_indices(dn * landsat.REFLECTANCE_SCALE + landsat.REFLECTANCE_OFFSET)
    weight = valid[..., None].astype(values.dtype)
    count = jnp.maximum(jnp.sum(weight, axis=(1, 2)), 1)
    mean = jnp.sum(values * weight, axis=(1, 2)) / count
    variance = jnp.sum(jnp.square(values - mean[:, None, None]) * weight, axis=(1, 2)) / count
    return jnp.concatenate([mean, jnp.sqrt(variance + 1e-6)], axis=-1)


def _loss(inputs: LossInputs) -> Array:
    assert inputs.statistics is not None
    target = index_statistics(inputs.crops["image"], inputs.crops["valid"], inputs.statistics)
    error = jnp.sum(jnp.square(inputs.head(inputs.embedding) - target), axis=-1)
    return mean_over(error, inputs.shown, inputs.axis_name)


OBJECTIVE = Objective(
    "spectral_indices",
    "spectral indices from the embedding",
    _loss,
    batch_keys=("valid",),
    head=lambda model, options: (model.width, 2 * len(landsat.INDICES)),
    needs_statistics=True,
)
