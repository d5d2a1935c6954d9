"""A pretrained encoder in its user's hands: load it, embed images, see what it sees."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from geomoe import compilation, landsat, metadata
from geomoe.data import preprocess
from geomoe.models import Encoder, ModelConfig, TokenOutput, count_params
from geomoe.models.pooling import check_pool, pool_tokens, pool_width

if TYPE_CHECKING:
    from geomoe.analysis import Reconstruction, Routing


def load(path: str | os.PathLike, checkpoint: str | int = "last", **options: Any) -> PretrainedEncoder:
    """Loads a pretrained encoder.

    Args:
        path: a run directory of `train.py`, or published PyTorch weights (`.pth`).
        checkpoint: of a run directory: "last", "best" (by validation loss), or a step.
        **options: for weights of unknown sizes, as for `geomoe.weights.load_torch_checkpoint`.

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
        params.pop("heads", None)  # of the objectives, which end with pretraining
        config = ModelConfig.from_dict(run["model"])
        normalised_targets = run["config"]["loss"]["normalise_targets"]
        return PretrainedEncoder(config, params, run["statistics"], f"{path} step {step}", normalised_targets)
    from geomoe.weights import load_torch_checkpoint

    config, params = load_torch_checkpoint(path, **options)
    published = landsat.STATISTICS["bigearthnet_landsat"]
    statistics = {**{k: list(v) for k, v in published.items()}, "source": "published:bigearthnet_landsat"}
    return PretrainedEncoder(config, params, statistics, path)


@functools.lru_cache(maxsize=1)
def _local_mesh() -> Mesh:
    return Mesh(np.array(jax.local_devices()), ("images",))


@functools.partial(compilation.jit, static_argnums=0)
def _apply(config: ModelConfig, params: Any, images: jax.Array, pairs: tuple[jax.Array, ...]) -> TokenOutput:
    return Encoder(config).apply({"params": params}, images, *pairs)


@functools.partial(compilation.jit, static_argnums=(0, 1))
def _embed(config: ModelConfig, pool: str, params: Any, images: jax.Array, pairs: tuple[jax.Array, ...]) -> jax.Array:
    def some(part: tuple[jax.Array, ...]) -> jax.Array:
        return pool_tokens(Encoder(config).apply({"params": params}, *part), part[1:], config, pool)

    size = compilation.images_at_once(len(images), jax.local_device_count())
    if len(images) == size:
        return some((images, *pairs))
    z = jax.lax.map(some, tuple(x.reshape(-1, size, *x.shape[1:]) for x in (images, *pairs)))
    return z.reshape(-1, *z.shape[2:])


