"""A user's images -> the images that a model takes: bands by name, unit, size, z-score. Numpy alone.

Axes: N images, H and W pixels, C bands, S the model's image side.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from geomoe import landsat

RESIZE_MODES = ("exact", "centre_crop", "resize")
_FAR = 3.0  # deviations of a band's mean over the batch, beyond which a user is warned


class StatisticsWarning(UserWarning):
    """The images lie far from the data that the model was trained on."""


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """What a user says of their images.

    Attributes:
        unit: of the numbers: "collection2_dn" (Landsat Collection 2 level-2 digital numbers, 0 without data), "reflectance"
            (surface reflectance as a fraction, NaN without data), "level1_dn" (level-1 digital numbers, 0 without data; brought
            to top-of-atmosphere reflectance), "uint8" (0 without data, 1 to 255 linear over `uint8_range`).
        bands: names of the channels, in their order; None says that they are the sensor's. Bands beyond the model's are
            dropped.
        fill_missing: whether bands that the model has and the images lack are given as the training mean. Otherwise they are
            an error.
        resize_mode: "exact" (other sizes are an error), "centre_crop" or "resize" (bilinear).
        sun_elevation: degrees, for "level1_dn"; None leaves the sun's angle uncorrected.
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

    def __post_init__(self):
        if self.unit not in landsat.UNITS:
            raise ValueError(f"unit = {self.unit!r} is not one of {', '.join(landsat.UNITS)}")
        landsat.check_sensor(self.sensor)
        if self.unit == "level1_dn" and landsat.lacks_coastal(self.sensor):
            raise ValueError(
                f"level-1 numbers of {self.sensor} have other factors in each band (REFLECTANCE_MULT_BAND_n and _ADD_ in its "
                "*_MTL.txt): apply them and pass unit='reflectance'"
            )
        if self.resize_mode not in RESIZE_MODES:
            raise ValueError(f"resize_mode = {self.resize_mode!r} is not one of {', '.join(RESIZE_MODES)}")
        if isinstance(self.bands, str):
            raise ValueError(f"bands = {self.bands!r} must be a sequence of names, not one string")
        if self.sun_elevation is not None and self.unit != "level1_dn":
            raise ValueError(f"sun_elevation is for unit='level1_dn'; with unit={self.unit!r} it would be ignored")
        if not self.uint8_range[0] < self.uint8_range[1]:
            raise ValueError(f"uint8_range = {self.uint8_range} must rise")

    def channels(self, bands: Sequence[str]) -> tuple[str, ...]:
        """Names of the images' channels, for a model that takes `bands`."""
        if self.bands is not None:
            return tuple(self.bands)
        return tuple(landsat.TM_BANDS) if landsat.lacks_coastal(self.sensor) else tuple(bands)

    def part(self, rows: slice) -> InputSpec:
        """The same for some of the images."""
        if self.sun_elevation is None or np.ndim(self.sun_elevation) == 0:
            return self
        return dataclasses.replace(self, sun_elevation=np.asarray(self.sun_elevation)[rows])


def band_order(given: Sequence[str], wanted: Sequence[str], fill_missing: bool, sensor: str = "landsat8") -> list[int | None]:
    """For each band that the model takes its index among those given, or None where it is missing and may be filled.

    A sensor without the coastal band may lack it.

    Raises:
        ValueError: a band is missing, unknown or given twice.
    """
    names = [landsat.band_name(name, sensor) for name in given]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"band {twice[0]} is given twice: {', '.join(given)}")
    may_lack = landsat.BANDS[:1] if landsat.lacks_coastal(sensor) else ()
    missing = [band for band in wanted if band not in names and band not in may_lack]
    if missing and not fill_missing:
        titles = ", ".join(f"{b} ({landsat.BAND_TITLES[landsat.BANDS.index(b)]})" for b in missing)
        raise ValueError(
            f"the model needs {titles}, which the images lack (they have {', '.join(given)}); "
            "fill_missing=True puts the training mean there, at a cost in quality"
        )
    return [names.index(band) if band in names else None for band in wanted]


