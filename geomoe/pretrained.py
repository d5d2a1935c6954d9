"""A pretrained encoder in its user's hands: load it, embed images, see what it sees."""

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
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from geomoe import compilation, landsat, metadata
from geomoe.data import arrays, preprocess
from geomoe.data.preprocess import InputSpec
from geomoe.landsat import Statistics
from geomoe.metadata import FIELDS
from geomoe.models import MAE, ModelConfig, TokenOutput, check_params, count_params, encode
from geomoe.models.pooling import TOKENS, Pool, check_pool, pool_name, pool_tokens, pool_width
from geomoe.models.reconstruction import Reconstruction, reconstruct
from geomoe.models.routing import Routing
from geomoe.training.checkpoints import load_params, write_run
from geomoe.training.run_file import read_run
from geomoe.training.state import init_params
from geomoe.version import __version__
from geomoe.weights import PUBLISHED, fetch, is_address, load_safetensors, read_torch_checkpoint, save_safetensors

_NAT = np.datetime64("NaT", "s")
Images = np.ndarray | Sequence[np.ndarray]


@compilation.isolated
def load(path: str | os.PathLike[str], checkpoint: str | int = "last", **options: Any) -> PretrainedEncoder:
    """Load a pretrained encoder.

    Args:
        path: a run directory of `train.py`, an encoder's own file (`.safetensors`), PyTorch weights (`.pth`); or what is
            fetched once and kept (see `geomoe.weights.fetch`): the name of published weights (`geomoe.weights.PUBLISHED`), an
            `https://` or an `hf://owner/name` address.
        checkpoint: of a run directory: "last", "best" (by validation loss), or a step. A damaged one is left out with a
            warning, or refused where it is the only one or asked for by its step.
        **options: of `.pth` files of unknown sizes, as for `geomoe.weights.read_torch_checkpoint`.

    Raises:
        FileNotFoundError: there is nothing at `path`, or no such checkpoint.
        ValueError: the file is no geo-moe-mae checkpoint, the checkpoint or the run directory's run.json is damaged, or a
            parameter has a wrong shape, is NaN or infinite.
    """
    path = os.fspath(path)
    source = path
    if not os.path.exists(path):
        if not is_address(path):
            raise FileNotFoundError(
                f"nothing at {path}; pass a run directory of train.py, a .safetensors or .pth file, an https:// address, or a "
                f"name of published weights ({', '.join(PUBLISHED)})"
            )
        path = fetch(path)
    if os.path.isdir(path):
        run = read_run(path)
        step, params = load_params(path, checkpoint)
        params.pop("heads", None)  # of the objectives, which end with pretraining
        config, statistics = ModelConfig.from_dict(run["model"]), Statistics.of(run["statistics"])
        try:
            check_params(MAE(config), params)
        except ValueError as error:
            raise ValueError(f"{path} step {step}: {error}") from None
        return PretrainedEncoder(config, params, statistics, f"{path} step {step}", run["config"]["loss"]["normalise_targets"])
    if path.endswith(".safetensors"):
        if options:
            raise TypeError(f"{', '.join(options)}: a .safetensors file says its sizes itself")
        file = load_safetensors(path)
        return PretrainedEncoder(file.config, file.params, file.statistics, source, file.normalised_targets, file.card)
    weights = read_torch_checkpoint(path, **options)
    statistics = weights.statistics or Statistics.published("bigearthnet_landsat")
    return PretrainedEncoder(weights.config, weights.params, statistics, source, weights.normalised_targets)


@functools.lru_cache(maxsize=1)
def _local_mesh() -> Mesh:
    return Mesh(np.array(jax.local_devices()), ("images",))


@functools.partial(compilation.jit, static_argnums=0)
def _apply(config: ModelConfig, params: Any, valid: jax.Array | None, *inputs: jax.Array) -> TokenOutput:
    return encode(config, params, *inputs, valid=valid)


@functools.partial(compilation.jit, static_argnums=(0, 1))
def _embed(config: ModelConfig, pool: Pool, params: Any, *inputs: jax.Array) -> jax.Array:
    """Images, week, hour, lat, lon and, where some pixels hold no data, which do, -> embeddings."""

    def some(part: tuple[jax.Array, ...]) -> jax.Array:
        valid = part[5] > 0 if len(part) > 5 else None
        return pool_tokens(encode(config, params, *part[:5], valid=valid), part[1:5], config, pool)

    count = len(inputs[0])
    size = compilation.images_at_once(count, jax.local_device_count())
    if count == size:
        return some(inputs)
    z = jax.lax.map(some, tuple(x.reshape(-1, size, *x.shape[1:]) for x in inputs))
    return z.reshape(-1, *z.shape[2:])


