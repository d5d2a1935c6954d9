"""Which files make up a scene, by their names, and what the product says of itself."""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from geomoe import landsat, metadata
from geomoe.data.preprocess import check_numbers
from geomoe.data.raster import RasterError, data_bands, georeference, is_remote, open_raster, read_text, same_transform
from geomoe.landsat.bands import NAME_BANDS

# Files of Landsat products ("_SR_B4.TIF", "_B4.TIF"), of ESPA's ("_sr_band4.tif"), of HLS (".B04.tif") and of Earth Engine's
# downloads (".SR_B4.tif"), of Collection 1's ARD ("_SRB4.tif"), or named by their band alone; none of surface temperature
# ("_ST_B6.TIF").
_BAND = r"(?:^|(?<![_.]ST)(?<!^ST)[_.])(SR_?B[1-7]|B0?[1-7]|SR_BAND[1-7])"
_BAND_FILE = re.compile(rf"{_BAND}\.TIFF?$", re.IGNORECASE)
_BAND_INSIDE = re.compile(rf"{_BAND}([_. -].+)(\.TIFF?)$", re.IGNORECASE)  # something stands between the band and the ending
_SENTINEL_FILE = re.compile(r"[_.]B(8A|12)\.(TIFF?|JP2)$", re.IGNORECASE)
_QA = r"(?:^|[_.])(QA_PIXEL|BQA|PIXEL_?QA|FMASK)"  # the end of a quality band's name
_QA_NAME, _QA_FILE = re.compile(rf"{_QA}(?:\.TIFF?)?$", re.IGNORECASE), re.compile(rf"{_QA}\.TIFF?$", re.IGNORECASE)
_MTL_FILE = re.compile(r"_MTL\.(txt|json|xml)$", re.IGNORECASE)
_ARCHIVE_FILE = re.compile(r"\.(tar|tar\.gz|tgz|zip)$", re.IGNORECASE)
_IMAGE_FILE = re.compile(r"\.(tiff?|jp2)$", re.IGNORECASE)
_MTL_BYTES = 4 << 20  # the largest have some 20 kB


class SceneError(ValueError):
    """A scene that cannot be used; the message names the file."""


class Quality(NamedTuple):
    """A quality band: its file, its kind (as for `geomoe.landsat.is_flagged`), and which band of the file it is, from 1."""

    path: str
    kind: str
    band: int = 1


@dataclasses.dataclass(frozen=True)
class SceneFiles:
    """The files of a scene and what the product says of itself."""

    name: str  # of the product
    files: Mapping[str, tuple[str, int]]  # band name -> (path, index of the band in it, from 1)
    qa: Quality | None
    sensor: str
    product: landsat.Product
    unit: str | None  # of the numbers, where the product says it
    time: np.datetime64 | None = None  # UTC, where a catalogue says it
    origin: str = ""  # what an error of the product's facts names: the metadata file, else the name


def paths_of(files: Mapping[str, tuple[str, int]], qa: Quality | None, origin: str = "") -> list[str]:
    """The paths of a scene's files, each once, with its quality band and metadata file; arguments as in `SceneFiles`."""
    beside = ([qa.path] if qa else []) + ([origin] if _MTL_FILE.search(origin) else [])
    return sorted({*(path for path, _ in files.values()), *beside})


def unsigned(path: str) -> str:
    """A path, or an address without what it is signed with, which another run has anew."""
    return path.partition("?")[0] if is_remote(path) else path


def holds_band_files(folder: str | os.PathLike[str]) -> bool:
    """Say whether a folder has files of single bands, and so is a scene."""
    return any(_BAND_FILE.search(name) for name in os.listdir(folder) if not name.startswith("._"))


