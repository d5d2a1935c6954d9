"""Images -> the images that a model takes: bands by name, unit, size, z-score, and where there are data. Numpy alone.

Axes: N images, H and W pixels, C bands, S the model's image side.
"""

import contextlib
import dataclasses
import functools
import itertools
import numbers
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, Self

import numpy as np

from geomoe import landsat
from geomoe.landsat import COMPUTED, Statistics

RESIZE_MODES = ("exact", "centre_crop", "resize")  # how an image gets the model's size: see `InputSpec`
RANDOM_RESIZE_MODES = ("random_crop", "random_resized_crop")  # in training: see `geomoe.data.LoadOptions`
NODATA_MODES = ("masked", "published")
ENCODER, IMAGES = "encoder", "images"  # whose statistics images are z-scored by, in a record of the input
WHOLE = 0.999  # of a pixel after resizing must hold data for it to be valid: nothing without data is mixed in
# What digital number 0 of Collection 2, no data, is in units that it is scaled to.
_ZERO = {"reflectance": landsat.REFLECTANCE_OFFSET} | dict.fromkeys(
    landsat.SCALED_UNITS, landsat.REFLECTANCE_OFFSET / landsat.SCALED_SCALE
)
_BYTE_RANGE = (0.0, 1.0)  # reflectances that 1 and 255 stand for where nobody says it
_PIXELS = 1 << 18  # that are converted at once where statistics are computed
_FAR = 3.0  # standard deviations of a band's mean over the batch, beyond which a user is warned
_IMPOSSIBLE = -0.05  # reflectance; water and shadow come near it, nothing lies below
_IMPOSSIBLE_SHARE = 0.25  # of a band's pixels below it, beyond which a user is warned


class UnitWarning(UserWarning):
    """Nobody says what the numbers of a scene are."""


class StatisticsWarning(UserWarning):
    """The images lie far from the data that the model was trained on."""