@dataclasses.dataclass(eq=False, repr=False)
class PretrainedEncoder:
    """A frozen encoder with the statistics of its training data."""

    config: ModelConfig
    params: dict[str, Any]  # the whole autoencoder's, {"encoder", "decoder"}
    statistics: Statistics  # of the z-score that the encoder expects, in Collection 2 digital numbers
    source: str  # where it was loaded from
    normalised_targets: bool = False  # whether it learned to reconstruct patches that were normalised each by itself
    card: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # what its file says of how it came about

    @compilation.isolated
    def __post_init__(self) -> None:
        self.params, self.statistics = dict(self.params), Statistics.of(self.statistics)
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
        return _apply(self.config, self._encoder_params, mask, *map(jnp.asarray, (images, week, hour, lat, lon)))

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
            "tokens". Of xarray a DataArray with the other dimensions of the images and `embedding` (and `token`).

        Raises:
            ValueError: a shape, type, unit or value is wrong; the message says which.

        Warns:
            geomoe.data.preprocess.StatisticsWarning: a band's mean is 3 standard deviations or more from that of the training
                data.
        """
        check_pool(pool)
        spec = self._spec(spec, description, normalized)
        labelled, valid = None, arrays.as_numpy(valid)
        if arrays.is_xarray(images):
            labelled = self._read_xarray(images, spec, layout)
            images, spec = labelled.images, labelled.spec
            lat, lon, time = _said(labelled, lat, lon, time, *((length - 1) / 2 for length in images.shape[1:3]))
            valid = None if valid is None else labelled.mask(valid)
        else:
            images = arrays.channels_last(images, layout)
        lat, lon, time = map(arrays.as_numpy, (lat, lon, time))
        shape = (self.config.num_tokens,) * (pool == TOKENS) + (pool_width(self.config, pool),)
        batches = self._batches(images, lat, lon, time, spec, batch_size, valid)
        parts = [self.embed_batch(batch, meta, pool, size, holds) for batch, meta, size, holds in batches]
        z = np.concatenate([np.zeros((0, *shape), np.float32), *parts])
        record = {"normalized": True} if spec is None else self.record(spec)
        if labelled is not None:
            dims = ("token", "embedding") if pool == TOKENS else ("embedding",)
            z = labelled.wrap(z, dims, {}, self._attributes(pool, record))
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
            pool, batch_size, spec, layout, return_record, **description: as for `embed`; `pool` gives one vector a window.
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
        check_pool(pool)
        size = self.config.img_size
        stride = size // 2 if stride is None else stride
        if pool == TOKENS:
            raise ValueError("pool = 'tokens' gives no vector a window")
        if not 1 <= stride <= size:
            raise ValueError(f"stride = {stride} must be between 1 and the {size} pixels of a window")
        if not 0 <= min_valid <= 1:
            raise ValueError(f"min_valid = {min_valid} must be in [0, 1]")
        spec = self._spec(spec, description, False) or InputSpec()
        if spec.resize_mode != "exact":
            raise ValueError(f"resize_mode = {spec.resize_mode!r}: windows have the model's size already")
        labelled = None
        if arrays.is_xarray(scene):
            labelled = self._read_xarray(scene, spec, layout)
            scene, spec = labelled.images, labelled.spec
        else:
            scene = arrays.channels_last(scene, layout)
        spec = spec.known()
        images = preprocess.filled(scene, str(spec.unit))
        if images.ndim not in (3, 4):
            raise ValueError(f"a scene must be (H, W, C) or (T, H, W, C), got {images.shape}")
        several = images.ndim == 4
        images = images if several else images[None]
        count, height, width = images.shape[:3]
        holds = preprocess.has_data(images, str(spec.unit))
        if valid is not None:
            if spec.nodata == "published":
                raise ValueError("nodata='published' lets pixels without data speak; valid would be ignored")
            valid = np.asarray(arrays.as_numpy(valid), bool) if labelled is None else labelled.mask(valid)
            if valid.shape not in (holds.shape, holds.shape[not several :]):
                raise ValueError(f"valid must be {holds.shape[not several :]}, one for each pixel, got {valid.shape}")
            holds &= valid
        if spec.sun_elevation is not None and np.asarray(spec.sun_elevation).ndim:
            raise ValueError("sun_elevation must be one number for a scene in memory; embed dates apart where it differs")
        time = labelled.time if time is None and labelled is not None else arrays.as_numpy(time)
        dates = [_NAT] if time is None else list(metadata.read_times(time))
        if len(dates) not in (1, count):
            raise ValueError(f"time must be one, or one for each of the {count} dates, got {len(dates)}")
        dates = dates * count if len(dates) == 1 else dates
        rows, columns = (preprocess.count_windows(length, size, stride) for length in (height, width))
        z = np.full((count, rows, columns, pool_width(self.config, pool)), np.nan, np.float32)
        middle, nodata = (size - 1) / 2, landsat.nodata_value(str(spec.unit), images.dtype)
        for row in range(rows):
            places = [(date, row * stride, column * stride) for column in range(columns) for date in range(count)]
            masks = np.stack([_window(holds[date], top, left, size) for date, top, left in places])
            enough = masks.mean(axis=(1, 2)) >= max(min_valid, 1e-9)
            places = [place for place, is_enough in zip(places, enough) if is_enough]
            if not places:
                continue
            windows = np.stack([_window(images[date], top, left, size, nodata) for date, top, left in places])
            where = [_place(labelled, lat, lon, top + middle, left + middle, date) for date, top, left in places]
            latitude, longitude = np.transpose(where)
            taken, mask = [dates[date] for date, _, _ in places], masks[enough] if spec.nodata == "masked" else None
            found = self.embed(windows, latitude, longitude, taken, pool, batch_size=batch_size, spec=spec, valid=mask)
            for (date, _, left), vector in zip(places, found):
                z[date, row, left // stride] = vector
        record = self.record(spec) | {"stride": stride, "window": size, "min_valid": min_valid}
        if labelled is not None:
            coords = {
                dim: arrays.grid(labelled.source.coords[dim].values, steps, stride, size)
                for dim, steps in zip(labelled.dims, (rows, columns))
                if dim in labelled.source.coords
            }
            out = labelled.wrap(z, (*labelled.dims, "embedding"), coords, self._attributes(pool, record))
        else:
            out = z if several else z[0]
        return (out, record) if return_record else out

    def _read_xarray(self, images: Any, spec: InputSpec | None, layout: str) -> arrays.Labelled:
        if spec is None:
            raise ValueError("normalized=True takes arrays; xarray's bands and units would be ignored: pass images.values")
        if layout != "NHWC":
            raise ValueError(f"layout = {layout!r} would be ignored: xarray names its dimensions")
        return arrays.read_xarray(images, spec)

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
        spec = self._spec(spec, description, normalized)
        parts = []
        for i, (batch, meta, _, holds) in enumerate(self._batches(images, lat, lon, time, spec, batch_size)):
            fields = {"image": batch, **dict(zip(FIELDS, meta))}
            parts.append(reconstruct(MAE(self.config), self.params, fields, seed + i, self.normalised_targets, holds))
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
        spec = self._spec(spec, description, normalized)
        gates = []
        for batch, meta, size, holds in self._batches(images, lat, lon, time, spec, batch_size):
            padded = _pad((batch, *meta, *(() if holds is None else (holds,))), size)
            gates.append([np.asarray(layer)[: len(batch)] for layer in self.apply_tokens(*padded).gates])
        return Routing([np.concatenate(layer) for layer in zip(*gates)], self.config)

    def _spec(self, spec: InputSpec | None, description: Mapping[str, Any], normalized: bool) -> InputSpec | None:
        """What the images are; None where they are z-scored already."""
        fields = [field.name for field in dataclasses.fields(InputSpec)]
        for name in description:
            if name == "fit":
                raise TypeError("the argument fit was renamed: it is now resize_mode")
            if name not in fields:
                raise TypeError(f"unknown argument {name!r}; images are described by {', '.join(fields)}")
        if spec is not None and description:
            raise TypeError(f"spec describes the images already; {', '.join(description)} would be ignored")
        if not normalized:
            return spec or InputSpec(**description)
        if spec is not None or description:
            raise ValueError(f"normalized=True leaves images as they are; {', '.join(description) or 'spec'} would be ignored")
        return None

    def _batches(
        self, images: Any, lat: Any, lon: Any, time: Any, spec: InputSpec | None, batch_size: int, valid: Any = None
    ) -> Iterator[tuple[np.ndarray, list[np.ndarray], int, np.ndarray | None]]:
        """z-scored images, metadata, padded size and valid pixels of each batch; warns where the images are far off.

        The valid pixels (n, S, S) are None where all are, or where those without data are to speak.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size = {batch_size} must be at least 1")
        cfg, spec = self.config, None if spec is None else spec.known()
        several = not isinstance(images, np.ndarray) and len(images) > 0 and len({np.shape(image) for image in images}) > 1
        unit = "" if spec is None else str(spec.unit)
        masked = any(np.ma.is_masked(image) for image in (images if isinstance(images, list | tuple) else [images]))
        if masked and spec is None:
            raise ValueError("normalized images are masked; what holds no data has no place in them")
        if isinstance(images, list | tuple) and not several and masked:
            images = np.ma.stack(images)
        images = [preprocess.filled(image, unit) for image in images] if several else preprocess.filled(images, unit)
        count = len(images)
        where = _column("lat", lat, count), _column("lon", lon, count)
        times = np.full(count, _NAT) if time is None else metadata.read_times(time)
        if len(times) != count:
            raise ValueError(f"time must be ({count},), one for each image, got ({len(times)},)")
        meta = metadata.encode(*where, times)
        shape = (cfg.img_size, cfg.img_size, cfg.in_channels)
        if spec is None and (several or images.shape[1:] != shape):
            raise ValueError(f"normalized images must be (N, {', '.join(map(str, shape))}), got {np.shape(images)}")
        if valid is not None:
            if spec is not None and spec.nodata == "published":
                raise ValueError("nodata='published' lets pixels without data speak; valid would be ignored")
            valid = [np.asarray(v) for v in valid] if several else np.asarray(valid)
            if len(valid) != count or spec is None and valid.shape != (count, *shape[:2]):
                raise ValueError(f"valid must be one for each pixel of the {count} images, got {np.shape(valid)}")
        for start in range(0, count, batch_size):
            part = slice(start, start + batch_size)
            some = None if valid is None else valid[part]
            if spec is None:
                batch = np.asarray(images[part], np.float32)
                if not np.isfinite(batch).all():
                    raise ValueError("normalized images hold NaN or infinite values")
                holds = some
            else:
                batch, holds = self.prepare(images[part], spec.part(part), some)
                if spec.statistics is None:
                    preprocess.warn_if_far(batch, holds, self.statistics, self.bands, unit)
            speak = holds is None or holds.all() or spec is not None and spec.nodata == "published"
            size = _padded_size(len(batch), batch_size)
            yield batch, [field[part] for field in meta], size, None if speak else holds

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
                record["level1_factors"] = {band: list(pair) for band, pair in spec.level1_factors.items()}
        if spec.unit == "uint8":
            record["uint8_range"] = list(spec.uint8_range)
        if spec.statistics is None:
            return record | {"statistics": dict(self.statistics), "statistics_unit": "collection2_dn"}
        return record | {"statistics": dict(Statistics.of(spec.statistics)), "statistics_unit": spec.unit}

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
        sharding = NamedSharding(_local_mesh(), PartitionSpec("images"))
        inputs = (images, *metadata) if valid is None or valid.all() else (images, *metadata, valid)
        padded = jax.device_put(_pad(inputs, size + -size % sharding.mesh.size), sharding)
        return np.asarray(_embed(self.config, pool, self._encoder_params, *padded))[: len(images)]

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
        if not os.fspath(path).endswith(".safetensors") or os.path.exists(path):
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


