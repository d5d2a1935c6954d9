"""Images as other libraries hold them, xarray's and torch's, as numpy arrays. Neither is imported here.

Axes: H and W pixels, C bands; "batch" stands for all other dimensions of an xarray object, times, say.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from geomoe import landsat, metadata
from geomoe.data.preprocess import InputSpec, read_mask

if TYPE_CHECKING:
    import pyproj

LAYOUTS = ("NHWC", "NCHW")
_BAND = ("band", "bands", "channel", "channels", "variable")
_Y, _LATITUDE = ("y", "Y", "northing"), ("latitude", "lat")
_X, _LONGITUDE = ("x", "X", "easting"), ("longitude", "lon")
_TIME = ("time", "t")  # openEO's is t


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

    @property
    def time(self) -> np.ndarray | None:
        """The coordinate `time`, or openEO's `t`, (N,), or None."""
        return next((time for name in _TIME if (time := self._of_batch(name)) is not None), None)

    def place(self, row: float, column: float) -> tuple[np.ndarray, np.ndarray] | None:
        """Latitude and longitude (N,) of a place between pixels, 0 being the first one's middle; None where nothing says it."""
        if self._place_of_batch is not None:
            return self._place_of_batch
        if self._to_degrees is not None:
            y, x = (_between(self._axes[dim], at) for dim, at in zip(self.dims, (row, column)))
            lon, lat = self._to_degrees(x, y)
        elif self._place_of_pixels is not None:
            at = tuple(int(np.clip(round(p), 0, side - 1)) for p, side in zip((row, column), self.images.shape[1:3]))
            lat, lon = (values[at] for values in self._place_of_pixels)
        else:
            return None
        count = len(self.images)
        return np.full(count, lat), np.full(count, metadata.wrap_longitude(lon))

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
        for names in zip(_LATITUDE, _LONGITUDE):
            found = [self.source.coords[name] for name in names if name in self.source.coords]
            if len(found) == 2 and all(set(each.dims) == set(self.dims) for each in found):
                latitude, longitude = (np.asarray(each.transpose(*self.dims).values, np.float64) for each in found)
                return latitude, longitude
        return None

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
        """From coordinates of columns and rows to longitude and latitude; None where nothing says how."""
        import pyproj

        if self.crs is None or not all(dim in self.source.coords for dim in self.dims):
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
        """Bring a mask of the pixels, a DataArray or an array by batch, rows and columns, to (N, H, W) bool."""
        shape = (*self.batch.values(), *self.images.shape[1:3])
        if is_xarray(valid):
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
        kept = {name: coordinate for name, coordinate in coordinates if set(coordinate.dims) <= set(self.batch)}
        values = values.reshape(*self.batch.values(), *values.shape[1:])
        return type(self.source)(values, dims=(*self.batch, *dims), coords={**kept, **coords}, name="embedding", attrs=attrs)


def _between(values: np.ndarray, at: float) -> float:
    """An evenly spaced coordinate at a place between pixels, also beyond the last."""
    step = (values[-1] - values[0]) / max(len(values) - 1, 1)
    return float(values[0] + at * step)


