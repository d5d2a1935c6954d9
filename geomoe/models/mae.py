"""The masked autoencoder: random masking, encoder, decoder (He et al. 2022, arXiv 2111.06377).

Axes: B images, P patches, V visible patches, N tokens, D encoder width, M decoder width, L = C * patch_size**2 values a patch.
"""

from typing import Any

import flax.linen as nn
import flax.struct
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from geomoe.models.block import Block, StackOutput, Stochastic, run_blocks
from geomoe.models.config import NUM_PREFIX_TOKENS, ModelConfig
from geomoe.models.encoder import Encoder, TokenOutput, patches_present
from geomoe.models.layers import TOKEN_INIT, LayerNorm, Linear, param


@flax.struct.dataclass
class MAEOutput:
    """What a pass of the masked autoencoder gives; B' images were decoded, the first ones: B unless fewer were asked for."""

    pred: Array  # (B', P, L) float32, the predicted patches in the order of `patchify`
    mask: Array  # (B, P) float32, 1 where a patch was hidden from the encoder
    ids_restore: Array  # (B, P) int32, where each patch stands in the shuffled order
    balance_loss: Array  # scalar, the balance losses that count
    encoded: TokenOutput  # of the visible patches
    decoder_gates: list[Array]  # one (B', 5 + P, E) array a decoder block
    router_z_loss: Array  # scalar, sum of the router z-losses of encoder and decoder
    decoder_tokens: Array  # (B', P, M) float32, what `pred` is a linear function of


def random_masking(noise: Array, num_visible: int) -> tuple[Array, Array, Array]:
    """Keep the patches with the smallest noise.

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


def uniform_by_position(key: Array, count: int, width: int, positions: Array | None = None) -> Array:
    """Uniform numbers (B, width), each row's by its position in the global batch; `positions` None is 0 to B - 1."""
    positions = jnp.arange(count) if positions is None else positions
    return jax.vmap(lambda position: jax.random.uniform(jax.random.fold_in(key, position), (width,)))(positions)


