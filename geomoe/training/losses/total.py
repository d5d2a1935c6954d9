"""The loss of a batch: reconstruction, balance and every objective with a weight, in training and on held-out images alike."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from geomoe.landsat import Statistics
from geomoe.metadata import FIELDS
from geomoe.models import MAE, MAEOutput, autoencode, patchify
from geomoe.training.losses.config import LossConfig
from geomoe.training.losses.heads import apply_head
from geomoe.training.losses.objective import Batch, LossInputs
from geomoe.training.losses.reconstruction import normalise_patches, reconstruction_losses

Array = jax.Array


def join_views(batch: Batch, views: int) -> Batch:
    """The crops of a batch as one batch without `second_...`: the first of each place, then the second.

    The second goes without metadata, so that the two cannot be matched by reading it.
    """
    if views == 1:
        return batch
    second = {"image": "second_view", "valid": "second_valid", "metadata": "metadata"}
    joined = {key: jnp.concatenate([batch[key], batch[other]]) for key, other in second.items() if key in batch}
    return joined | {name: jnp.concatenate([batch[name], jnp.zeros_like(batch[name])]) for name in FIELDS}


def expert_usage(out: MAEOutput, top_k: int) -> dict[str, Array]:
    """Share of the token assignments that go to each expert: block name -> (E,), summing to 1."""
    blocks = {f"encoder/block_{i:02d}": gates for i, gates in enumerate(out.encoded.gates)}
    blocks |= {f"decoder/block_{i:02d}": gates for i, gates in enumerate(out.decoder_gates)}
    return {name: jnp.mean(gates > 0, axis=(0, 1)) / top_k for name, gates in blocks.items()}


def _reconstruction(model: MAE, out: MAEOutput, crops: Batch, config: LossConfig) -> tuple[Array, Array]:
    """Reconstruction losses over hidden and over visible patches of the images that were decoded."""
    count = len(out.pred)
    images = crops["image"][:count]
    target = patchify(images, model.config.patch_size)
    valid = None
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
    router_noise: Array | float | None = None,
    teacher: Any = None,
    statistics: Statistics | None = None,
    axis_name: str | None = None,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Run the model on a batch.

    Args:
        params: {"encoder", "decoder"}, and "heads" where objectives have some.
        rngs: keys of the streams "mask" and, in training, "router" and "dropout".
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
    out = autoencode(
        model,
        params,
        *(crops[name] for name in ("image", *FIELDS)),
        deterministic=not training,
        rngs=rngs,
        router_noise=router_noise if training else 1.0,
        num_decoded=len(batch["image"]) * (min(config.decoded_views, config.views) if training else 1),
    )
    masked, unmasked = _reconstruction(model, out, crops, config)
    values = {"masked": masked, "unmasked": unmasked, "balance": out.balance_loss}
    for objective, _ in config.active:
        if training or objective.held_out:
            head = functools.partial(apply_head, params.get("heads", {}).get(objective.name))
            inputs = LossInputs(model.config, out, crops, head, config.options, statistics, teacher, axis_name)
            values[objective.name] = objective.loss(inputs)
    return values, expert_usage(out, model.config.top_k)


def weighted_sum(values: Mapping[str, Array], config: LossConfig) -> Array:
    """The loss: masked, and the other values times their weights."""
    weights = {"masked": 1.0, "unmasked": config.unmasked_weight, "balance": config.balance_weight, **config.weights}
    return sum((weights[name] * value for name, value in values.items()), start=jnp.float32(0))
