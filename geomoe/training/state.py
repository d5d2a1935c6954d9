"""The state that training carries from step to step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import flax.struct
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax

from geomoe.models import MAE
from geomoe.training.losses.heads import init_heads

if TYPE_CHECKING:
    from geomoe.training.step import LossConfig


@flax.struct.dataclass
class TrainState:
    """Everything that a step changes; random numbers follow from the seed and `step`.

    Attributes:
        step: int32 scalar, number of updates done.
        params: float32 tree {"encoder", "decoder"}, and "heads" where objectives have some.
        opt_state: the optimizer's.
        teacher: the encoder's parameters averaged over the steps, where an objective asks for them; else None.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    teacher: Any = None


def init_params(model: MAE, seed: int) -> Any:
    """Fresh parameters of a masked autoencoder, the same for the same seed on every platform.

    Drawn on the host by the rule that the modules' own initialisers follow, since compiling several hundred draws takes XLA
    longer than compiling the training step: tokens and positions are normal with deviation 0.02, scales of norms are 1 and
    their biases 0, and every weight and bias of a layer with `fan_in` inputs is uniform within 1/sqrt(fan_in).
    """
    cfg = model.config
    pairs = [jnp.zeros((1, 2))] * 4
    images = jnp.zeros((1, cfg.img_size, cfg.img_size, cfg.in_channels))
    noise = jnp.zeros((1, cfg.num_patches))
    shapes = jax.eval_shape(
        lambda key: model.init({"params": key}, images, *pairs, mask_noise=noise)["params"], jax.random.key(0)
    )
    flat = flax.traverse_util.flatten_dict(shapes)
    rng = np.random.default_rng(seed)
    params = {}
    for path, leaf in sorted(flat.items()):
        *parent, name = path
        if name in ("pos_embed", "cls_token", "mask_token", "missing_metadata"):
            value = 0.02 * rng.standard_normal(leaf.shape)
        elif name == "scale":
            value = np.ones(leaf.shape)
        elif name == "selection_bias" or (*parent, "scale") in flat:  # or the bias of a norm
            value = np.zeros(leaf.shape)
        else:
            weight = "kernel" if name == "bias" else name.removesuffix("_bias")
            bound = flat[(*parent, weight)].shape[-2] ** -0.5
            value = rng.uniform(-bound, bound, leaf.shape)
        params[path] = value.astype(np.float32)
    return flax.traverse_util.unflatten_dict(params)


def create_state(model: MAE, optimizer: optax.GradientTransformation, seed: int, loss: LossConfig | None = None) -> TrainState:
    """A fresh state, with the heads and the teacher that a loss needs."""
    params = init_params(model, seed)
    teacher = None
    if loss is not None:
        if heads := loss.heads(model.config):
            params["heads"] = init_heads(heads, seed)
        if loss.data2vec_weight:
            teacher = jax.tree.map(np.copy, params["encoder"])
    return TrainState(jnp.int32(0), params, jax.jit(optimizer.init)(params), teacher)
