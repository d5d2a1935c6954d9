"""Band means and standard deviations, computed in one place, and the z-score by them: one pair `normalize`, `unnormalize`."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np

COMPUTED = "computed"  # where statistics are named: those of the images themselves
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

    As a mapping it has the keys "mean", "std" and "source", which is how files hold it: `dict(statistics)`.

    Attributes:
        mean, std: (C,) floats, in the unit of the images, most often Collection 2 digital numbers.
        source: where they come from, as "published:bigearthnet_landsat" or "computed:...".

    >>> statistics = Statistics((9000.0,), (3000.0,), "by hand")
    >>> statistics.normalize(np.array([[12000.0]])).tolist(), statistics.unnormalize(np.array([[1.0]])).tolist()
    ([[1.0]], [[12000.0]])
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str

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

    def __getitem__(self, key: str) -> Any:
        return {"mean": list(self.mean), "std": list(self.std), "source": self.source}[key]

    def __iter__(self) -> Iterator[str]:
        return iter(("mean", "std", "source"))

    def __len__(self) -> int:
        return 3

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Take the statistics themselves, or those of a mapping with "mean", "std" and (where there is one) "source"."""
        if missing := [key for key in ("mean", "std") if key not in values]:
            raise ValueError(
                f"statistics lack {missing[0]!r}: they are a mapping with 'mean' and 'std', one number a band each"
            )
        return values if isinstance(values, cls) else cls(values["mean"], values["std"], values.get("source", "unnamed"))

    @classmethod
    def published(cls, dataset: str) -> Self:
        """Look up those of "bigearthnet_landsat" or "eurosat_landsat", in Collection 2 digital numbers; else ValueError."""
        if dataset not in STATISTICS:
            raise ValueError(f"no published statistics of {dataset!r}; there are {', '.join(STATISTICS)}")
        return cls(**STATISTICS[dataset], source=f"published:{dataset}")

    def select(self, bands: Sequence[int]) -> Self:
        """Take those of some of the bands, by index."""
        return type(self)(tuple(self.mean[i] for i in bands), tuple(self.std[i] for i in bands), self.source)

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
    """Sums over the pixels of images, from which the means and standard deviations of their bands follow."""

    def __init__(self) -> None:
        self._count, self._sum, self._squares = 0, np.zeros(1), np.zeros(1)

    def add(self, pixels: np.ndarray) -> None:
        """Add pixels (M, C) that hold data."""
        pixels = pixels.astype(np.float64)
        self._count += len(pixels)
        self._sum = self._sum + pixels.sum(axis=0)
        self._squares = self._squares + np.einsum("mc,mc->c", pixels, pixels)

    def statistics(self, source: str) -> Statistics:
        """Compute the statistics; ValueError where there is no pixel, or a band has one number alone.

        >>> moments = Moments()
        >>> moments.add(np.array([[1.0], [3.0]]))
        >>> moments.statistics("by hand")
        Statistics(mean=(2.0,), std=(1.0,), source='by hand')
        """
        if self._count == 0:
            raise ValueError("no pixel holds data in every band, so there are no statistics of them")
        mean = self._sum / self._count
        variance = self._squares / self._count - np.square(mean)
        if (flat := variance <= 1e-12 * np.square(mean)).any():
            same = f"all pixels have one number, {mean[flat.argmax()]:g}, in band {int(flat.argmax()) + 1}"
            raise ValueError(f"{same}, so there is no z-score by their own statistics")
        return Statistics(tuple(mean), tuple(np.sqrt(variance)), source)
