"""A Landsat scene of any size, in one file or one file a band, read window by window."""

import contextlib
import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyproj
import rasterio
from rasterio.windows import Window

from geomoe import landsat, metadata
from geomoe.data.preprocess import InputSpec
from geomoe.data.raster import RasterError, check_regular, data_bands, open_raster, read_band

_BAND_FILE = re.compile(r"(?<!_ST)_(SR_B[1-7]|B[1-7]|SR_BAND[1-7])\.TIFF?$", re.IGNORECASE)
_QA_FILE = re.compile(r"_(QA_PIXEL|BQA)\.TIFF?$", re.IGNORECASE)
_MTL_FILE = re.compile(r"_MTL\.(txt|json|xml)$", re.IGNORECASE)
_MTL_BYTES = 4 << 20  # the largest have some 20 kB


class SceneError(ValueError):
    """A scene that cannot be used; the message names the file."""


@dataclasses.dataclass(frozen=True)
class SceneInfo:
    """A scene: its files and what they say of themselves."""

    name: str  # of the product
    files: dict[str, tuple[str, int]]  # band name -> (path, index of the band in it, from 1)
    qa: tuple[str, str] | None  # path and kind (as for `geomoe.landsat.is_flagged`) of the quality band
    height: int  # in pixels
    width: int
    transform: Any  # of pixels to `crs`, affine
    crs: Any  # rasterio's
    time: np.datetime64  # UTC, in seconds, or in days where the hour is not known; NaT where the date is not
    sensor: str  # by the metadata file, else by the name of the product; "landsat8" where neither says it
    unit: str | None  # of its numbers, where the product says it
    sun_elevation: float | None  # degrees, from the metadata file
    level1_factors: Mapping[str, tuple[float, float]] | None  # band name -> scale and offset, from the metadata file

    @property
    def level(self) -> int | None:
        """Processing level, 1 or 2, None where the product does not say it."""
        return None if self.unit is None else 1 if self.unit == "level1_dn" else 2

    def spec(self, given: InputSpec) -> InputSpec:
        """Complete what a user says of a scene by what it says of itself; SceneError where the two contradict each other."""
        for name, theirs, own in (("unit", given.unit, self.unit), ("sensor", given.sensor, self.sensor)):
            if name == "sensor" and theirs and landsat.lacks_coastal(theirs) == landsat.lacks_coastal(self.sensor):
                continue
            if theirs and own and theirs != own:
                raise SceneError(f"{self.name}: {name}={theirs!r} was given, but by its name and metadata it is {own!r}")
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


def holds_band_files(folder: str | os.PathLike[str]) -> bool:
    """Say whether a folder has files of single bands, and so is a scene."""
    return any(_BAND_FILE.search(name) for name in os.listdir(folder))


def open_scene(
    path: str | os.PathLike[str] | Sequence[str], bands: Sequence[str] | None = None, sensor: str | None = None
) -> SceneInfo:
    """Find the files of a scene and read what they say of themselves, no pixels.

    Args:
        path: a GeoTIFF with several bands; a folder with one file a band (`*_SR_B1.TIF` or `*_B1.TIF` ...), its quality band
            and its metadata file (`*_MTL.txt`, `.json` or `.xml`); or the band files themselves.
        bands: names of the bands of a single file, in their order. Without it its band descriptions name them, and one with no
            descriptions must hold the bands of its sensor.
        sensor: whose numbers those of the bands are, where the scene does not say it.

    Raises:
        SceneError: files are missing, do not fit together, have no CRS, do not say which bands they hold, or contradict each
            other, their name or `sensor`.
    """
    paths = [os.fspath(path)] if isinstance(path, str | os.PathLike) else [os.fspath(p) for p in path]
    where = ", ".join(paths)
    for p in paths:
        if not os.path.exists(p):
            raise SceneError(f"{p}: there is no such file or folder")
    if len(paths) == 1 and os.path.isdir(where):
        paths = sorted(entry.path for entry in os.scandir(where))
    matches = {p: match for p in paths if (match := _BAND_FILE.search(os.path.basename(p)))}
    qa = next(((p, _qa_kind(match)) for p in paths if (match := _QA_FILE.search(os.path.basename(p)))), None)
    stems = sorted({match.string[: match.start()] for match in matches.values()})
    if len(stems) > 1:
        raise SceneError(f"{where}: holds more than one scene: {', '.join(stems)}; name the files of one")
    if not stems and not (len(paths) == 1 and os.path.isfile(paths[0])):
        raise SceneError(f"{where}: no band files (*_B1.TIF or *_SR_B1.TIF ...) there")
    name = stems[0] if stems else os.path.splitext(os.path.basename(paths[0]))[0]
    product, origin = _read_product(name, os.path.dirname(next(iter(matches), paths[0])), alone=len(stems) == 1)
    if sensor and product.sensor and landsat.lacks_coastal(sensor) != landsat.lacks_coastal(product.sensor):
        raise SceneError(f"{name}: sensor={sensor!r} was given, but by its name and metadata it is {product.sensor!r}")
    sensor = product.sensor or sensor or "landsat8"
    files = _band_files(matches, sensor) if matches else _bands_of_file(paths[0], bands, sensor)
    grid = None
    for band, (p, _) in [*files.items(), *([("quality", (qa[0], 1))] if qa else [])]:
        with _opened(p) as src:
            of_file = (src.height, src.width, src.transform, src.crs)
            if src.crs is None:
                raise SceneError(f"{p}: the file is not georeferenced")
            if src.dtypes[0] not in ("uint16", "uint8", "float32", "float64", "int16", "int32"):
                raise SceneError(f"{p}: {src.dtypes[0]} is no type that images have")
            if grid is None:
                grid, date_tag = of_file, src.tags().get("TIFFTAG_DATETIME", "")
                height, width, transform, crs = grid
            elif of_file != grid:
                sizes = f"{of_file[:2]} pixels or another location than the {grid[:2]} of the other bands"
                raise SceneError(f"{p}: {band} has {sizes}")
    try:
        time = metadata.acquisition_time(explicit=product.acquired, name=name, date_tag=date_tag)
    except ValueError as error:
        raise SceneError(f"{origin}: {error}") from None
    factors = {landsat.band_name(b, sensor): pair for b, pair in product.level1_factors.items() if _is_reflective(b, sensor)}
    unit = _unit(name, product, {match[1].upper() for match in matches.values()})
    grid_facts = (height, width, transform, crs)
    return SceneInfo(name, files, qa, *grid_facts, time, sensor, unit, product.sun_elevation, factors or None)


