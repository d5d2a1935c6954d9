"""A Landsat scene of any size, in one file or one file a band, read window by window."""

import contextlib
import dataclasses
import itertools
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyproj
import rasterio
from rasterio.windows import Window

from geomoe import landsat, metadata
from geomoe.data.preprocess import InputSpec, UnitWarning, factors_by_band
from geomoe.data.product_files import Quality, SceneError, SceneFiles, find_scene
from geomoe.data.raster import (
    RasterError,
    georeference,
    open_raster,
    read_band,
    read_options,
    read_quality,
    same_transform,
    to_wgs84,
)

NO_QUALITY = "has no quality band (*_QA_PIXEL.TIF or *_BQA.TIF, or a band QA_PIXEL)"


@dataclasses.dataclass(frozen=True)
class SceneInfo:
    """A scene: its files and what they say of themselves."""

    name: str  # of the product
    files: dict[str, tuple[str, int]]  # band name -> (path, index of the band in it, from 1)
    qa: Quality | None
    height: int  # in pixels
    width: int
    transform: Any  # of pixels to `crs`, affine
    crs: Any  # rasterio's, or None where the files have none
    time: np.datetime64  # UTC, in seconds, or in days where the hour is not known; NaT where the date is not
    sensor: str  # by the metadata file, else by the name of the product; "landsat8" where neither says it
    unit: str | None  # of its numbers, where the product says it
    dtype: str  # of its numbers
    sun_elevation: float | None  # degrees, from the metadata file
    level1_factors: Mapping[str, tuple[float, float]] | None  # band name -> scale and offset, from the metadata file
    unknown_scale: str = ""  # which file has a scale and an offset that are of no unit
    origin: str = ""  # where its facts are from: the path of its metadata file, else its name

    @property
    def level(self) -> int | None:
        """Processing level, 1 or 2, None where the product does not say it."""
        return None if self.unit is None else 1 if self.unit == "level1_dn" else 2

    def spec(self, given: InputSpec) -> InputSpec:
        """Complete what a user says of a scene by what it says of itself; SceneError where the two contradict each other, but
        for a given reflectance of floats.

        Where neither says a unit, numbers of 16 bits without a sign are taken for Collection 2's, with a `UnitWarning`.
        """
        for name, theirs, own in (("unit", given.unit, self.unit), ("sensor", given.sensor, self.sensor)):
            if name == "sensor" and theirs and landsat.same_bands(theirs, self.sensor):
                continue
            if theirs == "reflectance" and self.dtype.startswith("float"):
                continue  # what was computed of a product keeps its name and, by some programs, its scale and offset
            if theirs and own and theirs != own:
                raise SceneError(f"{self.name}: {name}={theirs!r} was given, but by its name and metadata it is {own!r}")
        if not (given.unit or self.unit):
            if self.unknown_scale:
                raise SceneError(
                    f"{self.unknown_scale}, which no unit has that is known: give the unit, {', '.join(landsat.UNITS)}"
                )
            if self.dtype in ("uint8", "int16"):
                units = ", ".join(unit for unit in landsat.UNITS if self.dtype in landsat.FILE_DTYPES[unit])
                raise SceneError(f"{self.name} does not say what its numbers, {self.dtype}, are: give their unit, {units}")
            said = f"neither {self.name} nor you say a unit, so its numbers are taken for collection2_dn"
            warnings.warn(f"{said}; {', '.join(landsat.UNITS)} are known", UnitWarning, stacklevel=4)
        fields: dict[str, Any] = {"unit": given.unit or self.unit or "collection2_dn", "sensor": given.sensor or self.sensor}
        if fields["unit"] == "level1_dn":
            fields["sun_elevation"] = self.sun_elevation if given.sun_elevation is None else given.sun_elevation
            fields["level1_factors"] = given.level1_factors or self.level1_factors
            if fields["sun_elevation"] is None:
                missing = "no metadata file (*_MTL.txt, .json or .xml) with its SUN_ELEVATION"
                raise SceneError(f"{self.name}: {missing} beside it; give sun_elevation in degrees (90 leaves it uncorrected)")
        try:
            return dataclasses.replace(given, **fields)
        except ValueError as error:
            raise SceneError(f"{self.name}: {error}") from None


