"""VICReg: the embeddings of two crops of a place agree, without other places to distinguish them from."""

import jax
import jax.numpy as jnp
from jax import Array

from geomoe.training.losses.objective import LossInputs, Objective, mean_over

INVARIANCE, VARIANCE, COVARIANCE = 25.0, 25.0, 1.0  # weights of the three terms, published


def vicreg(a: Array, b: Array, axis_name: str | None = None, counted: Array | None = None) -> Array:
    """25 invariance + 25 variance + covariance, a scalar (Bardes et al. 2022, arXiv 2105.04906, eq. 1-6).

    Invariance is the squared distance of the two embeddings of a place over D, variance a hinge that keeps each dimension's
    standard deviation over the places above 1, covariance the squared off-diagonal covariances over D. The published invariance
    is not divided by D; it is here, as in the authors' code, so that the weights mean what they meant there.

    Args:
        a, b: (B, D) embeddings, row i of both from place i. Under `axis_name` variance and covariance are those over all
            devices' places.
        counted: (B,) 0 or 1, the places that take part; None is all.
    """
    invariance = mean_over(jnp.mean(jnp.square(a - b), axis=-1), counted, axis_name)
    weight = jnp.ones(len(a)) if counted is None else counted
    if axis_name is not None:
        a, b, weight = (jax.lax.all_gather(x, axis_name, tiled=True) for x in (a, b, weight))
    weight = weight[:, None]
    freedom = jnp.maximum(jnp.sum(weight) - 1, 1)

    def regularisers(z: Array) -> tuple[Array, Array]:
        z = (z - jnp.sum(z * weight, axis=0) / jnp.maximum(jnp.sum(weight), 1)) * weight
        covariance = z.T @ z / freedom
        std = jnp.sqrt(jnp.diag(covariance) + 1e-4)
        off_diagonal = jnp.sum(jnp.square(covariance)) - jnp.sum(jnp.square(jnp.diag(covariance)))
        return jnp.mean(jax.nn.relu(1 - std)), off_diagonal / z.shape[1]

    (var_a, cov_a), (var_b, cov_b) = regularisers(a), regularisers(b)
    return INVARIANCE * invariance + VARIANCE * 0.5 * (var_a + var_b) + COVARIANCE * (cov_a + cov_b)


def _loss(inputs: LossInputs) -> Array:
    return vicreg(*inputs.views, inputs.axis_name, inputs.both_shown)


OBJECTIVE = Objective("vicreg", "VICReg between two crops", _loss, views=2, per_example=False)
