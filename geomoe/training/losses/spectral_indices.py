"""Spectral indices: what grows, what is wet and what has burnt, told from the embedding of the visible patches."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from geomoe import landsat

Array = jax.Array

# Normalised differences (first - second) / (first + second) of surface reflectances.
INDICES = {
    "ndvi": ("SR_B5", "SR_B4"),  # vegetation (Rouse et al. 1974)
    "ndwi": ("SR_B3", "SR_B5"),  # open water (McFeeters 1996)
    "nbr": ("SR_B5", "SR_B7"),  # burn (Key and Benson 2006)
}
_LEAST = 0.02  # reflectance below which a band counts as this much, so that a sum near 0 gives no huge index


def spectral_indices(images: Array, mean: Array, std: Array) -> Array:
    """Indices of every pixel: (B, H, W, 7) z-scored by `mean` and `std` (7,), in Collection 2 digital numbers -> (B, H, W, 3).

    Each lies in [-1, 1].
    """
    reflectance = (images * std + mean) * landsat.REFLECTANCE_SCALE + landsat.REFLECTANCE_OFFSET
    reflectance = jnp.maximum(reflectance, _LEAST)
    bands = {name: reflectance[..., i] for i, name in enumerate(landsat.BANDS)}
    return jnp.stack([(bands[a] - bands[b]) / (bands[a] + bands[b]) for a, b in INDICES.values()], axis=-1)


def index_statistics(images: Array, valid: Array, mean: Array, std: Array) -> Array:
    """Mean and deviation of each index over the valid pixels: (B, H, W, 7), (B, H, W) -> (B, 6); 0 without a valid pixel."""
    values = spectral_indices(images, mean, std)
    weight = valid[..., None].astype(values.dtype)
    count = jnp.maximum(jnp.sum(weight, axis=(1, 2)), 1)
    middle = jnp.sum(values * weight, axis=(1, 2)) / count
    variance = jnp.sum(jnp.square(values - middle[:, None, None]) * weight, axis=(1, 2)) / count
    return jnp.concatenate([middle, jnp.sqrt(variance + 1e-6)], axis=-1)
