"""What a Landsat product says of itself: by its name, and by its metadata file (MTL) in text, JSON or XML."""

import dataclasses
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any

Groups = dict[str, dict[str, str]]  # of a metadata file: name of a group -> key -> value; "" holds what stands in none

# Groups that speak of the product itself, the first first. A level-2 product repeats keys in the record of its level-1 input.
_OWN_GROUPS = ("PRODUCT_CONTENTS", "PRODUCT_METADATA", "METADATA_FILE_INFO", "IMAGE_ATTRIBUTES", "LEVEL2_PROCESSING_RECORD")
_FACTOR = re.compile(r"REFLECTANCE_(MULT|ADD)_BAND_(\d+)")
# Names of products, wherever they stand in a file's: programs and users put words before them ("subset_0_of_", "clip_").
_COLLECTION_NAME = re.compile(r"(?<![A-Z])L[COTEM]0\d_L([12])[A-Z]{2}_(?:\d{6}_(\d{8}))?", re.IGNORECASE)  # 1 and 2
_COLLECTION = re.compile(r"L[COTEM]0\d_(?:L[12][A-Z]{2}|CU|AK|HI)_\d{6}_\d{8}_\d{8}_C?0([12])(?!\d)", re.IGNORECASE)
_SCENE_ID = re.compile(r"(?<![A-Z])L[COTEM][1-9]\d{13}(?!\d)", re.IGNORECASE)  # before the collections
_HLS_NAME = re.compile(r"(?<![A-Za-z])HLS\.L30\.")
_FOREIGN = {
    "HLS S30 is Sentinel-2's; the model takes Landsat's, HLS L30": re.compile(r"(?<![A-Za-z])HLS\.S30\."),
    "MSS has four bands, none of them coastal or blue; the model takes those of TM, ETM+ and OLI": re.compile(
        r"(?<![A-Z])LM(0[1-5]_L|[1-5]\d{13})", re.IGNORECASE
    ),
}
# The sensor, by a whole name, of a collection, a tile (ARD), an image of Earth Engine, an order or a scene; and by the start of
# a name, which has its zero: LC7 and lc08 are classes of land cover.
_SENSOR = re.compile(
    r"(?<![A-Z])L(?:[CO]0?([89])|E0?(7)|T0?([45]))(?=_L[12][A-Z]{2}_|_(?:CU|AK|HI)_|_\d{6}_\d{8}|\d{10})", re.IGNORECASE
)
_SENSOR_AT_START = re.compile(r"L(?:[CO]0([89])|E0(7)|T0([45]))")


@dataclasses.dataclass(frozen=True)
class Product:
    """What is known of a product; None or "" for what it does not say."""

    sensor: str | None = None  # one of `geomoe.landsat.SENSORS`
    level: int | None = None  # 1 or 2
    acquired: str = ""  # ISO 8601 in UTC, date alone where no hour is known
    sun_elevation: float | None = None  # degrees
    # Level 1: band number, as "B1" -> (scale, offset) of top-of-atmosphere reflectance, not yet corrected for the sun's angle.
    level1_factors: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    collection: int | None = None  # 1 or 2; 0 of a scene before the collections


def sensor_of(product: str) -> str | None:
    """Read the sensor from a product's name: "landsat7" for "LE07_L2SP_..." or "LE7...", None for other names.

    >>> sensor_of("LC08_L1TP_224078_20200518_20200518_01_RT"), sensor_of("2_LE07_193026_20050613")
    ('landsat8', 'landsat7')
    """
    match = _SENSOR.search(product) or _SENSOR_AT_START.match(product)
    return f"landsat{match[match.lastindex or 0]}" if match else None


def is_hls(name: str) -> bool:
    """Say whether a product is of HLS L30, by its name."""
    return bool(_HLS_NAME.search(name))


def check_name(name: str) -> None:
    """Raise ValueError for the name of a product whose bands are not those that the model takes: of HLS S30, of MSS."""
    for reason, pattern in _FOREIGN.items():
        if pattern.search(name):
            raise ValueError(reason)


def parse_mtl(text: str) -> Groups:
    """Read a metadata file, text (`KEY = VALUE` lines in groups), JSON or XML; ValueError where it is none of them.

    >>> parse_mtl('GROUP = IMAGE_ATTRIBUTES\\n  SUN_ELEVATION = 51.5\\nEND_GROUP = IMAGE_ATTRIBUTES\\nEND')
    {'IMAGE_ATTRIBUTES': {'SUN_ELEVATION': '51.5'}}
    """
    start = text.lstrip("\ufeff \t\r\n")[:1]
    groups: Groups = {}
    try:
        if start == "{":
            _add_tree(groups, "", json.loads(text.lstrip("\ufeff")))
        elif start == "<":
            if "<!" in text.replace("<!--", ""):
                raise ValueError("its XML declares entities, which no Landsat file does")
            _add_tree(groups, "", _tree(ET.fromstring(text.lstrip("\ufeff \t\r\n"))))
        else:
            _add_lines(groups, text)
    except (ET.ParseError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"is no metadata of Landsat: {error}") from None
    return groups


def _add_lines(groups: Groups, text: str) -> None:
    inside: list[str] = []
    for key, _, value in (line.partition("=") for line in text.splitlines() if "=" in line):
        key, value = key.strip(), value.strip().strip('"').strip()
        if key == "GROUP":
            inside.append(value)
        elif key == "END_GROUP":
            inside = inside[: -(inside[::-1].index(value) + 1)] if value in inside else inside
        else:
            groups.setdefault(inside[-1] if inside else "", {}).setdefault(key, value)


