"""A Landsat scene of any size, in one file or one file a band, read window by window."""

import contextlib
import dataclasses
import glob
import os
import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyproj
import rasterio
from rasterio.windows import Window

from geomoe import landsat, metadata

_BAND_FILE = re.compile(r"_(SR_B[1-7]|B[1-7])\.TIFF?$", re.IGNORECASE)
_QA_FILE = re.compile(r"_(QA_PIXEL|BQA)\.TIFF?$", re.IGNORECASE)


class SceneError(ValueError):
    """A scene that cannot be used; the message names the file."""


@dataclasses.dataclass(frozen=True)
class SceneInfo:
    """A scene: its files and what they say of themselves."""

    name: str  # of the product
    files: dict[str, tuple[str, int]]  # band name -> (path, index of the band in it, from 1)
    qa: tuple[str, str] | None  # path and kind ("QA_PIXEL" or "BQA") of the quality band
    height: int  # in pixels
    width: int
    transform: Any  # of pixels to `crs`, affine
    crs: Any  # rasterio's
    time: np.datetime64  # in seconds, UTC; NaT where unknown
    level: int | None  # 1 or 2, None where neither the name nor the metadata file says it
    sun_elevation: float | None  # degrees, from the metadata file
    sensor: str = "landsat8"  # by the name of the product; "landsat8" where that does not say


def parse_mtl(text: str) -> dict[str, str]:
    """Read the `KEY = VALUE` lines of a Landsat metadata file, quotes taken off.

    >>> parse_mtl('GROUP = IMAGE_ATTRIBUTES\\n  SUN_ELEVATION = 51.5\\n  STATION_ID = "LGN"\\nEND')
    {'GROUP': 'IMAGE_ATTRIBUTES', 'SUN_ELEVATION': '51.5', 'STATION_ID': 'LGN'}
    """
    lines = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {key.strip(): value.strip().strip('"') for key, value in lines}


def holds_band_files(folder: str | os.PathLike[str]) -> bool:
    """Say whether a folder has files of single bands, and so is a scene."""
    return any(_BAND_FILE.search(name) for name in os.listdir(folder))


def open_scene(
    path: str | os.PathLike[str] | Sequence[str], bands: Sequence[str] | None = None, sensor: str | None = None
) -> SceneInfo:
    """Find the files of a scene and read what they say of themselves, no pixels.

    Args:
        path: a GeoTIFF with several bands; a folder with one file a band (`*_SR_B1.TIF` or `*_B1.TIF` ...), its quality band
            and its `*_MTL.txt`; or the band files themselves.
        bands: names of the bands of a single file, in their order. Without it a file with seven bands is taken as SR_B1 to
            SR_B7, and another one must name them in its band descriptions.
        sensor: whose numbers those of the bands are; None goes by the name of the product.

    Raises:
        SceneError: files are missing, do not fit together, have no CRS, or do not say which bands they hold.
    """
    paths = [os.fspath(path)] if isinstance(path, str | os.PathLike) else [os.fspath(p) for p in path]
    where = ", ".join(paths)
    for p in paths:
        if not os.path.exists(p):
            raise SceneError(f"{p}: there is no such file or folder")
    if len(paths) == 1 and os.path.isdir(where):
        paths = sorted(glob.glob(os.path.join(where, "*")))
    matches = {p: match for p in paths if (match := _BAND_FILE.search(os.path.basename(p)))}
    qa = next(((p, match[1].upper()) for p in paths if (match := _QA_FILE.search(os.path.basename(p)))), None)
    stems = sorted({match.string[: match.start()] for match in matches.values()})
    if len(stems) > 1:
        raise SceneError(f"{where}: holds more than one scene: {', '.join(stems)}; name the files of one")
    if not stems and not (len(paths) == 1 and os.path.isfile(paths[0])):
        raise SceneError(f"{where}: no band files (*_B1.TIF or *_SR_B1.TIF ...) there")
    name = stems[0] if stems else os.path.splitext(os.path.basename(paths[0]))[0]
    sensor = sensor or landsat.sensor_of(name) or "landsat8"
    band_files = {match[1].upper(): p for p, match in matches.items()}
    if band_files:
        thermal = {"B6", "SR_B6"} if landsat.lacks_coastal(sensor) else set()
        files = {landsat.band_name(b, sensor): (p, 1) for b, p in sorted(band_files.items()) if b not in thermal}
    else:
        files = _bands_of_file(paths[0], bands, sensor)
    grid = None
    for band, (p, _) in [*files.items(), *([("quality", (qa[0], 1))] if qa else [])]:
        with _opened(p) as src:
            of_file = (src.height, src.width, src.transform, src.crs)
            if src.crs is None:
                raise SceneError(f"{p}: the file is not georeferenced")
            if src.dtypes[0] not in ("uint16", "uint8", "float32", "float64", "int16"):
                raise SceneError(f"{p}: {src.dtypes[0]} is no type that images have")
            if grid is None:
                grid, date_tag = of_file, src.tags().get("TIFFTAG_DATETIME", "")
                height, width, transform, crs = grid
            elif of_file != grid:
                sizes = f"{of_file[:2]} pixels or another location than the {grid[:2]} of the other bands"
                raise SceneError(f"{p}: {band} has {sizes}")
    beside = os.path.join(os.path.dirname(next(iter(files.values()))[0]), name)
    mtl = min(glob.glob(f"{glob.escape(beside)}*_MTL.txt"), default=None)
    level, time, sun_elevation = _read_product(mtl, name, date_tag)
    if level is None and any(band.startswith("SR_") for band in band_files):
        level = 2
    return SceneInfo(name, files, qa, height, width, transform, crs, time, level, sun_elevation, sensor)


