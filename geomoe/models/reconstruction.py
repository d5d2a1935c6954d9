"""What the autoencoder reconstructs: originals, masks and reconstructions of images."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from geomoe.metadata import FIELDS
from geomoe.models.encoder import patchify, unpatchify
from geomoe.models.mae import MAE, autoencode


class Reconstruction(NamedTuple):
    """Normalised images, (N, S, S, C) float32 each, but for `mask` (N, S, S): 1 where a pixel was hidden."""

    original: np.ndarray
    reconstruction: np.ndarray
    mask: np.ndarray

    @property
    def masked(self) -> np.ndarray:
        """The originals with 0 (the band means) where the encoder saw nothing."""
        return self.original * (1 - self.mask[..., None])

    @property
    def error(self) -> np.ndarray:
        """Root mean square error over the bands: (N, S, S)."""
        return np.sqrt(np.mean(np.square(self.reconstruction - self.original), axis=-1))


def patch_moments(patches: jax.Array, valid: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of the L values of each patch, (B, P, L) -> (B, P, 1) each; of those alone where `valid` is 1."""
    if valid is None:
        return jnp.mean(patches, axis=-1, keepdims=True), jnp.var(patches, axis=-1, keepdims=True)
    count = jnp.maximum(jnp.sum(valid, axis=-1, keepdims=True), 1)
    mean = jnp.sum(patches * valid, axis=-1, keepdims=True) / count
    return mean, jnp.sum(jnp.square(patches - mean) * valid, axis=-1, keepdims=True) / count


@functools.partial(jax.jit, static_argnums=0)
def _forward(
    model: MAE, params: Any, images: jax.Array, metadata: list[jax.Array], noise: jax.Array, valid: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    out = autoencode(model, params, images, *metadata, mask_noise=noise, valid=valid)
    return out.pred, out.mask


def reconstruct(
    model: MAE,
    params: Any,
    batch: Mapping[str, np.ndarray],
    seed: int = 0,
    normalised_targets: bool = False,
    valid: np.ndarray | None = None,
) -> Reconstruction:
    """Hide patches of images and reconstruct them.

    Args:
        model, params: the whole autoencoder.
        batch: image (N, S, S, C) normalised; week, hour, lat, lon (N, 2).
        seed: of the mask.
        normalised_targets: whether the model was trained on patches normalised each by itself; its predictions are then put
            back on the original patch's own mean and standard deviation, over its valid pixels, which it does not know.
        valid: (N, S, S) bool, the pixels that hold data; None is all.
    """
    cfg = model.config
    noise = jax.random.uniform(jax.random.key(seed), (batch["image"].shape[0], cfg.num_patches))
    images = jnp.asarray(batch["image"])
    pred, mask = _forward(model, params, images, [jnp.asarray(batch[name]) for name in FIELDS], noise, valid)
    if normalised_targets:
        target = patchify(images, cfg.patch_size)
        holds = None
        if valid is not None:
            holds = patchify(jnp.broadcast_to(jnp.asarray(valid, images.dtype)[..., None], images.shape), cfg.patch_size)
        mean, variance = patch_moments(target, holds)
        pred = pred * jnp.sqrt(variance) + mean
    values = cfg.in_channels * cfg.patch_size**2
    pixels = unpatchify(jnp.repeat(mask[:, :, None], values, axis=2), cfg.patch_size, cfg.img_size)[..., 0]
    decoded = unpatchify(pred, cfg.patch_size, cfg.img_size)
    return Reconstruction(np.asarray(images), np.asarray(decoded), np.asarray(pixels))