def _tree(element: ET.Element) -> Any:
    return {child.tag: _tree(child) for child in element} if len(element) else (element.text or "").strip()


def _add_tree(groups: Groups, name: str, tree: Any) -> None:
    if not isinstance(tree, Mapping):
        raise ValueError("is no metadata of Landsat: it holds no groups")
    for key, value in tree.items():
        if isinstance(value, Mapping):
            _add_tree(groups, key, value)
        else:
            groups.setdefault(name, {}).setdefault(key, str(value))


def _find(groups: Groups, *keys: str) -> str:
    """The product's own value of the first of the keys that it has; "" if it has none."""
    others = [name for name in groups if name not in _OWN_GROUPS]
    order = [*_OWN_GROUPS, *sorted(others, key=lambda name: name.startswith("LEVEL1_"))]  # those of its input come last
    return next((groups[name][key] for key in keys for name in order if groups.get(name, {}).get(key)), "")


def _spacecraft(text: str) -> str:
    match = re.fullmatch(r"LANDSAT[-_ ]?([45789])", text.upper())
    if not match:
        raise ValueError(f"SPACECRAFT_ID = {text!r} is none of Landsat 4, 5, 7, 8 and 9")
    return f"landsat{match[1]}"


def product_of(name: str, groups: Groups) -> Product:
    """Read what a product says of itself by its name and its metadata.

    ValueError where they contradict each other, or the product is one that the model does not take.
    """
    check_name(name)
    spacecraft, level_text = _find(groups, "SPACECRAFT_ID"), _find(groups, "PROCESSING_LEVEL", "DATA_TYPE", "PRODUCT_TYPE")
    by_name = _COLLECTION_NAME.search(name)
    of_name = sensor_of(name) if _SENSOR.search(name) else None
    sensor, level = _spacecraft(spacecraft) if spacecraft else None, re.match(r"L([12])", level_text)
    if sensor and of_name and sensor != of_name:
        raise ValueError(f"SPACECRAFT_ID = {spacecraft!r}, but by its name {name} is {of_name}'s: which is right?")
    if level and by_name and level[1] != by_name[1]:
        raise ValueError(f"the metadata say level {level[1]} ({level_text}), but by its name {name} is of level {by_name[1]}")
    date, clock = (
        _find(groups, "DATE_ACQUIRED", "ACQUISITION_DATE"),
        _find(groups, "SCENE_CENTER_TIME", "SCENE_CENTER_SCAN_TIME"),
    )
    if by_name and by_name[2] and re.fullmatch(r"\d{4}-\d\d-\d\d", date) and date.replace("-", "") != by_name[2]:
        raise ValueError(f"DATE_ACQUIRED = {date}, but by its name {name} is of {by_name[2]}: which is right?")
    elevation = _find(groups, "SUN_ELEVATION")
    try:
        sun_elevation = float(elevation) if elevation else None
    except ValueError:
        raise ValueError(f"SUN_ELEVATION = {elevation!r} is no number") from None
    if sun_elevation is not None and not -90 <= sun_elevation <= 90:
        raise ValueError(f"SUN_ELEVATION = {elevation} is beyond 90 degrees")
    return Product(
        sensor=sensor or of_name or sensor_of(name),
        level=int(level[1]) if level else int(by_name[1]) if by_name else None,
        acquired=f"{date}T{clock}" if date and clock else date,
        sun_elevation=sun_elevation,
        level1_factors=_level1_factors(groups),
        collection=_collection(name, groups),
    )


def _collection(name: str, groups: Groups) -> int | None:
    number = _find(groups, "COLLECTION_NUMBER")
    if re.fullmatch(r"0?[12]", number):
        return int(number)
    for text in (_find(groups, "LANDSAT_PRODUCT_ID"), name, _find(groups, "LANDSAT_SCENE_ID")):
        if match := _COLLECTION.search(text):
            return int(match[1])
        if _SCENE_ID.search(text):
            return 0
    return None


def unit_of_name(name: str) -> str | None:
    """What the numbers of a product are by its name, one of `geomoe.landsat.UNITS`; None for other names.

    >>> unit_of_name("HLS.L30.T33UUP.2021164T100231.v2.0"), unit_of_name("LC08_L1TP_224078_20200518_20200518_01_RT")
    ('hls', 'level1_dn')
    """
    if is_hls(name):
        return "hls"
    level = product_of(name, {}).level
    return None if level is None else "level1_dn" if level == 1 else "collection2_dn"


def _level1_factors(groups: Groups) -> dict[str, tuple[float, float]]:
    values: dict[str, dict[str, float]] = {}
    for group in ("LEVEL1_RADIOMETRIC_RESCALING", "RADIOMETRIC_RESCALING", ""):
        for key, text in groups.get(group, {}).items():
            if match := _FACTOR.fullmatch(key):
                try:
                    values.setdefault(f"B{match[2]}", {}).setdefault(match[1], float(text))
                except ValueError:
                    raise ValueError(f"{key} = {text!r} is no number") from None
    return {band: (pair["MULT"], pair["ADD"]) for band, pair in values.items() if len(pair) == 2}