class _Assumed(str):
    """A sensor that nobody said."""


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """What a user says of their images; ValueError where a value has no meaning, or does not go with the others.

    Attributes:
        unit: of the numbers: "collection2_dn" (Landsat Collection 2 level-2 digital numbers, 0 without data), "collection1_sr"
            and "hls" (surface reflectance times 10,000, -9999 without data; saturated values, 16000 and 20000, hold none),
            "reflectance" (surface reflectance as a fraction), "level1_dn" (level-1 digital numbers, 0 without data; brought to
            top-of-atmosphere reflectance), "uint8" (0 without data, 1 to 255 linear over `uint8_range`). NaN is no data in all.
            None is what a scene says of itself, else "collection2_dn".
        bands: names of the channels, in their order; None says that they are the sensor's. Bands beyond the model's, and
            others of Landsat products, as "ST_B10" and "QA_PIXEL", are dropped.
        fill_missing: whether bands that the model has and the images lack are filled with the training mean. Otherwise they
            are an error.
        resize_mode: "exact" (other sizes are an error), "centre_crop" (offset rounded down) or "resize" (bilinear).
        sun_elevation: degrees, one number or one an image, for "level1_dn"; None leaves the sun's angle uncorrected.
        level1_factors: band -> (scale, offset) of top-of-atmosphere reflectance, for "level1_dn"; None stands for Landsat 8's
            and 9's, which are the same in every band. Landsat 4 to 7's stand in the metadata file. Bands have the model's names
            ("SR_B2"), or the sensor's as `geomoe.landsat.product_of` gives them ("B1").
        uint8_range: reflectances that 1 and 255 stand for, for "uint8".
        statistics: of the z-score: {"mean", "std", "source"} of the images' unit and channels, or with "unit": "collection2_dn"
            of such numbers in the model's bands, whatever the images are; "computed" takes those of the images themselves,
            over all that one call is given; None takes the model's.
        sensor: one of `geomoe.landsat.SENSORS`, whose numbers those in `bands` are; None is what a file or scene says of
            itself, else Landsat 8, but where `bands` are numbered as those of Landsat 4, 5 and 7, which is an error. Where the
            coastal band lacks, as in these, the blue band's z-score stands in.
        nodata: what becomes of pixels without data: "masked" (they do not speak: see `geomoe.models.Encoder`), or "published"
            (they enter as digital number 0, five standard deviations dark, as in the published evaluation).
    """

    unit: str | None = None
    bands: Sequence[str] | None = None
    fill_missing: bool = False
    resize_mode: str = "exact"
    sun_elevation: float | np.ndarray | None = None
    level1_factors: Mapping[str, tuple[float, float]] | None = None
    uint8_range: tuple[float, float] = _BYTE_RANGE
    statistics: Mapping[str, Any] | str | None = None
    sensor: str | None = None
    nodata: str = "masked"

    def __post_init__(self) -> None:
        if self.unit is not None and self.unit not in landsat.UNITS:
            raise ValueError(f"unit = {self.unit!r} is not one of {', '.join(landsat.UNITS)}")
        if self.sensor is not None:
            landsat.check_sensor(self.sensor)
            if self.unit == "level1_dn" and landsat.lacks_coastal(self.sensor) and self.level1_factors is None:
                factors = "factors of each band's own: REFLECTANCE_MULT_BAND_n and _ADD_ of its metadata file (*_MTL.txt)"
                raise ValueError(f"level-1 numbers of {self.sensor} have {factors}; give them as level1_factors")
        if self.resize_mode not in RESIZE_MODES:
            raise ValueError(f"resize_mode = {self.resize_mode!r} is not one of {', '.join(RESIZE_MODES)}")
        if self.nodata not in NODATA_MODES:
            raise ValueError(f"nodata = {self.nodata!r} is not one of {', '.join(NODATA_MODES)}")
        if isinstance(self.bands, str):
            raise ValueError(f"bands = {self.bands!r} must be a sequence of names, not one string")
        if self.bands is not None:
            in_order = np.iterable(self.bands) and not isinstance(self.bands, Set | Mapping)
            if not in_order or not all(isinstance(band, str) for band in self.bands):
                raise ValueError(f"bands = {self.bands!r} must be a sequence of names, in their order")
            object.__setattr__(self, "bands", tuple(map(str, self.bands)))
        if np.ma.is_masked(self.sun_elevation):
            raise ValueError("sun_elevation is masked for some images; give it in degrees, or leave these images out")
        limits = tuple(self.uint8_range) if np.iterable(self.uint8_range) else ()
        if len(limits) != 2 or not all(isinstance(limit, numbers.Real) for limit in limits) or not limits[0] < limits[1]:
            raise ValueError(f"uint8_range = {self.uint8_range!r} must rise: two numbers, as (0.0, 1.0)")
        object.__setattr__(self, "uint8_range", limits)
        level1 = [name for name in ("sun_elevation", "level1_factors") if getattr(self, name) is not None]
        for name, unit in [*((name, "level1_dn") for name in level1), *[("uint8_range", "uint8")] * (limits != _BYTE_RANGE)]:
            if self.unit not in (None, unit):
                raise ValueError(f"{name} is for unit={unit!r}; with unit={self.unit!r} it would be ignored")
        if self.level1_factors is not None and self.sensor is not None:
            object.__setattr__(self, "level1_factors", factors_by_band(self.level1_factors, self.sensor))
        if isinstance(self.statistics, str):
            if self.statistics != COMPUTED:
                raise ValueError(
                    f"statistics = {self.statistics!r} is neither a mapping with 'mean' and 'std' nor {COMPUTED!r}"
                )
        elif self.statistics is not None:
            object.__setattr__(self, "statistics", Statistics.of(self.statistics))

    def known(self, unit: str = "collection2_dn", sensor: str | None = None) -> Self:
        """Fill in the unit and the sensor where they are None; a sensor that nobody says is checked by `take_channels`."""
        if self.unit and self.sensor:
            return self
        return dataclasses.replace(self, unit=self.unit or unit, sensor=self.sensor or sensor or _Assumed("landsat8"))

    def channels(self, bands: Sequence[str]) -> tuple[str, ...]:
        """List the names of the images' channels, for a model that takes `bands`."""
        if self.bands is not None:
            return tuple(self.bands)
        return tuple(landsat.TM_BANDS) if self.sensor and landsat.lacks_coastal(self.sensor) else tuple(bands)

    @property
    def own_statistics(self) -> Statistics | None:
        """The statistics that were given or computed; None where the model's are to be taken."""
        if isinstance(self.statistics, str):
            raise ValueError(f"statistics = {COMPUTED!r} are those of images: give the images, or the statistics themselves")
        return None if self.statistics is None else Statistics.of(self.statistics)

    def measured(self, parts: Iterable["Part"], bands: Sequence[str], of: str) -> Self:
        """Compute the images' own statistics where they are asked for; arguments as for `measure`, read only then."""
        return dataclasses.replace(self, statistics=measure(parts, bands, of)) if self.statistics == COMPUTED else self

    def check_masked(self, option: str) -> None:
        """Raise ValueError where pixels without data speak, so that an option which names such pixels would be ignored."""
        if self.nodata == "published":
            raise ValueError(f"nodata='published' lets pixels without data speak; {option} would be ignored")

    def part(self, rows: slice) -> Self:
        """Describe some of the images alone."""
        if self.sun_elevation is None or np.ndim(self.sun_elevation) == 0:
            return self
        return dataclasses.replace(self, sun_elevation=np.asarray(self.sun_elevation)[rows])


