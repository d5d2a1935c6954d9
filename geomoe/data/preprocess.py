"""Images -> the images that a model takes: bands by name, unit, size, z-score, and where there are data. Numpy alone.

Axes: N images, H and W pixels, C bands, S the model's image side.
"""

import dataclasses
import functools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from geomoe import landsat
from geomoe.landsat import Statistics

RESIZE_MODES = ("exact", "centre_crop", "resize")  # how an image gets the model's size: see `InputSpec`
RANDOM_RESIZE_MODES = ("random_crop", "random_resized_crop")  # in training: see `geomoe.data.LoadOptions`
WHOLE = 0.999  # of a pixel after resizing must hold data for it to be valid: nothing without data is mixed in
_FAR = 3.0  # standard deviations of a band's mean over the batch, beyond which a user is warned


class StatisticsWarning(UserWarning):
    """The images lie far from the data that the model was trained on."""


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """What a user says of their images; ValueError where a value has no meaning, or does not go with the others.

    Attributes:
        unit: of the numbers: "collection2_dn" (Landsat Collection 2 level-2 digital numbers, 0 without data), "reflectance"
            (surface reflectance as a fraction, NaN without data), "level1_dn" (level-1 digital numbers, 0 without data; brought
            to top-of-atmosphere reflectance), "uint8" (0 without data, 1 to 255 linear over `uint8_range`).
        bands: names of the channels, in their order; None says that they are the sensor's. Bands beyond the model's are
            dropped.
        fill_missing: whether bands that the model has and the images lack are filled with the training mean. Otherwise they
            are an error.
        resize_mode: "exact" (other sizes are an error), "centre_crop" (offset rounded down) or "resize" (bilinear).
        sun_elevation: degrees, one number or one an image, for "level1_dn"; None leaves the sun's angle uncorrected.
        uint8_range: reflectances that 1 and 255 stand for.
        statistics: {"mean", "std", "source"} in the unit of the images, for their z-score; None takes the model's, after
            conversion to Collection 2 digital numbers.
        sensor: one of `geomoe.landsat.SENSORS`, whose numbers those in `bands` are. Landsat 4, 5 and 7 have no coastal band;
            the blue band's z-score stands in its place.
    """

    unit: str = "collection2_dn"
    bands: Sequence[str] | None = None
    fill_missing: bool = False
    resize_mode: str = "exact"
    sun_elevation: float | np.ndarray | None = None
    uint8_range: tuple[float, float] = (0.0, 1.0)
    statistics: Mapping[str, Any] | None = None
    sensor: str = "landsat8"

    def __post_init__(self) -> None:
        if self.unit not in landsat.UNITS:
            raise ValueError(f"unit = {self.unit!r} is not one of {', '.join(landsat.UNITS)}")
        landsat.check_sensor(self.sensor)
        if self.unit == "level1_dn" and landsat.lacks_coastal(self.sensor):
            factors = "other factors in each band (REFLECTANCE_MULT_BAND_n and _ADD_ in its *_MTL.txt)"
            raise ValueError(f"level-1 numbers of {self.sensor} have {factors}: apply them and pass unit='reflectance'")
        if self.resize_mode not in RESIZE_MODES:
            raise ValueError(f"resize_mode = {self.resize_mode!r} is not one of {', '.join(RESIZE_MODES)}")
        if isinstance(self.bands, str):
            raise ValueError(f"bands = {self.bands!r} must be a sequence of names, not one string")
        if self.sun_elevation is not None and self.unit != "level1_dn":
            raise ValueError(f"sun_elevation is for unit='level1_dn'; with unit={self.unit!r} it would be ignored")
        if not self.uint8_range[0] < self.uint8_range[1]:
            raise ValueError(f"uint8_range = {self.uint8_range} must rise")
        if self.statistics is not None:
            object.__setattr__(self, "statistics", Statistics.of(self.statistics))

    def channels(self, bands: Sequence[str]) -> tuple[str, ...]:
        """List the names of the images' channels, for a model that takes `bands`."""
        if self.bands is not None:
            return tuple(self.bands)
        return tuple(landsat.TM_BANDS) if landsat.lacks_coastal(self.sensor) else tuple(bands)

    def part(self, rows: slice) -> Self:
        """Describe some of the images alone."""
        if self.sun_elevation is None or np.ndim(self.sun_elevation) == 0:
            return self
        return dataclasses.replace(self, sun_elevation=np.asarray(self.sun_elevation)[rows])


