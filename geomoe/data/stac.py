"""Scenes by STAC items: the catalogues of USGS, Earth Search, Planetary Computer and HLS. Needs pystac.

An item says more than its files: bands by common name, scale and offset, platform, time and sun.
"""

import datetime
import json
import os
import re
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from geomoe import landsat, metadata
from geomoe.data.product_files import Quality, SceneError, SceneFiles
from geomoe.data.raster import is_remote, read_text

if TYPE_CHECKING:
    import pystac

_MAX_BYTES = 64 << 20  # of an item or a search result
_PICTURES = {
    "visual",
    "overview",
    "thumbnail",
    "preview",
    "rendered_preview",
    "browse",
    "reduced_resolution_browse",
}  # roles, keys
_SCALING = {"scale": 1.0, "offset": 0.0}  # fields of a band -> what they are where it says nothing
_QA_KEYS = {"qa_pixel": "QA_PIXEL", "fmask": "FMASK"}  # "qa" is of surface temperature


def read_items(path: str | os.PathLike[str]) -> list[SceneFiles]:
    """Read a STAC item, or a search result with several (ItemCollection), from a file or an `https://` address.

    Raises:
        SceneError: it is none, or an item is not of Landsat.
    """
    try:
        import pystac
    except ImportError as error:
        raise ImportError("STAC items need pystac: pip install 'geomoe[stac]'") from error
    path = os.fspath(path)
    try:
        found = json.loads(read_text(path, _MAX_BYTES))
        if found.get("type") == "FeatureCollection":
            items = [pystac.Item.from_dict(item) for item in found["features"]]
        else:
            items = [pystac.Item.from_dict(found)]
    except Exception as error:  # whatever pystac raises for what is no item
        raise SceneError(f"{path} is no STAC item: {type(error).__name__}: {error}") from None
    if not items:
        raise SceneError(f"{path}: the search result holds no item")
    for item in items:
        if item.get_self_href() is None:
            item.set_self_href(path if is_remote(path) else os.path.abspath(path))
    return [scene_of(item) for item in items]


def scene_of(item: "pystac.Item") -> SceneFiles:
    """What an item says of a scene: its files by band, what their numbers are, its time, and the sun's elevation.

    Raises:
        SceneError: it is not of Landsat, or holds none of the bands.
    """
    properties = item.properties
    platform = str(properties.get("platform") or "")
    try:
        product = landsat.product_of(item.id, {})
    except ValueError as error:
        raise SceneError(f"{item.id}: {error}") from None
    makers = [properties.get("constellation", ""), platform, *(properties.get("instruments") or []), item.collection_id or ""]
    ours = re.match("landsat", platform, re.IGNORECASE) or product.sensor or landsat.is_hls(item.id)
    if foreign := [text for text in makers if not ours and re.match(r"sentinel|msi$", str(text), re.IGNORECASE)]:
        raise SceneError(f"{item.id}: {foreign[0]!r} is none of Landsat 4, 5, 7, 8 and 9, which the model takes")
    if match := re.search(r"landsat[-_ ]?([45789])", platform, re.IGNORECASE):
        sensor = f"landsat{match[1]}"
    elif platform and product.sensor is None:
        raise SceneError(f"{item.id}: platform {platform!r} is none of Landsat 4, 5, 7, 8 and 9, which the model takes")
    else:
        sensor = product.sensor or "landsat8"
    if product.sensor and not landsat.same_bands(sensor, product.sensor):
        raise SceneError(f"{item.id}: platform {platform!r}, but by its id it is {product.sensor}'s: which is right?")
    files: dict[str, tuple[str, int]] = {}
    units: dict[str, str] = {}
    qa = None
    for key, asset in item.assets.items():
        href = _address(item, asset)
        if _is_picture(key, asset):
            continue
        bands = list(enumerate(_bands_of(asset.extra_fields), start=1))
        if qa is None:
            kinds = [(index, _QA_KEYS.get(str(band.get("name")).lower())) for index, band in bands]
            kinds.append((1, _QA_KEYS.get(key.lower())))
            qa = next((Quality(href, kind, index) for index, kind in kinds if kind), None)
        for index, band in bands:
            try:
                landsat.check_band_names([str(band.get("name", key))])
            except ValueError as error:
                raise SceneError(f"{item.id}: asset {key}: {error}") from None
            name = _band_name(key, band, sensor)
            if name is None or name in files:
                continue
            files[name] = (href, index)
            if not _fit(asset.extra_fields):
                raise SceneError(
                    f"{item.id}: asset {key} has {len(asset.extra_fields['raster:bands'])} raster:bands that differ, for "
                    f"{len(asset.extra_fields.get('eo:bands') or [{}])} eo:bands; give its files as a scene, with their unit"
                )
            try:
                pair = [default if band.get(field) is None else float(band[field]) for field, default in _SCALING.items()]
            except (TypeError, ValueError):
                said = ", ".join(f"{field} = {band.get(field)!r}" for field in _SCALING)
                raise SceneError(f"{item.id}: asset {key}: {said} are no numbers") from None
            unit = landsat.unit_of_scale(*pair)
            if unit is None and pair != list(_SCALING.values()):
                raise SceneError(
                    f"{item.id}: asset {key}: scale {pair[0]:g} and offset {pair[1]:g} are of no unit that is known; "
                    "give its files as a scene, with their unit"
                )
            if unit:
                units[unit] = key
    if not files:
        raise SceneError(f"{item.id}: none of its assets ({', '.join(item.assets)}) is a band of {sensor}")
    if len(units) > 1:
        raise SceneError(f"{item.id}: its assets hold {' and '.join(units)}; give the files of one product")
    unit_of_id = landsat.unit_of_name(item.id)
    if units and unit_of_id not in (None, *units):
        of_scale, key = next(iter(units.items()))
        raise SceneError(f"{item.id}: asset {key} is {of_scale} by its scale, but by the id {unit_of_id}: which is right?")
    if not units and unit_of_id:
        units[unit_of_id] = item.id
    elevation = properties.get("view:sun_elevation")
    try:
        elevation = None if elevation is None else float(elevation)
    except (TypeError, ValueError):
        raise SceneError(f"{item.id}: view:sun_elevation = {elevation!r} is no number") from None
    facts = landsat.Product(sensor, product.level, "", elevation)
    time = _time(item)
    of_id = metadata.acquisition_time(name=item.id)
    if not (np.isnat(of_id) or np.isnat(time)) and abs(time - of_id).astype("timedelta64[D]").astype(int) > 1:
        raise SceneError(f"{item.id}: its datetime is {time}, but by its id it is of {str(of_id)[:10]}: which is right?")
    return SceneFiles(item.id, files, qa, sensor, facts, next(iter(units), None), time, item.id)


