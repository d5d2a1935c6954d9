"""A prepared dataset as features, labels and targets, or as images; and features without training, which should be beaten."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from geomoe import compilation, landsat
from geomoe.data.preprocess import InputSpec
from geomoe.metadata import FIELDS
from geomoe.models.pooling import Pool
from geomoe.pretrained import PretrainedEncoder
from geomoe.training import parallel

Array = jax.Array

TARGETS = ("ndvi", "latitude", "longitude")  # what a regression may learn
Baseline = Callable[[np.ndarray, np.ndarray], np.ndarray]  # images (n, S, S, C) z-scored, valid (n, S, S) -> (n, D)


class Features(NamedTuple):
    """Features of a split, for several feature sets at once."""

    sets: dict[str, np.ndarray]  # name -> (N, D) float32
    labels: np.ndarray  # (N, K) int32
    ids: np.ndarray  # (N,) text, the names of the patches
    targets: dict[str, np.ndarray]  # -> (N,): "ndvi" of the valid pixels' mean reflectance; "latitude", "longitude" in degrees


def _batches(
    encoder: PretrainedEncoder,
    name: Any,
    split: str,
    drop: Sequence[str],
    nodata: str,
    limit: int | None,
    options: Mapping[str, Any],
) -> Iterator[dict[str, np.ndarray]]:
    """Batches of a split, with the pixels that speak under "heard": those that hold data, or with "published" all."""
    from geomoe import data  # imports TensorFlow

    InputSpec(nodata=nodata)  # checks it
    if unknown := set(drop) - set(FIELDS):
        raise ValueError(f"drop has {sorted(unknown)[0]!r}, which is not one of {', '.join(FIELDS)}")
    batches = data.load(name, split, **{"img_size": encoder.config.img_size, "statistics": encoder.statistics, **options})
    seen = 0
    for batch in batches.as_numpy_iterator():
        for field in drop:
            batch[field] = np.zeros_like(batch[field])
        batch["heard"] = batch["valid"] if nodata == "masked" else np.ones_like(batch["valid"])
        yield batch
        seen += len(batch["image"])
        if limit is not None and seen >= limit:
            return


def embed_split(
    encoders: Mapping[str, PretrainedEncoder],
    name: Any,
    split: str,
    *,
    pool: Pool = "mean",
    drop: Sequence[str] = (),
    nodata: str = "masked",
    baselines: Mapping[str, Baseline] | None = None,
    batch_size: int = 256,
    **options: Any,
) -> Features:
    """Embed a split with each encoder, and compute the baselines' features, in one pass over the data.

    Several processes compute a share each and get all; they call this at the same point of their run.

    Args:
        encoders: name -> encoder; all take images of one size and have the same statistics.
        name, split: as for `geomoe.data.load`.
        pool: as for `PretrainedEncoder.embed`.
        drop: of week, hour, lat and lon, those that the encoders are not given.
        nodata: as for `geomoe.data.preprocess.InputSpec`: pixels without data are "masked", or speak as in the "published"
            evaluation, to the encoders and the baselines alike.
        baselines: name -> a function of z-scored images and valid pixels; None is the band statistics.
        batch_size: images at once.
        **options: data_dir, resize_mode, clip, hour, as for `geomoe.data.load`, and statistics in the place of the encoder's.
    """
    first = next(iter(encoders.values()))
    baselines = {"band statistics": band_statistics} if baselines is None else baselines
    sets, columns, statistics = [], [], options.get("statistics", first.statistics)
    options |= dict(batch_size=batch_size, rows=_rows_of_process(name, split, options.get("data_dir")))
    for batch in _batches(first, name, split, drop, nodata, None, options):
        image, metadata, valid = batch["image"], [batch[field] for field in FIELDS], batch["heard"]
        embedded = {key: encoder.embed_batch(image, metadata, pool, batch_size, valid) for key, encoder in encoders.items()}
        sets.append({key: baseline(image, valid) for key, baseline in baselines.items()} | embedded)
        column = {key: batch[key] for key in ("labels", "latitude", "longitude")} | {"ndvi": _ndvi(batch, statistics)}
        columns.append(column | {"ids": np.array([patch.decode() for patch in batch["id"]])})
    features, joined = ({key: parallel.gathered(rows) for key, rows in _joined(parts).items()} for parts in (sets, columns))
    return Features(features, joined.pop("labels"), joined.pop("ids"), joined)


def _rows_of_process(name: Any, split: str, data_dir: Any) -> tuple[int, int] | None:
    """The rows of a split that this process embeds; None for all, where it is alone."""
    if jax.process_count() == 1:
        return None
    from geomoe import data  # imports TensorFlow

    count = data.num_examples(data.builder(name, data_dir) if isinstance(name, str) else name, split)
    if count < jax.process_count():
        raise ValueError(f"split {split} has {count} patches, fewer than the {jax.process_count()} processes; take fewer")
    return parallel.share(count)


def _joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    if not parts:
        raise ValueError("the split is empty")
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _ndvi(batch: Mapping[str, np.ndarray], statistics: landsat.Statistics) -> np.ndarray:
    """NDVI of the mean reflectance of each patch, (n,); 0 without a valid pixel."""
    weight = batch["valid"][..., None].astype(np.float64)
    mean = (statistics.unnormalize(batch["image"]) * weight).sum(axis=(1, 2)) / np.maximum(weight.sum(axis=(1, 2)), 1)
    reflectance = mean * landsat.REFLECTANCE_SCALE + landsat.REFLECTANCE_OFFSET
    return np.where(weight.any(axis=(1, 2, 3)), landsat.spectral_indices(reflectance)[:, 0], 0.0)


def load_images(
    encoder: PretrainedEncoder,
    name: Any,
    split: str,
    *,
    drop: Sequence[str] = (),
    nodata: str = "masked",
    limit: int | None = None,
    **options: Any,
) -> dict[str, np.ndarray]:
    """Load a split into memory, as `finetune` takes it: image, valid, week, hour, lat, lon, labels.

    Args:
        encoder: whose image size and statistics the images are brought to.
        name, split: as for `geomoe.data.load`.
        drop: of week, hour, lat and lon, those that are left out (zeros).
        nodata: as for `embed_split`; with "published" all pixels are valid.
        limit: the first so many images; None is all.
        **options: data_dir, resize_mode, clip, hour, batch_size, as for `geomoe.data.load`; img_size and statistics where they
            are not to be the encoder's.
    """
    batch = _joined(list(_batches(encoder, name, split, drop, nodata, limit, options)))
    names = {"image": "image", "valid": "heard"} | {key: key for key in (*FIELDS, "labels")}
    return {key: batch[name][:limit] for key, name in names.items()}


def band_statistics(images: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Compute mean and standard deviation of each band over the valid pixels: (N, H, W, C), (N, H, W) -> (N, 2 * C).

    An image without a valid pixel gives zeros.
    """
    weight = valid[..., None].astype(np.float64)
    count = np.maximum(weight.sum(axis=(1, 2)), 1)
    mean = (images * weight).sum(axis=(1, 2)) / count
    variance = (np.square(images - mean[:, None, None]) * weight).sum(axis=(1, 2)) / count
    return np.concatenate([mean, np.sqrt(variance)], axis=1).astype(np.float32)


