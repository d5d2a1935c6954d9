"""The encoder: metadata tokens, CLS and patches through three stages of mixture-of-experts blocks.

Axes: B images, H and W pixels, C bands, P patches, V visible patches, N tokens (4 metadata, CLS, patches row by row), D width,
E experts.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from geomoe.models.attention import AttentionParams, GroupedQueryAttention, self_attention
from geomoe.models.config import NUM_METADATA_TOKENS, NUM_PREFIX_TOKENS, ModelConfig
from geomoe.models.layers import LayerNormParams, LinearParams, layer_norm, linear, param
from geomoe.models.moe import (
    Draws,
    MixtureOfExperts,
    MixtureParams,
    Routing,
    balance_loss,
    draw,
    mixture_of_experts,
    router_z_loss,
)

Array = jax.Array

TOKEN_INIT = nn.initializers.normal(0.02)


@flax.struct.dataclass
class TokenOutput:
    """What the encoder gives.

    Attributes:
        tokens: (B, N, D) float32, before the last norm: the published embedding.
        normed: (B, N, D) float32, after it.
        balance_loss: scalar, sum of the blocks' balance losses.
        gates: a list with one (B, N, E) float32 array a block.
        layer_tokens: a list with one (B, N, D) array a block: its output.
        router_z_loss: scalar, sum of the blocks' router z-losses.
    """

    tokens: Array
    normed: Array
    balance_loss: Array
    gates: list[Array]
    layer_tokens: list[Array]
    router_z_loss: Array


def patchify(images: Array, patch_size: int) -> Array:
    """(B, H, W, C) -> (B, P, C * patch_size**2): patches row by row; within a patch band, then row, then column."""
    b, h, w, c = images.shape
    p = patch_size
    x = images.reshape(b, h // p, p, w // p, p, c).transpose(0, 1, 3, 5, 2, 4)
    return x.reshape(b, (h // p) * (w // p), c * p * p)


def unpatchify(patches: Array, patch_size: int, img_size: int) -> Array:
    """The inverse of `patchify` for square images: (B, P, C * patch_size**2) -> (B, img_size, img_size, C)."""
    b = patches.shape[0]
    p, side = patch_size, img_size // patch_size
    x = patches.reshape(b, side, side, -1, p, p).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(b, img_size, img_size, -1)


class BlockParams(NamedTuple):
    """Weights of one block: LayerNorms as scale and bias, attention, mixture."""

    norm1: tuple[Array, Array]
    attention: AttentionParams
    norm2: tuple[Array, Array]
    moe: MixtureParams


class Block(nn.Module):
    """Declares the weights of a block and returns them."""

    width: int
    num_heads: int
    num_groups: int
    num_experts: int
    hidden: int
    share_projections: bool
    selection_bias: bool

    def setup(self):
        self.norm1 = LayerNormParams(self.width)
        self.attention = GroupedQueryAttention(self.width, self.num_heads, self.num_groups)
        self.norm2 = LayerNormParams(self.width)
        self.moe = MixtureOfExperts(self.width, self.num_experts, self.hidden, self.share_projections, self.selection_bias)

    def __call__(self) -> BlockParams:
        return BlockParams(self.norm1(), self.attention(), self.norm2(), self.moe())


class StackOutput(NamedTuple):
    """What blocks one after the other give.

    Attributes:
        x: (B, N, D) the last output.
        gates: (B, N, E) of each block.
        layers: (B, N, D), the output of each block.
        balance_loss, router_z_loss: scalars, sums over the blocks.
    """

    x: Array
    gates: list[Array]
    layers: list[Array]
    balance_loss: Array
    router_z_loss: Array


class BlockOutput(NamedTuple):
    """What a block gives: its output and the mixture's input, (B, N, D) each, and what the router decided."""

    x: Array
    mixture_input: Array
    routing: Routing


@functools.partial(jax.jit, static_argnums=(0, 1))
def block(config: ModelConfig, heads: tuple[int, int], x: Array, params: BlockParams, draws: Draws | None) -> BlockOutput:
    """x + attention(norm(x)), then x + mixture(norm(x)). A jit of its own, so that equal blocks are traced once.

    Args:
        heads: attention heads and groups.
        x: (B, N, D).
        draws: the mixture's random numbers in training, or None.
    """
    dtype = jnp.dtype(config.dtype)
    x = x + self_attention(layer_norm(x, *params.norm1), params.attention, *heads, dtype)
    mixture_input = layer_norm(x, *params.norm2)
    y, routing = mixture_of_experts(
        mixture_input,
        params.moe,
        draws,
        top_k=config.top_k,
        dispatch=config.dispatch,
        dropout=config.dropout,
        dtype=dtype,
    )
    return BlockOutput(x + y, mixture_input, routing)