def _qa_kind(match: re.Match[str]) -> str:
    """The kind of a quality band: collection 1's bits are others than those of earlier files of the same ending."""
    kind = match[1].upper()
    return "BQA_C1" if kind == "BQA" and re.search(r"_\d{8}_01_", match.string) else kind


def _is_reflective(band: str, sensor: str) -> bool:
    return band in (landsat.TM_BANDS if landsat.lacks_coastal(sensor) else [f"B{i}" for i in range(1, 8)])


def _band_files(matches: Mapping[str, re.Match[str]], sensor: str) -> dict[str, tuple[str, int]]:
    """Band name -> (path, 1) of a scene with one file a band, in the order of the names."""
    files: dict[str, tuple[str, int]] = {}
    for path, match in sorted(matches.items(), key=lambda item: item[1][1].upper()):
        if landsat.is_other_band(match[1], sensor):
            continue
        try:
            band = landsat.band_name(match[1], sensor)
        except ValueError as error:
            raise SceneError(f"{path}: {error}") from None
        if band in files:
            raise SceneError(f"{path} and {files[band][0]} are both {band} of {sensor}: name the files of one product")
        files[band] = (path, 1)
    if not files:
        raise SceneError(f"{next(iter(matches))}: no band of {sensor} that the model takes")
    return files


def _unit(name: str, product: landsat.Product, bands: set[str]) -> str | None:
    """What the numbers of a product are, by the names of its band files and what it says of itself."""
    if any(band.startswith("SR_BAND") for band in bands):  # as ESPA delivered collection 1
        return "collection1_sr"
    surface = any(band.startswith("SR_") for band in bands)
    if surface and product.level == 1:
        raise SceneError(f"{name}: its files are of surface reflectance (SR_B...), but its name or metadata say level 1")
    if bands and not surface and product.level == 2:
        raise SceneError(f"{name}: its files are of level 1 (B1 ... without SR_), but its name or metadata say level 2")
    level = 2 if surface else product.level
    return None if level is None else "level1_dn" if level == 1 else "collection2_dn"


def _read_product(name: str, folder: str, alone: bool) -> tuple[landsat.Product, str]:
    """What a scene says of itself by its metadata file, if it has one, and its name; and the path of that file, or the name."""
    found = [entry.path for entry in os.scandir(folder or ".") if _MTL_FILE.search(entry.name)]
    of_name = sorted(path for path in found if os.path.basename(path).startswith(name))
    files = of_name or (sorted(found) if alone and len({_MTL_FILE.sub("", path) for path in found}) == 1 else [])
    groups: landsat.Groups = {}
    origin = files[-1] if files else name
    try:
        if files:
            check_regular(files[-1])
            with open(files[-1], encoding="utf-8", errors="replace") as file:
                text = file.read(_MTL_BYTES + 1)
            if len(text) > _MTL_BYTES:
                raise ValueError(f"more than {_MTL_BYTES >> 20} MB are no metadata of a scene")
            groups = landsat.parse_mtl(text)
        return landsat.product_of(name, groups), origin
    except (ValueError, OSError) as error:
        raise SceneError(f"{origin}: {error}") from None


