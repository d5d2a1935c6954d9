"""The masked autoencoder: random masking, decoder, reconstruction loss (He et al. 2022, arXiv 2111.06377).

Axes: B images, P patches, V visible patches, N tokens, D encoder width, M decoder width, L = C * patch_size**2 values a patch.
"""

from __future__ import annotations

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from geomoe.models.config import NUM_PREFIX_TOKENS, ModelConfig
from geomoe.models.encoder import TOKEN_INIT, Encoder, StackOutput, TokenOutput, run_blocks
from geomoe.models.layers import LayerNormParams, LinearParams, layer_norm, linear, param

Array = jax.Array


@flax.struct.dataclass
class MAEOutput:
    """What a pass of the masked autoencoder gives.

    Attributes:
        pred: (B', P, L) float32, the predicted patches of the first B' images, in the order of `patchify`; B' is B unless
            fewer were asked for.
        mask: (B, P) float32, 1 where a patch was hidden from the encoder.
        ids_restore: (B, P) int32, where each patch stands in the shuffled order.
        balance_loss: scalar, the balance losses that count.
        encoded: the encoder's output on the visible patches.
        decoder_gates: a list with one (B', 5 + P, E) array a decoder block.
        router_z_loss: scalar, sum of the router z-losses of encoder and decoder.
        decoder_tokens: (B', P, M) float32, what `pred` is a linear function of.
    """

    pred: Array
    mask: Array
    ids_restore: Array
    balance_loss: Array
    encoded: TokenOutput
    decoder_gates: list[Array]
    router_z_loss: Array
    decoder_tokens: Array


def random_masking(noise: Array, num_visible: int) -> tuple[Array, Array, Array]:
    """Keeps the patches with the smallest noise.

    Args:
        noise: (B, P) uniform random numbers.
        num_visible: V.

    Returns:
        ids_keep (B, V) int32 in the order of the noise, mask (B, P) float32 with 1 for hidden patches, ids_restore (B, P).
    """
    order = jnp.argsort(noise, axis=1)
    ids_restore = jnp.argsort(order, axis=1).astype(jnp.int32)
    mask = (ids_restore >= num_visible).astype(jnp.float32)
    return order[:, :num_visible].astype(jnp.int32), mask, ids_restore


def reconstruction_losses(pred: Array, target: Array, mask: Array, valid: Array | None = None) -> tuple[Array, Array]:
    """Squared error summed over the L values of a patch, averaged over the hidden and over the visible patches.

    Args:
        pred, target: (B, P, L).
        mask: (B, P), 1 for hidden patches.
        valid: (B, P, L), 1 where the target holds data and 0 elsewhere; None counts every value. What lacks data counts
            neither in the sum nor in the average: a loss is L times the mean error of its valid values.

    Returns:
        loss over hidden patches, loss over visible patches: scalars; 0 where no value is valid.
    """
    error = jnp.square(pred - target)
    if valid is None:
        error, count = jnp.sum(error, axis=-1), jnp.ones_like(mask)
    else:
        error, count = jnp.sum(error * valid, axis=-1), jnp.mean(valid, axis=-1)

    def over(chosen: Array) -> Array:
        return jnp.sum(error * chosen) / jnp.maximum(jnp.sum(count * chosen), 1e-6)

    return over(mask), over(1 - mask)


def normalise_patches(patches: Array, valid: Array | None = None, epsilon: float = 1e-6) -> Array:
    """Each patch by the mean and deviation of its own L values (He et al. 2022, section 4.1): (B, P, L) -> (B, P, L).

    Args:
        valid: (B, P, L), 1 for the values that mean and deviation are taken over; None takes all.
    """
    if valid is None:
        mean = jnp.mean(patches, axis=-1, keepdims=True)
        return (patches - mean) / jnp.sqrt(jnp.var(patches, axis=-1, keepdims=True) + epsilon)
    count = jnp.maximum(jnp.sum(valid, axis=-1, keepdims=True), 1)
    mean = jnp.sum(patches * valid, axis=-1, keepdims=True) / count
    variance = jnp.sum(jnp.square(patches - mean) * valid, axis=-1, keepdims=True) / count
    return (patches - mean) / jnp.sqrt(variance + epsilon)