class Decoder(nn.Module):
    """Reconstructs the hidden patches from the visible tokens; `config` fixes its shape."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self, tokens: Array, ids_restore: Array, stochastic: Stochastic | None = None, present: Array | None = None
    ) -> tuple[Array, Array, StackOutput]:
        """Decode.

        Args:
            tokens: (B, 5 + V, D), the encoder's normed tokens.
            ids_restore: (B, P) int32, where each patch stands in the shuffled order.
            stochastic: as for `Encoder`.
            present: (B, 5 + V) bool, of the visible tokens those that hold data; None is all.

        Returns:
            The patches (B, P, L), the last tokens (B, P, M) that they are linear in, float32 both, and what the blocks gave.
        """
        cfg = self.config
        dtype = jnp.dtype(cfg.dtype)
        x = Linear(cfg.width, cfg.decoder_width, dtype, name="embed")(tokens)
        mask_token = param(self, "mask_token", TOKEN_INIT, (1, 1, cfg.decoder_width)).astype(dtype)
        position = param(self, "pos_embed", TOKEN_INIT, (1, cfg.num_patches, cfg.decoder_width))
        prefix, visible = x[:, :NUM_PREFIX_TOKENS], x[:, NUM_PREFIX_TOKENS:]
        b, v, m = visible.shape
        hidden = jnp.broadcast_to(mask_token, (b, cfg.num_patches - v, m))
        shuffled = jnp.concatenate([visible, hidden], axis=1)
        patches = jnp.take_along_axis(shuffled, ids_restore[:, :, None], axis=1) + position.astype(dtype)
        x = jnp.concatenate([prefix, patches], axis=1)
        if present is not None:  # a hidden patch's token holds nothing but its place
            whole = jnp.pad(present[:, NUM_PREFIX_TOKENS:], ((0, 0), (0, cfg.num_patches - v)), constant_values=True)
            whole = jnp.take_along_axis(whole, ids_restore, axis=1)
            present = jnp.pad(whole, ((0, 0), (NUM_PREFIX_TOKENS, 0)), constant_values=True)
        shape = cfg, m, cfg.decoder_heads, cfg.decoder_groups, cfg.decoder_experts, m // 2
        blocks = [Block(*shape, name=f"block_{i:02d}") for i in range(cfg.decoder_depth)]
        out = run_blocks(self, blocks, x, stochastic, present)
        x = LayerNorm(m, name="norm")(out.x[:, NUM_PREFIX_TOKENS:])
        pred = Linear(m, cfg.in_channels * cfg.patch_size**2, dtype, name="pred")(x)
        return pred.astype(jnp.float32), x.astype(jnp.float32), out


class MAE(nn.Module):
    """The masked autoencoder. Parameters: {"encoder": ..., "decoder": ...}."""

    config: ModelConfig

    def setup(self) -> None:
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
        stochastic: Stochastic | None = None,
        num_decoded: int | None = None,
        valid: Array | None = None,
    ) -> MAEOutput:
        """Hide patches, encode the rest, reconstruct all.

        Args:
            images, week, hour, lat, lon, stochastic, valid: as for `Encoder`. Patches without data are hidden before others.
            num_decoded: reconstruct the patches of the first so many images alone; None for all.
            mask_noise: (B, P): the patches with the smallest int(P * (1 - mask_ratio)) numbers stay visible. None draws
                uniform numbers from the rng stream "mask".
        """
        cfg = self.config
        if mask_noise is None:
            positions = None if stochastic is None else stochastic.positions
            mask_noise = uniform_by_position(self.make_rng("mask"), len(images), cfg.num_patches, positions)
        if valid is not None:
            mask_noise = jnp.where(patches_present(valid, cfg.patch_size), mask_noise, mask_noise + 1e6)
        ids_keep, mask, ids_restore = random_masking(mask_noise, cfg.num_visible)
        encoded = self.encoder(images, week, hour, lat, lon, ids_keep, stochastic, valid)
        if stochastic is not None and stochastic.positions is not None:
            stochastic = stochastic._replace(positions=stochastic.positions[:num_decoded])
        present = None if encoded.present is None else encoded.present[:num_decoded]
        pred, tokens, decoded = self.decoder(encoded.normed[:num_decoded], ids_restore[:num_decoded], stochastic, present)
        balance = encoded.balance_loss + (decoded.balance_loss if cfg.decoder_balance else 0.0)
        z_loss = encoded.router_z_loss + decoded.router_z_loss
        return MAEOutput(pred, mask, ids_restore, balance, encoded, decoded.gates, z_loss, tokens)


def autoencode(model: MAE, params: Any, *inputs: Array, rngs: dict[str, Array] | None = None, **options: Any) -> MAEOutput:
    """Apply a masked autoencoder with its parameters, {"encoder", "decoder"}.

    Args:
        *inputs, **options: images, week, hour, lat, lon and so on, as for `MAE`.
        rngs: keys of the streams "mask", "router" and "dropout".
    """
    out: Any = model.apply({"params": params}, *inputs, rngs=rngs, **options)
    return out


def param_shapes(model: MAE) -> Any:
    """The tree of a model's parameters as shapes (`jax.ShapeDtypeStruct`), without memory or time for their values."""
    cfg = model.config
    shapes = [(1, cfg.img_size, cfg.img_size, cfg.in_channels), *[(1, 2)] * 4, (1, cfg.num_patches)]
    *inputs, noise = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
    init = lambda key, *inputs, noise: model.init({"params": key}, *inputs, mask_noise=noise)["params"]
    return jax.eval_shape(init, jax.random.key(0), *inputs, noise=noise)


def check_params(model: MAE, params: dict[str, Any]) -> None:
    """Raise ValueError, naming the parameter, where one is absent, unknown, of another shape, NaN or infinite.

    Args:
        params: {"encoder", "decoder"}, or the encoder's alone, of numpy or jax arrays.
    """
    flatten = lambda tree: {"/".join(path): leaf for path, leaf in flax.traverse_util.flatten_dict(tree).items()}
    found, expected = flatten(params), flatten({part: shapes for part, shapes in param_shapes(model).items() if part in params})
    for name in [*expected, *found]:
        if name not in found or name not in expected:
            raise ValueError(f"the parameter {name} is {'unknown' if name in found else 'absent'}")
        if found[name].shape != expected[name].shape:
            raise ValueError(f"{name} has the shape {found[name].shape}; a model of this size needs {expected[name].shape}")
        if not np.isfinite(found[name]).all():
            raise ValueError(f"{name} holds NaN or infinite values: the weights are damaged, or their training diverged")