def band_order(channels: Sequence[str], bands: Sequence[str], fill_missing: bool, sensor: str = "landsat8") -> list[int | None]:
    """Find each of the model's `bands` among the `channels` of the images: its index, or None where it is missing.

    A band may be missing with `fill_missing`, and the coastal one where the sensor lacks it; else that is a ValueError, as is
    an unknown band and one named twice.
    """
    names = [landsat.band_name(name, sensor) for name in channels]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"band {twice[0]} is named twice: {', '.join(channels)}")
    may_lack = landsat.BANDS[:1] if landsat.lacks_coastal(sensor) else ()
    missing = [band for band in bands if band not in names and band not in may_lack]
    if missing and not fill_missing:
        titles = ", ".join(f"{band} ({landsat.band_title(band)})" for band in missing)
        lacking = f"the model needs {titles}, which the images lack (they have {', '.join(channels)})"
        raise ValueError(f"{lacking}; fill_missing=True puts the training mean there, at a cost in quality")
    return [names.index(band) if band in names else None for band in bands]


def _check_range(images: np.ndarray, unit: str) -> None:
    if unit != "reflectance" and images.dtype.kind == "f" and not np.isfinite(images).all():
        raise ValueError("images hold NaN or infinite values; give pixels without data the digital number 0")
    finite = images[~np.isnan(images)] if images.dtype.kind == "f" else images
    if finite.size == 0:
        return
    low, high = float(finite.min()), float(finite.max())
    if unit == "reflectance":
        if images.dtype.kind != "f":
            raise ValueError(f"unit='reflectance' needs float images, got {images.dtype}; digital numbers have their own units")
        if high > 10 or low < -2:
            wrong = f"values from {low:g} to {high:g} are no reflectance, which is a fraction"
            raise ValueError(f"{wrong}; for Collection 2 digital numbers pass unit='collection2_dn'")
        return
    top = 255 if unit == "uint8" else 65535
    if low < 0 or high > top:
        raise ValueError(f"values from {low:g} to {high:g} are beyond the 0 to {top} of unit={unit!r}")
    if unit != "uint8" and images.dtype.kind == "f" and 0 < high <= 2:
        raise ValueError(f"float values up to {high:g} are no digital numbers; for reflectance pass unit='reflectance'")


def to_collection2(images: np.ndarray, spec: InputSpec) -> np.ndarray:
    """Convert images (..., C) of any unit to Collection 2 digital numbers, float32, 0 without data; not rounded.

    Values that are not of the unit are a ValueError.
    """
    if images.dtype.kind not in "uif":
        raise ValueError(f"images must be numbers, got dtype {images.dtype}")
    _check_range(images, spec.unit)
    if spec.unit == "collection2_dn":
        return images.astype(np.float32)
    if spec.unit == "reflectance":
        reflectance = np.asarray(images, np.float32)
        if np.isinf(reflectance).any():
            raise ValueError("images hold infinite values; give pixels without data NaN")
    elif spec.unit == "level1_dn":
        reflectance = landsat.level1_to_reflectance(images, spec.sun_elevation)
    else:
        low, high = spec.uint8_range
        reflectance = np.where(images == 0, np.nan, low + (images.astype(np.float32) - 1) * ((high - low) / 254))
    dn = (reflectance - landsat.REFLECTANCE_OFFSET) / landsat.REFLECTANCE_SCALE
    return np.where(np.isnan(dn), landsat.NODATA, np.clip(dn, 1, 65535)).astype(np.float32)


def has_data(images: np.ndarray, unit: str = "collection2_dn") -> np.ndarray:
    """Find the pixels with data in every band: (..., C) -> (...) bool. No data is NaN in reflectances, 0 in other units."""
    lacking = np.isnan(images) if images.dtype.kind == "f" else images == landsat.NODATA
    if images.dtype.kind == "f" and unit != "reflectance":
        lacking |= images == landsat.NODATA
    return ~lacking.any(axis=-1)


@functools.lru_cache(maxsize=256)
def resize_weights(source: int, target: int) -> np.ndarray:
    """Compute (target, source) float32 weights of bilinear interpolation: pixel centres aligned, no antialiasing."""
    position = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    low = np.floor(position).astype(int)
    weights = np.zeros((target, source), np.float32)
    weights[np.arange(target), low] = 1 - (position - low)
    weights[np.arange(target), np.minimum(low + 1, source - 1)] += position - low
    weights.flags.writeable = False
    return weights