# What images are, images (..., C), and which of their pixels count, or None.
Part = tuple[InputSpec, np.ndarray, np.ndarray | None]


def check_numbers(names: Sequence[str | None]) -> None:
    """Raise ValueError where names of bands, of which nobody says the sensor, are those of Landsat 4, 5 and 7: B1 to B5 and B7.

    To Landsat 8 they would be all bands but B6, and each of them another.
    """
    if _are_of_landsat7(tuple(names)):
        said = f"the bands {', '.join(name or '(no name)' for name in names)} are numbered as those of Landsat 4, 5 and 7"
        raise ValueError(f"{said}; name the sensor: sensor='landsat5' or 'landsat7', or 'landsat8' if they are its own")


@functools.lru_cache
def _are_of_landsat7(names: tuple[str | None, ...]) -> bool:
    """Whether names are all numbers of Landsat 4, 5 and 7, and all of Landsat 8 but B6; those of a folder's files are alike."""
    of_landsat7: Set[str] = set()
    with contextlib.suppress(ValueError):
        of_landsat7 = set(landsat.bands_of_file(names, "landsat7") or ())
    if of_landsat7 != set(landsat.sensor_bands("landsat7")):
        return False
    of_landsat8 = set(landsat.bands_of_file(names, "landsat8") or ())
    return of_landsat8 == set(landsat.BANDS) - {landsat.BANDS[5]}


def factors_by_band(factors: Mapping[str, tuple[float, float]], sensor: str) -> dict[str, tuple[float, float]]:
    """Bring factors of level 1 to the model's names of the bands, where they have those of a sensor; others are left out."""
    found = {}
    for name, pair in factors.items():
        with contextlib.suppress(ValueError):
            found[name if name in landsat.BANDS else landsat.band_name(name, sensor)] = pair
    return found


def band_order(channels: Sequence[str], bands: Sequence[str], fill_missing: bool, sensor: str = "landsat8") -> list[int | None]:
    """Find each of the model's `bands` among the `channels` of the images: its index, or None where it is missing.

    A band may be missing with `fill_missing`, and the coastal one where blue is there to stand in; else that is a ValueError,
    as is an unknown band and one named twice.
    """
    names = [None if landsat.is_other_band(name, sensor) else landsat.band_name(name, sensor) for name in channels]
    if twice := [name for name in names if name and names.count(name) > 1]:
        raise ValueError(f"band {twice[0]} is named twice: {', '.join(channels)}")
    may_lack = landsat.BANDS[:1] if landsat.BANDS[1] in names else ()
    missing = [band for band in bands if band not in names and band not in may_lack]
    if missing and not fill_missing:
        titles = ", ".join(f"{band} ({landsat.band_title(band)})" for band in missing)
        lacking = f"the model needs {titles}, which the images lack (they have {', '.join(channels)})"
        raise ValueError(f"{lacking}; fill_missing=True puts the training mean there, at a cost in quality")
    return [names.index(band) if band in names else None for band in bands]


