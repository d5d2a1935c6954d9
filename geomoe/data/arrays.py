"""Images as other libraries hold them, xarray's and torch's, as numpy arrays. Neither is imported here.

Axes: H and W pixels, C bands; "batch" stands for all other dimensions of an xarray object, times, say.
"""

import contextlib
import dataclasses
import functools
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from geomoe import landsat, metadata
from geomoe.data.preprocess import InputSpec, read_mask, unpacked

if TYPE_CHECKING:
    import pyproj

LAYOUTS = ("NHWC", "NCHW")
_BAND = ("band", "bands", "channel", "channels", "variable")
_Y, _LATITUDE = ("y", "Y", "northing"), ("latitude", "lat")
_X, _LONGITUDE = ("x", "X", "easting"), ("longitude", "lon")
_TIME = ("time", "t")  # openEO's is t
_OTHER_TIMES = ("created", "updated", "published", "expires")  # of STAC, none of them of acquisition
_EAST_OR_NORTH = re.compile(r"degrees?_?(north|n|east|e)", re.IGNORECASE)  # CF's units of latitudes and longitudes
_CRS_NAMES = ("crs", "spatial_ref", "crs_wkt", "proj:code", "proj:epsg", "epsg")  # of attributes and of coordinates
_NAMELESS = "(no name)"
_NUMBERED = re.compile(r"(?:band|layer)[ _-]?(\d+)", re.IGNORECASE)  # a name that says a band's place in a file alone


def is_xarray(images: Any) -> bool:
    """Whether images are a DataArray or a Dataset of xarray."""
    return type(images).__module__.partition(".")[0] == "xarray" and hasattr(images, "dims")


def as_numpy(values: Any) -> Any:
    """Bring torch tensors, wherever they are, to numpy arrays; anything else stays as it is."""
    if not (hasattr(values, "detach") and hasattr(values, "cpu")):
        return values
    tensor = values.detach().cpu()
    return (tensor.float() if "bfloat16" in str(tensor.dtype) else tensor).numpy()


