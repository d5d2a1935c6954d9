"""Band means and standard deviations, computed in one place, and the z-score by them: one pair `normalize`, `unnormalize`.

The z-score is of the numbers as they are, or of a logarithm ("log"): ln(reflectance + 0.1). Clouds are far brighter than any
ground, so that by a standard deviation which holds both the ground is almost constant; in the logarithm a forest's band and a
desert's vary alike.
"""

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np

from geomoe.landsat.units import REFLECTANCE_OFFSET, REFLECTANCE_SCALE, unmasked

COMPUTED = "computed"  # where statistics are named: those of the images themselves
COLLECTION2 = "collection2_dn"  # the unit of the numbers that encoders are given
LINEAR, LOG = SCALES = "linear", "log"  # on which z-scores are
_DARKEST_MEAN = -0.5  # of a band, in any unit
LOG_SHIFT, LOG_LEAST = 0.1, 0.02  # of "log": ln(max(reflectance + LOG_SHIFT, LOG_LEAST))
# In digital numbers, as published with the datasets.
STATISTICS: dict[str, dict[str, tuple[float, ...]]] = {
    "bigearthnet_landsat": {
        "mean": (9405.194, 9649.677, 10425.686, 10444.589, 16067.627, 12699.184, 10596.475),
        "std": (6016.344, 6095.472, 5839.462, 6068.493, 6271.440, 4256.046, 3130.776),
    },
    "eurosat_landsat": {
        "mean": (8515.321, 8829.601, 9795.921, 9891.655, 15499.884, 13146.115, 11004.212),
        "std": (3938.756, 4057.718, 4205.960, 4434.423, 6150.640, 4923.020, 4044.071),
    },
}


