"""One training step and one evaluation step, as pure functions of what one device holds.

A batch is a dict of image (B, S, S, C) and week, hour, lat, lon (B, 2); with contrast also of second_view (B, S, S, C), another
crop of the same place. Metrics are dicts of float32 scalars and of (E,)
vectors under "usage": the share of tokens that each expert of a block gets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import optax

from geomoe.metadata import PAIRS
from geomoe.models import MAE, MAEOutput, normalise_patches, patchify, reconstruction_losses
from geomoe.training.objectives import info_nce
from geomoe.training.state import TrainState

Array = jax.Array
Batch = Mapping[str, Array]
AXIS = "devices"


def expert_usage(out: MAEOutput, top_k: int) -> dict[str, Array]:
    """Share of the token assignments that go to each expert: block name -> (E,), summing to 1."""
    blocks = {f"encoder/block_{i:02d}": gates for i, gates in enumerate(out.encoded.gates)}
    blocks |= {f"decoder/block_{i:02d}": gates for i, gates in enumerate(out.decoder_gates)}
    return {name: jnp.mean(gates > 0, axis=(0, 1)) / top_k for name, gates in blocks.items()}


def mae_losses(model: MAE, out: MAEOutput, images: Array, normalise_targets: bool) -> tuple[Array, Array]:
    """Reconstruction loss over hidden and over visible patches."""
    target = patchify(images, model.config.patch_size)
    if normalise_targets:
        target = normalise_patches(target)
    return reconstruction_losses(out.pred, target, out.mask)


def written_out(vector: Array) -> Array:
    """The same vector (N,), which XLA now cannot help but write to memory as a whole.

    Without it XLA sees each parameter's slice of a long vector and puts a copy of the whole optimizer into every one of several
    hundred slices, two fifths of the compiled program's text. A loop, because XLA on CPU drops `jax.lax.optimization_barrier`
    before it fuses.
    """
    halves = jnp.pad(vector, (0, vector.size % 2)).reshape(2, -1)
    return jax.lax.scan(lambda one, half: (one, one * half), jnp.ones(()), halves)[1].reshape(-1)[: vector.size]


def make_train_step(
    model: MAE,
    optimizer: optax.GradientTransformation,
    *,
    unmasked_weight: float = 0.1,
    balance_weight: float = 0.5,
    normalise_targets: bool = False,
    contrast_weight: float = 0.0,
    contrast_temperature: float = 0.1,
    accumulate: int = 1,
    axis_name: str | None = AXIS,
) -> Callable[[TrainState, Batch, Array], tuple[TrainState, dict[str, Any]]]:
    """Builds `step(state, batch, key) -> (state, metrics)`.

    The loss is masked + `unmasked_weight` * unmasked + `balance_weight` * balance, and, where `contrast_weight` is not 0,
    `contrast_weight` * InfoNCE between the mean tokens of two masked crops of a place. The second crop goes without metadata,
    so that the two cannot be matched by reading it; both are reconstructed. The key is the run's; the step and, under
    `axis_name`, the device are folded in. With `accumulate` = A the batch is cut into A parts whose gradients are averaged.
    Under `axis_name` gradients and metrics are averaged over the devices.
    """
    top_k = model.config.top_k

    def loss_fn(params: Any, batch: Batch, key: Array) -> tuple[Array, dict[str, Any]]:
        rngs = dict(zip(("mask", "router", "dropout"), jax.random.split(key, 3)))
        images, pairs = batch["image"], [batch[name] for name in PAIRS]
        if contrast_weight:
            images = jnp.concatenate([images, batch["second_view"]])
            pairs = [jnp.concatenate([pair, jnp.zeros_like(pair)]) for pair in pairs]
        out = model.apply({"params": params}, images, *pairs, deterministic=False, rngs=rngs)
        masked, unmasked = mae_losses(model, out, images, normalise_targets)
        total = masked + unmasked_weight * unmasked + balance_weight * out.balance_loss
        metrics = {"loss": total, "loss_masked": masked, "loss_unmasked": unmasked, "loss_balance": out.balance_loss}
        if contrast_weight:
            views = jnp.split(jnp.mean(out.encoded.tokens, axis=1), 2)
            metrics["loss_contrast"] = info_nce(*views, contrast_temperature, axis_name)
            total += contrast_weight * metrics["loss_contrast"]
            metrics["loss"] = total
        return total, {**metrics, "usage": expert_usage(out, top_k)}

    gradient = jax.value_and_grad(loss_fn, has_aux=True)

    def accumulated(params: Any, batch: Batch, key: Array) -> tuple[dict[str, Any], Any]:
        if accumulate == 1:
            (_, metrics), grads = gradient(params, batch, key)
            return metrics, grads
        parts = jax.tree.map(lambda x: x.reshape(accumulate, -1, *x.shape[1:]), dict(batch))

        def body(_: None, part: tuple[Batch, Array]) -> tuple[None, Any]:
            (_, metrics), grads = gradient(params, *part)
            return None, (metrics, grads)

        first = jax.tree.map(lambda x: x[0], parts)
        keys = jax.random.split(key, accumulate)
        shapes = jax.eval_shape(lambda: body(None, (first, keys[0]))[1])
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

        def add(total: Any, part: tuple[Batch, Array]) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, body(None, part)[1]), None

        total, _ = jax.lax.scan(add, zeros, (parts, keys))
        return jax.tree.map(lambda x: x / accumulate, total)

    def step(state: TrainState, batch: Batch, key: Array) -> tuple[TrainState, dict[str, Any]]:
        key = jax.random.fold_in(key, state.step)
        if axis_name is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
        metrics, grads = accumulated(state.params, batch, key)
        grads = written_out(jax.flatten_util.ravel_pytree(grads)[0])
        if axis_name is not None:
            metrics, grads = jax.lax.pmean((metrics, grads), axis_name)
        metrics["grad_norm"] = jnp.linalg.norm(grads)
        params, unravel = jax.flatten_util.ravel_pytree(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, params)
        params = unravel(written_out(optax.apply_updates(params, updates)))
        return TrainState(state.step + 1, params, opt_state), metrics

    return step


def make_eval_step(
    model: MAE, *, normalise_targets: bool = False, axis_name: str | None = AXIS
) -> Callable[[Any, Batch, Array], dict[str, Any]]:
    """Builds `step(params, batch, key) -> metrics`: reconstruction of held-out images, no router noise, no dropout.

    The key fixes the masks, so that evaluations of one run compare.
    """
    top_k = model.config.top_k

    def step(params: Any, batch: Batch, key: Array) -> dict[str, Any]:
        if axis_name is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
        pairs = [batch[name] for name in PAIRS]
        out = model.apply({"params": params}, batch["image"], *pairs, rngs={"mask": key})
        masked, unmasked = mae_losses(model, out, batch["image"], normalise_targets)
        metrics = {"val_loss_masked": masked, "val_loss_unmasked": unmasked, "val_loss_balance": out.balance_loss}
        metrics["usage"] = expert_usage(out, top_k)
        return metrics if axis_name is None else jax.lax.pmean(metrics, axis_name)

    return step