def channels_last(images: Any, layout: str) -> Any:
    """Bring images, (N, H, W, C) or (N, C, H, W) by `layout`, or a sequence of images without N, to numpy and bands last."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout = {layout!r} is not one of {', '.join(LAYOUTS)}")
    images = unpacked(images)
    if isinstance(images, list | tuple):
        each = [as_numpy(image) for image in images]
        return each if layout == "NHWC" else [np.moveaxis(np.ma.asanyarray(image), -3, -1) for image in each]
    images = as_numpy(images)
    return images if layout == "NHWC" else np.moveaxis(np.ma.asanyarray(images), -3, -1)


@dataclasses.dataclass(frozen=True)
class Labelled:
    """What an xarray object holds and says."""

    images: np.ma.MaskedArray  # (N, H, W, C), N being the product of the batch's lengths; masked where its `_FillValue` stands
    spec: InputSpec  # with the names of its bands, and the unit that its scale and offset say
    batch: dict[str, int]  # the other dimensions, in their order, and their lengths
    dims: tuple[str, str]  # of rows and columns
    source: Any  # a DataArray of it, for its coordinates
    crs: "pyproj.CRS | None"  # of the coordinates of rows and columns
    transform: tuple[float, ...] | None  # GDAL's of the pixels, where neither rows nor columns have coordinates

    @property
    def time(self) -> np.ndarray | None:
        """The coordinate `time`, or openEO's `t`, else the only one of datetime64, that of a dimension first, (N,), or None."""
        for name in _TIME:
            if (time := self._of_batch(name)) is not None:
                return time
        names = [str(name) for name, each in self.source.coords.items() if each.dtype.kind == "M" and name not in _OTHER_TIMES]
        names = [name for name in names if name in self.batch] or [name for name in names if self._of_batch(name) is not None]
        if len(names) > 1:
            said = f"the images have the times {', '.join(names)}, of which none is taken"
            warnings.warn(f"{said}; name one of them time (rename), or pass time", UserWarning, stacklevel=3)
        return self._of_batch(names[0]) if len(names) == 1 else None

    def place(self, row: float, column: float) -> tuple[np.ndarray, np.ndarray] | None:
        """Latitude and longitude (N,) of a place between pixels, 0 being the first one's middle; None where nothing says it."""
        if self._place_of_batch is not None:
            return self._place_of_batch
        if self._to_degrees is not None and (position := self._position(row, column)) is not None:
            lon, lat = self._to_degrees(*position)
        elif self._place_of_pixels is not None:
            at = tuple(int(np.clip(round(p), 0, side - 1)) for p, side in zip((row, column), self.images.shape[1:3]))
            lat, lon = (values[at] for values in self._place_of_pixels)
        else:
            return None
        count = len(self.images)
        return np.full(count, lat), np.full(count, metadata.wrap_longitude(lon))

    def _position(self, row: float, column: float) -> tuple[float, float] | None:
        """x and y of a place between pixels, in the CRS; None where no coordinate and no transform says them."""
        if len(self._axes) == 2:
            y, x = (_between(self._axes[dim], at) for dim, at in zip(self.dims, (row, column)))
            return x, y
        if self._x_and_y is not None:
            x, y = (_between_pixels(values, row, column) for values in self._x_and_y)
            return x, y
        if self.transform is None or self._place_of_pixels is not None:
            return None
        said = "the images have no coordinates of rows and columns, so their place is read from GeoTransform"
        warnings.warn(f"{said}, which is that of the whole file where pixels were cut off", UserWarning, stacklevel=3)
        x, x_of_column, x_of_row, y, y_of_column, y_of_row = self.transform
        row, column = row + 0.5, column + 0.5
        return x + x_of_column * column + x_of_row * row, y + y_of_column * column + y_of_row * row

    @functools.cached_property
    def _axes(self) -> dict[str, np.ndarray]:
        """The coordinates along rows and columns, evenly spaced; longitudes go on beyond 180 degrees where they pass it."""
        axes = {dim: np.asarray(self.source.coords[dim].values, np.float64) for dim in self.dims if dim in self.source.coords}
        for dim, values in axes.items():
            if self._is_longitude(dim):
                axes[dim] = values = np.unwrap(values, period=360)
            steps = np.diff(values)
            if len(steps) and (np.abs(steps - np.median(steps)) > 0.5 * np.abs(np.median(steps))).any():
                gap = f"the coordinates of {dim} are not evenly spaced"
                raise ValueError(f"{gap}; fill the gap (reindex), or embed the parts apart")
        return axes

    def _is_longitude(self, dim: str) -> bool:
        return dim == self.dims[1] and self.crs is not None and self.crs.is_geographic

    def middles(self, dim: str, count: int, stride: int, size: int) -> np.ndarray:
        """The coordinates, of rows or columns, of the middles of `count` windows of `size` pixels, one every `stride`."""
        values = self._axes[dim]
        middles = np.array([_between(values, i * stride + (size - 1) / 2) for i in range(count)])
        across = self._is_longitude(dim) and not np.array_equal(values, self.source.coords[dim].values)
        return metadata.wrap_longitude(middles) if across else middles

    @functools.cached_property
    def _place_of_pixels(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Latitudes and longitudes of each pixel, (H, W) each."""
        of_cf = [[name for name, each in self.source.coords.items() if _says(each, which)] for which in (_LATITUDE, _LONGITUDE)]
        pairs = [*zip(_LATITUDE, _LONGITUDE), *zip(*of_cf)]
        return next((place for names in pairs if (place := self._of_pixels(*names))), None)

    @functools.cached_property
    def _x_and_y(self) -> tuple[np.ndarray, np.ndarray] | None:
        """x and y of each pixel, (H, W) each, as rioxarray has them of a file that is rotated."""
        place = self._of_pixels("xc", "yc")
        in_degrees = place is not None and "degree" in str(self.source.coords["xc"].attrs.get("units"))
        return None if in_degrees and not (self.crs and self.crs.is_geographic) else place

    def _of_pixels(self, *names: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Two coordinates of each pixel, (H, W) each: each of rows and columns, or one of rows and one of columns."""
        found = [self.source.coords[name] for name in names if name in self.source.coords]
        if len(found) != 2 or [set(each.dims) for each in found] not in ([set(self.dims)] * 2, [{dim} for dim in self.dims]):
            return None
        pixels = self.source.isel(dict.fromkeys(self.batch, 0))
        one, other = (np.asarray(each.broadcast_like(pixels).transpose(*self.dims).values, np.float64) for each in found)
        return one, other

    @functools.cached_property
    def _place_of_batch(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Latitudes and longitudes that stand beside the images, (N,) each."""
        for names in zip(_LATITUDE, _LONGITUDE):
            latitude, longitude = (None if name in self.dims else self._of_batch(name) for name in names)
            if latitude is not None and longitude is not None:
                return latitude, longitude
        return None

    @functools.cached_property
    def _to_degrees(self) -> Callable[[float, float], tuple[float, float]] | None:
        """From x and y to longitude and latitude; None without a CRS."""
        import pyproj

        if self.crs is None:
            return None
        return pyproj.Transformer.from_crs(self.crs, "EPSG:4326", always_xy=True).transform

    def _of_batch(self, name: str) -> np.ndarray | None:
        """A coordinate of the batch's dimensions, or of all images, (N,)."""
        if name not in self.source.coords or not set(self.source.coords[name].dims) <= set(self.batch):
            return None
        other = {dim: 0 for dim in self.source.dims if dim not in self.batch}
        values = self.source.coords[name].broadcast_like(self.source.isel(other)).transpose(*self.batch).values
        return np.atleast_1d(values).reshape(-1)

    def mask(self, valid: Any) -> np.ndarray:
        """Bring a mask of the pixels, a DataArray or an array by batch, rows and columns, to (N, H, W) bool.

        One of each band, a DataArray or a Dataset, holds for a pixel where it holds for all bands.
        """
        shape = (*self.batch.values(), *self.images.shape[1:3])
        if is_xarray(valid):
            valid = valid.to_array("band") if hasattr(valid, "data_vars") else valid
            beyond = [str(dim) for dim in valid.dims if dim not in self.source.dims]
            if others := [dim for dim in beyond if dim not in _BAND]:
                raise ValueError(f"valid has the dimensions {', '.join(others)}, which the images lack; select one of each")
            if beyond:
                valid = valid.fillna(0).astype(bool).all(beyond)
            valid = valid.reindex_like(self.source)  # in the images' order, NaN where it has no such coordinate
            if valid.isnull().any():
                raise ValueError("valid lacks coordinates that the images have")
            valid = valid.broadcast_like(self.source).transpose(*self.batch, *self.dims)
        valid = read_mask(valid)
        if valid.shape != shape:
            raise ValueError(f"valid must be {shape}, one for each pixel, got {valid.shape}")
        return valid.reshape(self.images.shape[:3])

    def wrap(self, values: np.ndarray, dims: Sequence[str], coords: Mapping[str, Any], attrs: Mapping[str, Any]) -> Any:
        """Make a DataArray of values (N, ...): the batch's dimensions and `dims`, the batch's coordinates and `coords`."""
        coordinates = self.source.coords.items()
        kept = {name: coordinate.copy() for name, coordinate in coordinates if set(coordinate.dims) <= set(self.batch)}
        if set(self.dims) <= set(dims):  # of windows, and the transform is that of pixels
            for coordinate in kept.values():
                coordinate.attrs.pop("GeoTransform", None)
        values = values.reshape(*self.batch.values(), *values.shape[1:])
        return type(self.source)(values, dims=(*self.batch, *dims), coords={**kept, **coords}, name="embedding", attrs=attrs)


def _between(values: np.ndarray, at: float) -> float:
    """An evenly spaced coordinate at a place between pixels, also beyond the last."""
    step = (values[-1] - values[0]) / max(len(values) - 1, 1)
    return float(values[0] + at * step)


def _between_pixels(values: np.ndarray, row: float, column: float) -> float:
    """A coordinate of pixels (H, W) at a place between them, also beyond the last."""
    for at in (row, column):
        first = int(np.clip(at, 0, max(len(values) - 2, 0)))
        values = values[first] + (at - first) * (values[min(first + 1, len(values) - 1)] - values[first])
    return float(values)


def read_xarray(images: Any, spec: InputSpec) -> Labelled:
    """Read a DataArray with a dimension of bands, or a Dataset with one variable a band.

    Rows and columns are the dimensions y and x (or latitude and longitude), in degrees where CF's attributes of their
    coordinates say it. Bands are named by the coordinate of their dimension, by `long_name` as rioxarray keeps a file's
    descriptions, or by the variables; others of Landsat products, as QA_PIXEL, are left out. Where nothing names them, they are
    those of `spec`. Their place is that of the coordinates of rows and columns, or of each pixel; `GeoTransform`, which
    does not follow when pixels are cut off, is read where there are none.

    Raises:
        ValueError: a dimension is absent, the variables do not fit together, or what it says is not what `spec` says.
    """
    is_dataset = hasattr(images, "data_vars")
    rows, columns = (next((name for name in names if name in images.dims), "") for names in (_Y + _LATITUDE, _X + _LONGITUDE))
    if not rows or not columns:
        raise ValueError(
            f"images have the dimensions {', '.join(map(str, images.dims))}; needed: y and x, or latitude and longitude"
        )
    sensor = spec.sensor or "landsat8"
    names: tuple[str, ...] | None
    if is_dataset:
        arrays = [array for array in images.data_vars.values() if {rows, columns} <= set(array.dims)]
        if not arrays:
            raise ValueError(f"no variable of the images has the dimensions {rows} and {columns}")
        arrays, names, numbers = _bands_among(arrays, sensor)
    else:
        band = next((name for name in _BAND if name in images.dims), None)
        if band is None:
            raise ValueError(f"images have the dimensions {', '.join(map(str, images.dims))}; needed: one of bands, named band")
        arrays, names, numbers = _bands_of(images, band), _band_names(images, band, sensor), _numbers(images, band)
    if names is None and numbers is not None and spec.bands is None:
        arrays = [arrays[i] for i in _in_order(numbers, sensor)]
    if names is not None:
        chosen = [i for i, name in enumerate(names) if not landsat.is_other_band(name, sensor)]
        arrays, names = [arrays[i] for i in chosen], tuple(names[i] for i in chosen)
        given = [name for name in spec.bands or names if not landsat.is_other_band(name, sensor)]
        if len(given) != len(names) or not all(_is_same(*pair, sensor) for pair in zip(names, given)):
            raise ValueError(f"bands = {', '.join(given)}, and the images say {', '.join(names)}; leave bands out")
        spec = dataclasses.replace(spec, bands=tuple(given))
    if not arrays:
        raise ValueError("no band of the images is one that a model takes")
    first = arrays[0]
    if not (first.sizes[rows] and first.sizes[columns]):
        raise ValueError(
            f"images of {first.sizes[rows]} rows ({rows}) and {first.sizes[columns]} columns ({columns}) have no pixel"
        )
    batch = {str(dim): first.sizes[dim] for dim in first.dims if dim not in (rows, columns)}
    for name, array in zip(names or (), arrays):
        if dict(array.sizes) != dict(first.sizes):
            raise ValueError(
                f"band {name} has the sizes {dict(array.sizes)}, and another {dict(first.sizes)}; bring them together"
            )
    if units := {unit for array in arrays if (unit := _unit(array, spec.unit))}:
        if len(units) > 1 or spec.unit not in (None, *units):
            raise ValueError(f"the images' scale and offset say unit {' and '.join(sorted(units))}, not {spec.unit!r}")
        spec = dataclasses.replace(spec, unit=units.pop())
    elif spec.unit is None and (scaled := [array.attrs for array in arrays if _is_scaled(array.attrs)]):
        pair = f"scale_factor {scaled[0].get('scale_factor', 1)} and add_offset {scaled[0].get('add_offset', 0)}"
        raise ValueError(
            f"the images have {pair}, which no unit has that is known; say which it is: {', '.join(landsat.UNITS)}"
        )
    values = np.ma.stack([_masked(array.transpose(*batch, rows, columns)) for array in arrays], axis=-1)
    values = values.reshape(-1, *values.shape[len(batch) :])
    transform = None if {rows, columns} & set(first.coords) else _transform(images, first)
    return Labelled(values, spec, batch, (rows, columns), first, _crs(images, first, rows, columns), transform)


def _numbers(images: Any, band: str) -> np.ndarray | None:
    """The numbers that stand for the names of a DataArray's bands; None where it has none."""
    has_numbers = band in images.coords and images.coords[band].dtype.kind in "iuf"
    return images.coords[band].values if has_numbers else None


def _rows_of_file(images: Any, band: str, count: int) -> list[int]:
    """Which of the `count` values that an attribute has, one a band of a file, are those of a DataArray's bands.

    rioxarray leaves the attributes as they are where bands are chosen; its coordinate of numbers from 1 says which these are.
    Without such numbers the values are those of the bands as they stand; empty where they are more or less than these.
    """
    numbers = _numbers(images, band)
    if numbers is not None and len(set(numbers)) == len(numbers) and np.isin(numbers, np.arange(1, count + 1)).all():
        return [int(number) - 1 for number in numbers]
    return list(range(count)) if count == images.sizes[band] else []


def _band_names(images: Any, band: str, sensor: str) -> tuple[str, ...] | None:
    """The names of the bands of a DataArray, None where they have numbers alone."""
    if band in images.coords and images.coords[band].dtype.kind in "OUST":
        return tuple(map(str, images.coords[band].values))
    described = _listed(images.attrs.get("long_name")) or []
    chosen = _rows_of_file(images, band, len(described))
    if not chosen:
        return None
    landsat.check_band_names([text or "" for text in described])
    if not landsat.bands_of_file([text if i in chosen else None for i, text in enumerate(described)], sensor):
        return None
    return tuple(described[i] or _NAMELESS for i in chosen)


def _known(name: str, sensor: str) -> str | None:
    """The model's name of a band, None for another."""
    with contextlib.suppress(ValueError):
        return landsat.band_name(name, sensor)
    return None


def _is_same(said: str, given: str, sensor: str) -> bool:
    """Whether a name that was given is that of the band which the images name; of one without a name it is."""
    return said in (_NAMELESS, given) or (band := _known(said, sensor)) is not None and band == _known(given, sensor)


def _bands_among(arrays: Sequence[Any], sensor: str) -> tuple[list[Any], tuple[str, ...] | None, np.ndarray | None]:
    """The variables that are bands, their names, and their numbers where nothing names them.

    Where the sensor's bands are all there, other variables are left out; else all are taken, of which one is then unknown.
    Variables that have numbers alone, as rioxarray's band_1 of a file, are named by their `long_name` where these name bands.
    """
    names = [str(array.name) for array in arrays]
    landsat.check_band_names(names)
    texts = [array.attrs.get("long_name") if _NUMBERED.fullmatch(name) else None for name, array in zip(names, arrays)]
    texts = [text if isinstance(text, str) and not _NUMBERED.fullmatch(text) else None for text in texts]
    if landsat.bands_of_file(texts, sensor):
        names = [text or name for text, name in zip(texts, names)]
    bands = [_known(name, sensor) for name in names]
    others = [landsat.is_other_band(name, sensor) for name in names]
    kept = sorted(set(range(len(names))) - landsat.repeated_by_reducers(names, sensor))
    if set(landsat.sensor_bands(sensor)) - {landsat.BANDS[0]} <= set(bands):
        kept = [i for i in kept if bands[i] or others[i]]
    elif not any(bands) and (numbered := [i for i in kept if _NUMBERED.fullmatch(names[i]) and not others[i]]):
        numbers = [int(_NUMBERED.sub(r"\1", names[i])) for i in numbered]
        return [arrays[i] for i in numbered], None, np.array(numbers)
    return [arrays[i] for i in kept], tuple(names[i] for i in kept), None


def _bands_of(images: Any, band: str) -> list[Any]:
    """The bands of a DataArray; where they differ, rioxarray has their scales, offsets and no-data values as tuples."""
    arrays = [images.isel({band: i}, drop=True) for i in range(images.sizes[band])]
    for key, of_file in (("scale_factor", "scales"), ("add_offset", "offsets"), ("nodata", "nodatavals")):
        values = _listed(images.attrs.get(of_file)) or []
        for i, row in enumerate(_rows_of_file(images, band, len(values))):
            if values[row] is not None:
                arrays[i] = arrays[i].assign_attrs({key: values[row]})
    return arrays


def _listed(values: Any) -> list[Any] | None:
    """An attribute of several values, which files keep as a tuple, a list or an array; None for any other."""
    return list(values) if isinstance(values, tuple | list) or isinstance(values, np.ndarray) and values.ndim == 1 else None


def _number(attrs: Mapping[str, Any], key: str, default: float) -> float:
    """An attribute that is a number, which may be an array of one; the default where it is absent or None."""
    value = attrs.get(key)
    return default if value is None else float(np.asarray(value, np.float64).item())


def _in_order(numbers: np.ndarray, sensor: str) -> np.ndarray:
    """The order of the bands by the numbers that stand for names: from 1, as rioxarray has them, from 0, or the sensor's own.

    ValueError for others, which do not say which bands they are: some of a file's, or wavelengths.
    """
    count, order = len(numbers), np.argsort(numbers, kind="stable")
    own = [int(number[1:]) for number in landsat.band_numbers(sensor)]
    if not any(np.array_equal(numbers[order], known) for known in (range(count), range(1, count + 1), own)):
        raise ValueError(f"the bands have the numbers {', '.join(map(str, numbers))} and no names; name them: bands=(...)")
    return order


def _is_scaled(attrs: Mapping[str, Any]) -> bool:
    return (_number(attrs, "scale_factor", 1.0), _number(attrs, "add_offset", 0.0)) != (1.0, 0.0)


def _masked(array: Any) -> np.ma.MaskedArray:
    """The values of a DataArray, masked where its attributes say that there are no data, or that none are valid."""
    values = np.asarray(array.values)
    mask = np.zeros(values.shape, bool)
    encoded = array.encoding if values.dtype.kind in "iu" else {}  # floats were decoded, with NaN where it stood
    for key in ("_FillValue", "missing_value", "nodata"):
        for said in (array.attrs, encoded):
            if (fill := said.get(key)) is not None:
                mask |= np.isin(values, np.asarray(fill))
    for key, side in (("valid_min", 0), ("valid_max", 1), ("valid_range", 0), ("valid_range", 1)):
        if (limit := _limit(array, key, side)) is not None:
            mask |= values > limit if side else values < limit
    return np.ma.MaskedArray(values, mask)


def _limit(array: Any, key: str, side: int) -> float | None:
    """The least (side 0) or greatest (1) valid value by an attribute of CF, of the values as they are; None where none says it.

    CF gives it for values as they are stored, or in floats for those that scale and offset make of them. Where values are
    floats that xarray did not decode, limits that are integers may be those of values before some arithmetic, and say nothing.
    """
    said = next((attrs[key] for attrs in (array.attrs, array.encoding) if attrs.get(key) is not None), None)
    limits = np.asarray(said)
    if said is None or limits.dtype.kind not in "iuf" or limits.size != (2 if key == "valid_range" else 1):
        return None
    limit, is_stored = float(limits.reshape(-1)[side * (limits.size > 1)]), limits.dtype.kind in "iu"
    decoded = array.dtype.kind == "f" and np.dtype(array.encoding.get("dtype", np.float32)).kind in "iu"
    scale, offset = (
        _number(array.encoding if decoded else array.attrs, name, default)
        for name, default in (("scale_factor", 1.0), ("add_offset", 0.0))
    )
    if array.dtype.kind in "iu":
        return limit if is_stored else (limit - offset) / scale
    if not is_stored:
        return limit
    half = scale / 2 if side else -scale / 2  # a step that rounding may take
    return limit * scale + offset + half if decoded else None


def _unit(array: Any, given: str | None) -> str | None:
    """The unit that scale and offset say, of values that were not multiplied by them yet or that xarray did; else None.

    A given reflectance goes in floats before attributes, which arithmetic leaves there.
    """
    for attrs, decoded in ((array.attrs, False), (array.encoding, True)):
        if attrs.get("scale_factor") is not None:
            if given == "reflectance" and array.dtype.kind == "f" and not decoded:
                return given
            unit = landsat.unit_of_scale(_number(attrs, "scale_factor", 1.0), _number(attrs, "add_offset", 0.0))
            return "reflectance" if unit and decoded else unit
    return None


def _crs(images: Any, first: Any, rows: str, columns: str) -> "pyproj.CRS | None":
    """The reference system that the images say, or the dimensions' names.

    A grid mapping says it: a coordinate, as rioxarray and odc-stac have it, or a variable, as xarray reads netCDF and Zarr; or
    an attribute or a coordinate `crs`, `epsg`, `proj:code` ..., as stackstac has them; or CF's attributes of rows and columns.
    """
    import pyproj

    said = []
    for array in (first, images):
        attrs = [array.attrs.get(name) for name in _CRS_NAMES]
        said += [text for text in (_crs_text(_mapping(images, array)), _crs_text(array.attrs), *attrs) if _is_crs(text)]
    codes = [images.coords[name] for name in _CRS_NAMES if name in images.coords and not images.coords[name].dims]
    said += [code.item() for code in codes if _is_crs(code.item())]
    said = [text.item() if isinstance(text, np.generic | np.ndarray) else text for text in said]
    said = [int(text) if isinstance(text, float) else text for text in said]
    if said:
        try:
            return pyproj.CRS.from_cf(said[0]) if isinstance(said[0], dict) else pyproj.CRS.from_user_input(said[0])
        except (pyproj.exceptions.CRSError, KeyError) as error:
            raise ValueError(f"the images' coordinate reference system cannot be read: {error}") from None
    in_degrees = rows in _LATITUDE or all(
        dim in first.coords and _says(first.coords[dim], which) for dim, which in ((rows, _LATITUDE), (columns, _LONGITUDE))
    )
    return pyproj.CRS.from_epsg(4326) if in_degrees else None


def _is_crs(said: Any) -> bool:
    """Whether an attribute or a coordinate says a CRS: no 0, 1 or empty text, which variables of grid mappings hold."""
    if isinstance(said, np.generic | np.ndarray):
        said = said.item() if said.size == 1 else None
    if isinstance(said, int | float):
        return said > 1000 and said == int(said)
    return bool(said) and not isinstance(said, bytes)


def _says(coordinate: Any, names: tuple[str, ...]) -> bool:
    """Whether a coordinate is one of latitudes or longitudes, by CF's attributes; `names` are `_LATITUDE` or `_LONGITUDE`."""
    units = _EAST_OR_NORTH.fullmatch(str(coordinate.attrs.get("units", "")))
    direction = "n" if names == _LATITUDE else "e"
    return coordinate.attrs.get("standard_name") == names[0] or bool(units and units[1].lower().startswith(direction))


def _transform(images: Any, first: Any) -> tuple[float, ...] | None:
    """The transform that a grid mapping has for GDAL: x of the corner and by column and row, then y; None without one."""
    said = [text for array in (first, images) if (text := _mapping(images, array).get("GeoTransform")) is not None]
    if not said or not len(said[0]):
        return None
    try:
        transform = tuple(map(float, said[0].split() if isinstance(said[0], str) else said[0]))
    except (TypeError, ValueError):
        transform = ()
    if len(transform) != 6:
        raise ValueError(f"GeoTransform = {said[0]!r} is not six numbers; write it anew (rio.write_transform)")
    return None if transform == (0, 1, 0, 0, 0, 1) else transform  # GDAL's of a file which has none


def _mapping(images: Any, array: Any) -> Mapping[str, Any]:
    """The attributes of the grid mapping of an array, empty without one."""
    for name in (array.attrs.get("grid_mapping"), array.encoding.get("grid_mapping"), "spatial_ref", "crs"):
        for holder in (array.coords, getattr(images, "data_vars", {})):
            if name in holder:
                return holder[name].attrs
    return {}


def _crs_text(attrs: Mapping[str, Any]) -> Any:
    """What a grid mapping says: WKT or the like, or the parameters of CF; None without one."""
    plain = dict(attrs) if "grid_mapping_name" in attrs else None
    return attrs.get("crs_wkt") or attrs.get("spatial_ref") or plain