def find_scene(paths: Sequence[str], bands: Sequence[str] | None, sensor: str | None) -> SceneFiles:
    """Find the files of a scene; arguments as for `geomoe.data.scene.open_scene`."""
    where = ", ".join(paths)
    for p in paths:
        if not is_remote(p) and not os.path.exists(p):
            raise SceneError(f"{p}: there is no such file or folder")
    if len(paths) == 1:
        paths = _list_folder(paths[0])
    matches = {p: match for p in paths if (match := _BAND_FILE.search(_basename(p)))}
    stems = sorted({match.string[: match.start()] for match in matches.values()})
    if len(stems) > 1:
        raise SceneError(f"{where}: holds more than one scene: {', '.join(stems)}; name the files of one")
    images = [p for p in paths if _IMAGE_FILE.search(_basename(p))]
    stacks = [p for p in images if not _QA_FILE.search(_basename(p))] or images
    if not stems and len(stacks) != 1:
        archive = "; unpack the archive first" * any(bool(_ARCHIVE_FILE.search(_basename(p))) for p in paths)
        several = f", but {len(stacks)} other GeoTIFFs: name one of them" * bool(stacks)
        if inside := next(filter(None, map(_BAND_INSIDE.search, map(_basename, stacks))), None):
            renamed = f"{inside.string[: inside.start()]}{inside[2]}_{inside[1]}{inside[3]}".lstrip("_. -")
            several = f"; the band has to end a name: {renamed}, not {inside.string}"
        raise SceneError(f"{where}: no band files (*_B1.TIF or *_SR_B1.TIF ...) there{several}{archive}")
    folder = os.path.dirname(next(iter(matches), stacks[0]))
    name = (stems[0] or _name_of_folder(folder)) if stems else os.path.splitext(_basename(stacks[0]))[0]
    try:
        landsat.check_name(name)
    except ValueError as error:
        raise SceneError(f"{name}: {error}") from None
    if foreign := [p for p in paths if _SENTINEL_FILE.search(_basename(p))]:
        raise SceneError(
            f"{foreign[0]} is a band of Sentinel-2, whose numbers have other wavelengths; the model takes Landsat's"
        )
    product, origin = _read_product(name, folder, alone=len(stems) == 1)
    if sensor and product.sensor and not landsat.same_bands(sensor, product.sensor):
        raise SceneError(f"{name}: sensor={sensor!r} was given, but by its name and metadata it is {product.sensor!r}")
    has_sensor = bool(product.sensor or sensor)
    sensor = product.sensor or sensor or "landsat8"
    if stems and bands is not None:
        raise SceneError(f"{name}: bands names those of a single file; the files of this scene name theirs")
    if stems:
        try:
            landsat.check_band_names([_basename(p) for p in paths if _basename(p).startswith(stems[0])], sensor)
            if not has_sensor:
                check_numbers([_band_of(match) for match in matches.values()])
        except ValueError as error:
            raise SceneError(f"{name}: {error}") from None
        files, qa = _band_files(matches, sensor), _find_qa(paths, stems[0], product)
    else:
        files, qa = _bands_of_file(stacks[0], bands, sensor, product, has_sensor)
        qa = qa or _find_qa(paths, name, product) or _find_qa(_quality_beside(stacks[0], name), name, product)
    unit = _unit(name, product, {match[1].upper() for match in matches.values()})
    return SceneFiles(name, files, qa, sensor, product, unit, origin=origin)


def _band_of(match: re.Match[str]) -> str:
    """The band that the name of a file says: "SR_B4" also for the "SRB4" of Collection 1's ARD."""
    return match[1].upper().replace("SRB", "SR_B")


def _basename(path: str) -> str:
    return os.path.basename(unsigned(path))


def _list_folder(path: str) -> list[str]:
    """The files of a scene's folder; a file stands for itself. On the network the name of the product tells what is there."""
    if not is_remote(path):
        if not os.path.isdir(path):
            return [path]
        return sorted(entry.path for entry in os.scandir(path) if not entry.name.startswith("._"))  # macOS leaves those
    if _IMAGE_FILE.search(_basename(path)):
        return [path]
    folder = path.rstrip("/")
    name = os.path.basename(folder)
    product = landsat.product_of(name, {})
    if landsat.is_hls(name):
        return [f"{folder}/{name}.{band}.tif" for band in (*(f"B0{i}" for i in range(1, 8)), "Fmask")]
    if product.sensor is None or product.level is None:
        raise SceneError(f"{path}: neither the address of a GeoTIFF nor of a folder with the name of a Landsat product")
    numbers = landsat.band_numbers(product.sensor)
    prefix = "SR_" if product.level == 2 else ""
    return [f"{folder}/{name}_{band}.TIF" for band in (*(f"{prefix}{number}" for number in numbers), "QA_PIXEL")]


