"""A frozen encoder: what it gives for images."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from geomoe import compilation, landsat
from geomoe.checks import check_count
from geomoe.data import preprocess
from geomoe.data.preprocess import ENCODER, IMAGES, InputSpec
from geomoe.data.windows import read_share, window_stride
from geomoe.landsat import Statistics
from geomoe.metadata import FIELDS
from geomoe.models import MAE, ModelConfig, TokenOutput, count_params
from geomoe.models.pooling import TOKENS, Pool, check_pool, check_pooled, pool_name, pool_width
from geomoe.models.reconstruction import Reconstruction, reconstruct
from geomoe.models.routing import Routing
from geomoe.pretrained import programs
from geomoe.pretrained.inputs import Given, Images, UserImages, describe, read_given, read_images
from geomoe.pretrained.scene import read_dates
from geomoe.training.checkpoints import write_run
from geomoe.training.state import init_params
from geomoe.version import __version__
from geomoe.weights import save_safetensors


@dataclasses.dataclass(eq=False, repr=False)
class PretrainedEncoder:
    """A frozen encoder with the statistics of its training data."""

    config: ModelConfig
    params: dict[str, Any]  # the whole autoencoder's, {"encoder", "decoder"}
    statistics: Statistics  # of the z-score that the encoder expects, of Collection 2 digital numbers
    source: str  # where it was loaded from
    normalised_targets: bool = False  # whether it learned to reconstruct patches that were normalised each by itself
    card: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # what its file says of how it came about

    @compilation.isolated
    def __post_init__(self) -> None:
        self.params, self.statistics = dict(self.params), Statistics.of(self.statistics).of_collection2()
        if len(self.statistics.mean) != self.config.in_channels:
            bands = f"{len(self.statistics.mean)} bands, and {self.source} takes {self.config.in_channels}"
            raise ValueError(f"the statistics of {self.statistics.source} are of {bands}")
        self._encoder_params = jax.device_put(self.params["encoder"], NamedSharding(programs.local_mesh(), PartitionSpec()))

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
        """SHA-256 of the encoder's weights, in hex: distinguishes two runs in the same folder."""
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

    @compilation.isolated
    def apply_tokens(
        self, images: jax.Array | np.ndarray, week: Any, hour: Any, lat: Any, lon: Any, valid: Any = None
    ) -> TokenOutput:
        """Apply the encoder itself.

        Args:
            images: (N, S, S, C) z-scored.
            week, hour, lat, lon: (N, 2) [sin, cos] pairs, [0, 0] where missing.
            valid: (N, S, S) bool, the pixels that hold data; None is all.
        """
        mask = None if valid is None else jnp.asarray(valid, bool)
        return programs.apply(self.config, self._encoder_params, mask, *map(jnp.asarray, (images, week, hour, lat, lon)))

    @overload
    def embed(
        self, images: Images, lat: Any = ..., lon: Any = ..., time: Any = ..., *, return_record: Literal[True], **options: Any
    ) -> tuple[np.ndarray, dict[str, Any]]: ...

    @overload
    def embed(
        self, images: Images, lat: Any = ..., lon: Any = ..., time: Any = ..., pool: Pool = ..., **options: Any
    ) -> np.ndarray: ...

    @overload
    def embed(self, images: Any, lat: Any = ..., lon: Any = ..., time: Any = ..., pool: Pool = ..., **options: Any) -> Any: ...

    def embed(
        self,
        images: Any,
        lat: Any = None,
        lon: Any = None,
        time: Any = None,
        pool: Pool = "mean",
        normalized: bool = False,
        batch_size: int = 256,
        *,
        spec: InputSpec | None = None,
        valid: Any = None,
        layout: str = "NHWC",
        return_record: bool = False,
        **description: Any,
    ) -> Any:
        """Embed images, on all local devices.

        Args:
            images: (N, H, W, C), or a sequence of (H, W, C) images of several sizes where `resize_mode` says how they get the
                model's. Collection 2 digital numbers, unless `unit` says otherwise. What is masked in numpy's masked arrays
                holds no data. Or torch tensors in the same forms; or an xarray DataArray or Dataset, as for
                `geomoe.data.arrays.read_xarray`, that says its bands, and its time and location where those are None here.
            lat, lon: (N,) degrees, WGS 84; None, or None or NaN for a single image, where unknown.
            time: (N,) datetime64 in UTC, or as for `geomoe.metadata.read_times`; None, or None or NaT for a single image, where
                unknown. Of a date alone the hour is unknown.
            pool: a name or a tuple of names, as for `geomoe.models.pooling.pool_tokens`; "mean" is the published embedding.
            normalized: whether the images are z-scored already, of the model's size and bands, and left as they are.
            batch_size: images at once, over all devices.
            spec: what the images are.
            valid: (N, H, W) bool, False for pixels to be taken for such without data, clouds, say; a sequence of (H, W) where
                images are one. None is by the images alone: their numbers, and the masks of numpy's masked arrays.
            layout: "NHWC", or "NCHW" where bands come before rows and columns; xarray names its dimensions.
            return_record: whether to return `record(spec)` as well, what was made of the images.
            **description: the fields of `InputSpec` in place of `spec`: unit, sensor, bands, fill_missing, resize_mode,
                sun_elevation, level1_factors, uint8_range, statistics, nodata.

        Returns:
            (N, width) float32, the width being D for most pools (`geomoe.models.pooling.pool_width`), or (N, 5 + P, D) for
            "tokens"; NaN for an image in which no pixel holds data, unless these are to speak. Of xarray a DataArray with the
            other dimensions of the images and `embedding` (and `token`).

        Raises:
            ValueError: a shape, type, unit or value is wrong; the message says which.

        Warns:
            geomoe.data.preprocess.StatisticsWarning: a band's mean is 3 standard deviations or more from that of the training
                data.
        """
        check_pool(pool)
        pool = pool if isinstance(pool, str) else tuple(pool)
        given = read_given(images, lat, lon, time, describe(spec, description, normalized), valid, layout)
        shape = (self.config.num_tokens,) * (pool == TOKENS) + (pool_width(self.config, pool),)
        user, spec = self._read(given)
        parts = []
        for batch, meta, size, holds in self._batches(user, spec, batch_size):
            parts.append(self.embed_batch(batch, meta, pool, size, holds))
            if holds is not None:
                some = np.expand_dims(holds.any(axis=(1, 2)), tuple(range(1, parts[-1].ndim)))
                parts[-1] = np.where(some, parts[-1], np.nan)
        z = np.concatenate([np.zeros((0, *shape), np.float32), *parts])
        record = {"normalized": True} if spec is None else self.record(spec)
        if given.labelled is not None:
            dims = ("token", "embedding") if pool == TOKENS else ("embedding",)
            z = given.labelled.wrap(z, dims, {}, self._attributes(pool, record))
        return (z, record) if return_record else z

    def embed_scene(
        self,
        scene: Any,
        lat: float | None = None,
        lon: float | None = None,
        time: Any = None,
        pool: Pool = "mean",
        batch_size: int = 256,
        *,
        stride: int | None = None,
        min_valid: float = 0.5,
        spec: InputSpec | None = None,
        valid: Any = None,
        layout: str = "NHWC",
        return_record: bool = False,
        **description: Any,
    ) -> Any:
        """Embed a scene in memory, or several dates of it, window by window. For files: `geomoe.embeddings.embed_scene`.

        Windows have the model's size and start every `stride` pixels from the upper left corner; those at the right and lower
        edge may reach beyond it, where there are no data.

        Args:
            scene: (H, W, C), or (T, H, W, C) of several dates; or torch tensors or xarray objects, as for `embed`.
            lat, lon: degrees, of the whole scene; None is what xarray's coordinates say of the middle of each window.
            time: of the scene, or (T,); None is what xarray's coordinate `time` says.
            pool, batch_size, spec, layout, return_record, **description: as for `embed`; `pool` gives one vector a window, and
                statistics="computed" are those of the whole scene with all its dates.
            stride: in pixels; None is half the model's size.
            min_valid: windows with a smaller share of pixels that hold data are NaN.
            valid: (H, W) or (T, H, W) bool, False for pixels to be taken for such without data.

        Returns:
            (rows, columns, width) or (T, rows, columns, width) float32. Of xarray a DataArray with its other dimensions, those
            of rows and columns with the coordinates of the windows' middles, and `embedding`: `.mean("time")` is the mean over
            the dates on which a window has data.

        Raises:
            ValueError: as for `embed`, or an option has no meaning.
        """
        check_pooled(pool)
        pool = pool if isinstance(pool, str) else tuple(pool)
        min_valid = read_share("min_valid", min_valid)
        size = self.config.img_size
        stride = window_stride(stride, size)
        described = describe(spec, description, normalized=False) or InputSpec()
        dates = read_dates(scene, lat, lon, time, described, valid, layout, self.bands)
        z = np.full((*dates.grid(size, stride), pool_width(self.config, pool)), np.nan, np.float32)
        for part in dates.windows(size, stride, min_valid):
            options: dict[str, Any] = dict(batch_size=batch_size, spec=dates.spec, valid=part.valid)
            z[part.where] = self.embed(part.images, part.lat, part.lon, part.time, pool, **options)
        record = self.record(dates.spec) | {"stride": stride, "window": size, "min_valid": min_valid}
        out = dates.wrap(z, size, stride, self._attributes(pool, record))
        return (out, record) if return_record else out

    def _attributes(self, pool: Pool, record: Mapping[str, Any]) -> dict[str, str]:
        """What a DataArray of embeddings says of itself."""
        encoder = f"{self.source} {self.fingerprint[:12]}"
        return {"encoder": encoder, "pool": pool_name(pool), "input": json.dumps(record), "geomoe_version": __version__}

    @compilation.isolated
    def reconstruct(
        self,
        images: Images,
        lat: Any = None,
        lon: Any = None,
        time: Any = None,
        normalized: bool = False,
        seed: int = 0,
        batch_size: int = 64,
        *,
        spec: InputSpec | None = None,
        **description: Any,
    ) -> Reconstruction:
        """Hide patches of images and reconstruct them: original, masked, reconstruction and error.

        Args:
            images, lat, lon, time, normalized, spec, **description: as for `embed`.
            seed: of the mask, which hides `config.mask_ratio` of the patches of each image.

        Raises:
            ValueError: as for `embed`, or the checkpoint holds an encoder alone.
        """
        if "decoder" not in self.params:
            raise ValueError(f"{self.source} holds no decoder, so there is nothing to reconstruct with")
        given = read_given(images, lat, lon, time, describe(spec, description, normalized))
        parts = []
        for i, (batch, meta, _, holds) in enumerate(self._batches(*self._read(given), batch_size)):
            fields = {"image": batch, **dict(zip(FIELDS, meta))}
            parts.append(reconstruct(MAE(self.config), self.params, fields, seed + i, self.normalised_targets, holds))
        if not parts:
            raise ValueError("there is no image to reconstruct")
        return Reconstruction(*(np.concatenate(field) for field in zip(*parts)))

    def routing(
        self,
        images: Images,
        lat: Any = None,
        lon: Any = None,
        time: Any = None,
        normalized: bool = False,
        batch_size: int = 64,
        *,
        spec: InputSpec | None = None,
        **description: Any,
    ) -> Routing:
        """Which experts the tokens of images go to; arguments as for `embed`."""
        given = read_given(images, lat, lon, time, describe(spec, description, normalized))
        gates = []
        for batch, meta, size, holds in self._batches(*self._read(given), batch_size):
            padded = programs.pad((batch, *meta, *(() if holds is None else (holds,))), size)
            gates.append([np.asarray(layer)[: len(batch)] for layer in self.apply_tokens(*padded).gates])
        if not gates:
            raise ValueError("there is no image whose tokens could be routed")
        return Routing([np.concatenate(layer) for layer in zip(*gates)], self.config)

    def _read(self, given: Given) -> tuple[UserImages, InputSpec | None]:
        """Check images, and complete what is said of them: None where they are z-scored already."""
        cfg, spec = self.config, None if given.spec is None else given.spec.known()
        user = read_images(given, spec, (cfg.img_size, cfg.img_size, cfg.in_channels))
        return user, None if spec is None else spec.measured(user.described(spec), self.bands, "these images")

    def _batches(
        self, user: UserImages, spec: InputSpec | None, batch_size: int
    ) -> Iterator[tuple[np.ndarray, Sequence[np.ndarray], int, np.ndarray | None]]:
        """z-scored images, metadata, padded size and valid pixels of each batch; warns where the images are far off.

        The valid pixels (n, S, S) are None where all are, or where those without data are to speak.
        """
        check_count("batch_size", batch_size, 1)
        for rows, part in user.parts(batch_size):
            if spec is None:
                batch, holds = np.asarray(part.images, np.float32), part.valid
                if not np.isfinite(batch).all():
                    raise ValueError("normalized images hold NaN or infinite values")
            else:
                batch, holds = self.prepare(part.images, spec.part(rows), part.valid)
                if spec.statistics is None:
                    preprocess.warn_if_far(batch, holds, self.statistics, self.bands, str(spec.unit))
            speak = holds is None or holds.all() or spec is not None and spec.nodata == "published"
            yield batch, part.metadata, programs.padded_size(len(batch), batch_size), None if speak else holds

    def prepare(self, images: Images, spec: InputSpec = InputSpec(), valid: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """The z-scored images that `embed` gives to the model, (N, S, S, C), and which pixels hold data, (N, S, S)."""
        size, bands = self.config.img_size, self.bands
        if isinstance(images, np.ndarray):
            return preprocess.prepare(images, spec, bands, size, self.statistics, valid)
        specs = (spec.part(slice(i, i + 1)) for i in range(len(images)))
        masks = [None if valid is None else valid[i][None] for i in range(len(images))]
        each = [
            preprocess.prepare(image[None], one, bands, size, self.statistics, mask)
            for image, one, mask in zip(images, specs, masks)
        ]
        return np.concatenate([z for z, _ in each]), np.concatenate([valid for _, valid in each])

    def record(self, spec: InputSpec = InputSpec()) -> dict[str, Any]:
        """What becomes of images described by `spec`, in plain values: for files and results that must say it."""
        spec = spec.known()
        record: dict[str, Any] = {"unit": spec.unit, "bands": list(spec.channels(self.bands)), "resize_mode": spec.resize_mode}
        record["nodata"] = spec.nodata
        if landsat.lacks_coastal(str(spec.sensor)):
            record["sensor"] = spec.sensor
        if (
            self.bands == landsat.BANDS
            and preprocess.band_order(spec.channels(self.bands), self.bands, True, str(spec.sensor))[0] is None
        ):
            record["coastal"] = "the blue band's z-score"
        if spec.unit == "level1_dn":
            elevation = spec.sun_elevation
            record["sun_elevation"] = None if elevation is None else np.asarray(elevation).tolist()
            if spec.level1_factors is not None:
                record["level1_factors"] = {
                    band: [float(factor) for factor in pair] for band, pair in spec.level1_factors.items()
                }
        if spec.unit == "uint8":
            record["uint8_range"] = [float(value) for value in spec.uint8_range]
        own = spec.own_statistics
        if own is None or own.unit and own.digest == self.statistics.digest:
            whose = {"statistics": dict(self.statistics), "statistics_unit": "collection2_dn", "statistics_of": ENCODER}
        else:
            whose = {"statistics": dict(own), "statistics_unit": own.unit or str(spec.unit), "statistics_of": IMAGES}
        return record | whose

    @compilation.isolated
    def embed_batch(
        self, images: np.ndarray, metadata: Sequence[np.ndarray], pool: Pool, size: int, valid: np.ndarray | None = None
    ) -> np.ndarray:
        """Embed one batch as the model takes it, padded so that a single compiled program serves all, on all local devices.

        Args:
            images: (n, S, S, C) z-scored, n <= size.
            metadata: week, hour, lat, lon, (n, 2) each.
            pool: as for `embed`.
            size: batch size of the compiled program; rounded up to a multiple of the number of devices.
            valid: (n, S, S) bool, the pixels that hold data; None is all, which has a program of its own.
        """
        sharding = NamedSharding(programs.local_mesh(), PartitionSpec("images"))
        inputs = (images, *metadata) if valid is None or valid.all() else (images, *metadata, valid)
        padded = jax.device_put(programs.pad(inputs, size + -size % sharding.mesh.size), sharding)
        return np.asarray(programs.embed(self.config, pool, self._encoder_params, *padded))[: len(images)]

    @compilation.isolated
    def random_weights(self, seed: int = 0) -> PretrainedEncoder:
        """The same architecture and statistics with fresh weights: a baseline."""
        return dataclasses.replace(
            self, params=init_params(MAE(self.config), seed), source=f"random weights, seed {seed}", card={}
        )

    def save(self, path: str | os.PathLike[str], *, dtype: str = "float32", decoder: bool = False) -> None:
        """Write the encoder with its architecture, statistics and card to one `.safetensors` file, which `load` takes.

        Args:
            dtype: "float32", or "float16" at half the size.
            decoder: whether the decoder goes with it, for reconstructions.

        Raises:
            ValueError: the path does not end in .safetensors, or something is there.
        """
        if not os.fspath(path).lower().endswith(".safetensors") or os.path.exists(path):
            raise ValueError(f"{path}: an encoder is written to a new file that ends in .safetensors")
        params = self.params if decoder else {"encoder": self.params["encoder"]}
        card = {"source": self.source, **self.card}
        save_safetensors(path, params, self.config, self.statistics, self.normalised_targets, card=card, dtype=dtype)

    def save_run(self, path: str | os.PathLike[str]) -> None:
        """Write a run directory of the encoder, for everything that takes one.

        Raises:
            ValueError: the folder holds a run already.
        """
        facts = {"geomoe_version": __version__, "model": self.config.to_dict(), "statistics": dict(self.statistics)}
        config = {"data.name": "converted", "loss.normalise_targets": self.normalised_targets}
        write_run(path, {**facts, "dataset": f"converted from {self.source}", "config": config}, self.params)


def embed_in_batches(
    encoder: PretrainedEncoder,
    images: np.ndarray,
    metadata: Sequence[np.ndarray],
    pool: Pool = "mean",
    batch_size: int = 256,
    valid: np.ndarray | None = None,
) -> np.ndarray:
    """Embed any number of images as a model takes them.

    Args:
        images, metadata, pool, valid: as for `PretrainedEncoder.embed_batch`, of N images.
        batch_size: images at once.
    """
    parts = []
    for start in range(0, len(images), batch_size):
        p = slice(start, start + batch_size)
        holds = None if valid is None else valid[p]
        parts.append(encoder.embed_batch(images[p], [field[p] for field in metadata], pool, batch_size, holds))
    return np.concatenate(parts)