def read_xarray(images: Any, spec: InputSpec) -> Labelled:
    """Read a DataArray with a dimension of bands, or a Dataset with one variable a band.

    Rows and columns are the dimensions y and x (or latitude and longitude). Bands are named by the coordinate of their
    dimension, by `long_name` as rioxarray keeps a file's descriptions, or by the variables; others of Landsat products, as
    QA_PIXEL, are left out. Where nothing names them, they are those of `spec`.

    Raises:
        ValueError: a dimension is absent, the variables do not fit together, or what it says is not what `spec` says.
    """
    is_dataset = hasattr(images, "data_vars")
    rows, columns = (next((name for name in names if name in images.dims), "") for names in (_Y + _LATITUDE, _X + _LONGITUDE))
    if not rows or not columns:
        raise ValueError(
            f"images have the dimensions {', '.join(map(str, images.dims))}; needed: y and x, or latitude and longitude"
        )
    if is_dataset:
        parts = {str(name): array for name, array in images.data_vars.items() if {rows, columns} <= set(array.dims)}
        if not parts:
            raise ValueError(f"no variable of the images has the dimensions {rows} and {columns}")
        parts = _bands_among(parts, spec.sensor or "landsat8")
        names: tuple[str, ...] | None = tuple(parts)
        arrays = list(parts.values())
    else:
        band = next((name for name in _BAND if name in images.dims), None)
        if band is None:
            raise ValueError(f"images have the dimensions {', '.join(map(str, images.dims))}; needed: one of bands, named band")
        arrays = [_band_of(images, band, i) for i in range(images.sizes[band])]
        names = _band_names(images, band)
        if names is None and spec.bands is None:
            arrays = [arrays[i] for i in _numbered(images, band, spec.sensor or "landsat8")]
    if names is not None:
        sensor = spec.sensor or "landsat8"
        chosen = [i for i, name in enumerate(names) if not landsat.is_other_band(name, sensor)]
        arrays, names = [arrays[i] for i in chosen], tuple(names[i] for i in chosen)
        if spec.bands is not None and tuple(spec.bands) != names:
            raise ValueError(f"bands = {', '.join(spec.bands)}, and the images say {', '.join(names)}; leave bands out")
        spec = dataclasses.replace(spec, bands=names)
    if not arrays:
        raise ValueError("no band of the images is one that a model takes")
    first = arrays[0]
    batch = {str(dim): first.sizes[dim] for dim in first.dims if dim not in (rows, columns)}
    for name, array in zip(names or (), arrays):
        if dict(array.sizes) != dict(first.sizes):
            raise ValueError(
                f"band {name} has the sizes {dict(array.sizes)}, and another {dict(first.sizes)}; bring them together"
            )
    if units := {unit for array in arrays if (unit := _unit(array))}:
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
    return Labelled(values, spec, batch, (rows, columns), first, _crs(images, first, rows))


def _band_names(images: Any, band: str) -> tuple[str, ...] | None:
    """The names of the bands of a DataArray, None where they have numbers alone."""
    if band in images.coords and images.coords[band].dtype.kind in "OUST":
        return tuple(map(str, images.coords[band].values))
    described = _listed(images.attrs.get("long_name"))
    if described is not None and len(described) == images.sizes[band] and landsat.bands_of_file(described):
        return tuple(map(str, described))
    return None


def _bands_among(parts: dict[str, Any], sensor: str) -> dict[str, Any]:
    """The variables that are bands, where those of the sensor are all there; else all, of which one is then unknown."""
    landsat.check_band_names(tuple(parts))
    names: dict[str, str] = {}
    for name in parts:
        with contextlib.suppress(ValueError):
            names[name] = name if landsat.is_other_band(name, sensor) else landsat.band_name(name, sensor)
    whole = set(landsat.sensor_bands(sensor)) - {landsat.BANDS[0]} <= set(names.values())
    return {name: parts[name] for name in names} if whole else parts


def _band_of(images: Any, band: str, index: int) -> Any:
    """One band of a DataArray; where its bands differ, rioxarray has their scales, offsets and no-data values as tuples."""
    array, count = images.isel({band: index}, drop=True), images.sizes[band]
    for key, of_bands in (("scale_factor", "scales"), ("add_offset", "offsets"), ("nodata", "nodatavals")):
        values = _listed(images.attrs.get(of_bands))
        if values is not None and len(values) == count and values[index] is not None:
            array = array.assign_attrs({key: values[index]})
    return array


def _listed(values: Any) -> list[Any] | None:
    """An attribute of several values, which files keep as a tuple, a list or an array; None for any other."""
    return list(values) if isinstance(values, tuple | list) or isinstance(values, np.ndarray) and values.ndim == 1 else None