def _is_of(stem: str, name: str) -> bool:
    """Say whether a file beside one of a name is of its product: a product with a date, which stands in the name."""
    return stem == name or (stem.lower() in name.lower() and not np.isnat(metadata.acquisition_time(name=stem)))


def _quality_beside(path: str, name: str) -> list[str]:
    """Quality bands of the product of a file, beside it and on its grid: one of the whole scene is none of a clip's."""
    if is_remote(path):
        return []
    found = {entry.path: _QA_FILE.search(entry.name) for entry in os.scandir(os.path.dirname(path) or ".")}
    stems = {p: match.string[: match.start()] for p, match in found.items() if match and not match.string.startswith("._")}
    return [p for p, stem in stems.items() if _is_of(stem, name) and _same_grid(path, p)]


def _same_grid(path: str, other: str) -> bool:
    try:
        with open_raster(path) as one, open_raster(other) as two:
            (transform, crs), (other_transform, other_crs) = georeference(one), georeference(two)
            same = one.shape == two.shape and crs == other_crs
            return same and same_transform(transform, other_transform, *one.shape)
    except RasterError:
        return False  # of a file that nobody named


def _find_qa(paths: Sequence[str], stem: str, product: landsat.Product) -> Quality | None:
    """The quality band, and its kind, of the bands of a stem: one of its product, else the only one that is not another's."""
    found = {p: match for p in paths if (match := _QA_FILE.search(_basename(p)))}
    stems = {p: match.string[: match.start()] for p, match in found.items()}
    own = sorted((p for p in found if _is_of(stems[p], stem)), key=lambda p: found[p][1].upper() != "QA_PIXEL")
    if not own:
        unnamed = lambda text: landsat.sensor_of(text) is None and np.isnat(metadata.acquisition_time(name=text))
        own = [p for p in found if stems[p] in stem or stem in stems[p] or unnamed(stems[p])]
        own = own if len(own) == 1 else []
    return Quality(own[0], _qa_kind(found[own[0]], product)) if own else None


def _name_of_folder(folder: str) -> str:
    """The name of a scene whose files are named by their bands alone: that of its metadata file, else its folder's."""
    path = _find_mtl("", folder, alone=True)
    return _MTL_FILE.sub("", os.path.basename(path)) if path else os.path.basename(os.path.abspath(folder))


def _qa_kind(match: re.Match[str], product: landsat.Product) -> str:
    """The kind of a quality band: BQA has the bits of Collection 1, but in a scene that says to be of before."""
    if match[1].upper() != "BQA":
        return match[1].upper().replace("PIXELQA", "PIXEL_QA")
    collection = landsat.product_of(match.string, {}).collection
    if collection is None:
        collection = product.collection
    return "BQA" if collection == 0 else "BQA_C1"


def _band_files(matches: Mapping[str, re.Match[str]], sensor: str) -> dict[str, tuple[str, int]]:
    """Band name -> (path, 1) of a scene with one file a band, in the order of the names."""
    files: dict[str, tuple[str, int]] = {}
    for path, match in sorted(matches.items(), key=lambda item: item[1][1].upper()):
        if landsat.is_other_band(_band_of(match), sensor):
            continue
        try:
            band = landsat.band_name(_band_of(match), sensor)
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
    if any(band.startswith(("SR_BAND", "SRB")) for band in bands):  # as ESPA delivered collection 1, and its ARD
        return "collection1_sr"
    if landsat.is_hls(name):
        return "hls"
    surface = any(band.startswith("SR_") for band in bands)
    if surface and product.level == 1:
        raise SceneError(f"{name}: its files are of surface reflectance (SR_B...), but its name or metadata say level 1")
    if bands and not surface and product.level == 2:
        raise SceneError(f"{name}: its files are of level 1 (B1 ... without SR_), but its name or metadata say level 2")
    level = 2 if surface else product.level
    return None if level is None else "level1_dn" if level == 1 else "collection2_dn"