def unpacked(values: Any) -> Any:
    """The list of what a column of objects holds, a pandas Series of arrays, say; anything else as it is."""
    holds_objects = getattr(getattr(values, "dtype", None), "kind", "") == "O"
    return list(values) if holds_objects and np.ndim(values) == 1 else values


def _stacked(values: Any) -> Any:
    """One masked array of a sequence of arrays of which some are masked, which numpy would drop; anything else as it is."""
    values = unpacked(values)
    return np.ma.stack(values) if isinstance(values, list | tuple) and any(map(np.ma.is_masked, values)) else values


def filled(images: Any, unit: str) -> np.ndarray:
    """Put the value of no data (`geomoe.landsat.nodata_value`) where an image of numpy's masked type is masked."""
    images = _stacked(images)
    if not isinstance(images, np.ma.MaskedArray):
        return np.asarray(images)
    return landsat.unmasked(images, landsat.nodata_value(unit, images.dtype))


def read_mask(valid: Any) -> np.ndarray:
    """Bring a mask of pixels that hold data, or a sequence of them, to bool; what is masked itself, or NaN, holds none."""
    valid = _stacked(valid)
    valid = np.asarray(valid.filled(0) if np.ma.is_masked(valid) else valid)
    return np.nan_to_num(valid, nan=0).astype(bool) if valid.dtype.kind == "f" else valid.astype(bool)


def check_values(images: np.ndarray, unit: str) -> None:
    """Raise ValueError where images (..., C) hold values that are none of the unit; the message says which."""
    if images.dtype.kind not in "uif":
        raise ValueError(f"images must be numbers, got dtype {images.dtype}")
    finite = images
    if images.dtype.kind == "f":
        if np.isinf(images).any():
            raise ValueError("images hold infinite values; give pixels without data NaN")
        finite = images[~np.isnan(images)]
    elif unit == "collection2_dn" and images.dtype.itemsize == 1:
        raise ValueError(f"{images.dtype} images hold no Collection 2 digital numbers; pass unit='uint8', or what they are")
    elif unit == "reflectance":
        raise ValueError(f"unit='reflectance' needs float images, got {images.dtype}; digital numbers have their own units")
    if unit in landsat.SCALED_UNITS:
        finite = finite[finite != landsat.SCALED_FILL]
    if finite.size == 0:
        return
    low, high = float(finite.min()), float(finite.max())
    if unit == "reflectance":
        if high > 10 or low < -2:
            wrong = f"values from {low:g} to {high:g} are no reflectance, which is a fraction"
            advice = (
                "give pixels without data NaN" if high <= 10 else "for Collection 2 digital numbers pass unit='collection2_dn'"
            )
            raise ValueError(f"{wrong}; {advice}")
        return
    if images.dtype.kind == "f" and 0 < high <= 2 and (low >= -2 or unit in landsat.SCALED_UNITS):
        of_bytes = "multiply by 255 what was divided by it, as torchvision's ToTensor does"
        advice = of_bytes if unit == "uint8" else "for reflectance pass unit='reflectance'"
        raise ValueError(f"float values up to {high:g} are no digital numbers; {advice}")
    bottom, top = (-9999, 20000) if unit in landsat.SCALED_UNITS else (0, 255 if unit == "uint8" else 65535)
    if low < bottom or high > top:
        raise ValueError(f"values from {low:g} to {high:g} are beyond the {bottom} to {top} of unit={unit!r}")


