"""Patch statistics: level and contrast of hidden patches, which targets that are normalised patch by patch leave out."""

import jax.numpy as jnp
from jax import Array

from geomoe.models import patchify
from geomoe.training.losses.objective import Objective


def patch_statistics(images: Array, valid: Array, patch_size: int) -> tuple[Array, Array]:
    """Mean and standard deviation of each band over the valid pixels of each patch.

    Args:
        images: (B, H, W, C), z-scored.
        valid: (B, H, W) bool.

    Returns:
        (B, P, 2 * C): the means, then the standard deviations, 0 and 0.001 without a valid pixel; and the shares of valid
        pixels (B, P).
    """
    pixels = patchify(images, patch_size)
    pixels = pixels.reshape(*pixels.shape[:2], images.shape[-1], -1)
    weight = patchify(valid[..., None].astype(images.dtype), patch_size)[:, :, None]
    count = jnp.maximum(jnp.sum(weight, axis=-1), 1)
    mean = jnp.sum(pixels * weight, axis=-1) / count
    variance = jnp.sum(jnp.square(pixels - mean[..., None]) * weight, axis=-1) / count
    return jnp.concatenate([mean, jnp.sqrt(variance + 1e-6)], axis=-1), jnp.mean(weight[:, :, 0], axis=-1)


OBJECTIVE = Objective(
    "patch_statistics",
    "mean and standard deviation of hidden patches",
    lambda inputs: inputs.hidden_patch_error(patch_statistics),
    batch_keys=("valid",),
    head=lambda model, options: (model.decoder_width, 2 * model.in_channels),
)
