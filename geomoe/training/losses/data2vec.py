"""Latent prediction: what a slowly moving teacher makes of the whole image is told from its visible patches."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

Array = jax.Array


def data2vec_targets(layers: Sequence[Array], prefix: int) -> Array:
    """What a teacher's blocks make of each patch (data2vec, Baevski et al. 2022, arXiv 2202.03555, section 3.3).

    Args:
        layers: (B, N, D), the output of each block, of which the later half counts.
        prefix: how many tokens come before the patches.

    Returns:
        (B, P, D), the mean of the layers, each token of each layer and of the mean by its own mean and deviation. No gradient
        flows back.
    """

    def standardised(x: Array) -> Array:
        x = x - jnp.mean(x, axis=-1, keepdims=True)
        return x / jnp.sqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)

    later = [standardised(x[:, prefix:].astype(jnp.float32)) for x in layers[len(layers) // 2 :]]
    return jax.lax.stop_gradient(standardised(sum(later) / len(later)))


def data2vec_loss(predicted: Array, target: Array, mask: Array) -> Array:
    """Mean squared error over the hidden patches.

    Args:
        predicted, target: (B, P, D).
        mask: (B, P), 1 for hidden patches.

    Returns:
        scalar; 1 for a prediction of zeros, since the targets have deviation 1.
    """
    error = jnp.mean(jnp.square(predicted - target), axis=-1)
    return jnp.sum(error * mask) / jnp.maximum(jnp.sum(mask), 1)


def moving_average(old: Array, new: Array, momentum: float) -> Array:
    """The teacher's next parameters."""
    return momentum * old + (1 - momentum) * new