def open_scene(
    path: str | os.PathLike[str] | Sequence[str] | SceneFiles, bands: Sequence[str] | None = None, sensor: str | None = None
) -> SceneInfo:
    """Find the files of a scene and read what they say of themselves, no pixels.

    Args:
        path: a GeoTIFF with several bands; a folder with one file a band (`*_SR_B1.TIF`, `*_B1.TIF`, HLS's `*.B01.tif` ...),
            its quality band and its metadata file (`*_MTL.txt`, `.json` or `.xml`); or the band files themselves. All of them
            may be addresses on the network, where a folder bears the name of its product. Or what a catalogue says of a scene
            (`geomoe.data.stac`).
        bands: names of the bands of a single file, in their order. Without it its band descriptions name them, and one with no
            descriptions must hold the bands of its sensor.
        sensor: whose numbers those of the bands are, where the scene does not say it.

    Raises:
        SceneError: files are missing, do not fit together, have no CRS, do not say which bands they hold, or contradict each
            other, their name or `sensor`.
    """
    if isinstance(path, SceneFiles):
        if bands is not None:
            raise SceneError(f"{path.name}: bands names those of a single file; a catalogue names those of a scene")
        found = path
    else:
        paths = [os.fspath(path)] if isinstance(path, str | os.PathLike) else [os.fspath(p) for p in path]
        found = find_scene(paths, bands, sensor)
    grid, units, unknown = None, {} if found.unit is None else {found.unit: found.name}, ""
    for band, (p, index) in [*found.files.items(), *([("quality", (found.qa.path, found.qa.band))] if found.qa else [])]:
        with _opened(p) as src:
            of_file = (src.height, src.width, *georeference(src))
            if band != "quality" and src.dtypes[0] not in itertools.chain(*landsat.FILE_DTYPES.values()):
                raise SceneError(f"{p}: {src.dtypes[0]} is no type that images have")
            pair = (src.scales[index - 1], src.offsets[index - 1])
            if band != "quality" and (unit := landsat.unit_of_scale(*pair)):
                units.setdefault(unit, p)
            elif band != "quality" and pair != (1, 0):
                unknown = f"{p} has scale {pair[0]:g} and offset {pair[1]:g}"
            if grid is None:
                dtype = src.dtypes[0]
                grid, date_tag = of_file, src.tags().get("TIFFTAG_DATETIME", "")
                height, width, transform, crs = grid
            elif (*of_file[:2], of_file[3]) != (height, width, crs) or not same_transform(transform, of_file[2], height, width):
                if of_file[3] != crs:
                    raise SceneError(f"{p}: {band} has the CRS {_crs_name(of_file[3])}, the other bands {_crs_name(crs)}")
                sizes = f"{of_file[:2]} pixels or another location than the {grid[:2]} of the other bands"
                raise SceneError(f"{p}: {band} has {sizes}")
    if len({"hls" if unit in landsat.SCALED_UNITS else unit for unit in units}) > 1:
        both = " and ".join(f"{unit!r} by {origin}" for unit, origin in units.items())
        raise SceneError(f"{found.name}: its numbers are {both}: which is right?")
    product, time = found.product, found.time
    if time is None:
        try:
            time = metadata.acquisition_time(explicit=product.acquired, name=found.name, date_tag=date_tag)
        except ValueError as error:
            raise SceneError(f"{found.origin}: {error}") from None
    factors = factors_by_band(product.level1_factors, found.sensor)
    facts = time, found.sensor, next(iter(units), None), dtype, product.sun_elevation, factors or None
    return SceneInfo(found.name, dict(found.files), found.qa, height, width, transform, crs, *facts, unknown, found.origin)


def _crs_name(crs: rasterio.crs.CRS | None) -> str:
    return "(none)" if crs is None else crs.to_string()


def _opened(path: str) -> rasterio.DatasetReader:
    try:
        return open_raster(path)
    except RasterError as error:
        raise SceneError(f"{path}: {error}") from None


def check_mask(info: SceneInfo, classes: Sequence[str]) -> None:
    """Raise SceneError where a scene has no quality band that tells each of some classes."""
    if isinstance(classes, str):
        raise SceneError(f"mask = {classes!r} must be a sequence of classes, as ({classes!r},)")
    if not classes:
        return
    if info.qa is None:
        raise SceneError(f"{info.name} {NO_QUALITY} to mask {', '.join(classes)} by")
    try:
        landsat.is_flagged(np.zeros(1, np.uint16), info.qa.kind, classes)
    except ValueError as error:
        raise SceneError(f"{info.qa.path}: {error}") from None