def _read_product(name: str, folder: str, alone: bool) -> tuple[landsat.Product, str]:
    """What a scene says of itself by its metadata file, if it has one, and its name; and the path of that file, or the name."""
    groups: landsat.Groups = {}
    path = _find_mtl(name, folder, alone)
    origin = path or name
    try:
        if path:
            groups = landsat.parse_mtl(read_text(path, _MTL_BYTES))
        return landsat.product_of(name, groups), origin
    except (ValueError, OSError) as error:
        if is_remote(origin):  # by its name alone, which tells all but the sun's angle and the hour
            return landsat.product_of(name, {}), name
        raise SceneError(f"{origin}: {error}") from None


def _find_mtl(name: str, folder: str, alone: bool) -> str | None:
    """The metadata file of a scene; one of another name counts where it is the only one beside the files of one scene."""
    if is_remote(folder):
        return f"{folder}/{name}_MTL.txt" if landsat.product_of(name, {}).level else None
    found = [
        entry.path for entry in os.scandir(folder or ".") if _MTL_FILE.search(entry.name) and not entry.name.startswith("._")
    ]
    if of_name := sorted(path for path in found if name and os.path.basename(path).startswith(name)):
        return of_name[-1]
    if of_product := sorted(path for path in found if _is_of(_MTL_FILE.sub("", os.path.basename(path)), name)):
        return of_product[-1]
    return max(found) if alone and len({_MTL_FILE.sub("", path) for path in found}) == 1 else None


def _bands_of_file(
    path: str, bands: Sequence[str] | None, sensor: str, product: landsat.Product, has_sensor: bool
) -> tuple[dict[str, tuple[str, int]], Quality | None]:
    """Band name -> (path, index of the band from 1) of a file with several bands, and the quality band among them."""
    try:
        with open_raster(path) as src:
            indexes = data_bands(src, None if bands is None else len(bands))
            descriptions = [src.descriptions[index - 1] for index in indexes]
        if not has_sensor:
            check_numbers(bands or descriptions)
        if bands is not None:
            if len(bands) != len(indexes):
                raise ValueError(f"has {len(indexes)} bands, but {len(bands)} names stand for them: {', '.join(bands)}")
            landsat.check_band_names(bands, sensor)
            left = landsat.repeated_by_reducers(bands, sensor)
            taken = [(i, band) for i, band in enumerate(bands) if i not in left and not landsat.is_other_band(band, sensor)]
            names = {landsat.band_name(band, sensor): i for i, band in taken}
            if len(names) < len(taken):
                raise ValueError(f"a band is named twice: {', '.join(bands)}")
        else:
            found = landsat.bands_of_file(descriptions, sensor)
            if found is None and len(indexes) != len(landsat.sensor_bands(sensor)):
                hint = NAME_BANDS
                if len(indexes) == len(landsat.TM_BANDS):
                    hint += "; if they are Landsat 4, 5 or 7's, name the sensor: landsat7"
                raise ValueError(f"has {len(indexes)} bands and does not say which; {hint}")
            names = {band: i for i, band in enumerate(landsat.sensor_bands(sensor))} if found is None else found
            if not names:
                said = ", ".join(map(str, descriptions))
                raise ValueError(f"its bands are named {said}, none of which is one of {sensor}'s; {NAME_BANDS}")
    except (ValueError, RasterError) as error:
        raise SceneError(f"{path}: {error}") from None
    matches = [(index, _QA_NAME.search(text or "")) for index, text in zip(indexes, descriptions if bands is None else bands)]
    qa = next((Quality(path, _qa_kind(match, product), index) for index, match in matches if match), None)
    return {name: (path, indexes[i]) for name, i in names.items()}, qa