def _number(attrs: Mapping[str, Any], key: str, default: float) -> float:
    """An attribute that is a number, which may be an array of one; the default where it is absent or None."""
    value = attrs.get(key)
    return default if value is None else float(np.asarray(value, np.float64).item())


def _numbered(images: Any, band: str, sensor: str) -> np.ndarray:
    """The order of the bands by the numbers that stand for names: from 1, as rioxarray has them, from 0, or the sensor's own.

    ValueError for others, which do not say which bands they are: some of a file's, or wavelengths.
    """
    count = images.sizes[band]
    if band not in images.coords or images.coords[band].dtype.kind not in "iuf":
        return np.arange(count)
    numbers = images.coords[band].values
    order = np.argsort(numbers, kind="stable")
    own = [int(number[1:]) for number in landsat.band_numbers(sensor)]
    if not any(np.array_equal(numbers[order], known) for known in (range(count), range(1, count + 1), own)):
        raise ValueError(f"the bands have the numbers {', '.join(map(str, numbers))} and no names; name them: bands=(...)")
    return order


def _is_scaled(attrs: Mapping[str, Any]) -> bool:
    return (_number(attrs, "scale_factor", 1.0), _number(attrs, "add_offset", 0.0)) != (1.0, 0.0)


def _masked(array: Any) -> np.ma.MaskedArray:
    """The values of a DataArray, masked where they are what its attributes say to be no data."""
    values = np.asarray(array.values)
    mask = np.zeros(values.shape, bool)
    encoded = array.encoding if values.dtype.kind in "iu" else {}  # floats were decoded, with NaN where it stood
    for key in ("_FillValue", "missing_value", "nodata"):
        for said in (array.attrs, encoded):
            if (fill := said.get(key)) is not None:
                mask |= np.isin(values, np.asarray(fill))
    return np.ma.MaskedArray(values, mask)


def _unit(array: Any) -> str | None:
    """The unit that scale and offset say, of values that were not multiplied by them yet or that xarray did; else None."""
    for attrs, decoded in ((array.attrs, False), (array.encoding, True)):
        if attrs.get("scale_factor") is not None:
            unit = landsat.unit_of_scale(_number(attrs, "scale_factor", 1.0), _number(attrs, "add_offset", 0.0))
            return "reflectance" if unit and decoded else unit
    return None


def _crs(images: Any, first: Any, rows: str) -> "pyproj.CRS | None":
    """The reference system that the images say, or the dimensions' names.

    A grid mapping says it: a coordinate, as rioxarray and odc-stac have it, or a variable, as xarray reads netCDF and Zarr; or
    an attribute `crs`; or stackstac's coordinate `epsg` or `proj:code`.
    """
    import pyproj

    said = [text for array in (first, images) if (text := _mapping(images, array) or array.attrs.get("crs"))]
    codes = [images.coords[name] for name in ("epsg", "proj:epsg", "proj:code") if name in images.coords]
    said += [code.item() for code in codes if not code.dims and code.dtype.kind in "iuUO" and code.item() is not None]
    if said:
        try:
            return pyproj.CRS.from_cf(said[0]) if isinstance(said[0], dict) else pyproj.CRS.from_user_input(said[0])
        except (pyproj.exceptions.CRSError, KeyError) as error:
            raise ValueError(f"the images' coordinate reference system cannot be read: {error}") from None
    return pyproj.CRS.from_epsg(4326) if rows in _LATITUDE else None


def _mapping(images: Any, array: Any) -> Any:
    """What a grid mapping says: WKT or the like, or the parameters of CF; None without one."""
    name = array.attrs.get("grid_mapping") or array.encoding.get("grid_mapping") or "spatial_ref"
    holder = array.coords if name in array.coords else getattr(images, "data_vars", {})
    attrs = holder[name].attrs if name in holder else {}
    plain = dict(attrs) if "grid_mapping_name" in attrs else None
    return attrs.get("crs_wkt") or attrs.get("spatial_ref") or plain
