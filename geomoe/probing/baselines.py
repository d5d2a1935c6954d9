"""Features without training, which an encoder should beat."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def band_statistics(images: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Compute mean and standard deviation of each band over the valid pixels: (N, H, W, C), (N, H, W) -> (N, 2 * C).

    An image without a valid pixel gives zeros.
    """
    weight = valid[..., None].astype(np.float64)
    count = np.maximum(weight.sum(axis=(1, 2)), 1)
    mean = (images * weight).sum(axis=(1, 2)) / count
    variance = (np.square(images - mean[:, None, None]) * weight).sum(axis=(1, 2)) / count
    return np.concatenate([mean, np.sqrt(variance)], axis=1).astype(np.float32)


class RandomConvFeatures:
    """Random convolutional features (Rolf et al. 2021, "A generalizable and accessible approach ...", MOSAIKS).

    Filters are patches of the data, whitened; an image's feature is the mean of the rectified response of each filter.

    Args:
        images: (N, H, W, C) z-scored: the training images that patches are drawn from.
        num_filters: K.
        size: of a filter, in pixels.
        epsilon: added to the variances in whitening (ZCA), relative to their mean.
        seed: of the patches drawn.
    """

    def __init__(self, images: np.ndarray, num_filters: int = 256, size: int = 4, epsilon: float = 1e-3, seed: int = 0):
        n, height, width, channels = images.shape
        if n == 0 or min(height, width) < size:
            raise ValueError(f"images {images.shape} hold no patch of {size} x {size}")
        rng = np.random.default_rng(seed)
        count = max(20 * size * size * channels, num_filters)  # enough for the covariance
        rows, tops, lefts = (rng.integers(0, top, count) for top in (n, height - size + 1, width - size + 1))
        patches = np.stack([images[i, y : y + size, x : x + size].reshape(-1) for i, y, x in zip(rows, tops, lefts)])
        patches = patches.astype(np.float64)
        mean = patches.mean(axis=0)
        values, axes = np.linalg.eigh(np.cov(patches - mean, rowvar=False))
        whiten = (axes / np.sqrt(np.maximum(values, 0) + epsilon * values.mean())) @ axes.T
        whitened = (patches[:num_filters] - mean) @ whiten
        whitened /= np.linalg.norm(whitened, axis=1, keepdims=True) + 1e-9
        kernels = whitened @ whiten  # the response to a whitened patch, folded into the kernel
        self._kernels = jnp.asarray(kernels.T.reshape(size, size, channels, num_filters), jnp.float32)
        self._bias = jnp.asarray(-mean @ kernels.T, jnp.float32)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Compute features: (N, H, W, C) z-scored -> (N, K) float32."""
        return np.asarray(_rectified_mean(jnp.asarray(images, jnp.float32), self._kernels, self._bias))


@jax.jit
def _rectified_mean(images: Array, kernels: Array, bias: Array) -> Array:
    response = jax.lax.conv_general_dilated(images, kernels, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jnp.mean(jax.nn.relu(response + bias), axis=(1, 2))
