"""What a user passes -> checked arrays, whatever form it came in."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from geomoe import metadata
from geomoe.data import arrays, preprocess
from geomoe.data.preprocess import InputSpec

Images = np.ndarray | Sequence[np.ndarray]


def describe(spec: InputSpec | None, description: Mapping[str, Any], normalized: bool) -> InputSpec | None:
    """What the images are, by `spec` or by its fields; None where they are z-scored already."""
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


def read_labelled(images: Any, spec: InputSpec | None, layout: str) -> arrays.Labelled:
    """Read an xarray object; ValueError where an option has no meaning for it."""
    if spec is None:
        raise ValueError("normalized=True takes arrays; xarray's bands and units would be ignored: pass images.values")
    if layout != "NHWC":
        raise ValueError(f"layout = {layout!r} would be ignored: xarray names its dimensions")
    return arrays.read_xarray(images, spec)


class Given(NamedTuple):
    """Images and what is known of them as numpy arrays, whoever held them before; fields as for `PretrainedEncoder.embed`."""

    images: Any
    lat: Any
    lon: Any
    time: Any
    spec: InputSpec | None
    valid: Any
    labelled: arrays.Labelled | None  # what xarray said, where it held them


def read_given(
    images: Any, lat: Any, lon: Any, time: Any, spec: InputSpec | None, valid: Any = None, layout: str = "NHWC"
) -> Given:
    """Bring xarray's and torch's to numpy arrays. What is None here an xarray object may say: time and place."""
    labelled, valid = None, arrays.as_numpy(valid)
    if arrays.is_xarray(images):
        labelled = read_labelled(images, spec, layout)
        images, spec = labelled.images, labelled.spec
        time = labelled.time if time is None else time
        if lat is None and lon is None:
            lat, lon = labelled.place(*((length - 1) / 2 for length in images.shape[1:3])) or (None, None)
        valid = None if valid is None else labelled.mask(valid)
    else:
        images = arrays.channels_last(images, layout)
    lat, lon, time = map(arrays.as_numpy, (lat, lon, time))
    return Given(images, lat, lon, time, spec, valid, labelled)


@dataclasses.dataclass(frozen=True)
class UserImages:
    """N images that were checked, and what is known of each."""

    images: Images  # (N, H, W, C), or a list of (H, W, C) of several sizes; not masked any more
    metadata: Sequence[np.ndarray]  # week, hour, lat, lon, (N, 2) each
    valid: Any  # None, (N, H, W) bool or a list of (H, W), as the user says it

    def described(self, spec: InputSpec) -> Iterator[preprocess.Part]:
        """The images as `geomoe.data.preprocess.measure` takes them: all at once, or one after the other."""
        if isinstance(self.images, np.ndarray):
            yield spec, self.images, self.valid
            return
        for i, image in enumerate(self.images):
            yield spec.part(slice(i, i + 1)), image, None if self.valid is None else self.valid[i]

    def parts(self, size: int) -> Iterator[tuple[slice, "UserImages"]]:
        """Cut into parts of `size` images, but for the last."""
        for start in range(0, len(self.images), size):
            part = slice(start, start + size)
            valid = None if self.valid is None else self.valid[part]
            yield part, UserImages(self.images[part], [field[part] for field in self.metadata], valid)


def read_images(given: Given, spec: InputSpec | None, shape: tuple[int, int, int]) -> UserImages:
    """Check a user's images and what is said of them.

    Args:
        spec: that of `given`, complete; None where they are z-scored already, and then of the model's `shape` (S, S, C).
    """
    images: Any = given.images
    lat, lon, time, valid = given.lat, given.lon, given.time, given.valid
    several = not isinstance(images, np.ndarray) and len(images) > 0 and len({np.shape(image) for image in images}) > 1
    unit = "" if spec is None else str(spec.unit)
    masked = any(np.ma.is_masked(image) for image in (images if isinstance(images, list | tuple) else [images]))
    if masked and spec is None:
        raise ValueError("normalized images are masked; what holds no data has no place in them")
    images = [preprocess.filled(image, unit) for image in images] if several else preprocess.filled(images, unit)
    if isinstance(images, np.ndarray) and images.ndim != 4 and images.size:
        one = "; images[None] is a batch of one" * (images.ndim == 3)
        raise ValueError(f"images must be (N, H, W, C), got {images.shape}{one}")
    count = len(images)
    if empty := [np.shape(image) for image in images if 0 in np.shape(image)]:
        raise ValueError(f"an image of the shape {empty[0]} has no pixel")
    sun = None if spec is None or spec.sun_elevation is None else np.asarray(spec.sun_elevation)
    if sun is not None and sun.ndim and sun.shape != (count,):
        raise ValueError(f"sun_elevation must be one number, or one for each of the {count} images, got {sun.shape}")
    where = _degrees("lat", lat, count), _degrees("lon", lon, count)
    meta = metadata.encode(*where, np.full(count, metadata.NAT) if time is None else time)
    if len(meta.week) != count:
        raise ValueError(f"time must be ({count},), one for each image, got ({len(meta.week)},)")
    if spec is None and (several or images.shape[1:] != shape):
        raise ValueError(f"normalized images must be (N, {', '.join(map(str, shape))}), got {np.shape(images)}")
    if valid is not None:
        if spec is not None:
            spec.check_masked("valid")
        valid = [preprocess.read_mask(v) for v in valid] if several else preprocess.read_mask(valid)
        if len(valid) != count or spec is None and np.shape(valid) != (count, *shape[:2]):
            raise ValueError(f"valid must be one for each pixel of the {count} images, got {np.shape(valid)}")
    return UserImages(images, meta, valid)


def _degrees(name: str, values: Any, count: int) -> np.ndarray:
    """Latitudes or longitudes as (N,) float64, NaN where there is none: None, NaN, pandas' NA, or masked."""
    if values is None:
        return np.full(count, np.nan)
    if np.ma.is_masked(values):
        values = np.where(np.ma.getmaskarray(values), np.nan, values.data.astype(np.float64))
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
