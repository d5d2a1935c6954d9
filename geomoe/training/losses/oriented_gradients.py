"""Oriented gradients: the edges of hidden patches, which light, season and sensor change less than they change colours.

Histograms of oriented gradients (Dalal and Triggs 2005) as targets (MaskFeat, Wei et al. 2022, arXiv 2112.09133), of all bands
together and without sign, so that an edge whose sides change places between seasons is the same edge.
"""

import jax.numpy as jnp
from jax import Array

from geomoe.models import patchify
from geomoe.training.losses.objective import Objective

BINS = 9  # of half a turn
_FAINT = 0.05  # mean gradient, in z-scores a pixel summed over the bands, below which a patch counts as smooth


def oriented_gradients(images: Array, valid: Array, patch_size: int) -> tuple[Array, Array]:
    """Histograms of the directions in which the bands of a patch change.

    A pixel votes for the two bins nearest to its direction, with the length of its gradient, band by band; of the shares of a
    patch's votes the square root is taken. Smooth patches have small numbers in all bins.

    Args:
        images: (B, H, W, C), z-scored.
        valid: (B, H, W) bool. Pixels without data, and those beside them, do not vote.

    Returns:
        (B, P, 9), between 0 and 1; and the shares of pixels that vote, (B, P).
    """
    beside = lambda x: jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    pixels, holds = beside(images), beside(valid[..., None])
    down = (pixels[:, 2:, 1:-1] - pixels[:, :-2, 1:-1]) / 2
    right = (pixels[:, 1:-1, 2:] - pixels[:, 1:-1, :-2]) / 2
    votes = holds[:, 1:-1, 1:-1] & holds[:, 2:, 1:-1] & holds[:, :-2, 1:-1] & holds[:, 1:-1, 2:] & holds[:, 1:-1, :-2]
    length = jnp.where(votes, jnp.hypot(down, right), 0)
    angle = jnp.mod(jnp.arctan2(down, right), jnp.pi) * (BINS / jnp.pi)
    distance = jnp.abs(angle[..., None] - jnp.arange(BINS))
    share = jnp.maximum(1 - jnp.minimum(distance, BINS - distance), 0)
    histogram = jnp.sum(length[..., None] * share, axis=-2)
    cells = jnp.mean(patchify(histogram, patch_size).reshape(len(images), -1, BINS, patch_size**2), axis=-1)
    cells = jnp.sqrt(cells / (jnp.sum(cells, axis=-1, keepdims=True) + _FAINT))
    return cells, jnp.mean(patchify(votes.astype(images.dtype), patch_size), axis=-1)


OBJECTIVE = Objective(
    "oriented_gradients",
    "oriented gradients of hidden patches",
    lambda inputs: inputs.hidden_patch_error(oriented_gradients),
    batch_keys=("valid",),
    head=lambda model, options: (model.decoder_width, BINS),
)