def _check_range(images: np.ndarray, unit: str) -> None:
    if unit != "reflectance" and images.dtype.kind == "f" and not np.isfinite(images).all():
        raise ValueError("images hold NaN or infinite values; give pixels without data the digital number 0")
    finite = images if images.dtype.kind != "f" else images[~np.isnan(images)]
    if finite.size == 0:
        return
    low, high = float(finite.min()), float(finite.max())
    if unit == "reflectance":
        if images.dtype.kind != "f":
            raise ValueError(f"unit='reflectance' needs float images, got {images.dtype}; digital numbers have their own units")
        if high > 10 or low < -2:
            raise ValueError(
                f"values from {low:g} to {high:g} are no reflectance, which is a fraction; for Collection 2 digital "
                "numbers pass unit='collection2_dn'"
            )
        return
    top = 255 if unit == "uint8" else 65535
    if low < 0 or high > top:
        raise ValueError(f"values from {low:g} to {high:g} are beyond the 0 to {top} of unit={unit!r}")
    if unit != "uint8" and images.dtype.kind == "f" and 0 < high <= 2:
        raise ValueError(f"float values up to {high:g} are no digital numbers; for reflectance pass unit='reflectance'")


def to_collection2(images: np.ndarray, given: InputSpec) -> np.ndarray:
    """Images (..., C) of any unit to Collection 2 digital numbers, float32, 0 without data; not rounded.

    Raises:
        ValueError: the values are not of that unit.
    """
    if images.dtype.kind not in "uif":
        raise ValueError(f"images must be numbers, got dtype {images.dtype}")
    _check_range(images, given.unit)
    if given.unit == "collection2_dn":
        return images.astype(np.float32)
    if given.unit == "reflectance":
        reflectance = np.asarray(images, np.float32)
        if np.isinf(reflectance).any():
            raise ValueError("images hold infinite values; give pixels without data NaN")
    elif given.unit == "level1_dn":
        reflectance = landsat.level1_to_reflectance(images, given.sun_elevation)
    else:
        low, high = given.uint8_range
        reflectance = np.where(images == 0, np.nan, low + (images.astype(np.float32) - 1) * ((high - low) / 254))
    dn = (reflectance - landsat.REFLECTANCE_OFFSET) / landsat.REFLECTANCE_SCALE
    return np.where(np.isnan(dn), landsat.NODATA, np.clip(dn, 1, 65535)).astype(np.float32)


@functools.lru_cache(maxsize=256)
def resize_weights(source: int, target: int) -> np.ndarray:
    """(target, source) float32: bilinear interpolation along one axis, pixel centres aligned, without antialiasing."""
    position = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    low = np.floor(position).astype(int)
    weights = np.zeros((target, source), np.float32)
    weights[np.arange(target), low] = 1 - (position - low)
    weights[np.arange(target), np.minimum(low + 1, source - 1)] += position - low
    weights.flags.writeable = False
    return weights