def _read_product(mtl: str | None, name: str, date_tag: str) -> tuple[int | None, np.datetime64, float | None]:
    """Processing level, time and sun elevation, by the metadata file, else by the name and the date tag of the image."""
    values: dict[str, str] = {}
    if mtl is not None:
        with open(mtl, encoding="utf-8", errors="replace") as file:
            values = parse_mtl(file.read())
    date = values.get("DATE_ACQUIRED", "")
    match = re.search(r"(?:^|_)L([12])", values.get("PROCESSING_LEVEL") or values.get("DATA_TYPE") or name)
    explicit = f"{date}T{values.get('SCENE_CENTER_TIME', '00:00:00')}" if date else ""
    try:
        time = metadata.acquisition_time(explicit=explicit, name=name, date_tag=date_tag)
        sun_elevation = float(values["SUN_ELEVATION"]) if "SUN_ELEVATION" in values else None
    except ValueError as error:
        raise SceneError(f"{mtl}: {error}") from None
    return int(match[1]) if match else None, time, sun_elevation


def check_unit(info: SceneInfo, unit: str) -> None:
    """Raise SceneError where the numbers of a scene are not what a user says they are, by its processing level."""
    if info.level == 1 and unit == "collection2_dn":
        raise SceneError(f"{info.name} is a level-1 product, its numbers are no surface reflectance: pass unit='level1_dn'")
    if info.level == 2 and unit == "level1_dn":
        raise SceneError(f"{info.name} is a level-2 product: pass unit='collection2_dn'")


def _opened(path: str) -> rasterio.DatasetReader:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            return rasterio.open(path)
    except rasterio.errors.RasterioIOError as error:
        raise SceneError(f"{path}: cannot be read: {error}") from None


def _bands_of_file(path: str, bands: Sequence[str] | None, sensor: str) -> dict[str, tuple[str, int]]:
    """Band name -> (path, index of the band from 1) of a file with several bands."""
    with _opened(path) as src:
        count, descriptions = src.count, src.descriptions
    try:
        if bands is not None:
            if len(bands) != count:
                raise ValueError(f"has {count} bands, but {len(bands)} names stand for them: {', '.join(bands)}")
            names = [landsat.band_name(band, sensor) for band in bands]
        elif all(descriptions):
            names = [landsat.band_name(text, sensor) for text in descriptions]
        elif count == len(landsat.sensor_bands(sensor)):
            names = list(landsat.sensor_bands(sensor))
        else:
            raise ValueError(f"has {count} bands and does not say which; name them, as in bands=('blue', 'green', 'red')")
        if len(set(names)) != len(names):
            raise ValueError(f"a band is named twice: {', '.join(names)}")
    except ValueError as error:
        raise SceneError(f"{path}: {error}") from None
    return {name: (path, i + 1) for i, name in enumerate(names)}


class SceneReader(contextlib.AbstractContextManager):
    """Read rectangles of a scene (from `open_scene`), of some bands by name; what lies beyond its edges has no data."""

    def __init__(self, info: SceneInfo, bands: Sequence[str]) -> None:
        self.info, self.bands = info, tuple(bands)
        paths = {info.files[band][0] for band in bands} | ({info.qa[0]} if info.qa else set())
        self._files = {path: _opened(path) for path in paths}
        self._to_wgs84 = pyproj.Transformer.from_crs(info.crs.to_wkt(), "EPSG:4326", always_xy=True)

    def __exit__(self, *_: Any) -> None:
        for file in self._files.values():
            file.close()

    def read(self, row: int, column: int, height: int, width: int) -> np.ndarray:
        """Read (height, width, C) in the type of the files; 0 where there are no data (NaN in float files)."""
        return np.stack([self._band(*self.info.files[band], row, column, height, width) for band in self.bands], axis=-1)

    def clouds(self, row: int, column: int, height: int, width: int) -> np.ndarray | None:
        """Find clouds by the quality band: (height, width) bool, or None without one."""
        if self.info.qa is None:
            return None
        path, kind = self.info.qa
        return landsat.is_cloud(self._band(path, 1, row, column, height, width), kind)

    def _band(self, path: str, index: int, row: int, column: int, height: int, width: int) -> np.ndarray:
        file = self._files[path]
        top, left = max(row, 0), max(column, 0)
        bottom, right = min(row + height, self.info.height), min(column + width, self.info.width)
        dtype = np.dtype(file.dtypes[index - 1])
        empty = dtype.type(np.nan if dtype.kind == "f" else landsat.NODATA)
        out = np.full((height, width), empty, dtype)
        if bottom > top and right > left:
            try:
                values = file.read(index, window=Window(left, top, right - left, bottom - top))
            except rasterio.errors.RasterioIOError as error:
                raise SceneError(f"{path}: rows {top} to {bottom} cannot be read: {error}") from None
            if file.nodata is not None and not np.isnan(file.nodata):
                values = np.where(values == file.nodata, empty, values)
            out[top - row : bottom - row, left - column : right - column] = values
        return out

    def locations(self, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute latitudes and longitudes in degrees of pixel positions (0.5 is the middle of the first pixel)."""
        rows, columns = np.asarray(rows, float), np.asarray(columns, float)
        a, b, c, d, e, f = self.info.transform[:6]
        x, y = a * columns + b * rows + c, d * columns + e * rows + f
        lon, lat = self._to_wgs84.transform(x, y)
        return np.asarray(lat), np.asarray(lon)