def to_collection2(images: np.ndarray, spec: InputSpec, channels: Sequence[str] = ()) -> np.ndarray:
    """Convert images (..., C) of any unit to Collection 2 digital numbers, float32, 0 without data; not rounded.

    `channels` are the model's names of the C bands, needed where `spec.level1_factors` are given. Values that are not of the
    unit are a ValueError.
    """
    spec = spec.known()
    unit = str(spec.unit)
    check_values(images, unit)
    if unit == "collection2_dn":
        return np.nan_to_num(images.astype(np.float32, copy=False))
    if unit == "reflectance":
        reflectance = np.where(has_data_by_band(images, unit), images, np.nan).astype(np.float32, copy=False)
    elif unit in landsat.SCALED_UNITS:
        reflectance = np.where(has_data_by_band(images, unit), images * np.float32(landsat.SCALED_SCALE), np.nan)
    elif unit == "level1_dn":
        factors: dict[str, Any] = {}
        if spec.level1_factors is not None:
            if lacking := [band for band in channels if band not in spec.level1_factors]:
                keys = "REFLECTANCE_MULT_BAND_n and REFLECTANCE_ADD_BAND_n of the metadata file"
                raise ValueError(f"level1_factors lack {', '.join(lacking)} ({keys})")
            pairs = np.array([spec.level1_factors[band] for band in channels])
            factors = {"scale": pairs[:, 0], "offset": pairs[:, 1]}
        reflectance = landsat.level1_to_reflectance(images, spec.sun_elevation, **factors)
    else:
        low, high = spec.uint8_range
        reflectance = np.where(images == 0, np.nan, low + (images.astype(np.float32) - 1) * ((high - low) / 254))
    dn = (reflectance - landsat.REFLECTANCE_OFFSET) / landsat.REFLECTANCE_SCALE
    return np.where(np.isnan(dn), landsat.NODATA, np.clip(dn, 1, 65535)).astype(np.float32)


def to_records(images: np.ndarray, spec: InputSpec, channels: Sequence[str] = ()) -> np.ndarray:
    """Convert images to the rounded digital numbers that prepared datasets hold, uint16; otherwise as `to_collection2`."""
    if spec.known().unit == "collection2_dn" and images.dtype == np.uint16:
        return images
    return np.rint(to_collection2(images, spec, channels)).astype(np.uint16)


def _is_filled(images: np.ndarray) -> np.ndarray:
    """Find the pixels that are 0 in every band, (..., C) -> (..., 1) bool; in a single band a 0 may be black."""
    return (images == 0).all(axis=-1, keepdims=True) & (images.shape[-1] > 1)


def has_data_by_band(images: np.ndarray, unit: str = "collection2_dn") -> np.ndarray:
    """Find the values that hold data: (..., C) -> (..., C) bool.

    Of reflectance a pixel that is 0 in every one of several bands does not, with which reprojecting fills; of fractions neither
    NaN, nor what the number 0, no data, becomes where it is scaled, -0.2.
    """
    if unit in landsat.SCALED_UNITS:
        lacking = np.isin(images, (landsat.SCALED_FILL, *landsat.SCALED_SATURATED))
        lacking |= images == landsat.NODATA if images.dtype.kind == "u" else _is_filled(images)
    elif unit == "reflectance" and images.dtype.kind == "f":
        of_zero = np.abs(images - landsat.REFLECTANCE_OFFSET) < landsat.REFLECTANCE_SCALE / 2
        return ~(np.isnan(images) | of_zero | _is_filled(images))
    else:
        lacking = images == landsat.NODATA
    return ~(lacking | np.isnan(images)) if images.dtype.kind == "f" else ~lacking


def has_data(images: np.ndarray, unit: str = "collection2_dn") -> np.ndarray:
    """Find the pixels with data in every band: (..., C) -> (...) bool."""
    return np.all(has_data_by_band(images, unit), axis=-1)


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


def check_channels(shape: Sequence[int], spec: InputSpec, bands: Sequence[str]) -> tuple[str, ...]:
    """List the names of the channels of images of a shape (N, H, W, C), for a model that takes `bands`.

    Raises:
        ValueError: the images have more or fewer.
    """
    names = spec.channels(bands)
    if shape[-1] != len(names):
        lacking = spec.sensor and landsat.lacks_coastal(spec.sensor)
        what = "bands names" if spec.bands is not None else f"{spec.sensor} has" if lacking else "the model takes"
        needed = f"images must be (N, H, W, {len(names)}), got {tuple(shape)}: {what} {', '.join(names)}"
        first = shape[1] == len(names)
        hint = "layout='NCHW' says that the bands come first" if first else "bands=(...) says which bands there are"
        raise ValueError(f"{needed}; {hint}")
    return names


