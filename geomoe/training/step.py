"""One training step, as a pure function of what one device holds.

A batch is a dict of image (B, S, S, C) and week, hour, lat, lon (B, 2), and of what the objectives read
(`LossConfig.batch_keys`): valid (B, S, S) bool, second_view and second_valid of another crop of the same places, metadata (B,
4, 2) before any was dropped.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import optax
from jax import Array

from geomoe.landsat import Statistics
from geomoe.models import MAE
from geomoe.models.kernels import materialize
from geomoe.models.router import balanced_bias
from geomoe.training.losses.config import LossConfig
from geomoe.training.losses.objective import Batch
from geomoe.training.losses.total import batch_losses, global_positions, weighted_sum
from geomoe.training.parallel import AXIS
from geomoe.training.state import TrainState

Step = Callable[[TrainState, Batch, Array], tuple[TrainState, dict[str, Any]]]


def balance_selection(params: Any, old: Any, usage: Mapping[str, Array], rate: float) -> Any:
    """Parameters whose routers' selection biases follow from the last ones and the experts' use, not from the optimizer."""
    params = {part: dict(blocks) for part, blocks in params.items()}
    for name, shares in usage.items():
        part, block = name.split("/")
        moe, before = params[part][block]["moe"], old[part][block]["moe"]["router"]["selection_bias"]
        router = {**moe["router"], "selection_bias": balanced_bias(before, shares, rate)}
        params[part][block] = {**params[part][block], "moe": {**moe, "router": router}}
    return params


def make_train_step(
    model: MAE,
    optimizer: optax.GradientTransformation,
    loss: LossConfig = LossConfig(),
    *,
    accumulate: int = 1,
    router_noise: optax.Schedule = lambda step: 1.0,
    selection_rate: float = 0.001,
    statistics: Statistics | Mapping[str, Any] | None = None,
    axis_name: str | None = AXIS,
) -> Step:
    """Build `step(state, batch, key) -> (state, metrics)`.

    The key is the run's, into which the step is folded; every image has its random numbers by its position in the global batch,
    so that devices and parts change a run by the order of summation alone (and by the balance losses, which are not linear in
    the batch: they are those of a device's part, averaged; and parts by InfoNCE and VICReg, which compare a part's places).
    With `accumulate` = A the batch is cut into A parts whose gradients are averaged. Under `axis_name` gradients and metrics
    are averaged over the devices.

    Args:
        optimizer: of one flat vector, as from `build_optimizer`.
        loss: what is minimised; the published loss by default.
        router_noise: step -> factor of the routers' noise.
        selection_rate: by how much a step moves the selection biases, in a model that has them.
        statistics: of the z-score in Collection 2 digital numbers; needed for spectral indices.

    Returns:
        The step. Metrics are float32 scalars `loss`, `loss_NAME`, `grad_norm`, `param_norm` (after the update), and under
        "usage" a vector (E,) a block: the share of the token assignments that each expert gets.

    Raises:
        ValueError: an objective lacks the statistics that it needs.
    """
    statistics = None if statistics is None else Statistics.of(statistics)
    for objective, _ in loss.active:
        if objective.needs_statistics and statistics is None:
            raise ValueError(f"the objective {objective.name} needs the statistics of the z-score")

    def loss_fn(params: Any, teacher: Any, batch: Batch, part: Array | int, key: Array, noise: Array | float) -> Any:
        values, usage = batch_losses(
            model,
            params,
            batch,
            loss,
            rngs=dict(zip(("mask", "router", "dropout"), jax.random.split(key, 3))),
            positions=global_positions(len(batch["image"]), loss.views, axis_name, part, accumulate),
            router_noise=noise,
            teacher=teacher,
            statistics=statistics,
            axis_name=axis_name,
        )
        total = weighted_sum(values, loss)
        return total, {"loss": total, **{f"loss_{name}": value for name, value in values.items()}, "usage": usage}

    gradient = jax.grad(loss_fn, has_aux=True)

    def accumulated(state: TrainState, batch: Batch, key: Array, noise: Array | float) -> tuple[Any, dict[str, Any]]:
        if accumulate == 1:
            return gradient(state.params, state.teacher, batch, 0, key, noise)
        parts = jax.tree.map(lambda x: x.reshape(accumulate, -1, *x.shape[1:]), dict(batch))
        each = jax.lax.map(
            lambda part: gradient(state.params, state.teacher, *part, key, noise), (parts, jnp.arange(accumulate))
        )
        return jax.tree.map(lambda x: jnp.mean(x, axis=0), each)

    def step(state: TrainState, batch: Batch, key: Array) -> tuple[TrainState, dict[str, Any]]:
        key = jax.random.fold_in(key, state.step)
        tree, metrics = accumulated(state, batch, key, router_noise(state.step))
        grads = materialize(jax.flatten_util.ravel_pytree(tree)[0])
        if axis_name is not None:
            grads, metrics = jax.lax.pmean((grads, metrics), axis_name)
        metrics["grad_norm"] = jnp.linalg.norm(grads)
        vector, unravel = jax.flatten_util.ravel_pytree(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, vector)
        vector = materialize(optax.apply_updates(vector, updates))
        metrics["param_norm"] = jnp.linalg.norm(vector)
        params = unravel(vector)
        if model.config.selection_bias:
            params = balance_selection(params, state.params, metrics["usage"], selection_rate)
        teacher = None
        if loss.needs_teacher:
            teacher = optax.incremental_update(params["encoder"], state.teacher, 1 - loss.options["teacher_momentum"])
        return TrainState(state.step + 1, params, opt_state, teacher), metrics

    return step
