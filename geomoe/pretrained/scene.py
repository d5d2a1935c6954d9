"""A scene in memory, at one or several dates, in windows.

Axes: T dates, H and W pixels of the scene, E windows, S pixels a side of a window, C bands.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from geomoe import landsat, metadata
from geomoe.data import arrays, preprocess
from geomoe.data.preprocess import InputSpec
from geomoe.data.windows import count_windows
from geomoe.pretrained.inputs import read_labelled


@dataclasses.dataclass(frozen=True)
class Windows:
    """Windows of one row that hold enough data."""

    where: tuple[np.ndarray, int, np.ndarray]  # indices of their dates (E,), the row, indices of their columns (E,)
    images: np.ndarray  # (E, S, S, C)
    lat: np.ndarray  # (E,) degrees of their middles, NaN or NA where unknown
    lon: np.ndarray
    time: list[np.datetime64]  # (E,), NaT where unknown
    valid: np.ndarray | None  # (E, S, S) bool, the pixels that hold data; None where those without are to speak


@dataclasses.dataclass(frozen=True)
class Dates:
    """A scene in memory at T dates, as an encoder takes it."""

    images: np.ndarray  # (T, H, W, C)
    valid: np.ndarray  # (T, H, W) bool, the pixels that hold data
    time: list[np.datetime64]  # (T,), NaT where unknown; a date alone leaves the hour unknown
    lat: float | None  # degrees, of the whole scene; None is what the labels say
    lon: float | None
    spec: InputSpec
    labelled: arrays.Labelled | None  # what an xarray object says of itself
    is_single: bool  # whether the scene came without an axis of dates

    def grid(self, size: int, stride: int) -> tuple[int, int, int]:
        """Count dates, rows and columns of windows of `size` pixels."""
        count, height, width = self.images.shape[:3]
        return count, count_windows(height, size, stride), count_windows(width, size, stride)

    def windows(self, size: int, stride: int, min_valid: float) -> Iterator[Windows]:
        """Cut windows, one row after the other; those with a share of data smaller than `min_valid` are left out."""
        count, rows, columns = self.grid(size, stride)
        middle, nodata = (size - 1) / 2, landsat.nodata_value(str(self.spec.unit), self.images.dtype)
        for row in range(rows):
            top, places = row * stride, [(date, column) for column in range(columns) for date in range(count)]
            masks = np.stack([_cut(self.valid[date], top, column * stride, size) for date, column in places])
            enough = masks.mean(axis=(1, 2)) >= max(min_valid, 1e-9)
            places = [place for place, is_enough in zip(places, enough) if is_enough]
            if not places:
                continue
            images = np.stack([_cut(self.images[date], top, column * stride, size, nodata) for date, column in places])
            lat, lon = np.transpose([self._place(top + middle, column * stride + middle, date) for date, column in places])
            dates, at = np.transpose(places)
            valid = masks[enough] if self.spec.nodata == "masked" else None
            yield Windows((dates, row, at), images, lat, lon, [self.time[date] for date in dates], valid)

    def _place(self, row: float, column: float, date: int) -> tuple[float, float]:
        """Latitude and longitude of a place in the scene, NaN where unknown."""
        if self.lat is None and self.lon is None and self.labelled is not None:
            place = self.labelled.place(row, column)
            if place is not None:
                return place[0][date], place[1][date]
        return np.nan if self.lat is None else self.lat, np.nan if self.lon is None else self.lon

    def wrap(self, z: np.ndarray, size: int, stride: int, attrs: Mapping[str, Any]) -> Any:
        """Give vectors (T, rows, columns, width) the form in which the scene came."""
        if self.labelled is None:
            return z[0] if self.is_single else z
        coords = {
            dim: self.labelled.middles(dim, steps, stride, size)
            for dim, steps in zip(self.labelled.dims, z.shape[1:3])
            if dim in self.labelled.source.coords
        }
        return self.labelled.wrap(z, (*self.labelled.dims, "embedding"), coords, attrs)


def read_dates(
    scene: Any, lat: float | None, lon: float | None, time: Any, spec: InputSpec, valid: Any, layout: str, bands: Sequence[str]
) -> Dates:
    """Read a scene in memory; arguments and errors as for `PretrainedEncoder.embed_scene`, `bands` being the model's."""
    if spec.resize_mode != "exact":
        raise ValueError(f"resize_mode = {spec.resize_mode!r}: windows have the model's size already")
    labelled = None
    if arrays.is_xarray(scene):
        labelled = read_labelled(scene, spec, layout)
        scene, spec = labelled.images, labelled.spec
    else:
        scene = arrays.channels_last(scene, layout)
    spec = spec.known()
    images = preprocess.filled(scene, str(spec.unit))
    if images.ndim not in (3, 4):
        raise ValueError(f"a scene must be (H, W, C) or (T, H, W, C), got {images.shape}")
    is_single = images.ndim == 3
    images = images[None] if is_single else images
    if 0 in images.shape:
        raise ValueError(f"a scene of the shape {scene.shape} has no pixel")
    holds = preprocess.has_data(preprocess.take_channels(images, spec, bands)[0], str(spec.unit))
    lat, lon = map(arrays.as_numpy, (lat, lon))
    for name, degrees in (("lat", lat), ("lon", lon)):
        if degrees is not None and np.ndim(degrees):
            raise ValueError(f"{name} must be one number, of the whole scene, got {degrees}")
    if valid is not None:
        spec.check_masked("valid")
        valid = preprocess.read_mask(arrays.as_numpy(valid)) if labelled is None else labelled.mask(valid)
        if valid.shape not in (holds.shape, holds.shape[is_single:]):
            raise ValueError(f"valid must be {holds.shape[is_single:]}, one for each pixel, got {valid.shape}")
        holds &= valid
    spec = spec.measured([(spec, images, holds)], bands, "this scene")
    if spec.sun_elevation is not None and np.asarray(spec.sun_elevation).ndim:
        raise ValueError("sun_elevation must be one number for a scene in memory; embed dates apart where it differs")
    time = labelled.time if time is None and labelled is not None else arrays.as_numpy(time)
    times = [metadata.NAT] if time is None else list(metadata.read_times(time))
    if len(times) not in (1, len(images)):
        raise ValueError(f"time must be one, or one for each of the {len(images)} dates, got {len(times)}")
    times = times * len(images) if len(times) == 1 else times
    return Dates(images, holds, times, lat, lon, spec, labelled, is_single)


def _cut(array: np.ndarray, row: int, column: int, size: int, fill: float = 0) -> np.ndarray:
    """(H, W, ...) -> (size, size, ...), with `fill` beyond the edge."""
    part = array[row : row + size, column : column + size]
    beyond = [(0, size - part.shape[0]), (0, size - part.shape[1]), *[(0, 0)] * (part.ndim - 2)]
    return np.pad(part, beyond, constant_values=fill)
