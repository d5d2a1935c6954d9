"""What the autoencoder paints: originals, masks, reconstructions, and pictures of them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from geomoe import landsat
from geomoe.metadata import PAIRS
from geomoe.models import MAE, patchify, unpatchify

TRUE_COLOUR = (3, 2, 1)  # red, green, blue
FALSE_COLOUR = (4, 3, 2)  # near infrared, red, green: vegetation shows red


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


@functools.partial(jax.jit, static_argnums=0)
def _forward(
    model: MAE, params: Any, images: jax.Array, pairs: list[jax.Array], noise: jax.Array
) -> tuple[jax.Array, jax.Array]:
    out = model.apply({"params": params}, images, *pairs, mask_noise=noise)
    return out.pred, out.mask


def reconstruct(
    model: MAE, params: Any, batch: Mapping[str, np.ndarray], seed: int = 0, normalised_targets: bool = False
) -> Reconstruction:
    """Hides patches of images and paints them back.

    Args:
        model, params: the whole autoencoder.
        batch: image (N, S, S, C) normalised; week, hour, lat, lon (N, 2).
        seed: of the mask.
        normalised_targets: whether the model was trained on patches normalised each by itself; its predictions are then put
            back on the original patch's own mean and deviation, which a picture needs and the model does not know.
    """
    cfg = model.config
    noise = jax.random.uniform(jax.random.key(seed), (batch["image"].shape[0], cfg.num_patches))
    images = jnp.asarray(batch["image"])
    pred, mask = _forward(model, params, images, [jnp.asarray(batch[name]) for name in PAIRS], noise)
    if normalised_targets:
        target = patchify(images, cfg.patch_size)
        pred = pred * jnp.std(target, axis=-1, keepdims=True) + jnp.mean(target, axis=-1, keepdims=True)
    values = cfg.in_channels * cfg.patch_size**2
    pixels = unpatchify(jnp.repeat(mask[:, :, None], values, axis=2), cfg.patch_size, cfg.img_size)[..., 0]
    painted = unpatchify(pred, cfg.patch_size, cfg.img_size)
    return Reconstruction(np.asarray(images), np.asarray(painted), np.asarray(pixels))


def composite(images: np.ndarray, statistics: Mapping[str, Any], bands: tuple[int, int, int] = TRUE_COLOUR) -> np.ndarray:
    """Normalised images to pictures: (N, S, S, C) -> (N, S, S, 3) in [0, 1].

    Reflectance 0 to 0.3 (true colour) or 0 to 0.5 (with near infrared) fills the range, the same for every image, with a
    gamma of 1.6 for the dark of land and water.
    """
    dn = images[..., list(bands)] * np.take(statistics["std"], bands) + np.take(statistics["mean"], bands)
    top = 0.5 if 4 in bands else 0.3
    reflectance = np.where(dn <= 0.5, 0.0, dn * landsat.REFLECTANCE_SCALE + landsat.REFLECTANCE_OFFSET)
    return np.clip(reflectance / top, 0, 1) ** (1 / 1.6)


def side_by_side(
    result: Reconstruction, statistics: Mapping[str, Any], bands: tuple[int, int, int] = TRUE_COLOUR
) -> np.ndarray:
    """Original, masked and reconstruction next to each other: (N, S, 3 * S + 4, 3) in [0, 1]."""
    original = composite(result.original, statistics, bands)
    masked = np.where(result.mask[..., None] > 0, 0.5, original)
    gap = np.ones((*original.shape[:2], 2, 3))
    return np.concatenate([original, gap, masked, gap, composite(result.reconstruction, statistics, bands)], axis=2).astype(
        np.float32
    )