def _opened(path: str) -> rasterio.DatasetReader:
    try:
        return open_raster(path)
    except RasterError as error:
        raise SceneError(f"{path}: {error}") from None


def _bands_of_file(path: str, bands: Sequence[str] | None, sensor: str) -> dict[str, tuple[str, int]]:
    """Band name -> (path, index of the band from 1) of a file with several bands."""
    with _opened(path) as src:
        indexes = data_bands(src)
        descriptions = [src.descriptions[index - 1] for index in indexes]
    try:
        if bands is not None:
            if len(bands) != len(indexes):
                raise ValueError(f"has {len(indexes)} bands, but {len(bands)} names stand for them: {', '.join(bands)}")
            names = {
                landsat.band_name(band, sensor): i for i, band in enumerate(bands) if not landsat.is_other_band(band, sensor)
            }
            if len(names) < sum(not landsat.is_other_band(band, sensor) for band in bands):
                raise ValueError(f"a band is named twice: {', '.join(bands)}")
        else:
            found = landsat.bands_of_file(descriptions, sensor)
            if found is None and len(indexes) != len(landsat.sensor_bands(sensor)):
                example = "name them, as in bands=('blue', 'green', 'red')"
                raise ValueError(f"has {len(indexes)} bands and does not say which; {example}")
            names = {band: i for i, band in enumerate(landsat.sensor_bands(sensor))} if found is None else found
            if not names:
                raise ValueError(f"its bands are named {', '.join(map(str, descriptions))}, none of which is one of {sensor}'s")
    except ValueError as error:
        raise SceneError(f"{path}: {error}") from None
    return {name: (path, indexes[i]) for name, i in names.items()}


class SceneReader(contextlib.AbstractContextManager):
    """Read rectangles of a scene (from `open_scene`), of some bands by name; what lies beyond its edges has no data.

    `unit` is that of its numbers: see `geomoe.landsat.nodata_value`.
    """

    def __init__(self, info: SceneInfo, bands: Sequence[str], unit: str = "collection2_dn") -> None:
        self.info, self.bands, self.unit = info, tuple(bands), unit
        paths = {info.files[band][0] for band in bands} | ({info.qa[0]} if info.qa else set())
        self._files = {path: _opened(path) for path in paths}
        try:
            self._to_wgs84 = pyproj.Transformer.from_crs(info.crs.to_wkt(), "EPSG:4326", always_xy=True)
        except (pyproj.exceptions.ProjError, rasterio.errors.CRSError) as error:
            self.__exit__()
            raise SceneError(f"{info.name}: its CRS does not lead to latitude and longitude: {error}") from None

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
        path, kind = self.info.qa
        return landsat.is_cloud(self._band(path, 1, row, column, height, width), kind)

    def flagged(self, classes: Sequence[str], row: int, column: int, height: int, width: int) -> np.ndarray:
        """Find the pixels that the quality band says to be of some classes: (height, width) bool.

        Raises:
            SceneError: there is no quality band, or it does not tell a class.
        """
        if not classes:
            return np.zeros((height, width), bool)
        if self.info.qa is None:
            raise SceneError(
                f"{self.info.name} has no quality band (*_QA_PIXEL.TIF or *_BQA.TIF) to mask {', '.join(classes)} by"
            )
        path, kind = self.info.qa
        try:
            return landsat.is_flagged(self._band(path, 1, row, column, height, width), kind, classes)
        except ValueError as error:
            raise SceneError(f"{path}: {error}") from None

    def _band(self, path: str, index: int, row: int, column: int, height: int, width: int) -> np.ndarray:
        file = self._files[path]
        top, left = max(row, 0), max(column, 0)
        bottom, right = min(row + height, self.info.height), min(column + width, self.info.width)
        dtype = np.dtype(file.dtypes[index - 1])
        out = np.full((height, width), landsat.nodata_value(self.unit, dtype), dtype)
        if bottom > top and right > left:
            try:
                values = read_band(file, index, self.unit, Window(left, top, right - left, bottom - top))
            except rasterio.errors.RasterioIOError as error:
                raise SceneError(f"{path}: rows {top} to {bottom} cannot be read: {error}") from None
            out[top - row : bottom - row, left - column : right - column] = values
        return out

    def locations(self, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute latitudes and longitudes in degrees of pixel positions (0.5 is the middle of the first pixel)."""
        rows, columns = np.asarray(rows, float), np.asarray(columns, float)
        a, b, c, d, e, f = self.info.transform[:6]
        x, y = a * columns + b * rows + c, d * columns + e * rows + f
        lon, lat = self._to_wgs84.transform(x, y)
        return np.asarray(lat), np.asarray(lon)