class _ConvFeatures:
    """Mean rectified responses of filters (size, size, C, K) with a bias (K,), over the places whose pixels all hold data."""

    def __init__(self, kernels: np.ndarray, bias: np.ndarray):
        self._kernels, self._bias = jnp.asarray(kernels, jnp.float32), jnp.asarray(bias, jnp.float32)

    @compilation.isolated
    def __call__(self, images: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
        """Compute features: (N, H, W, C) z-scored, and which pixels hold data, (N, H, W) -> (N, K) float32.

        An image without a whole patch of data gives zeros.
        """
        holds = np.ones(np.shape(images)[:3], bool) if valid is None else valid
        return np.asarray(_rectified_mean(jnp.asarray(images, jnp.float32), jnp.asarray(holds), self._kernels, self._bias))


class GaussianConvFeatures(_ConvFeatures):
    """Random convolutional features without any data: filters of normal numbers, rectified both ways, as TorchGeo's `RCF` has.

    Args:
        channels: C of the images.
        num_filters: F; they give K = 2 F features.
        size: of a filter, in pixels.
        bias: added to the responses; its sign, and the filter's, is turned in the second half of the features.
        seed: of the numbers.
    """

    @compilation.isolated
    def __init__(self, channels: int, num_filters: int = 256, size: int = 3, bias: float = -1.0, seed: int = 0):
        kernels = np.random.default_rng(seed).standard_normal((size, size, channels, num_filters))
        biases = np.full(num_filters, bias)
        super().__init__(np.concatenate([kernels, -kernels], axis=-1), np.concatenate([biases, -biases]))


class RandomConvFeatures(_ConvFeatures):
    """Random convolutional features (Rolf et al. 2021, "A generalizable and accessible approach ...", MOSAIKS).

    Filters are patches of the data, whitened; an image's feature is the mean of the rectified response of each filter, over the
    places where all pixels below it hold data.

    Args:
        images: (N, H, W, C) z-scored: the training images that patches are drawn from.
        valid: (N, H, W) bool, the pixels that hold data; None is all.
        num_filters: K.
        size: of a filter, in pixels.
        epsilon: added to the variances in whitening (ZCA), relative to their mean.
        seed: of the patches drawn.
    """

    @compilation.isolated
    def __init__(
        self,
        images: np.ndarray,
        num_filters: int = 256,
        size: int = 4,
        epsilon: float = 1e-3,
        seed: int = 0,
        valid: np.ndarray | None = None,
    ):
        n, height, width, channels = images.shape
        if n == 0 or min(height, width) < size:
            raise ValueError(f"images {images.shape} hold no patch of {size} x {size}")
        rng = np.random.default_rng(seed)
        count = max(20 * size * size * channels, num_filters)  # enough for the covariance
        rows, tops, lefts = (rng.integers(0, top, count) for top in (n, height - size + 1, width - size + 1))
        places = [(i, slice(y, y + size), slice(x, x + size)) for i, y, x in zip(rows, tops, lefts)]
        if valid is not None:
            places = [place for place in places if valid[place].all()]
        if len(places) < num_filters:
            few = f"{len(places)} of {count} patches drawn of the images hold data in every pixel"
            raise ValueError(f"{few}, fewer than the {num_filters} filters")
        patches = np.stack([images[place].reshape(-1) for place in places]).astype(np.float64)
        mean = patches.mean(axis=0)
        values, axes = np.linalg.eigh(np.cov(patches - mean, rowvar=False))
        whiten = (axes / np.sqrt(np.maximum(values, 0) + epsilon * values.mean())) @ axes.T
        whitened = (patches[:num_filters] - mean) @ whiten
        whitened /= np.linalg.norm(whitened, axis=1, keepdims=True) + 1e-9
        kernels = whitened @ whiten  # the response to a whitened patch, folded into the kernel
        super().__init__(kernels.T.reshape(size, size, channels, num_filters), -mean @ kernels.T)


@jax.jit
def _rectified_mean(images: Array, valid: Array, kernels: Array, bias: Array) -> Array:
    response = jax.lax.conv_general_dilated(images, kernels, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    window = (1, *kernels.shape[:2])
    whole = jax.lax.reduce_window(valid, True, jax.lax.bitwise_and, window, (1, 1, 1), "VALID")[..., None]
    total = jnp.sum(jnp.where(whole, jax.nn.relu(response + bias), 0), axis=(1, 2))
    return total / jnp.maximum(jnp.sum(whole, axis=(1, 2)), 1)
