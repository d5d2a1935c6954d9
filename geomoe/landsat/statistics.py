"""Band means and standard deviations, computed in one place, and the z-score by them: one pair `normalize`, `unnormalize`."""

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np

COMPUTED = "computed"  # where statistics are named: those of the images themselves
COLLECTION2 = "collection2_dn"  # the unit of the numbers that encoders are given
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

    As a mapping it has the keys "mean", "std", "source" and, where it is said, "unit", which is how files hold it:
    `dict(statistics)`.

    Attributes:
        mean, std: (C,) floats.
        source: where they come from, as "published:bigearthnet_landsat" or "computed:...".
        unit: "collection2_dn" where they are of Collection 2 digital numbers in the model's bands, whatever images come in; ""
            where they are of the images' own unit and channels.

    >>> statistics = Statistics((9000.0,), (3000.0,), "by hand")
    >>> statistics.normalize(np.array([[12000.0]])).tolist(), statistics.unnormalize(np.array([[1.0]])).tolist()
    ([[1.0]], [[12000.0]])
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    unit: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(float(v) for v in self.mean))
        object.__setattr__(self, "std", tuple(float(v) for v in self.std))
        if (
            len(self.mean) != len(self.std)
            or not all(0 < v < math.inf for v in self.std)
            or not all(map(math.isfinite, self.mean))
        ):
            rule = "must match, be finite, and std > 0"
            raise ValueError(f"statistics of {self.source}: mean {self.mean} and std {self.std} {rule}")
        if self.unit not in ("", COLLECTION2):
            raise ValueError(f"statistics of {self.source}: unit = {self.unit!r} is not {COLLECTION2!r}, nor left out")

    def __getitem__(self, key: str) -> Any:
        said = {"unit": self.unit} if self.unit else {}
        return {"mean": list(self.mean), "std": list(self.std), "source": self.source, **said}[key]

    def __iter__(self) -> Iterator[str]:
        return iter(("mean", "std", "source", "unit") if self.unit else ("mean", "std", "source"))

    def __len__(self) -> int:
        return 3 + bool(self.unit)

    @property
    def digest(self) -> str:
        """The start of a SHA-256 of mean and standard deviation: the same for the same numbers, wherever they come from."""
        return hashlib.sha256(repr((self.mean, self.std)).encode()).hexdigest()[:8]

    def of_collection2(self) -> Self:
        """The same, said to be of Collection 2 digital numbers in the model's bands."""
        return dataclasses.replace(self, unit=COLLECTION2)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Take the statistics themselves, or those of a mapping with "mean", "std" and (where there is one) "source"."""
        if missing := [key for key in ("mean", "std") if key not in values]:
            raise ValueError(
                f"statistics lack {missing[0]!r}: they are a mapping with 'mean' and 'std', one number a band each"
            )
        if isinstance(values, cls):
            return values
        if not all(np.iterable(values[key]) for key in ("mean", "std")):
            raise ValueError("mean and std of statistics are sequences, one number a band each")
        return cls(values["mean"], values["std"], values.get("source", "unnamed"), values.get("unit", ""))

    @classmethod
    def published(cls, dataset: str) -> Self:
        """Look up those of "bigearthnet_landsat" or "eurosat_landsat", in Collection 2 digital numbers; else ValueError."""
        if dataset not in STATISTICS:
            raise ValueError(f"no published statistics of {dataset!r}; there are {', '.join(STATISTICS)}")
        return cls(**STATISTICS[dataset], source=f"published:{dataset}", unit=COLLECTION2)

    def select(self, bands: Sequence[int]) -> Self:
        """Take those of some of the bands, by index."""
        return type(self)(tuple(self.mean[i] for i in bands), tuple(self.std[i] for i in bands), self.source, self.unit)

    def normalize(self, images: Any, out: np.ndarray | None = None) -> Any:
        """Compute z-scores of (..., C) values; numpy or jax arrays, in float32 where the images are float32.

        `out` is a contiguous float32 numpy array of two axes or more to write to, which may be the images themselves; several
        times as fast as without.
        """
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        if out is None:
            return (images - mean) / std
        if not out.flags.c_contiguous:
            raise ValueError("out must be contiguous")
        columns = out.shape[-2]
        rows = out.reshape(*out.shape[:-2], -1)  # long rows: numpy is slow on a last axis of seven
        np.subtract(images.reshape(rows.shape), np.tile(mean, columns), out=rows)
        np.divide(rows, np.tile(std, columns), out=rows)
        return out

    def unnormalize(self, z: Any) -> Any:
        """Compute values from (..., C) z-scores; the inverse of `normalize`."""
        return z * np.asarray(self.std, np.float32) + np.asarray(self.mean, np.float32)


class Moments:
    """Sums over the pixels of images, from which the means and standard deviations of their bands follow.

    Args:
        bands: how many there are.
    """

    def __init__(self, bands: int) -> None:
        self.count, self._sum, self._squares = (np.zeros(bands) for _ in range(3))  # pixels of each band

    def add(self, pixels: np.ndarray, bands: Sequence[int] | slice = slice(None)) -> None:
        """Add pixels (M, C) that hold data, of some of the bands."""
        pixels = pixels.astype(np.float64)
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
        return Statistics(tuple(mean), tuple(np.sqrt(variance)), source, COLLECTION2)