def resized(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """(N, H, W, C) -> (N, height, width, C) float32, bilinear."""
    n, h, w, c = images.shape
    rows, columns = resize_weights(h, height), resize_weights(w, width)
    tall = rows @ images.astype(np.float32).reshape(n, h, w * c)
    return columns @ tall.reshape(n, height, w, c)


def fitted_shape(height: int, width: int, size: int, resize_mode: str) -> tuple[int, int]:
    """What an image is resized to: `size` by `size` for "resize", else no side shorter than `size` and the same form."""
    if resize_mode == "resize":
        return size, size
    scale = size / min(height, width)
    return max(round(height * scale), size), max(round(width * scale), size)


def fit_size(images: np.ndarray, size: int, resize_mode: str) -> np.ndarray:
    """(N, H, W, C) -> (N, size, size, C), as `geomoe.data.load` does it; enlarged before a crop where a side is too short.

    Raises:
        ValueError: the size is another and `resize_mode` is "exact".
    """
    height, width = images.shape[1:3]
    if (height, width) == (size, size):
        return images
    if resize_mode == "exact":
        raise ValueError(
            f"images of {height} x {width} pixels for a model of {size} x {size}; pass resize_mode='centre_crop' or resize_mode='resize'"
        )
    if resize_mode == "resize" or min(height, width) < size:
        images = resized(images, *fitted_shape(height, width, size, resize_mode))
        height, width = images.shape[1:3]
    top, left = (height - size) // 2, (width - size) // 2
    return images[:, top : top + size, left : left + size]


def prepare(
    images: np.ndarray, given: InputSpec, bands: Sequence[str], size: int, statistics: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Brings images to what a model takes.

    Args:
        images: (N, H, W, C) in the unit and with the bands of `given`.
        bands: the model's.
        size: the model's image side.
        statistics: the model's {"mean", "std"}, in Collection 2 digital numbers.

    Returns:
        z-scored images (N, size, size, len(bands)) float32, and which pixels hold data in every band, (N, size, size) bool.

    Raises:
        ValueError: shape, type, bands or values are wrong; the message says which.
    """
    if images.ndim != 4:
        raise ValueError(f"images must be (N, H, W, C), got {images.shape}")
    by_name = given.bands is not None or landsat.lacks_coastal(given.sensor)
    names = given.channels(bands)
    if images.shape[-1] != len(names):
        what = "bands names" if given.bands is not None else f"{given.sensor} has" if by_name else "the model takes"
        raise ValueError(
            f"images must be (N, H, W, {len(names)}), got {images.shape}: {what} {', '.join(names)}; bands=(...) says which "
            "bands there are"
        )
    order = band_order(names, bands, given.fill_missing, given.sensor) if by_name else list(range(len(names)))
    own = given.statistics
    present = [i for i in order if i is not None]
    images = images if present == list(range(images.shape[-1])) else images[..., present]
    if own is None:
        values = to_collection2(images, given)
        mean, std = (np.asarray(statistics[key], np.float32)[[i is not None for i in order]] for key in ("mean", "std"))
    else:
        _check_range(images, given.unit)
        values = np.nan_to_num(images.astype(np.float32))
        mean, std = (np.asarray(own[key], np.float32) for key in ("mean", "std"))
        if mean.shape != (len(names),) or std.shape != (len(names),) or not (std > 0).all():
            raise ValueError(f"statistics must hold a mean and a std > 0 for each of the {len(names)} bands of the images")
        mean, std = mean[present], std[present]
    nodata = np.isnan(images) if given.unit == "reflectance" else images == landsat.NODATA
    valid = ~nodata.any(axis=-1)
    if values.shape[1:3] != (size, size):
        values = fit_size(values, size, given.resize_mode)
        valid = fit_size(valid[..., None].astype(np.float32), size, given.resize_mode)[..., 0] > 0.999
    z = (values - mean) / std
    if None in order:
        full = np.zeros((*z.shape[:3], len(order)), np.float32)
        full[..., [i for i, source in enumerate(order) if source is not None]] = z
        if landsat.lacks_coastal(given.sensor):
            coastal, blue = (bands.index(name) for name in landsat.BANDS[:2])
            full[..., coastal] = full[..., blue]
        z = full
    return z.astype(np.float32, copy=False), valid


def warn_if_far(z: np.ndarray, valid: np.ndarray, statistics: Mapping[str, Any], bands: Sequence[str], unit: str) -> None:
    """Warns where a band's mean over the batch lies 3 or more deviations from that of the training data; says both.

    Args:
        z: (N, S, S, C) z-scored; valid: (N, S, S).
    """
    if not valid.any():
        return
    mean = z[valid].mean(axis=0)
    far = np.flatnonzero(np.abs(mean) > _FAR)
    if far.size:
        seen = ", ".join(
            f"{bands[i]}: mean {mean[i] * statistics['std'][i] + statistics['mean'][i]:.0f} where training had "
            f"{statistics['mean'][i]:.0f} +- {statistics['std'][i]:.0f}"
            for i in far
        )
        warnings.warn(
            f"these images are far from the training data (in Collection 2 digital numbers): {seen}. "
            f"Is unit={unit!r} what they are? ({', '.join(landsat.UNITS)})",
            StatisticsWarning,
            stacklevel=3,
        )