def resize(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize (N, H, W, C) to (N, height, width, C) float32, bilinear."""
    n, h, w, c = images.shape
    rows, columns = resize_weights(h, height), resize_weights(w, width)
    tall = rows @ images.astype(np.float32).reshape(n, h, w * c)
    return columns @ tall.reshape(n, height, w, c)


def to_size(
    images: np.ndarray, size: int, resize_mode: str, position: tuple[float, float] | None = None, side: int | None = None
) -> np.ndarray:
    """Bring images (N, H, W, C) to (N, size, size, C), a view of them where nothing is resized.

    Images with a side too short for a crop of the size are enlarged first, in their own form. Another size where `resize_mode`
    (of `RESIZE_MODES` or `RANDOM_RESIZE_MODES`) is "exact" is a ValueError.

    Args:
        position: of a random crop between the first and the last that there is room for, row and column in [0, 1); None is
            the middle, rounded down.
        side: of the square that "random_resized_crop" cuts, in pixels, no longer than the image's.
    """
    height, width = images.shape[1:3]
    if resize_mode == "exact" and (height, width) != (size, size):
        sizes = f"images of {height} x {width} pixels for a model of {size} x {size}"
        raise ValueError(f"{sizes}; pass resize_mode='centre_crop' or resize_mode='resize'")
    if resize_mode == "resize":
        return images if (height, width) == (size, size) else resize(images, size, size)
    side = size if side is None else side
    if min(height, width) < side:
        scale = side / min(height, width)
        height, width = max(round(height * scale), side), max(round(width * scale), side)
        images = resize(images, height, width)
    if position is None:
        top, left = (height - side) // 2, (width - side) // 2
    else:
        top, left = (min(int(p * (room + 1)), room) for p, room in zip(position, (height - side, width - side)))
    images = images[:, top : top + side, left : left + side]
    return images if side == size else resize(images, size, size)


def prepare(
    images: np.ndarray, spec: InputSpec, bands: Sequence[str], size: int, statistics: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Bring images to what a model takes.

    Args:
        images: (N, H, W, C) in the unit and with the bands of `spec`.
        bands, size, statistics: the model's, with the {"mean", "std"} in Collection 2 digital numbers.

    Returns:
        z-scored images (N, size, size, len(bands)) float32, and which pixels hold data in every band, (N, size, size) bool.

    Raises:
        ValueError: shape, type, bands or values are wrong; the message says which.
    """
    if images.ndim != 4:
        raise ValueError(f"images must be (N, H, W, C), got {images.shape}")
    by_name = spec.bands is not None or landsat.lacks_coastal(spec.sensor)
    names = spec.channels(bands)
    if images.shape[-1] != len(names):
        what = "bands names" if spec.bands is not None else f"{spec.sensor} has" if by_name else "the model takes"
        needed = f"images must be (N, H, W, {len(names)}), got {images.shape}: {what} {', '.join(names)}"
        raise ValueError(f"{needed}; bands=(...) says which bands there are")
    order = band_order(names, bands, spec.fill_missing, spec.sensor) if by_name else list(range(len(names)))
    present = [i for i, channel in enumerate(order) if channel is not None]  # of the model's bands
    channels = [channel for channel in order if channel is not None]
    images = images if channels == list(range(images.shape[-1])) else images[..., channels]
    if spec.statistics is None:
        values = to_collection2(images, spec)
        zscore = Statistics.of(statistics).select(present)
    else:
        _check_range(images, spec.unit)
        values = np.nan_to_num(images.astype(np.float32))
        zscore = Statistics.of(spec.statistics)
        if len(zscore.mean) != len(names):
            raise ValueError(f"statistics hold {len(zscore.mean)} bands where the images have {len(names)}: {', '.join(names)}")
        zscore = zscore.select(channels)
    z = zscore.normalize(to_size(values, size, spec.resize_mode)).astype(np.float32, copy=False)
    valid = to_size(has_data(images, spec.unit)[..., None], size, spec.resize_mode)[..., 0] > WHOLE
    if None not in order:
        return z, valid
    full = np.zeros((*z.shape[:3], len(order)), np.float32)  # 0 is the training mean
    full[..., present] = z
    if landsat.lacks_coastal(spec.sensor):
        coastal, blue = (bands.index(name) for name in landsat.BANDS[:2])
        full[..., coastal] = full[..., blue]
    return full, valid


def warn_if_far(z: np.ndarray, valid: np.ndarray, statistics: Mapping[str, Any], bands: Sequence[str], unit: str) -> None:
    """Warn where a band's mean over the batch lies 3 or more standard deviations from that of the training data.

    `z` (N, S, S, C) is z-scored by `statistics`, `valid` (N, S, S) says which pixels count. The StatisticsWarning says both
    means, in digital numbers, and asks whether `unit` is what the images were.
    """
    if not valid.any():
        return
    far = [
        f"{band}: mean {value * std + mean:.0f} where training had {mean:.0f} +- {std:.0f}"
        for band, value, mean, std in zip(bands, z[valid].mean(axis=0), statistics["mean"], statistics["std"])
        if abs(value) > _FAR
    ]
    if far:
        message = (
            f"these images are far from the training data (in Collection 2 digital numbers): {', '.join(far)}. "
            f"Is unit={unit!r} what they are? ({', '.join(landsat.UNITS)})"
        )
        warnings.warn(message, StatisticsWarning, stacklevel=3)