class SceneReader(contextlib.AbstractContextManager):
    """Read rectangles of a scene (from `open_scene`), of some bands by name; what lies beyond its edges has no data.

    `unit` is that of its numbers: see `geomoe.landsat.nodata_value`.
    """

    def __init__(self, info: SceneInfo, bands: Sequence[str], unit: str = "collection2_dn") -> None:
        self.info, self.bands, self.unit = info, tuple(bands), unit
        paths = {info.files[band][0] for band in bands} | ({info.qa.path} if info.qa else set())
        self._files = {path: _opened(path) for path in paths}
        self._to_wgs84 = None
        if info.crs is None:
            return
        try:
            self._to_wgs84 = to_wgs84(info.crs.to_wkt())
            if self._to_wgs84 is not None:
                metadata.check_degrees(*self._degrees(info.height / 2, info.width / 2))
        except (pyproj.exceptions.ProjError, rasterio.errors.CRSError) as error:
            self.__exit__()
            raise SceneError(f"{info.name}: its CRS does not lead to latitude and longitude: {error}") from None
        except ValueError as error:
            self.__exit__()
            raise SceneError(
                f"{info.name}: {error}; its coordinates are not those of its CRS, {info.crs.to_string()}"
            ) from None

    def __exit__(self, *_: Any) -> None:
        for file in self._files.values():
            file.close()

    def read(self, row: int, column: int, height: int, width: int) -> np.ndarray:
        """Read (height, width, C) in the type of the files, `geomoe.landsat.nodata_value` where there are no data."""
        return np.stack([self._band(*self.info.files[band], row, column, height, width) for band in self.bands], axis=-1)

    def clouds(self, row: int, column: int, height: int, width: int) -> np.ndarray | None:
        """Find clouds by the quality band: (height, width) bool, or None without one."""
        if self.info.qa is None:
            return None
        return landsat.is_cloud(self._quality(self.info.qa, row, column, height, width), self.info.qa.kind)

    def flagged(self, classes: Sequence[str], row: int, column: int, height: int, width: int) -> np.ndarray:
        """Find the pixels that the quality band says to be of some classes (see `check_mask`): (height, width) bool."""
        if self.info.qa is None or not classes:
            return np.zeros((height, width), bool)
        return landsat.is_flagged(self._quality(self.info.qa, row, column, height, width), self.info.qa.kind, classes)

    def _band(self, path: str, index: int, row: int, column: int, height: int, width: int) -> np.ndarray:
        dtype = np.dtype(self._files[path].dtypes[index - 1])
        out = np.full((height, width), landsat.nodata_value(self.unit, dtype), dtype)
        return self._fill(out, path, lambda file, window: read_band(file, index, self.unit, window), row, column)

    def _quality(self, qa: Quality, row: int, column: int, height: int, width: int) -> np.ndarray:
        """The bits of the quality band, those of no class beyond the edges: (height, width) uint16."""
        out = np.zeros((height, width), np.uint16)
        return self._fill(out, qa.path, lambda file, window: read_quality(file, qa.kind, window, qa.band), row, column)

    def _fill(
        self, out: np.ndarray, path: str, read: Callable[[rasterio.DatasetReader, Window], np.ndarray], row: int, column: int
    ) -> np.ndarray:
        """Fill (height, width) pixels from a row and a column on with what is read of a file, where they lie in the scene."""
        height, width = out.shape
        top, left = max(row, 0), max(column, 0)
        bottom, right = min(row + height, self.info.height), min(column + width, self.info.width)
        if bottom > top and right > left:
            try:
                with read_options(path):
                    values = read(self._files[path], Window(left, top, right - left, bottom - top))
            except rasterio.errors.RasterioIOError as error:
                raise SceneError(f"{path}: rows {top} to {bottom} cannot be read: {error}") from None
            out[top - row : bottom - row, left - column : right - column] = values
        return out

    def locations(self, rows: Any, columns: Any) -> tuple[np.ndarray, np.ndarray]:
        """Compute latitudes and longitudes in degrees of pixel positions (0.5 is the middle of the first pixel).

        NaN where the scene has no CRS. Beyond a pole, where windows at the edge may lie, it is that of the pole.
        """
        lat, lon = self._degrees(rows, columns)
        return np.where(np.isfinite(lat), np.clip(lat, -90, 90), lat), metadata.wrap_longitude(lon)

    def _degrees(self, rows: Any, columns: Any) -> tuple[np.ndarray, np.ndarray]:
        rows, columns = np.asarray(rows, float), np.asarray(columns, float)
        if self._to_wgs84 is None:
            return np.full(rows.shape, np.nan), np.full(columns.shape, np.nan)
        a, b, c, d, e, f = self.info.transform[:6]
        x, y = a * columns + b * rows + c, d * columns + e * rows + f
        lon, lat = self._to_wgs84.transform(x, y)
        return np.asarray(lat), np.asarray(lon)
