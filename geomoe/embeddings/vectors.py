"""How a file stores vectors: 32 or 16 bits, or 8 bits with a scale for each dimension."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

Columns = dict[str, np.ndarray]  # the columns of a block of rows, by name
DTYPES = ("float32", "float16", "int8")
INT8_NODATA = -128
SCALE = "vector_scale"  # in the facts of a file: what int8 vectors are to be multiplied with


def check_dtype(dtype: str) -> None:
    """Raise ValueError for what is none of `DTYPES`."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype = {dtype!r} is none of {', '.join(DTYPES)}")


def to_int8(vectors: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Round (N, D) vectors to int8, NaN to -128; `scale` (D,) is the largest magnitude over 127."""
    with np.errstate(invalid="ignore"):
        steps = np.clip(np.rint(vectors / scale), -127, 127)
    return np.where(np.isnan(steps), INT8_NODATA, steps).astype(np.int8)


def to_float32(vectors: np.ndarray, scale: Sequence[float] | None) -> np.ndarray:
    """Bring (N, D) vectors of a file to float32, with the (D,) scale of its facts where they are int8; -128 is NaN."""
    if vectors.dtype != np.int8:
        return vectors.astype(np.float32, copy=False)
    if scale is None:
        raise ValueError("int8 vectors without their scale")
    return np.where(vectors == INT8_NODATA, np.float32(np.nan), vectors * np.asarray(scale, np.float32))


class StoredParts:
    """Blocks of rows with vectors as a file stores them, from such with float32 vectors.

    The scale of int8 is one a dimension, or with `one_scale` the same for all.
    """

    def __init__(self, parts: Iterable[Columns], dtype: str, one_scale: bool = False) -> None:
        self._parts, self.dtype, self._scale = parts, dtype, np.zeros(0, np.float32)
        if dtype == "int8":
            with np.errstate(invalid="ignore"):
                largest = [np.nanmax(np.abs(part["vector"]), axis=0, initial=0) for part in parts]
            highest = np.max(largest, axis=0)
            if one_scale:
                highest = np.full_like(highest, highest.max())
            self._scale = np.where(highest > 0, highest / 127, 1).astype(np.float32)

    @property
    def facts(self) -> Mapping[str, Any]:
        """What a reader needs to know of the vectors."""
        return {SCALE: self._scale.tolist()} if self.dtype == "int8" else {}

    def __iter__(self) -> Iterator[Columns]:
        for part in self._parts:
            vector = part["vector"]
            yield {**part, "vector": to_int8(vector, self._scale) if self.dtype == "int8" else vector.astype(self.dtype)}