class Decoder(nn.Module):
    """Fills in the hidden patches from the visible tokens: (B, 5 + V, D) -> (B, P, L), its last tokens (B, P, M), and what the
    blocks gave."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self, tokens: Array, ids_restore: Array, deterministic: bool = True, router_noise: Array | float = 1.0
    ) -> tuple[Array, Array, StackOutput]:
        cfg = self.config
        dtype = jnp.dtype(cfg.dtype)
        x = linear(tokens, LinearParams(cfg.width, cfg.decoder_width, name="embed")(), dtype)
        mask_token = param(self, "mask_token", TOKEN_INIT, (1, 1, cfg.decoder_width)).astype(dtype)
        position = param(self, "pos_embed", TOKEN_INIT, (1, cfg.num_patches, cfg.decoder_width))
        prefix, visible = x[:, :NUM_PREFIX_TOKENS], x[:, NUM_PREFIX_TOKENS:]
        b, v, m = visible.shape
        hidden = jnp.broadcast_to(mask_token, (b, cfg.num_patches - v, m))
        shuffled = jnp.concatenate([visible, hidden], axis=1)
        patches = jnp.take_along_axis(shuffled, ids_restore[:, :, None], axis=1) + position.astype(dtype)
        x = jnp.concatenate([prefix, patches], axis=1)
        layers = [(cfg.decoder_experts, cfg.decoder_width // 2)] * cfg.decoder_depth
        heads = cfg.decoder_heads, cfg.decoder_groups
        out = run_blocks(self, cfg, layers, cfg.decoder_depth, heads, x, deterministic, router_noise)
        x = layer_norm(out.x[:, NUM_PREFIX_TOKENS:], *LayerNormParams(cfg.decoder_width, name="norm")())
        values = cfg.in_channels * cfg.patch_size**2
        pred = linear(x, LinearParams(cfg.decoder_width, values, name="pred")(), dtype)
        return pred.astype(jnp.float32), x.astype(jnp.float32), out


class MAE(nn.Module):
    """The masked autoencoder. Parameters: {"encoder": ..., "decoder": ...}."""

    config: ModelConfig

    def setup(self):
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)

    def __call__(
        self,
        images: Array,
        week: Array,
        hour: Array,
        lat: Array,
        lon: Array,
        mask_noise: Array | None = None,
        deterministic: bool = True,
        router_noise: Array | float = 1.0,
        num_decoded: int | None = None,
    ) -> MAEOutput:
        """Hides patches, encodes the rest, predicts all.

        Args:
            images, week, hour, lat, lon, deterministic, router_noise: as for `Encoder`.
            num_decoded: predict the patches of the first so many images alone; None for all.
            mask_noise: (B, P): the patches with the smallest int(P * (1 - mask_ratio)) numbers stay visible. None draws
                uniform numbers from the rng stream "mask".
        """
        cfg = self.config
        if mask_noise is None:
            mask_noise = jax.random.uniform(self.make_rng("mask"), (images.shape[0], cfg.num_patches))
        ids_keep, mask, ids_restore = random_masking(mask_noise, cfg.num_visible)
        encoded = self.encoder(images, week, hour, lat, lon, ids_keep, deterministic, router_noise)
        painted = slice(num_decoded)
        pred, tokens, decoded = self.decoder(encoded.normed[painted], ids_restore[painted], deterministic, router_noise)
        balance = encoded.balance_loss + (decoded.balance_loss if cfg.decoder_balance else 0.0)
        z_loss = encoded.router_z_loss + decoded.router_z_loss
        return MAEOutput(pred, mask, ids_restore, balance, encoded, decoded.gates, z_loss, tokens)