def _time(item: "pystac.Item") -> np.datetime64:
    """When an item's scene was taken; of a span up to a day, the day it began on; NaT of a longer one."""
    first, last = item.common_metadata.start_datetime, item.common_metadata.end_datetime
    if item.datetime is not None:
        return metadata.read_times([item.datetime])[0]
    if first is None or last is None or last - first > datetime.timedelta(days=1):
        return metadata.NAT
    time = metadata.read_times([first])[0]
    return time if last - first < datetime.timedelta(hours=1) else time.astype("datetime64[D]")


def _is_picture(key: str, asset: "pystac.Asset") -> bool:
    """Whether an asset is made for looking at, not of the numbers that were measured."""
    roles = set(asset.roles or [])
    drawn = (
        bool(roles & _PICTURES) or key.lower() in _PICTURES or (asset.media_type or "").startswith(("image/jpeg", "image/png"))
    )
    return drawn and not roles & {"data", "reflectance"}


def _address(item: "pystac.Item", asset: "pystac.Asset") -> str:
    """Where an asset is. A relative one of an item on disk is a path, in which # and ? mean themselves."""
    if asset.href.startswith("file://"):
        return urllib.request.url2pathname(urllib.parse.urlsplit(asset.href).path)
    own = item.get_self_href() or ""
    if is_remote(own) or is_remote(asset.href) or os.path.isabs(asset.href) or "://" in asset.href:
        return asset.get_absolute_href() or asset.href
    path = os.path.normpath(os.path.join(os.path.dirname(own), asset.href))
    return path if os.path.exists(path) else urllib.parse.unquote(path)


def _bands_of(fields: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What an asset says of its bands: STAC 1.1's `bands`, or the extensions `eo` and `raster`, side by side."""
    merged = fields.get("bands")
    if merged:
        for band in merged:
            yield {key.removeprefix("eo:").removeprefix("raster:"): value for key, value in {**fields, **band}.items()}
        return
    colours, numbers = fields.get("eo:bands") or [{}], fields.get("raster:bands") or [{}]
    if len(numbers) != len(colours):
        numbers = numbers[:1] * len(colours)
    for colour, number in zip(colours, numbers):
        yield {**number, **colour}


def _fit(fields: Mapping[str, Any]) -> bool:
    """Whether an asset's `raster:bands` are one for each of its `eo:bands`, or the same for all."""
    numbers = [] if fields.get("bands") else fields.get("raster:bands") or []
    pairs = {tuple(str(number.get(field)) for field in _SCALING) for number in numbers}
    return len(pairs) <= 1 or len(numbers) == len(fields.get("eo:bands") or [{}])


def _band_name(key: str, band: Mapping[str, Any], sensor: str) -> str | None:
    """The model's name of an asset's band, by its common name, else its name, else the asset's key."""
    for text in (band.get("common_name"), band.get("name"), key):
        try:
            if text and not landsat.is_other_band(str(text), sensor):
                return landsat.band_name(str(text), sensor)
        except ValueError:
            continue
    return None