def _said(labelled: arrays.Labelled, lat: Any, lon: Any, time: Any, row: float, column: float) -> tuple[Any, Any, Any]:
    """Latitudes, longitudes and times: a user's, else those that the images say of themselves."""
    place = labelled.place(row, column) if lat is None and lon is None else None
    return *((lat, lon) if place is None else place), labelled.time if time is None else time


def _place(labelled: arrays.Labelled | None, lat: Any, lon: Any, row: float, column: float, date: int) -> tuple[float, float]:
    """Latitude and longitude of a place in a scene, NaN where unknown."""
    if lat is None and lon is None and labelled is not None and (place := labelled.place(row, column)) is not None:
        return place[0][date], place[1][date]
    return np.nan if lat is None else float(lat), np.nan if lon is None else float(lon)


def _window(array: np.ndarray, row: int, column: int, size: int, fill: float = 0) -> np.ndarray:
    """(H, W, ...) -> (size, size, ...), with `fill` beyond the edge."""
    part = array[row : row + size, column : column + size]
    beyond = [(0, size - part.shape[0]), (0, size - part.shape[1]), *[(0, 0)] * (part.ndim - 2)]
    return np.pad(part, beyond, constant_values=fill)


def _column(name: str, values: Any, count: int) -> np.ndarray:
    """Latitudes or longitudes as (N,) float64, NaN where there is none: None, NaN or pandas' NA."""
    if values is None:
        return np.full(count, np.nan)
    if not (isinstance(values, np.ndarray) and values.dtype.kind in "fiu"):
        items = np.atleast_1d(np.asarray(values, object))
        values = np.array([np.nan if v is None or type(v).__name__ == "NAType" else v for v in items.flat]).reshape(items.shape)
    try:
        array = values.astype(np.float64)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: {error}") from None
    if array.shape != (count,):
        raise ValueError(f"{name} must be ({count},), one for each image, got {array.shape}")
    return array


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


def _pad(arrays: Sequence[np.ndarray], size: int) -> list[np.ndarray]:
    return [np.pad(np.asarray(x, np.float32), [(0, size - len(x))] + [(0, 0)] * (np.ndim(x) - 1)) for x in arrays]


def _padded_size(count: int, batch_size: int) -> int:
    """The next power of two, from 8 on, but no more than a whole batch: few compiled programs for any number of images."""
    return max(min(max(8, 1 << (count - 1).bit_length()), batch_size), count)
