"""The state that training carries from step to step."""

from typing import Any

import flax.struct
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax

from geomoe.models import MAE
from geomoe.models.layers import recorded_initializers
from geomoe.training.losses.config import LossConfig
from geomoe.training.losses.heads import init_heads


@flax.struct.dataclass
class TrainState:
    """Everything that a step changes; random numbers follow from the seed and `step`."""

    step: jax.Array  # int32 scalar, number of updates done
    params: Any  # float32 tree {"encoder", "decoder"}, and "heads" where objectives have some
    opt_state: Any  # the optimizer's
    teacher: Any = None  # the encoder's parameters averaged over the steps, where an objective asks for them


def init_params(model: MAE, seed: int) -> Any:
    """Initialise the parameters of a masked autoencoder, the same for the same seed on every platform.

    Drawn on the host, each by the initialiser that its module declares, since compiling several hundred draws takes XLA longer
    than compiling the training step.
    """
    cfg = model.config
    arguments = (jnp.zeros((1, cfg.img_size, cfg.img_size, cfg.in_channels)), *[jnp.zeros((1, 2))] * 4)
    noise = jnp.zeros((1, cfg.num_patches))
    with recorded_initializers() as initializers:
        shapes = jax.eval_shape(lambda key: model.init({"params": key}, *arguments, mask_noise=noise), jax.random.key(0))
    rng = np.random.default_rng(seed)
    flat = sorted(flax.traverse_util.flatten_dict(shapes["params"]).items())
    return flax.traverse_util.unflatten_dict({path: initializers[path].on_host(rng, leaf.shape) for path, leaf in flat})


def create_state(model: MAE, optimizer: optax.GradientTransformation, seed: int, loss: LossConfig = LossConfig()) -> TrainState:
    """A fresh state, with the heads and the teacher that a loss needs."""
    params = init_params(model, seed)
    if heads := loss.heads(model.config):
        params["heads"] = init_heads(heads, seed)
    teacher = jax.tree.map(np.copy, params["encoder"]) if loss.needs_teacher else None
    return TrainState(jnp.int32(0), params, jax.jit(optimizer.init)(params), teacher)
