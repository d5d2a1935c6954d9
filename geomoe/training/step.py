"""One training step and one evaluation step, as pure functions of what one device holds.

A batch is a dict of image (B, S, S, C), valid (B, S, S) bool and week, hour, lat, lon (B, 2); where two crops of a place are
compared, also of second_view and second_valid; where place and time are predicted, also of metadata (B, 4, 2), the pairs
before any was dropped. Metrics are dicts of float32 scalars and of (E,) vectors under "usage": the share of tokens that each
expert of a block gets.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax

from geomoe.metadata import FIELDS
from geomoe.models import (
    MAE,
    NUM_PREFIX_TOKENS,
    Encoder,
    MAEOutput,
    ModelConfig,
    normalise_patches,
    patchify,
    reconstruction_losses,
)
from geomoe.models.moe import balanced_bias
from geomoe.training.losses import (
    INDICES,
    data2vec_loss,
    data2vec_targets,
    index_statistics,
    info_nce,
    metadata_loss,
    moving_average,
    vicreg,
)
from geomoe.training.losses.heads import apply_head
from geomoe.training.state import TrainState

Array = jax.Array
Batch = Mapping[str, Array]
AXIS = "devices"


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """What a step minimises: the `loss` section of a config. The defaults are the published recipe.

    Attributes:
        unmasked_weight, balance_weight: the loss is masked + `unmasked_weight` * unmasked + `balance_weight` * balance + what
            follows.
        router_z_weight: of the routers' z-losses, summed over the blocks.
        normalise_targets: each target patch by its own mean and deviation.
        valid_pixels: whether pixels without data count neither as targets nor in their normalisation.
        decoded_views: of two crops of a place, how many the decoder paints.
        info_nce_weight, info_nce_temperature: InfoNCE between the mean tokens of two masked crops of a place.
        vicreg_weight: VICReg between them.
        data2vec_weight: of the hidden patches' tokens in a teacher that sees the whole image, told by a linear head on the
            decoder's tokens; the teacher is the encoder of the past, averaged.
        teacher_momentum: how much of the teacher a step keeps.
        spectral_indices_weight: squared error of spectral indices' means and deviations, told from the mean token.
        metadata_weight: of place and time, told from the mean token of images whose encoder was not told them.
    """

    unmasked_weight: float = 0.1
    balance_weight: float = 0.5
    router_z_weight: float = 0.0
    normalise_targets: bool = False
    valid_pixels: bool = False
    decoded_views: int = 2
    info_nce_weight: float = 0.0
    info_nce_temperature: float = 0.1
    vicreg_weight: float = 0.0
    data2vec_weight: float = 0.0
    teacher_momentum: float = 0.996
    spectral_indices_weight: float = 0.0
    metadata_weight: float = 0.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_weight") and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"config.loss.{field.name} = {value} must be 0 or more")
        if self.info_nce_temperature <= 0:
            raise ValueError(f"config.loss.info_nce_temperature = {self.info_nce_temperature} must be above 0")
        if not 0 <= self.teacher_momentum < 1:
            raise ValueError(f"config.loss.teacher_momentum = {self.teacher_momentum} must be in [0, 1)")
        if self.decoded_views not in (1, 2):
            raise ValueError(f"config.loss.decoded_views = {self.decoded_views} must be 1 or 2")

    @property
    def views(self) -> int:
        """Crops of each place that a step needs."""
        return 2 if self.info_nce_weight or self.vicreg_weight else 1

    def heads(self, model: ModelConfig) -> dict[str, tuple[int, int]]:
        """Linear heads: how many numbers each takes, of the encoder's mean token or the decoder's tokens, and gives."""
        heads = {
            "indices": (self.spectral_indices_weight, (model.width, 2 * len(INDICES))),
            "metadata": (self.metadata_weight, (model.width, 2 * len(FIELDS))),
            "latent": (self.data2vec_weight, (model.decoder_width, model.width)),
        }
        return {name: sizes for name, (weight, sizes) in heads.items() if weight}

    @property
    def batch_keys(self) -> tuple[str, ...]:
        """The parts of a batch that a step reads."""
        keys = ("image", *FIELDS)
        if self.valid_pixels or self.spectral_indices_weight:
            keys += ("valid",)
        if self.views == 2:
            keys += ("second_view",) + (("second_valid",) if "valid" in keys else ())
        return keys + (("metadata",) if self.metadata_weight else ())


def expert_usage(out: MAEOutput, top_k: int) -> dict[str, Array]:
    """Share of the token assignments that go to each expert: block name -> (E,), summing to 1."""
    blocks = {f"encoder/block_{i:02d}": gates for i, gates in enumerate(out.encoded.gates)}
    blocks |= {f"decoder/block_{i:02d}": gates for i, gates in enumerate(out.decoder_gates)}
    return {name: jnp.mean(gates > 0, axis=(0, 1)) / top_k for name, gates in blocks.items()}


def mae_losses(model: MAE, out: MAEOutput, images: Array, valid: Array | None, config: LossConfig) -> tuple[Array, Array]:
    """Reconstruction loss over hidden and over visible patches of the images that were painted."""
    count = len(out.pred)
    target = patchify(images[:count], model.config.patch_size)
    counted = None
    if config.valid_pixels:
        bands = jnp.broadcast_to(valid[:count, :, :, None], images[:count].shape).astype(target.dtype)
        counted = patchify(bands, model.config.patch_size)
    if config.normalise_targets:
        target = normalise_patches(target, counted)
    return reconstruction_losses(out.pred, target, out.mask[:count], counted)


def all_crops(batch: Batch, views: int) -> Batch:
    """The crops of a batch as one batch without `second_...`: the first of each place, then the second.

    The second goes without metadata, so that the two cannot be matched by reading it.
    """
    if views == 1:
        return batch
    second = {"image": "second_view", "valid": "second_valid", "metadata": "metadata"}
    joined = {key: jnp.concatenate([batch[key], batch[other]]) for key, other in second.items() if key in batch}
    return joined | {name: jnp.concatenate([batch[name], jnp.zeros_like(batch[name])]) for name in FIELDS}


def embedding_losses(
    params: Any, out: MAEOutput, crops: Batch, config: LossConfig, statistics: Mapping[str, Any] | None, axis_name: str | None
) -> dict[str, Array]:
    """What is asked of the mean token beside painting: name -> scalar, without its weight, of those that have one.

    `crops` are those of `all_crops`, which `out` was made of.
    """
    z = jnp.mean(out.encoded.tokens, axis=1)
    losses: dict[str, Array] = {}
    if config.info_nce_weight:
        losses["info_nce"] = info_nce(*jnp.split(z, 2), config.info_nce_temperature, axis_name)
    if config.vicreg_weight:
        losses["vicreg"] = vicreg(*jnp.split(z, 2), axis_name)
    if config.spectral_indices_weight:
        mean, std = (jnp.asarray(np.asarray(statistics[key]), jnp.float32) for key in ("mean", "std"))
        difference = apply_head(params["heads"]["indices"], z) - index_statistics(crops["image"], crops["valid"], mean, std)
        losses["spectral_indices"] = jnp.mean(jnp.sum(jnp.square(difference), axis=-1))
    if config.metadata_weight:
        predicted = apply_head(params["heads"]["metadata"], z).reshape(len(z), len(FIELDS), 2)
        hidden = ~jnp.any(jnp.stack([crops[name] for name in FIELDS], axis=1) != 0, axis=-1)
        losses["metadata"] = metadata_loss(predicted, crops["metadata"], hidden)
    return losses


def written_out(vector: Array) -> Array:
    """The same vector (N,), which XLA now cannot help but write to memory as a whole.

    Without it XLA sees each parameter's slice of a long vector and puts a copy of the whole optimizer into every one of several
    hundred slices, two fifths of the compiled program's text. A loop, because XLA on CPU drops `jax.lax.optimization_barrier`
    before it fuses.
    """
    halves = jnp.pad(vector, (0, vector.size % 2)).reshape(2, -1)
    return jax.lax.scan(lambda one, half: (one, one * half), jnp.ones(()), halves)[1].reshape(-1)[: vector.size]


def balance_selection(params: Any, old: Any, usage: Mapping[str, Array], rate: float) -> Any:
    """Parameters whose routers' selection biases follow from the last ones and the experts' use, not from the optimizer."""
    params = {part: dict(blocks) for part, blocks in params.items()}
    for name, shares in usage.items():
        part, block = name.split("/")
        moe, before = params[part][block]["moe"], old[part][block]["moe"]["router"]["selection_bias"]
        router = {**moe["router"], "selection_bias": balanced_bias(before, shares, rate)}
        params[part][block] = {**params[part][block], "moe": {**moe, "router": router}}
    return params


def _loss_config(loss: Mapping[str, Any], statistics: Mapping[str, Any] | None) -> LossConfig:
    config = LossConfig(**loss)
    if config.spectral_indices_weight and statistics is None:
        raise ValueError("spectral indices need the statistics of the z-score")
    return config


def make_train_step(
    model: MAE,
    optimizer: optax.GradientTransformation,
    *,
    accumulate: int = 1,
    router_noise: Callable[[Array], Array] | None = None,
    selection_rate: float = 0.001,
    statistics: Mapping[str, Any] | None = None,
    axis_name: str | None = AXIS,
    **loss: Any,
) -> Callable[[TrainState, Batch, Array], tuple[TrainState, dict[str, Any]]]:
    """Builds `step(state, batch, key) -> (state, metrics)`.

    The key is the run's; the step and, under `axis_name`, the device are folded in. With `accumulate` = A the batch is cut into
    A parts whose gradients are averaged. Under `axis_name` gradients and metrics are averaged over the devices.

    Args:
        router_noise: step -> factor of the routers' noise; None for 1.
        selection_rate: by how much a step moves the selection biases, in a model that has them.
        statistics: {"mean", "std"} of the z-score in Collection 2 digital numbers; needed for spectral indices.
        **loss: fields of `LossConfig`.
    """
    config = _loss_config(loss, statistics)
    top_k = model.config.top_k

    def loss_fn(params: Any, teacher: Any, batch: Batch, key: Array, noise: Array | float) -> tuple[Array, dict[str, Any]]:
        rngs = dict(zip(("mask", "router", "dropout"), jax.random.split(key, 3)))
        crops = all_crops(batch, config.views)
        images, pairs = crops["image"], [crops[name] for name in FIELDS]
        out = model.apply(
            {"params": params},
            images,
            *pairs,
            deterministic=False,
            rngs=rngs,
            router_noise=noise,
            num_decoded=len(batch["image"]) * min(config.decoded_views, config.views),
        )
        masked, unmasked = mae_losses(model, out, images, crops.get("valid"), config)
        metrics = {"loss_masked": masked, "loss_unmasked": unmasked, "loss_balance": out.balance_loss}
        total = masked + config.unmasked_weight * unmasked + config.balance_weight * out.balance_loss
        others = embedding_losses(params, out, crops, config, statistics, axis_name)
        if config.router_z_weight:
            others["router_z"] = out.router_z_loss
        if config.data2vec_weight:
            count = len(out.pred)
            whole = Encoder(model.config).apply({"params": teacher}, images[:count], *(pair[:count] for pair in pairs))
            target = data2vec_targets(whole.layer_tokens, NUM_PREFIX_TOKENS)
            predicted = apply_head(params["heads"]["latent"], out.decoder_tokens)
            others["data2vec"] = data2vec_loss(predicted, target, out.mask[:count])
        for name, value in others.items():
            metrics[f"loss_{name}"] = value
            total += getattr(config, f"{name}_weight") * value
        return total, {"loss": total, **metrics, "usage": expert_usage(out, top_k)}

    gradient = jax.value_and_grad(loss_fn, has_aux=True)

    def accumulated(state: TrainState, batch: Batch, key: Array, noise: Array | float) -> tuple[dict[str, Any], Any]:
        params, teacher = state.params, state.teacher
        if accumulate == 1:
            (_, metrics), grads = gradient(params, teacher, batch, key, noise)
            return metrics, grads
        parts = jax.tree.map(lambda x: x.reshape(accumulate, -1, *x.shape[1:]), dict(batch))

        def body(_: None, part: tuple[Batch, Array]) -> tuple[None, Any]:
            (_, metrics), grads = gradient(params, teacher, *part, noise)
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
        noise = 1.0 if router_noise is None else router_noise(state.step)
        metrics, grads = accumulated(state, batch, key, noise)
        grads = written_out(jax.flatten_util.ravel_pytree(grads)[0])
        if axis_name is not None:
            metrics, grads = jax.lax.pmean((metrics, grads), axis_name)
        metrics["grad_norm"] = jnp.linalg.norm(grads)
        params, unravel = jax.flatten_util.ravel_pytree(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, params)
        params = unravel(written_out(optax.apply_updates(params, updates)))
        if model.config.selection_bias:
            params = balance_selection(params, state.params, metrics["usage"], selection_rate)
        teacher = None
        if config.data2vec_weight:
            average = functools.partial(moving_average, momentum=config.teacher_momentum)
            teacher = jax.tree.map(average, state.teacher, params["encoder"])
        return TrainState(state.step + 1, params, opt_state, teacher), metrics

    return step


def make_eval_step(
    model: MAE, *, statistics: Mapping[str, Any] | None = None, axis_name: str | None = AXIS, **loss: Any
) -> Callable[[Any, Batch, Array], dict[str, Any]]:
    """Builds `step(params, batch, key) -> metrics`: what held-out images give without router noise and dropout.

    `val_loss_masked` and `val_loss_unmasked` are of the first crops; beside them each of `embedding_losses` that has a weight
    (latent prediction, which needs the teacher, is not among them). The key fixes the masks, so that evaluations of one run
    compare. `statistics` and `loss` as for `make_train_step`.
    """
    config = _loss_config(loss, statistics)
    top_k = model.config.top_k

    def step(params: Any, batch: Batch, key: Array) -> dict[str, Any]:
        if axis_name is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
        crops = all_crops(batch, config.views)
        images, pairs = crops["image"], [crops[name] for name in FIELDS]
        out = model.apply({"params": params}, images, *pairs, rngs={"mask": key}, num_decoded=len(batch["image"]))
        masked, unmasked = mae_losses(model, out, images, crops.get("valid"), config)
        metrics = {"val_loss_masked": masked, "val_loss_unmasked": unmasked, "val_loss_balance": out.balance_loss}
        others = embedding_losses(params, out, crops, config, statistics, axis_name)
        metrics |= {f"val_loss_{name}": value for name, value in others.items()}
        metrics["usage"] = expert_usage(out, top_k)
        return metrics if axis_name is None else jax.lax.pmean(metrics, axis_name)

    return step