def check_bands(statistics: Statistics, bands: Sequence[str]) -> None:
    """Raise ValueError where statistics of Collection 2 digital numbers are not of as many bands as the model takes."""
    if len(statistics.mean) != len(bands):
        count = len(statistics.mean)
        raise ValueError(f"statistics hold {count} bands where the model takes {len(bands)}: {', '.join(bands)}")


def _pixels_with_data(images: np.ndarray, unit: str, valid: np.ndarray | None) -> np.ndarray:
    """Which pixels of images (..., C) hold data in every band and, where `valid` is given, by it too: (...) bool."""
    holds = has_data(images, unit)
    if valid is None:
        return holds
    if valid.shape != holds.shape:
        raise ValueError(f"valid must be {holds.shape}, one for each pixel, got {valid.shape}")
    return holds & valid.astype(bool)


def take_channels(images: np.ndarray, spec: InputSpec, bands: Sequence[str]) -> tuple[np.ndarray, Sequence[int | None]]:
    """Take the channels of images (..., C) that a model takes, in the order of its `bands`: a view where these are all.

    Returns:
        The images, and which of their channels each band was, None for one that is absent.

    Raises:
        ValueError: the images have more or fewer channels than is said, or lack bands, or nobody says the sensor whose numbers
            their names are (`check_numbers`).
    """
    if isinstance(spec.sensor, _Assumed):
        check_numbers(spec.bands or ())
    names, sensor = check_channels(images.shape, spec, bands), str(spec.sensor)
    by_name = spec.bands is not None or landsat.lacks_coastal(sensor)
    order = band_order(names, bands, spec.fill_missing, sensor) if by_name else range(len(names))
    channels = [channel for channel in order if channel is not None]
    return images if channels == list(range(images.shape[-1])) else images[..., channels], order


