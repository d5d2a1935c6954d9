"""Spectral indices: normalized differences of two bands, for numpy and jax arrays alike."""

from typing import Any

from geomoe.landsat.bands import BANDS

# (first - second) / (first + second) of surface reflectances.
INDICES = {
    "ndvi": ("SR_B5", "SR_B4"),  # vegetation (Rouse et al. 1974)
    "ndwi": ("SR_B3", "SR_B5"),  # open water (McFeeters 1996)
    "nbr": ("SR_B5", "SR_B7"),  # burn (Key and Benson 2006)
}
REFLECTANCE_FLOOR = 0.02  # a band counts as at least this much, so that a sum near 0 gives no huge index


def normalized_difference(first: Any, second: Any) -> Any:
    """Compute (first - second) / (first + second) of two (...) reflectances, each at least `REFLECTANCE_FLOOR`: [-1, 1]."""
    xp = first.__array_namespace__()
    first, second = xp.maximum(first, REFLECTANCE_FLOOR), xp.maximum(second, REFLECTANCE_FLOOR)
    return (first - second) / (first + second)


def spectral_indices(reflectance: Any) -> Any:
    """Compute the indices of every pixel, in the order of `INDICES`: (..., 7) surface reflectance -> (..., 3) in [-1, 1].

    >>> import numpy as np
    >>> spectral_indices(np.array([0.02, 0.03, 0.05, 0.04, 0.36, 0.2, 0.12])).round(2).tolist()
    [0.8, -0.76, 0.5]
    """
    xp = reflectance.__array_namespace__()
    bands = dict(zip(BANDS, xp.unstack(reflectance, axis=-1)))
    return xp.stack([normalized_difference(bands[a], bands[b]) for a, b in INDICES.values()], axis=-1)