@dataclasses.dataclass(frozen=True)
class Statistics(Mapping[str, Any]):
    """Mean and standard deviation (above 0) of each band, and the z-score (value - mean) / std.

    As a mapping it has the keys "mean", "std", "source" and, unless "" and "linear", "unit" and "scale", which is how files
    hold it: `dict(statistics)`.

    Attributes:
        mean, std: (C,) floats.
        source: where they come from, as "published:bigearthnet_landsat" or "computed:...".
        unit: "collection2_dn" where they are of Collection 2 digital numbers in the model's bands, whatever images come in; ""
            where they are of the images' own unit and channels.
        scale: "linear", or "log" where mean and std are of ln(reflectance + 0.1), reflectance being at least -0.08; `normalize`
            takes Collection 2 digital numbers all the same.

    >>> statistics = Statistics((9000.0,), (3000.0,), "by hand")
    >>> statistics.normalize(np.array([[12000.0]])).tolist(), statistics.unnormalize(np.array([[1.0]])).tolist()
    ([[1.0]], [[12000.0]])
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    unit: str = ""
    scale: str = LINEAR

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            object.__setattr__(self, name, _one_a_band(f"{name} of statistics of {self.source}", getattr(self, name)))
        if (
            len(self.mean) != len(self.std)
            or not all(0 < v < math.inf for v in self.std)
            or not all(map(math.isfinite, self.mean))
        ):
            rule = "must match, be finite, and std > 0"
            raise ValueError(f"statistics of {self.source}: mean {self.mean} and std {self.std} {rule}")
        if self.unit not in ("", COLLECTION2):
            raise ValueError(f"statistics of {self.source}: unit = {self.unit!r} is not {COLLECTION2!r}, nor left out")
        if self.scale not in SCALES:
            raise ValueError(f"statistics of {self.source}: scale = {self.scale!r} is not {' or '.join(map(repr, SCALES))}")
        if self.scale == LINEAR and min(self.mean, default=0) < _DARKEST_MEAN:
            least = f"statistics of {self.source}: no band of an image has a mean of {min(self.mean):g}"
            raise ValueError(f"{least}; those of the logarithm of reflectance say 'scale': 'log', 'unit': 'collection2_dn'")
        if self.scale == LOG and not self.unit:
            raise ValueError(f"statistics of {self.source}: scale = {LOG!r} is of reflectance; say unit = {COLLECTION2!r}")

    def __getitem__(self, key: str) -> Any:
        if key not in self._keys:
            raise KeyError(key)
        value = getattr(self, key)
        return list(value) if key in ("mean", "std") else value

    @property
    def _keys(self) -> tuple[str, ...]:
        return ("mean", "std", "source", *(["unit"] if self.unit else []), *(["scale"] if self.scale != LINEAR else []))

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def digest(self) -> str:
        """The start of a SHA-256 of what decides the z-score: the same for the same numbers, wherever they come from."""
        scale = () if self.scale == LINEAR else (self.scale,)
        return hashlib.sha256(repr((self.mean, self.std, *scale)).encode()).hexdigest()[:8]

    def of_collection2(self) -> Self:
        """The same, said to be of Collection 2 digital numbers in the model's bands."""
        return dataclasses.replace(self, unit=COLLECTION2)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Take the statistics themselves, or those of a mapping with "mean", "std" and, where it has them, the other keys."""
        if missing := [key for key in ("mean", "std") if key not in values]:
            raise ValueError(
                f"statistics lack {missing[0]!r}: they are a mapping with 'mean' and 'std', one number a band each"
            )
        if isinstance(values, cls):
            return values
        if not all(np.iterable(values[key]) for key in ("mean", "std")):
            raise ValueError("mean and std of statistics are sequences, one number a band each")
        return cls(
            values["mean"], values["std"], values.get("source", "unnamed"), values.get("unit", ""), values.get("scale", LINEAR)
        )

    @classmethod
    def published(cls, dataset: str) -> Self:
        """Look up those of "bigearthnet_landsat" or "eurosat_landsat", in Collection 2 digital numbers; else ValueError."""
        if dataset not in STATISTICS:
            raise ValueError(f"no published statistics of {dataset!r}; there are {', '.join(STATISTICS)}")
        values = STATISTICS[dataset]
        return cls(values["mean"], values["std"], f"published:{dataset}", COLLECTION2)

    def select(self, bands: Sequence[int]) -> Self:
        """Take those of some of the bands, by index."""
        mean, std = (tuple(values[i] for i in bands) for values in (self.mean, self.std))
        return dataclasses.replace(self, mean=mean, std=std)

    def normalize(self, images: Any, out: np.ndarray | None = None) -> Any:
        """Compute z-scores of (..., C) values; numpy or jax arrays, in float32 where the images are float32.

        `out` is a contiguous float32 numpy array of two axes or more to write to, which may be the images themselves; several
        times as fast as without.
        """
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        if out is None:
            return (_on_scale(images, self.scale) - mean) / std
        if not out.flags.c_contiguous:
            raise ValueError("out must be contiguous")
        columns = out.shape[-2]
        rows = out.reshape(*out.shape[:-2], -1)  # long rows: numpy is slow on a last axis of seven
        np.subtract(_on_scale(images.reshape(rows.shape), self.scale), np.tile(mean, columns), out=rows)
        np.divide(rows, np.tile(std, columns), out=rows)
        return out

    def unnormalize(self, z: Any) -> Any:
        """Compute values from (..., C) z-scores; the inverse of `normalize`."""
        values = z * np.asarray(self.std, np.float32) + np.asarray(self.mean, np.float32)
        if self.scale == LINEAR:
            return values
        return (values.__array_namespace__().exp(values) - LOG_SHIFT - REFLECTANCE_OFFSET) / REFLECTANCE_SCALE

    def values_at(self, z: float) -> np.ndarray:
        """Compute the value of each band whose z-score is `z`, (C,) float32: at 0 the mean, at 1 a standard deviation above."""
        return self.unnormalize(np.full(len(self.mean), z, np.float32))


def _one_a_band(what: str, values: Any) -> tuple[float, ...]:
    """Numbers (C,), or with axes of length 1 before, as numpy's `keepdims` leaves them, as plain ones; NaN where masked."""
    try:
        numbers = unmasked(values, np.nan, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{what} must be numbers, one a band, got {values!r}") from None
    if not numbers.ndim or numbers.size != numbers.shape[-1]:
        raise ValueError(f"{what} must be (C,), one number a band, got {numbers.shape}")
    return tuple(numbers.reshape(-1).tolist())


def _on_scale(values: Any, scale: str) -> Any:
    """Bring Collection 2 digital numbers, a numpy or jax array, to the scale that their z-score is on; float32 stays so."""
    if scale == LINEAR:
        return values
    values = values if hasattr(values, "__array_namespace__") else np.asarray(values)
    namespace = values.__array_namespace__()
    return namespace.log(namespace.maximum(values * REFLECTANCE_SCALE + (REFLECTANCE_OFFSET + LOG_SHIFT), LOG_LEAST))


class Moments:
    """Sums over the pixels of images, from which the means and standard deviations of their bands follow.

    Args:
        bands: how many there are.
        scale: of the z-score, "linear" or "log".
    """

    def __init__(self, bands: int, scale: str = LINEAR) -> None:
        self.scale = scale
        self.count, self._sum, self._squares = (np.zeros(bands) for _ in range(3))  # pixels of each band

    def add(self, pixels: np.ndarray, bands: Sequence[int] | slice = slice(None)) -> None:
        """Add pixels (M, C) that hold data, of some of the bands."""
        pixels = _on_scale(pixels.astype(np.float64), self.scale)
        self.count[bands] += len(pixels)
        self._sum[bands] += pixels.sum(axis=0)
        self._squares[bands] += np.einsum("mc,mc->c", pixels, pixels)

    def statistics(self, source: str) -> Statistics:
        """Compute the statistics, of Collection 2 digital numbers; mean 0 and standard deviation 1 of bands without a pixel.

        Raises:
            ValueError: a band has one number alone.

        >>> moments = Moments(2)
        >>> moments.add(np.array([[1.0], [3.0]]), bands=[1])
        >>> moments.statistics("by hand").mean, moments.statistics("by hand").std
        ((0.0, 2.0), (1.0, 1.0))
        """
        mean, square = (total / np.maximum(self.count, 1) for total in (self._sum, self._squares))
        variance = np.where(self.count > 0, square - np.square(mean), 1.0)
        if (flat := variance <= 1e-12 * np.square(mean)).any():
            same = f"all pixels have one number, {mean[flat.argmax()]:g}, in band {int(flat.argmax()) + 1}"
            raise ValueError(f"{same}, so there is no z-score by their own statistics")
        return Statistics(tuple(mean), tuple(np.sqrt(variance)), source, COLLECTION2, self.scale)
