"""The encoder: metadata tokens, CLS and patches through three stages of mixture-of-experts blocks.

Axes: B images, H and W pixels, C bands, P patches, V visible patches, N tokens (4 metadata, CLS, patches row by row), D width,
E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from geomoe.models.attention import GroupedQueryAttention
from geomoe.models.config import NUM_METADATA_TOKENS, NUM_PREFIX_TOKENS, ModelConfig
from geomoe.models.layers import LinearParams, linear
from geomoe.models.moe import Draws, MixtureOfExperts, draw

Array = jax.Array

LAYER_NORM_EPSILON = 1e-5
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
    """

    tokens: Array
    normed: Array
    balance_loss: Array
    gates: list[Array]
    layer_tokens: list[Array]


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


class Block(nn.Module):
    """x + attention(norm(x)), then x + mixture(norm(x)): (B, N, D) -> (B, N, D), gates (B, N, E), balance loss."""

    num_heads: int
    num_groups: int
    mixture: dict[str, Any]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, draws: Draws | None = None) -> tuple[Array, Array, Array]:
        norm = lambda name: nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, dtype=self.dtype, name=name)  # noqa: E731
        x = x + GroupedQueryAttention(self.num_heads, self.num_groups, self.dtype, name="attention")(norm("norm1")(x))
        y, gates, loss = MixtureOfExperts(**self.mixture, dtype=self.dtype, name="moe")(norm("norm2")(x), draws)
        return x + y, gates, loss


def run_blocks(
    module: nn.Module,
    config: ModelConfig,
    layers: Sequence[tuple[int, int]],
    heads: tuple[int, int],
    x: Array,
    deterministic: bool,
) -> tuple[Array, list[Array], list[Array], Array]:
    """Blocks one after the other, as submodules `block_00` ... of `module`.

    Args:
        layers: number of experts and expert width of each block.
        heads: attention heads and groups.
        x: (B, N, D).
        deterministic: without router noise and dropout; otherwise from the rng streams "router" and "dropout".

    Returns:
        The last output, the gates and the outputs of each block, and the sum of the balance losses.
    """
    dtype = jnp.dtype(config.dtype)
    b, n, width = x.shape
    draws: list[Draws | None] = [None] * len(layers)
    if not deterministic:
        keys = module.make_rng("router"), module.make_rng("dropout")
        draws = draw(*keys, b * n, [experts for experts, _ in layers], width, config.dropout)
    gates, outputs, balance = [], [], jnp.float32(0)
    for i, (experts, hidden) in enumerate(layers):
        mixture = dict(
            num_experts=experts,
            hidden=hidden,
            top_k=config.top_k,
            share_projections=config.share_projections,
            load_estimator=config.load_estimator,
            dispatch=config.dispatch,
            dropout=config.dropout,
        )
        x, block_gates, loss = Block(*heads, mixture, dtype, name=f"block_{i:02d}")(x, draws[i])
        balance += loss
        gates.append(block_gates)
        outputs.append(x)
    return x, gates, outputs, balance


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
    ) -> TokenOutput:
        """Encodes images with their place and time.

        Args:
            images: (B, H, W, C) float, normalised band by band; H = W = `config.img_size`.
            week, hour, lat, lon: (B, 2) float, [sin, cos] pairs; a missing value is [0, 0] (see `geomoe.metadata`).
            ids_keep: (B, V) int, indices of the patches to encode; None encodes all P.
            deterministic: False in training: router noise and dropout, from the rng streams "router" and "dropout".

        Raises:
            ValueError: the images are not of the size that the model was built for.
        """
        cfg = self.config
        expected = (cfg.img_size, cfg.img_size, cfg.in_channels)
        if images.ndim != 4 or images.shape[1:] != expected:
            raise ValueError(f"images must be (B, {', '.join(map(str, expected))}), got {images.shape}")
        dtype = jnp.dtype(cfg.dtype)
        patches = patchify(images, cfg.patch_size)
        position = self.param("pos_embed", TOKEN_INIT, (1, cfg.num_tokens, cfg.width), jnp.float32)
        patch_position = position[:, NUM_PREFIX_TOKENS:]
        if ids_keep is not None:
            patches = jnp.take_along_axis(patches, ids_keep[:, :, None], axis=1)
            patch_position = patch_position[0][ids_keep]
        tokens = []
        for i, (name, pair) in enumerate((("week", week), ("hour", hour), ("lat", lat), ("lon", lon))):
            token = linear(pair, LinearParams(2, cfg.width, name=f"{name}_proj")(), dtype)
            tokens.append(token[:, None, :] + position[:, i : i + 1])
        cls = self.param("cls_token", TOKEN_INIT, (1, 1, cfg.width), jnp.float32)
        cls = cls + position[:, NUM_METADATA_TOKENS:NUM_PREFIX_TOKENS]
        tokens.append(jnp.broadcast_to(cls, (images.shape[0], 1, cfg.width)))
        tokens.append(linear(patches, LinearParams(patches.shape[-1], cfg.width, name="patch_proj")(), dtype) + patch_position)
        x = jnp.concatenate([token.astype(dtype) for token in tokens], axis=1)

        layers = [(cfg.num_experts(i), cfg.expert_width(i)) for i in range(cfg.depth)]
        x, gates, layer_tokens, balance = run_blocks(self, cfg, layers, (cfg.num_heads, cfg.num_groups), x, deterministic)
        normed = nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, dtype=jnp.float32, name="norm")(x)
        return TokenOutput(x.astype(jnp.float32), normed, balance, gates, layer_tokens)
