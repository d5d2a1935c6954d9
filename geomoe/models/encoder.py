"""The encoder: metadata tokens, CLS and patches through three stages of mixture-of-experts blocks.

Axes: B images, H and W pixels, C bands, P patches, V visible patches, N tokens (4 metadata, CLS, patches row by row), D width,
E experts.
"""

from typing import Any

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
from jax import Array

from geomoe.metadata import FIELDS
from geomoe.models.block import Block, Stochastic, run_blocks
from geomoe.models.config import NUM_METADATA_TOKENS, NUM_PREFIX_TOKENS, ModelConfig
from geomoe.models.layers import TOKEN_INIT, LayerNorm, Linear, param


@flax.struct.dataclass
class TokenOutput:
    """What the encoder gives. A list has one array a block."""

    tokens: Array  # (B, N, D) float32, before the last norm: the published embedding
    normed: Array  # (B, N, D) float32, after it
    balance_loss: Array  # scalar, sum of the blocks' balance losses
    gates: list[Array]  # (B, N, E) float32
    layer_tokens: list[Array]  # (B, N, D), the block's output
    router_z_loss: Array  # scalar, sum of the blocks' router z-losses
    mixture_inputs: list[Array]  # (B, N, D), what the block's router and experts were given
    present: Array | None = None  # (B, N) bool, False for tokens of patches without data; None is all


def patchify(images: Array, patch_size: int) -> Array:
    """(B, H, W, C) -> (B, P, C * patch_size**2): patches row by row; within a patch band, then row, then column."""
    b, h, w, c = images.shape
    p = patch_size
    x = images.reshape(b, h // p, p, w // p, p, c).transpose(0, 1, 3, 5, 2, 4)
    return x.reshape(b, (h // p) * (w // p), c * p * p)


def unpatchify(patches: Array, patch_size: int, img_size: int) -> Array:
    """The inverse of `patchify` for square images: (B, P, C * patch_size**2) -> (B, img_size, img_size, C)."""
    p, side = patch_size, img_size // patch_size
    x = patches.reshape(-1, side, side, patches.shape[-1] // (p * p), p, p).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(len(patches), img_size, img_size, -1)


def patches_present(valid: Array, patch_size: int) -> Array:
    """Find the patches that half or more of the pixels hold data of: (B, H, W) bool -> (B, P) bool."""
    return jnp.mean(patchify(valid[..., None].astype(jnp.float32), patch_size), axis=-1) >= 0.5


def fill_patches(patches: Array, valid: Array, patch_size: int) -> Array:
    """Give pixels without data the mean, band by band, of those of the same patch that hold some, 0 where none does.

    Args:
        patches: (B, P, L), of `patchify`.
        valid: (B, H, W) bool, the pixels that hold data.
    """
    shape = patches.shape
    pixels = patches.reshape(*shape[:2], -1, patch_size**2)
    holds = patchify(valid[..., None], patch_size)[:, :, None, :]
    count = jnp.maximum(jnp.sum(holds, axis=-1, keepdims=True), 1)
    mean = jnp.sum(jnp.where(holds, pixels, 0), axis=-1, keepdims=True) / count
    return jnp.where(holds, pixels, mean).reshape(shape)


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
        stochastic: Stochastic | None = None,
        valid: Array | None = None,
    ) -> TokenOutput:
        """Encode images with their metadata.

        Args:
            images: (B, H, W, C) float, normalised band by band; H = W = `config.img_size`.
            week, hour, lat, lon: (B, 2) float, [sin, cos] pairs; a missing value is [0, 0] (see `geomoe.metadata`).
            ids_keep: (B, V) int, indices of the patches to encode; None encodes all P.
            stochastic: of training; None is without router noise and dropout.
            valid: (B, H, W) bool, the pixels that hold data; None is all. No token looks at that of a patch of which less than
                half holds data, and no balance counts it; in the other patches pixels without data take the mean of the rest.

        Raises:
            ValueError: the images are not of the size that the model was built for.
        """
        cfg = self.config
        expected = (cfg.img_size, cfg.img_size, cfg.in_channels)
        if images.ndim != 4 or images.shape[1:] != expected:
            raise ValueError(f"images must be (B, {', '.join(map(str, expected))}), got {images.shape}")
        dtype = jnp.dtype(cfg.dtype)
        patches = patchify(images, cfg.patch_size)
        present = None
        if valid is not None:
            patches, present = fill_patches(patches, valid, cfg.patch_size), patches_present(valid, cfg.patch_size)
        position = param(self, "pos_embed", TOKEN_INIT, (1, cfg.num_tokens, cfg.width))
        patch_position = position[:, NUM_PREFIX_TOKENS:]
        if ids_keep is not None:
            patches = jnp.take_along_axis(patches, ids_keep[:, :, None], axis=1)
            patch_position = patch_position[0][ids_keep]
            present = None if present is None else jnp.take_along_axis(present, ids_keep, axis=1)
        if present is not None:
            present = jnp.pad(present, ((0, 0), (NUM_PREFIX_TOKENS, 0)), constant_values=True)
        tokens = []
        learned = cfg.missing_metadata == "learned"
        missing = param(self, "missing_metadata", TOKEN_INIT, (1, NUM_METADATA_TOKENS, cfg.width)) if learned else None
        for i, (name, value) in enumerate(zip(FIELDS, (week, hour, lat, lon))):
            token = Linear(2, cfg.width, dtype, name=f"{name}_proj")(value)
            if missing is not None:
                token = jnp.where(jnp.any(value != 0, axis=-1, keepdims=True), token, missing[:, i].astype(dtype))
            tokens.append(token[:, None, :] + position[:, i : i + 1])
        cls = param(self, "cls_token", TOKEN_INIT, (1, 1, cfg.width))
        cls = cls + position[:, NUM_METADATA_TOKENS:NUM_PREFIX_TOKENS]
        tokens.append(jnp.broadcast_to(cls, (images.shape[0], 1, cfg.width)))
        tokens.append(Linear(patches.shape[-1], cfg.width, dtype, name="patch_proj")(patches) + patch_position)
        x = jnp.concatenate([token.astype(dtype) for token in tokens], axis=1)

        shape = cfg, cfg.width, cfg.num_heads, cfg.num_groups
        layers = range(cfg.depth)
        blocks = [Block(*shape, cfg.num_experts(i), cfg.expert_width(i), name=f"block_{i:02d}") for i in layers]
        out = run_blocks(self, blocks, x, stochastic, present)
        x = out.x.astype(jnp.float32)
        normed = LayerNorm(cfg.width, name="norm")(x)
        return TokenOutput(x, normed, out.balance_loss, out.gates, out.layers, out.router_z_loss, out.mixture_inputs, present)


def encode(config: ModelConfig, params: Any, *inputs: Array, **options: Any) -> TokenOutput:
    """Apply an encoder with its parameters; `inputs` and `options` are images, week and so on, as for `Encoder`."""
    out: Any = Encoder(config).apply({"params": params}, *inputs, **options)
    return out
