"""Place and time: told from the pixels, where they are known and the encoder was not told them."""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def metadata_loss(predicted: Array, pairs: Array, hidden: Array) -> Array:
    """Mean squared distance of predicted and true [sin, cos] pairs, over those that are known and hidden from the encoder.

    Args:
        predicted: (B, 4, 2), for week, hour, latitude and longitude.
        pairs: (B, 4, 2) true; [0, 0] where unknown.
        hidden: (B, 4) bool, which the encoder was not told.

    Returns:
        scalar; 0 where nothing is both known and hidden. A prediction of [0, 0] has a distance of 1.
    """
    counted = (hidden & jnp.any(pairs != 0, axis=-1)).astype(predicted.dtype)
    distance = jnp.sum(jnp.square(predicted - pairs), axis=-1)
    return jnp.sum(distance * counted) / jnp.maximum(jnp.sum(counted), 1)
