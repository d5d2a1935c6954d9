"""A pretrained encoder in its user's hands: load it, embed images."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from geomoe import landsat, metadata
from geomoe.models import Encoder, ModelConfig, TokenOutput, count_params
from geomoe.models.config import NUM_METADATA_TOKENS, NUM_PREFIX_TOKENS

POOLS = ("mean", "patch_mean", "cls", "tokens")


def load(path: str | os.PathLike, checkpoint: str | int = "last", **options: Any) -> PretrainedEncoder:
    """Loads a pretrained encoder.

    Args:
        path: a run directory of `train.py`, or published PyTorch weights (`.pth`).
        checkpoint: of a run directory: "last", "best" (by validation loss), or a step.
        **options: for weights of unknown sizes, as for `geomoe.interop.load_torch_checkpoint`.

    Raises:
        FileNotFoundError: there is nothing at `path`, or no such checkpoint.
        ValueError: the file is no geo-moe-mae checkpoint.
    """
    path = os.fspath(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"nothing at {path}; pass a run directory of train.py or a published .pth file")
    if os.path.isdir(path):
        from geomoe.training.checkpoints import load_params, read_run

        run = read_run(path)
        step, params = load_params(path, checkpoint)
        config = ModelConfig.from_dict(run["model"])
        return PretrainedEncoder(config, params, run["statistics"], f"{path} step {step}")
    from geomoe.interop import load_torch_checkpoint

    config, params = load_torch_checkpoint(path, **options)
    published = landsat.STATISTICS["bigearthnet_landsat"]
    statistics = {**{k: list(v) for k, v in published.items()}, "source": "published:bigearthnet_landsat"}
    return PretrainedEncoder(config, params, statistics, path)


@functools.partial(jax.jit, static_argnums=0)
def _apply(config: ModelConfig, params: Any, images: jax.Array, pairs: tuple[jax.Array, ...]) -> TokenOutput:
    return Encoder(config).apply({"params": params}, images, *pairs)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _embed(config: ModelConfig, pool: str, params: Any, images: jax.Array, pairs: tuple[jax.Array, ...]) -> jax.Array:
    return pool_tokens(Encoder(config).apply({"params": params}, images, *pairs).tokens, pool)


def pool_tokens(tokens: jax.Array, pool: str) -> jax.Array:
    """Tokens (N, T, D) to embeddings: "mean" over all, "patch_mean", "cls" -> (N, D); "tokens" -> (N, T, D).

    Raises:
        ValueError: `pool` is none of these.
    """
    if pool == "mean":
        return tokens.mean(axis=1)
    if pool == "patch_mean":
        return tokens[:, NUM_PREFIX_TOKENS:].mean(axis=1)
    if pool == "cls":
        return tokens[:, NUM_METADATA_TOKENS]
    if pool == "tokens":
        return tokens
    raise ValueError(f"pool = {pool!r} is not one of {', '.join(POOLS)}")


class PretrainedEncoder:
    """A frozen encoder with the statistics of its training data.

    Attributes:
        config: the architecture.
        params: the whole autoencoder's parameters, {"encoder", "decoder"}.
        statistics: {"mean", "std", "source"}, in digital numbers, of the z-score that the encoder expects.
        source: where it was loaded from.
    """

    def __init__(self, config: ModelConfig, params: Mapping[str, Any], statistics: Mapping[str, Any], source: str):
        self.config = config
        self.params = dict(params)
        self.statistics = dict(statistics)
        self.source = source
        self._encoder_params = jax.device_put(self.params["encoder"])

    @property
    def num_params(self) -> int:
        """Number of parameters of the encoder."""
        return count_params(self.params["encoder"])

    @property
    def embed_dim(self) -> int:
        """Width D of an embedding."""
        return self.config.width

    def __repr__(self) -> str:
        return f"PretrainedEncoder({self.source}: {self.num_params:,} parameters, embeddings of {self.embed_dim})"

    def apply_tokens(self, images: jax.Array, week: jax.Array, hour: jax.Array, lat: jax.Array, lon: jax.Array) -> TokenOutput:
        """The encoder itself.

        Args:
            images: (N, S, S, C) z-scored.
            week, hour, lat, lon: (N, 2) [sin, cos] pairs, [0, 0] where missing.

        Returns:
            `TokenOutput`: .tokens (N, 5 + P, D) before the last norm, .normed, .balance_loss, .gates.
        """
        return _apply(self.config, self._encoder_params, jnp.asarray(images), tuple(map(jnp.asarray, (week, hour, lat, lon))))

    def embed(
        self,
        images: np.ndarray,
        lat: Any = None,
        lon: Any = None,
        time: Any = None,
        pool: str = "mean",
        normalized: bool = False,
        batch_size: int = 256,
    ) -> np.ndarray:
        """Embeds images.

        Args:
            images: (N, S, S, C), Collection 2 digital numbers, or z-scored values with `normalized=True`. S is
                `config.img_size`.
            lat, lon: (N,) degrees, WGS 84; None, or NaN for a single image, where unknown.
            time: (N,) datetime64 in UTC; None, or NaT for a single image, where unknown.
            pool: "mean" over all tokens (the published embedding), "patch_mean", "cls" or "tokens".
            batch_size: images at once.

        Returns:
            (N, D) float32, or (N, 5 + P, D) for "tokens".

        Raises:
            ValueError: a shape, type or value is wrong; the message says which.
        """
        pool_tokens(jnp.zeros((1, NUM_PREFIX_TOKENS + 1, 1)), pool)
        images = np.asarray(images)
        cfg = self.config
        wanted = (cfg.img_size, cfg.img_size, cfg.in_channels)
        if images.ndim != 4 or images.shape[1:] != wanted:
            raise ValueError(f"images must be (N, {', '.join(map(str, wanted))}), got {images.shape}")
        if images.dtype.kind not in "uif":
            raise ValueError(f"images must be numbers, got dtype {images.dtype}")
        if batch_size < 1:
            raise ValueError(f"batch_size = {batch_size} must be at least 1")
        count = len(images)
        pairs = metadata.encode(*self._places(lat, lon, time, count))
        out = []
        for start in range(0, count, batch_size):
            part = slice(start, start + batch_size)
            batch = images[part] if normalized else self._normalise(images[part])
            out.append(self.embed_batch(batch, [pair[part] for pair in pairs], pool, min(batch_size, count)))
        if not out:
            return np.zeros((0, self.embed_dim) if pool != "tokens" else (0, cfg.num_tokens, self.embed_dim), np.float32)
        return np.concatenate(out)

    def _places(self, lat: Any, lon: Any, time: Any, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        def column(name: str, values: Any, dtype: str, missing: Any) -> np.ndarray:
            if values is None:
                return np.full(count, missing, dtype)
            values = np.array([missing if v is None else v for v in np.atleast_1d(np.asarray(values, object))], dtype)
            if values.shape != (count,):
                raise ValueError(f"{name} must be ({count},), one for each image, got {values.shape}")
            return values

        return (
            column("lat", lat, "float64", np.nan),
            column("lon", lon, "float64", np.nan),
            column("time", time, "datetime64[s]", np.datetime64("NaT")),
        )

    def embed_batch(self, images: np.ndarray, pairs: Sequence[np.ndarray], pool: str, size: int) -> np.ndarray:
        """One batch as the model takes it, padded to `size` so that a single compiled program serves all.

        Args:
            images: (n, S, S, C) z-scored, n <= size.
            pairs: week, hour, lat, lon, (n, 2) each.
            pool: as for `embed`.
            size: batch size of the compiled program.
        """
        pad = size - len(images)
        padded = [np.pad(np.asarray(x, np.float32), [(0, pad)] + [(0, 0)] * (x.ndim - 1)) for x in (images, *pairs)]
        z = _embed(self.config, pool, self._encoder_params, padded[0], tuple(padded[1:]))
        return np.asarray(z)[: len(images)]

    def random_weights(self, seed: int = 0) -> PretrainedEncoder:
        """The same architecture and statistics with fresh weights: a baseline."""
        from geomoe.models import MAE
        from geomoe.training.state import init_params

        return PretrainedEncoder(
            self.config, init_params(MAE(self.config), seed), self.statistics, f"random weights, seed {seed}"
        )

    def _normalise(self, images: np.ndarray) -> np.ndarray:
        images = images.astype(np.float32)
        if not np.isfinite(images).all():
            raise ValueError("images hold NaN or infinite values; give pixels without data the digital number 0")
        return (images - np.asarray(self.statistics["mean"], np.float32)) / np.asarray(self.statistics["std"], np.float32)
