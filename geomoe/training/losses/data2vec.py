"""data2vec: what a slowly moving teacher makes of the whole image is predicted from its visible patches."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from geomoe.metadata import FIELDS
from geomoe.models import NUM_PREFIX_TOKENS, encode
from geomoe.training.losses.objective import LossInputs, Objective


def data2vec_targets(layers: Sequence[Array], prefix: int) -> Array:
    """What a teacher's blocks make of each patch (data2vec, Baevski et al. 2022, arXiv 2202.03555, section 3.3).

    Args:
        layers: (B, N, D), the output of each block, of which the later half counts.
        prefix: how many tokens come before the patches.

    Returns:
        (B, P, D), the mean of the layers, each token of each layer and of the mean normalised by its own mean and standard
        deviation. No gradient flows back.
    """

    def standardised(x: Array) -> Array:
        x = x - jnp.mean(x, axis=-1, keepdims=True)
        return x / jnp.sqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)

    later = [standardised(x[:, prefix:].astype(jnp.float32)) for x in layers[len(layers) // 2 :]]
    return jax.lax.stop_gradient(standardised(jnp.mean(jnp.stack(later), axis=0)))


def data2vec_loss(predicted: Array, target: Array, mask: Array) -> Array:
    """Mean squared error over the hidden patches.

    Args:
        predicted, target: (B, P, D).
        mask: (B, P), 1 for hidden patches that hold data.

    Returns:
        scalar; 1 for a prediction of zeros, since the targets have variance 1.
    """
    error = jnp.mean(jnp.square(predicted - target), axis=-1)
    return jnp.sum(error * mask) / jnp.maximum(jnp.sum(mask), 1)


def _loss(inputs: LossInputs) -> Array:
    count = len(inputs.out.pred)
    crops = (inputs.crops[name][:count] for name in ("image", *FIELDS))
    valid = None if inputs.valid is None else inputs.valid[:count]
    whole = encode(inputs.model, inputs.teacher, *crops, valid=valid)
    target = data2vec_targets(whole.layer_tokens, NUM_PREFIX_TOKENS)
    mask = inputs.out.mask[:count]
    if whole.present is not None:  # what the teacher makes of a patch without data is no target
        mask = mask * whole.present[:, NUM_PREFIX_TOKENS:]
    return data2vec_loss(inputs.head(inputs.out.decoder_tokens), target, mask)


OBJECTIVE = Objective(
    "data2vec",
    "data2vec: the teacher's tokens of hidden patches",
    _loss,
    head=lambda model, options: (model.decoder_width, model.width),
    options={"teacher_momentum": 0.996},
    needs_teacher=True,
    held_out=False,
)