class PretrainedEncoder:
    """A frozen encoder with the statistics of its training data.

    Attributes:
        config: the architecture.
        params: the whole autoencoder's parameters, {"encoder", "decoder"}.
        statistics: {"mean", "std", "source"}, in Collection 2 digital numbers, of the z-score that the encoder expects.
        source: where it was loaded from.
        normalised_targets: whether it learned to paint patches that were normalised each by itself.
        input_record: what the last call of `embed`, `reconstruct` or `routing` made of its images: unit, bands, resize mode and the
            statistics of the z-score; None before the first.
    """

    def __init__(
        self,
        config: ModelConfig,
        params: Mapping[str, Any],
        statistics: Mapping[str, Any],
        source: str,
        normalised_targets: bool = False,
    ):
        self.config = config
        self.params = dict(params)
        self.statistics = dict(statistics)
        self.source = source
        self.normalised_targets = normalised_targets
        self.input_record: dict[str, Any] | None = None
        self._encoder_params = jax.device_put(self.params["encoder"], NamedSharding(_local_mesh(), PartitionSpec()))

    @property
    def num_params(self) -> int:
        """Number of parameters of the encoder."""
        return count_params(self.params["encoder"])

    @property
    def embed_dim(self) -> int:
        """Width D of an embedding of the pool "mean"."""
        return self.config.width

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the encoder's weights, in hex: tells two runs in the same folder apart."""
        digest = hashlib.sha256()
        for leaf in jax.tree.leaves(self.params["encoder"]):
            digest.update(np.ascontiguousarray(leaf).tobytes())
        return digest.hexdigest()

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands that it takes, in their order."""
        count = self.config.in_channels
        return landsat.BANDS if count == len(landsat.BANDS) else tuple(f"band {i + 1}" for i in range(count))

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
        images: np.ndarray | Sequence[np.ndarray],
        lat: Any = None,
        lon: Any = None,
        time: Any = None,
        pool: str = "mean",
        normalized: bool = False,
        batch_size: int = 256,
        **given: Any,
    ) -> np.ndarray:
        """Embeds images, on all local devices.

        Args:
            images: (N, H, W, C), or a sequence of (H, W, C) images of several sizes where `resize_mode` is given. Collection 2 digital
                numbers, unless `unit` says otherwise; with `normalized=True` z-scored images of the model's size and bands.
            lat, lon: (N,) degrees, WGS 84; None, or None or NaN for a single image, where unknown.
            time: (N,) datetime64 in UTC; None, or None or NaT for a single image, where unknown.
            pool: "mean" over all tokens (the published embedding), "unit_mean", "patch_mean", "patch_std", "cls", "stages",
                "layer_mean", "metadata", several of them joined by "+", or "tokens"; see `geomoe.models.pooling.pool_tokens`.
            normalized: whether the images are z-scored already, so that nothing is done to them.
            batch_size: images at once, over all devices.
            **given: what the images are, as for `geomoe.data.preprocess.InputSpec`: unit, sensor, bands, fill_missing, resize_mode,
                sun_elevation, uint8_range, statistics.

        Returns:
            (N, width) float32, the width being D for most pools (`geomoe.models.pooling.pool_width`), or (N, 5 + P, D) for "tokens".

        Raises:
            ValueError: a shape, type, unit or value is wrong; the message says which.

        Warns:
            geomoe.data.preprocess.StatisticsWarning: a band's mean is 3 deviations or more from that of the training data.
        """
        check_pool(pool)
        if batch_size < 1:
            raise ValueError(f"batch_size = {batch_size} must be at least 1")
        out = []
        for batch, pairs, size in self._batches(images, lat, lon, time, normalized, batch_size, given):
            out.append(self.embed_batch(batch, pairs, pool, size))
        if not out:
            width = pool_width(self.config, pool)
            return np.zeros((0, width) if pool != "tokens" else (0, self.config.num_tokens, width), np.float32)
        return np.concatenate(out)

    def reconstruct(
        self, images: Any, lat: Any = None, lon: Any = None, time: Any = None, seed: int = 0, batch_size: int = 64, **given: Any
    ) -> Reconstruction:
        """Hides patches of images and paints them back: original, masked, reconstruction and error.

        Args:
            images, lat, lon, time, **given: as for `embed` (and `normalized`).
            seed: of the mask, which hides `config.mask_ratio` of the patches of each image.

        Raises:
            ValueError: as for `embed`, or the checkpoint holds an encoder alone.
        """
        from geomoe.models import MAE
        from geomoe.models.reconstruction import Reconstruction, reconstruct

        if "decoder" not in self.params:
            raise ValueError(f"{self.source} holds no decoder, so there is nothing to paint with")
        parts = []
        normalized = given.pop("normalized", False)
        for i, (batch, pairs, _) in enumerate(self._batches(images, lat, lon, time, normalized, batch_size, given)):
            fields = {"image": batch, **dict(zip(metadata.FIELDS, pairs))}
            parts.append(reconstruct(MAE(self.config), self.params, fields, seed + i, self.normalised_targets))
        return Reconstruction(*(np.concatenate(field) for field in zip(*parts)))

    def routing(
        self, images: Any, lat: Any = None, lon: Any = None, time: Any = None, batch_size: int = 64, **given: Any
    ) -> Routing:
        """Which experts the tokens of images go to; arguments as for `embed`."""
        from geomoe.models.routing import Routing

        gates = []
        normalized = given.pop("normalized", False)
        for batch, pairs, size in self._batches(images, lat, lon, time, normalized, batch_size, given):
            padded = _pad((batch, *pairs), size)
            gates.append([np.asarray(g)[: len(batch)] for g in self.apply_tokens(*padded).gates])
        return Routing([np.concatenate(layer) for layer in zip(*gates)], self.config)

    def _batches(
        self, images: Any, lat: Any, lon: Any, time: Any, normalized: bool, batch_size: int, given: Mapping[str, Any]
    ) -> Iterator[tuple[np.ndarray, list[np.ndarray], int]]:
        """z-scored images, [sin, cos] pairs and padded size of each batch; records the input and warns if it is far off."""
        source = self._input(given)
        cfg = self.config
        several = not isinstance(images, np.ndarray) and len(images) > 0 and len({np.shape(image) for image in images}) > 1
        images = [np.asarray(image) for image in images] if several else np.asarray(images)
        count = len(images)
        pairs = metadata.encode(*self._places(lat, lon, time, count))
        wanted = (cfg.img_size, cfg.img_size, cfg.in_channels)
        if normalized and (given or several or images.shape[1:] != wanted):
            if given:
                raise ValueError(f"normalized=True leaves images as they are; {', '.join(given)} would be ignored")
            raise ValueError(f"normalized images must be (N, {', '.join(map(str, wanted))}), got {np.shape(images)}")
        for start in range(0, count, batch_size):
            part = slice(start, start + batch_size)
            if normalized:
                batch = np.asarray(images[part], np.float32)
                if not np.isfinite(batch).all():
                    raise ValueError("normalized images hold NaN or infinite values")
            else:
                batch, valid = self._prepare(images[part], source.part(part))
                if source.statistics is None:
                    preprocess.warn_if_far(batch, valid, self.statistics, self.bands, source.unit)
            yield batch, [pair[part] for pair in pairs], _padded_size(len(batch), batch_size)
        self.input_record = {"normalized": True} if normalized else self.record(source)

    def _input(self, given: Mapping[str, Any]) -> preprocess.InputSpec:
        known = {field.name for field in dataclasses.fields(preprocess.InputSpec)}
        if unknown := set(given) - known:
            raise TypeError(f"unknown argument {sorted(unknown)[0]!r}; images are described by {', '.join(sorted(known))}")
        return preprocess.InputSpec(**given)

    def _prepare(self, images: Any, source: preprocess.InputSpec) -> tuple[np.ndarray, np.ndarray]:
        size, bands = self.config.img_size, self.bands
        if isinstance(images, np.ndarray):
            return preprocess.prepare(images, source, bands, size, self.statistics)
        made = [
            preprocess.prepare(image[None], source.part(slice(i, i + 1)), bands, size, self.statistics)
            for i, image in enumerate(images)
        ]
        return np.concatenate([z for z, _ in made]), np.concatenate([valid for _, valid in made])

    def prepare(self, images: np.ndarray, source: preprocess.InputSpec | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The z-scored images that `embed` gives to the model, (N, S, S, C), and which pixels hold data, (N, S, S)."""
        return self._prepare(images, source or preprocess.InputSpec())

    def record(self, source: preprocess.InputSpec | None = None) -> dict[str, Any]:
        """What becomes of images described by `source`, in plain values: for files and results that must tell it."""
        source = source or preprocess.InputSpec()
        record = {"unit": source.unit, "bands": list(source.channels(self.bands)), "resize_mode": source.resize_mode}
        if landsat.lacks_coastal(source.sensor):
            record |= {"sensor": source.sensor, "coastal": "the blue band's z-score"}
        if source.unit == "level1_dn":
            elevation = source.sun_elevation
            record["sun_elevation"] = None if elevation is None else np.asarray(elevation).tolist()
        if source.unit == "uint8":
            record["uint8_range"] = list(source.uint8_range)
        own = source.statistics
        record["statistics"] = {
            key: value if isinstance(value, str) else np.asarray(value).tolist()
            for key, value in (own or self.statistics).items()
        }
        record["statistics_unit"] = "collection2_dn" if own is None else source.unit
        return record

    def _places(self, lat: Any, lon: Any, time: Any, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        def column(name: str, values: Any, dtype: str, missing: Any) -> np.ndarray:
            if values is None:
                return np.full(count, missing, dtype)
            if not (isinstance(values, np.ndarray) and values.dtype.kind in "fiuM"):
                values = np.array([missing if v is None else v for v in np.atleast_1d(np.asarray(values, object))])
            if name == "time" and values.dtype.kind in "fiu" and values.size:
                raise ValueError(f"time must be datetime64 (or ISO 8601 text) in UTC, got {values.dtype}")
            try:
                values = values.astype(dtype)
            except (ValueError, TypeError) as error:
                raise ValueError(f"{name}: {error}") from None
            if values.shape != (count,):
                raise ValueError(f"{name} must be ({count},), one for each image, got {values.shape}")
            return values

        return (
            column("lat", lat, "float64", np.nan),
            column("lon", lon, "float64", np.nan),
            column("time", time, "datetime64[s]", np.datetime64("NaT")),
        )

    def embed_batch(self, images: np.ndarray, pairs: Sequence[np.ndarray], pool: str, size: int) -> np.ndarray:
        """One batch as the model takes it, padded so that a single compiled program serves all, on all local devices.

        Args:
            images: (n, S, S, C) z-scored, n <= size.
            pairs: week, hour, lat, lon, (n, 2) each.
            pool: as for `embed`.
            size: batch size of the compiled program; rounded up to a multiple of the number of devices.
        """
        mesh = _local_mesh()
        sharding = NamedSharding(mesh, PartitionSpec("images"))
        padded = jax.device_put(_pad((images, *pairs), size + -size % mesh.size), sharding)
        z = _embed(self.config, pool, self._encoder_params, padded[0], tuple(padded[1:]))
        return np.asarray(z)[: len(images)]

    def random_weights(self, seed: int = 0) -> PretrainedEncoder:
        """The same architecture and statistics with fresh weights: a baseline."""
        from geomoe.models import MAE
        from geomoe.training.state import init_params

        params = init_params(MAE(self.config), seed)
        return PretrainedEncoder(self.config, params, self.statistics, f"random weights, seed {seed}", self.normalised_targets)


def embed_in_batches(
    encoder: PretrainedEncoder, images: np.ndarray, pairs: Sequence[np.ndarray], pool: str = "mean", batch_size: int = 256
) -> np.ndarray:
    """Any number of images as a model takes them: (N, S, S, C) z-scored, and week, hour, lat, lon (N, 2) each."""
    parts = [slice(start, start + batch_size) for start in range(0, len(images), batch_size)]
    return np.concatenate([encoder.embed_batch(images[p], [pair[p] for pair in pairs], pool, batch_size) for p in parts])


def _pad(arrays: Sequence[np.ndarray], size: int) -> list[np.ndarray]:
    return [np.pad(np.asarray(x, np.float32), [(0, size - len(x))] + [(0, 0)] * (np.ndim(x) - 1)) for x in arrays]


def _padded_size(count: int, batch_size: int) -> int:
    """The next power of two, from 8 on, but no more than a whole batch: few compiled programs for any number of images."""
    return max(min(max(8, 1 << (count - 1).bit_length()), batch_size), count)
