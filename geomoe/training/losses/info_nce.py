"""InfoNCE: the embeddings of two crops of a place are distinguished from those of other places."""

import jax
import jax.numpy as jnp
from jax import Array

from geomoe.training.losses.objective import LossInputs, Objective, mean_over


def info_nce(a: Array, b: Array, temperature: float = 0.1, axis_name: str | None = None, counted: Array | None = None) -> Array:
    """Distinguish the two views of a place from those of other places (van den Oord et al. 2018, arXiv 1807.03748, eq. 4).

    Symmetric cross-entropy over cosine similarities; under `axis_name` the other places are those of all devices.

    Args:
        a, b: (B, D) embeddings, row i of both from place i.
        temperature: divides the similarities.
        counted: (B,) 0 or 1, the places that take part, as one and as another; None is all.

    Returns:
        scalar; log(number of places) for embeddings that are all alike.
    """
    a, b = (x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + 1e-8) for x in (a, b))
    positive = jnp.arange(a.shape[0])
    all_a, all_b, keys_counted = a, b, counted
    if axis_name is not None:
        gather = lambda x: jax.lax.all_gather(x, axis_name, tiled=True)
        all_a, all_b, keys_counted = gather(a), gather(b), None if counted is None else gather(counted)
        positive = positive + jax.lax.axis_index(axis_name) * a.shape[0]

    def one_way(query: Array, keys: Array) -> Array:
        logits = query @ keys.T / temperature
        if keys_counted is not None:
            logits = jnp.where(keys_counted > 0, logits, -1e9)
        same = jnp.sum(jax.nn.one_hot(positive, keys.shape[0]) * logits, axis=-1)
        return mean_over(jax.nn.logsumexp(logits, axis=-1) - same, counted, axis_name)

    return 0.5 * (one_way(a, all_b) + one_way(b, all_a))


def _loss(inputs: LossInputs) -> Array:
    first, second = inputs.views
    if inputs.options["info_nce_dim"]:
        first, second = inputs.head(first), inputs.head(second)
    return info_nce(first, second, inputs.options["info_nce_temperature"], inputs.axis_name, inputs.both_shown)


OBJECTIVE = Objective(
    "info_nce",
    "InfoNCE between two crops",
    _loss,
    views=2,
    head=lambda model, options: (model.width, int(options["info_nce_dim"])),
    options={"info_nce_temperature": 0.1, "info_nce_dim": 0},  # width of a linear projection that is compared; 0 for none
    per_example=False,
)
