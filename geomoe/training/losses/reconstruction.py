"""Reconstruction: squared error of the predicted patches (He et al. 2022, arXiv 2111.06377).

Axes: B images, P patches, L = C * patch_size**2 values a patch.
"""

import jax.numpy as jnp
from jax import Array

from geomoe.models.reconstruction import patch_moments


def reconstruction_losses(pred: Array, target: Array, mask: Array, valid: Array | None = None) -> tuple[Array, Array]:
    """Squared error summed over the L values of a patch, averaged over the hidden and over the visible patches.

    Args:
        pred, target: (B, P, L).
        mask: (B, P), 1 for hidden patches.
        valid: (B, P, L), 1 where the target holds data and 0 elsewhere; None counts every value. What lacks data counts
            neither in the sum nor in the average: a loss is L times the mean error of its valid values.

    Returns:
        loss over hidden patches, loss over visible patches: scalars; 0 where no value is valid.
    """
    error = jnp.square(pred - target)
    if valid is None:
        error, count = jnp.sum(error, axis=-1), jnp.ones_like(mask)
    else:
        error, count = jnp.sum(error * valid, axis=-1), jnp.mean(valid, axis=-1)

    def over(chosen: Array) -> Array:
        return jnp.sum(error * chosen) / jnp.maximum(jnp.sum(count * chosen), 1e-6)

    return over(mask), over(1 - mask)


def normalise_patches(patches: Array, valid: Array | None = None, epsilon: float = 1e-6) -> Array:
    """Normalise each patch, (B, P, L), by mean and standard deviation of its L values (He et al. 2022, section 4.1).

    Args:
        valid: (B, P, L), 1 for the values that both are taken over; None takes all.
    """
    mean, variance = patch_moments(patches, valid)
    return (patches - mean) / jnp.sqrt(variance + epsilon)