def run_blocks(
    module: nn.Module,
    config: ModelConfig,
    layers: Sequence[tuple[int, int]],
    stage_depth: int,
    heads: tuple[int, int],
    x: Array,
    deterministic: bool,
    router_noise: Array | float = 1.0,
) -> StackOutput:
    """Blocks one after the other, their weights being submodules `block_00` ... of `module`.

    The experts of a stage are filled up to the width of its widest: blocks of one shape are traced once, in half the
    time, and at size S the step is no slower for it.

    Args:
        layers: number of experts and expert width of each block.
        stage_depth: how many blocks in a row have the same number of experts; divides their number.
        heads: attention heads and groups.
        x: (B, N, D).
        deterministic: without router noise and dropout; otherwise from the rng streams "router" and "dropout".
        router_noise: multiplies the router's noise.

    The inputs of the mixtures are sown as "mixture_inputs".
    """
    b, n, width = x.shape
    draws: list[Draws | None] = [None] * len(layers)
    if not deterministic:
        keys = module.make_rng("router"), module.make_rng("dropout")
        draws = draw(*keys, b * n, [experts for experts, _ in layers], width, config.dropout, router_noise)
    outputs: list[BlockOutput] = []
    for i, layer in enumerate(layers):
        switches = config.share_projections, config.selection_bias
        params = Block(width, *heads, *layer, *switches, parent=module, name=f"block_{i:02d}")()
        first = i // stage_depth * stage_depth
        widest = max(hidden for _, hidden in layers[first : first + stage_depth])
        params = params._replace(moe=params.moe._replace(experts=params.moe.experts.widened(widest)))
        outputs.append(block(config, heads, x, params, draws[i]))
        x = outputs[-1].x
    module.sow("intermediates", "mixture_inputs", [out.mixture_input for out in outputs])
    loss = functools.partial(balance_loss, top_k=config.top_k, estimator=config.load_estimator)
    balance = z_loss = jnp.float32(0)
    for first in range(0, len(layers), stage_depth):  # a stage at once, which compiles to fewer operations
        routings = [out.routing for out in outputs[first : first + stage_depth]]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *routings)
        balance += jnp.sum(jax.vmap(loss)(stacked))
        z_loss += jnp.sum(jax.vmap(router_z_loss)(stacked))
    gates = [out.routing.gates.reshape(b, n, -1) for out in outputs]
    return StackOutput(x, gates, [out.x for out in outputs], balance, z_loss)


class Encoder(nn.Module):
    """The encoder of the masked autoencoder; `config` fixes its shape."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        images: Array,
        week: Array,
        hour: Array,
        lat: Array,
        lon: Array,
        ids_keep: Array | None = None,
        deterministic: bool = True,
        router_noise: Array | float = 1.0,
    ) -> TokenOutput:
        """Encodes images with their place and time.

        Args:
            images: (B, H, W, C) float, normalised band by band; H = W = `config.img_size`.
            week, hour, lat, lon: (B, 2) float, [sin, cos] pairs; a missing value is [0, 0] (see `geomoe.metadata`).
            ids_keep: (B, V) int, indices of the patches to encode; None encodes all P.
            deterministic: False in training: router noise and dropout, from the rng streams "router" and "dropout".
            router_noise: multiplies the router's noise.

        Raises:
            ValueError: the images are not of the size that the model was built for.
        """
        cfg = self.config
        expected = (cfg.img_size, cfg.img_size, cfg.in_channels)
        if images.ndim != 4 or images.shape[1:] != expected:
            raise ValueError(f"images must be (B, {', '.join(map(str, expected))}), got {images.shape}")
        dtype = jnp.dtype(cfg.dtype)
        patches = patchify(images, cfg.patch_size)
        position = param(self, "pos_embed", TOKEN_INIT, (1, cfg.num_tokens, cfg.width))
        patch_position = position[:, NUM_PREFIX_TOKENS:]
        if ids_keep is not None:
            patches = jnp.take_along_axis(patches, ids_keep[:, :, None], axis=1)
            patch_position = patch_position[0][ids_keep]
        tokens = []
        learned = cfg.missing_metadata == "learned"
        missing = param(self, "missing_metadata", TOKEN_INIT, (1, NUM_METADATA_TOKENS, cfg.width)) if learned else None
        for i, (name, pair) in enumerate((("week", week), ("hour", hour), ("lat", lat), ("lon", lon))):
            token = linear(pair, LinearParams(2, cfg.width, name=f"{name}_proj")(), dtype)
            if missing is not None:
                token = jnp.where(jnp.any(pair != 0, axis=-1, keepdims=True), token, missing[:, i].astype(dtype))
            tokens.append(token[:, None, :] + position[:, i : i + 1])
        cls = param(self, "cls_token", TOKEN_INIT, (1, 1, cfg.width))
        cls = cls + position[:, NUM_METADATA_TOKENS:NUM_PREFIX_TOKENS]
        tokens.append(jnp.broadcast_to(cls, (images.shape[0], 1, cfg.width)))
        tokens.append(linear(patches, LinearParams(patches.shape[-1], cfg.width, name="patch_proj")(), dtype) + patch_position)
        x = jnp.concatenate([token.astype(dtype) for token in tokens], axis=1)

        layers = [(cfg.num_experts(i), cfg.expert_width(i)) for i in range(cfg.depth)]
        heads = cfg.num_heads, cfg.num_groups
        stage_depth = cfg.depth // len(cfg.stage_experts)
        out = run_blocks(self, cfg, layers, stage_depth, heads, x, deterministic, router_noise)
        x = out.x.astype(jnp.float32)
        normed = layer_norm(x, *LayerNormParams(cfg.width, name="norm")())
        return TokenOutput(x, normed, out.balance_loss, out.gates, out.layers, out.router_z_loss)
