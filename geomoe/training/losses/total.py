"""The loss of a batch: reconstruction, balance and every objective with a weight, in training and on held-out images alike."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from geomoe.landsat import Statistics
from geomoe.metadata import FIELDS
from geomoe.models import MAE, MAEOutput, autoencode, patchify
from geomoe.models.block import Stochastic
from geomoe.models.mae import uniform_by_position
from geomoe.training.losses.config import LossConfig
from geomoe.training.losses.heads import apply_head
from geomoe.training.losses.objective import Batch, LossInputs
from geomoe.training.losses.reconstruction import normalise_patches, reconstruction_losses


def join_views(batch: Batch, views: int) -> Batch:
    """The crops of a batch as one batch without `second_...`: the first of each place, then the second.

    The second goes without metadata, so that the two cannot be matched by reading it.
    """
    if views == 1:
        return batch
    second = {"image": "second_view", "valid": "second_valid", "metadata": "metadata"}
    joined = {key: jnp.concatenate([batch[key], batch[other]]) for key, other in second.items() if key in batch}
    return joined | {name: jnp.concatenate([batch[name], jnp.zeros_like(batch[name])]) for name in FIELDS}


def global_positions(count: int, views: int, axis_name: str | None, part: Array | int = 0, parts: int = 1) -> Array:
    """Where the crops of this device stand in the global batch: (views, count) int32.

    Args:
        count: places that this device holds of a part.
        part, parts: which of the parts of the device's batch this is.
    """
    device, devices = (0, 1) if axis_name is None else (jax.lax.axis_index(axis_name), jax.lax.axis_size(axis_name))
    first = (device * parts + part) * count + jnp.arange(count)
    return first + jnp.arange(views)[:, None] * (count * parts * devices)


def expert_usage(out: MAEOutput, top_k: int) -> dict[str, Array]:
    """Share of the assignments of tokens that hold data that go to each expert: block name -> (E,), summing to 1."""
    blocks = {f"encoder/block_{i:02d}": gates for i, gates in enumerate(out.encoded.gates)}
    blocks |= {f"decoder/block_{i:02d}": gates for i, gates in enumerate(out.decoder_gates)}
    present = out.encoded.present
    if present is None:
        return {name: jnp.mean(gates > 0, axis=(0, 1)) / top_k for name, gates in blocks.items()}
    counts = {name: jnp.sum(gates > 0, axis=(0, 1)) for name, gates in blocks.items()}
    return {name: count / jnp.sum(count) for name, count in counts.items()}


def _reconstruction(model: MAE, out: MAEOutput, crops: Batch, config: LossConfig) -> tuple[Array, Array]:
    """Reconstruction losses over hidden and over visible patches of the images that were decoded."""
    count, valid = len(out.pred), None
    images = crops["image"][:count]
    target = patchify(images, model.config.patch_size)
    if config.valid_pixels:
        bands = jnp.broadcast_to(crops["valid"][:count, :, :, None], images.shape).astype(target.dtype)
        valid = patchify(bands, model.config.patch_size)
    if config.normalise_targets:
        target = normalise_patches(target, valid)
    return reconstruction_losses(out.pred, target, out.mask[:count], valid)


def batch_losses(
    model: MAE,
    params: Any,
    batch: Batch,
    config: LossConfig,
    *,
    rngs: dict[str, Array],
    positions: Array,
    router_noise: Array | float | None = None,
    teacher: Any = None,
    statistics: Statistics | None = None,
    axis_name: str | None = None,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Run the model on a batch.

    Args:
        params: {"encoder", "decoder"}, and "heads" where objectives have some.
        rngs: keys of the streams "mask" and, in training, "router" and "dropout"; the same on all devices.
        positions: (views, B) int32, where the crops stand in the global batch, by which they have their random numbers.
        router_noise: factor of the routers' noise; None for held-out images: without noise and dropout, the first crops alone
            decoded, and without the objectives that are for training.
        teacher: parameters of the averaged encoder, where an objective needs them.
        statistics: of the z-score, where an objective needs them.
        axis_name: of the devices, or None.

    Returns:
        name -> scalar without its weight, the first three being "masked", "unmasked" and "balance"; and the experts' usage.
    """
    training = router_noise is not None
    crops = join_views(batch, config.views)
    valid = crops["valid"] if config.valid_pixels else None
    out = autoencode(
        model,
        params,
        *(crops[name] for name in ("image", *FIELDS)),
        mask_noise=uniform_by_position(rngs["mask"], positions.size, model.config.num_patches, positions.reshape(-1)),
        stochastic=Stochastic(router_noise, positions.reshape(-1)) if router_noise is not None else None,
        rngs=rngs,
        num_decoded=len(batch["image"]) * (min(config.decoded_views, config.views) if training else 1),
        valid=valid,
    )
    masked, unmasked = _reconstruction(model, out, crops, config)
    values = {"masked": masked, "unmasked": unmasked, "balance": out.balance_loss}
    for objective, _ in config.active:
        if training or objective.held_out:
            head = functools.partial(apply_head, params.get("heads", {}).get(objective.name))
            inputs = LossInputs(model.config, out, crops, head, config.options, statistics, teacher, axis_name, valid)
            values[objective.name] = objective.loss(inputs)
    return values, expert_usage(out, model.config.top_k)


def weighted_sum(values: Mapping[str, Array], config: LossConfig) -> Array:
    """The loss: masked, and the other values times their weights."""
    weights = {"masked": 1.0, "unmasked": config.unmasked_weight, "balance": config.balance_weight, **config.weights}
    return sum((weights[name] * value for name, value in values.items()), start=jnp.float32(0))