def _cut(part: Part) -> Iterator[Part]:
    """Cut images into pieces of a bounded number of pixels, as converting them takes several times their memory."""
    spec, images, counts = part
    if images.ndim == 3:
        images, counts = images[None], None if counts is None else counts[None]
    count, height, width = images.shape[:3]
    some, rows = max(_PIXELS // (height * width), 1), max(_PIXELS // width, 1)
    for first in range(0, count, some):
        for top in range(0, height, rows):
            place = slice(first, first + some), slice(top, top + rows)
            yield spec.part(place[0]), images[place], None if counts is None else counts[place]


def measure(parts: Iterable[Part], bands: Sequence[str], of: str) -> Statistics:
    """Compute the statistics of images themselves, of Collection 2 digital numbers in the model's bands.

    Args:
        parts: what the images are, images (N, H, W, C) or (H, W, C), and which of their pixels count, (..., H, W) bool; None
            is all that hold data.
        bands: the model's. Where the coastal one lacks, the blue one's statistics stand in; others that lack have mean 0 and
            standard deviation 1, as all have where no pixel holds data.
        of: what the images are, for the record.

    Raises:
        ValueError: values are none of the unit, or a band has one number alone.
    """
    moments = landsat.Moments(len(bands))
    try:
        for spec, images, counts in itertools.chain.from_iterable(map(_cut, parts)):
            spec = spec.known()
            images, order = take_channels(images, spec, bands)
            present = [i for i, channel in enumerate(order) if channel is not None]
            values = to_collection2(images, spec, [bands[i] for i in present])
            moments.add(values[_pixels_with_data(images, str(spec.unit), counts)], present)
        own = moments.statistics(f"{COMPUTED}:{of}")
    except ValueError as error:
        raise ValueError(f"statistics = {COMPUTED!r} of {of}: {error}") from None
    if tuple(bands) == landsat.BANDS and not moments.count[0]:
        mean, std = (list(own[name]) for name in ("mean", "std"))
        mean[0], std[0] = mean[1], std[1]
        own = dataclasses.replace(own, mean=tuple(mean), std=tuple(std))
    return own


def prepare(
    images: np.ndarray,
    spec: InputSpec,
    bands: Sequence[str],
    size: int,
    statistics: Mapping[str, Any],
    valid: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Bring images to what a model takes.

    Args:
        images: (N, H, W, C) in the unit and with the bands of `spec`.
        bands, size, statistics: the model's, with the {"mean", "std", "scale"} of Collection 2 digital numbers.
        valid: (N, H, W) bool, False for pixels to be taken for such without data, clouds, say; None is by the images alone.

    Returns:
        z-scored images (N, size, size, len(bands)) float32, and which pixels hold data in every band, (N, size, size) bool.

    Raises:
        ValueError: shape, type, bands or values are wrong; the message says which.
    """
    if images.ndim != 4:
        raise ValueError(f"images must be (N, H, W, C), got {images.shape}")
    spec = spec.known()
    unit = str(spec.unit)
    shape = images.shape
    images, order = take_channels(images, spec, bands)
    present = [i for i, channel in enumerate(order) if channel is not None]  # of the model's bands
    zscore = spec.own_statistics
    if zscore is None or zscore.unit:
        values = to_collection2(images, spec, [bands[i] for i in present])
        zscore = zscore or Statistics.of(statistics)
        check_bands(zscore, bands)
        zscore = zscore.select(present)
    else:
        check_values(images, unit)
        values = np.where(has_data_by_band(images, unit), images, _ZERO.get(unit, 0)).astype(np.float32)
        names = check_channels(shape, spec, bands)
        if len(zscore.mean) != len(names):
            raise ValueError(f"statistics hold {len(zscore.mean)} bands where the images have {len(names)}: {', '.join(names)}")
        zscore = zscore.select([channel for channel in order if channel is not None])
    holds = _pixels_with_data(images, unit, valid)
    z = zscore.normalize(to_size(values, size, spec.resize_mode)).astype(np.float32, copy=False)
    kept = to_size(holds[..., None], size, spec.resize_mode)[..., 0] > WHOLE
    if None not in order:
        return z, kept
    full = np.zeros((*z.shape[:3], len(order)), np.float32)  # 0 is the training mean
    full[..., present] = z
    if tuple(bands) == landsat.BANDS and order[0] is None:
        full[..., 0] = full[..., 1]  # blue for coastal; both the mean where both lack
    return full, kept


def warn_if_far(z: np.ndarray, valid: np.ndarray, statistics: Mapping[str, Any], bands: Sequence[str], unit: str) -> None:
    """Warn where images lie far from the training data, or are no surface reflectance: their unit is likely another one.

    A band is far where its mean over the batch lies 3 or more standard deviations from the training data's (above it, by
    statistics of the logarithm), or where a quarter of its pixels have a reflectance below -0.05, which nothing on Earth has.

    Args:
        z: (N, S, S, C), z-scored by `statistics` of Collection 2 digital numbers.
        valid: (N, S, S) bool, which pixels count.

    Warns:
        StatisticsWarning: says what was found, band by band, and asks whether `unit` is what the images were.
    """
    if not valid.any():
        return
    pixels, of_training = z[valid], Statistics.of(statistics)
    means = pixels.mean(axis=0)
    lowest = -np.inf if of_training.scale == landsat.LOG else -_FAR  # of the logarithm water lies far below, as it should
    in_dn = of_training.unnormalize(means), of_training.values_at(-1), of_training.values_at(1)
    far = [
        f"{band}: mean {value:.0f} where training had {low:.0f} to {high:.0f}"
        for band, mean, value, low, high in zip(bands, means, *in_dn)
        if mean > _FAR or mean < lowest
    ]
    limit = (_IMPOSSIBLE - landsat.REFLECTANCE_OFFSET) / landsat.REFLECTANCE_SCALE
    below = (pixels < of_training.normalize(np.full(len(bands), limit, np.float32))).mean(axis=0)
    far += [
        f"{band}: {share:.0%} of the pixels have a reflectance below {_IMPOSSIBLE}"
        for band, share in zip(bands, below)
        if share > _IMPOSSIBLE_SHARE
    ]
    if far:
        message = (
            f"these images are far from the training data (in Collection 2 digital numbers): {', '.join(far)}. "
            f"Is unit={unit!r} what they are? ({', '.join(landsat.UNITS)}) "
            f"If so, statistics={COMPUTED!r} z-scores them by statistics of their own"
        )
        warnings.warn(message, StatisticsWarning, stacklevel=3)
