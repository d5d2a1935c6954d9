"""Bands and sensors: the model's seven bands, their names, what Landsat 4 to 7 have of them, and spectral indices."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from geomoe.landsat.statistics import Statistics
from geomoe.landsat.units import NODATA, unmasked

# Landsat 8/9 OLI Collection 2 surface reflectance bands, in the order that the model takes.
BANDS = ("SR_B1", "SR_B2", "SR_B3", "SR_B4", "SR_B5", "SR_B6", "SR_B7")
BAND_TITLES = ("coastal aerosol", "blue", "green", "red", "near infrared", "shortwave infrared 1", "shortwave infrared 2")
# Landsat 4, 5 (TM) and 7 (ETM+) have no coastal band and number the others by one less; their B6 is thermal.
SENSORS = ("landsat4", "landsat5", "landsat7", "landsat8", "landsat9")
TM_BANDS = {"B1": "SR_B2", "B2": "SR_B3", "B3": "SR_B4", "B4": "SR_B5", "B5": "SR_B6", "B7": "SR_B7"}
# Other names of the bands; Landsat files call them B1 to B7, users by colour.
BAND_ALIASES = {
    **{f"{prefix}{i}": band for prefix in ("B", "B0") for i, band in enumerate(BANDS, start=1)},
    **dict(zip(("coastal", "blue", "green", "red", "nir", "swir1", "swir2"), BANDS)),
    **dict(zip(BAND_TITLES, BANDS)),
    **dict(zip(("nir08", "swir16", "swir22"), BANDS[4:])),  # common names of STAC
    "ultra blue": BANDS[0],
}
# Bands of Landsat products that the model does not take: thermal, panchromatic, cirrus, of quality, of angles, of processing.
_OTHER_BANDS = re.compile(
    r"(ST|QA|SR_QA|SR_CLOUD|SR_ATMOS|RADSAT|PIXEL|CLOUD)_\w+|B0?(8|9)|B1[01]|B6_VCID_[12]|BQA|FMASK|[SV][AZ]A|CFMASK\w*"
    r"|ST|LST|LWIR\d*|PAN|PANCHROMATIC|CIRRUS|THERMAL.*|SURFACE TEMPERATURE|ALPHA|MASK",
    re.IGNORECASE,
)
_THERMAL_6 = re.compile(r"(?:^|[_.])(?:ST_B6|B6_VCID_[12])(?:\.TIFF?)?$", re.IGNORECASE)  # of Landsat 4 to 7
_NUMBERED = re.compile(r"(?:(?:BAND|LAYER)[ _-]?)?0*(\d+)", re.IGNORECASE)  # what tools write where nobody named a band
# "B1 coastal", "Band 5 - Near Infrared (NIR)"; and what Earth Engine's reducers append, where a band stays a reflectance.
_TITLED = re.compile(r"(?:SR_)?B(?:AND)?[ _-]?0?(\d{1,2}A?)[ _]*[-:(]?[ _]*([A-Z].*?)\)?", re.IGNORECASE)
_REDUCER = re.compile(r"_(?:median|mean|min|max|mode|first|last|mosaic|p\d{1,3})$", re.IGNORECASE)
_BAND_IN_TEXT = re.compile(r"(?:^|_)((?:SR_|ST_)?B\d{1,2}A?|SR_BAND\d|(?:SR_)?QA_\w+)(?:\.TIFF?)?$", re.IGNORECASE)
# Spectral indices: (first - second) / (first + second) of surface reflectances.
INDICES = {
    "ndvi": ("SR_B5", "SR_B4"),  # vegetation (Rouse et al. 1974)
    "ndwi": ("SR_B3", "SR_B5"),  # open water (McFeeters 1996)
    "nbr": ("SR_B5", "SR_B7"),  # burn (Key and Benson 2006)
}
NAME_BANDS = "name them all, as in bands=('blue', 'green', 'red') or --bands blue,green,red"  # advice in errors
REFLECTANCE_FLOOR = 0.02  # a band counts as at least this much, so that a sum near 0 gives no huge index


def check_sensor(sensor: str) -> None:
    """Raise ValueError for a sensor that is none of `SENSORS`."""
    if sensor not in SENSORS:
        raise ValueError(f"sensor = {sensor!r} is not one of {', '.join(SENSORS)}")


def lacks_coastal(sensor: str) -> bool:
    """Say whether a sensor has six bands, without the coastal one: Landsat 4 to 7."""
    return sensor in ("landsat4", "landsat5", "landsat7")


def sensor_bands(sensor: str) -> tuple[str, ...]:
    """List the reflective bands of a sensor, by the model's names, in the order of its own numbers."""
    return tuple(TM_BANDS.values()) if lacks_coastal(sensor) else BANDS


def band_numbers(sensor: str) -> tuple[str, ...]:
    """List the reflective bands of a sensor by its own numbers: "B1" to "B7", without a thermal B6."""
    return tuple(TM_BANDS) if lacks_coastal(sensor) else tuple(f"B{i}" for i in range(1, len(BANDS) + 1))


def same_bands(sensor: str, other: str) -> bool:
    """Say whether the numbers of two sensors' bands mean the same."""
    return lacks_coastal(sensor) == lacks_coastal(other)


def band_title(band: str) -> str:
    """Give the title of a band of `BANDS`: "near infrared" for "SR_B5"."""
    return BAND_TITLES[BANDS.index(band)]


def _number_and_title(name: str) -> tuple[str, str]:
    """Take a name apart: ("B2", "Blue") for "Band 2 - Blue", ("", "SR_B2") for "SR_B2_median"."""
    name = _REDUCER.sub("", name.strip())
    match = _TITLED.fullmatch(name)
    return (f"B{match[1].upper()}", re.sub(r"\([^)]*\)?", "", match[2])) if match else ("", name)


def band_name(name: str, sensor: str = "landsat8") -> str:
    """Give the model's name of a band: "SR_B5" for "SR_B5", "B5", "nir" or "near infrared", in any case of letters.

    `sensor` says whose numbers those of the bands are: "B4" of "landsat7" is near infrared, "SR_B5" to the model. A name that
    no band of the sensor has, or whose number and title are of two bands, is a ValueError.

    >>> band_name("Band 5 - Near Infrared (NIR)"), band_name("SR_B4_median", "landsat7")
    ('SR_B5', 'SR_B5')
    """
    said, title = _number_and_title(name)
    number = title.upper().removeprefix("SR_").replace("BAND", "B").replace("B0", "B")
    if re.fullmatch(r"B\d+", number):
        band = (TM_BANDS if lacks_coastal(sensor) else BAND_ALIASES).get(number)
    else:
        words = re.sub(r"[\s_-]+", " ", title.strip().lower())  # "SWIR 1", "swir_1", "coastal_aerosol"
        band = BAND_ALIASES.get(words) or BAND_ALIASES.get(words.replace(" ", ""))
    if band is None or band not in sensor_bands(sensor):
        numbers = TM_BANDS if lacks_coastal(sensor) else BANDS
        titles = ", ".join(band_title(band) for band in sensor_bands(sensor))
        raise ValueError(f"unknown band {name!r}; the bands of {sensor} are {', '.join(numbers)} (or {titles})")
    if said not in ("", own := band_numbers(sensor)[sensor_bands(sensor).index(band)]):
        raise ValueError(
            f"band {name!r}: {band_title(band)} of {sensor} is {own}, not {said}; name the sensor, or {NAME_BANDS}"
        )
    return band


def is_band(name: str) -> bool:
    """Say whether a name is that of a band that the model takes."""
    try:
        return band_name(name) in BANDS
    except ValueError:
        return False


def is_other_band(name: str, sensor: str = "landsat8") -> bool:
    """Say whether a name is that of a band of Landsat products that the model does not take, as "ST_B10" or "QA_PIXEL"."""
    thermal = ("B6", "B06", "SR_B6") if lacks_coastal(sensor) else ()
    return any(text.upper() in thermal or _OTHER_BANDS.fullmatch(text) for text in (name.strip(), *_number_and_title(name)))


def _band_in(text: str) -> str:
    """The band at the end of a text, as of a file's name, without a reducer's ending; the text where there is none."""
    match = _BAND_IN_TEXT.search(_REDUCER.sub("", text.strip()))
    return match[1] if match else text


def repeated_by_reducers(names: Sequence[str], sensor: str = "landsat8") -> set[int]:
    """Find the names of reducers whose band another one names plainly, which goes before: "SR_B4_p90" beside "SR_B4"."""
    reduced = [_REDUCER.search(name.strip()) is not None for name in names]
    if not any(reduced):
        return set()
    bands: list[str | None] = []
    for name in names:
        try:
            bands.append(band_name(_band_in(name), sensor))
        except ValueError:
            bands.append(None)
    plain = {band for band, is_reduced in zip(bands, reduced) if band and not is_reduced}
    return {i for i, is_reduced in enumerate(reduced) if is_reduced and bands[i] in plain}


def check_band_names(names: Sequence[str], sensor: str | None = None) -> None:
    """Raise ValueError where names are those of Sentinel-2's or MODIS's bands, whose numbers mean other wavelengths.

    Where a `sensor` is named, also for a thermal band 6 of one that has none.
    """
    for name in names:
        if sensor and not lacks_coastal(sensor) and _THERMAL_6.search(name):
            raise ValueError(f"{name} is a thermal band of Landsat 4, 5 or 7, not of {sensor}; name the sensor: landsat7")
        maker = "Sentinel-2" if name.strip().upper() in ("B8A", "B12") else "MODIS" if "sur_refl_b" in name.lower() else ""
        if maker:
            raise ValueError(f"its bands are named {', '.join(names)}: {name} is {maker}'s, the model takes Landsat's")


def bands_of_file(descriptions: Sequence[str | None], sensor: str | None = None) -> dict[str, int] | None:
    """Find the model's bands by the descriptions of a file's bands: name -> index; None where they name no band.

    Numbers from 1 or from 0 on, in order, are positions and name none. Bands of other names are left out. Without a `sensor`
    numbers are those of Landsat 8, and what contradicts them is left out too.

    Raises:
        ValueError: a band is named twice; the names are Sentinel-2's or MODIS's, whose numbers mean other wavelengths, or
            another sensor's; or they are numbers that count from 0, out of order or not of all bands.

    >>> bands_of_file(["SR_B4", "SR_B3", "ST_B10", "LC08_L2SP_SR_B5"]), bands_of_file(["Band 1", "Band 2"])
    ({'SR_B4': 0, 'SR_B3': 1, 'SR_B5': 3}, None)
    """
    texts = [(text or "").strip() for text in descriptions]
    check_band_names(texts, sensor)
    texts = [_band_in(text) for text in texts]
    numbers = [match[1] if (match := _NUMBERED.fullmatch(text)) else text for text in texts]
    start = 0 if numbers[:1] == ["0"] else 1
    if all(number in ("", str(i)) for i, number in enumerate(numbers, start)):
        return None
    if "0" in numbers and sum(map(str.isdecimal, numbers)) > 1:
        raise ValueError(f"its bands are {', '.join(texts)}: numbers from 0 on do not say which they are; {NAME_BANDS}")
    check_band_names(texts)
    found: dict[str, int] = {}
    repeated = repeated_by_reducers([text or "" for text in descriptions], sensor or "landsat8")
    for i, (text, number) in enumerate(zip(texts, numbers)):
        if i in repeated:
            continue
        try:
            band = band_name(f"B{number}" if number.isdecimal() else text, sensor or "landsat8")
        except ValueError:
            said, title = _number_and_title(text)
            if sensor and said and is_band(title):
                raise
            continue
        if band in found:
            raise ValueError(f"band {band} is named twice: {', '.join(text or '' for text in descriptions)}; {NAME_BANDS}")
        found[band] = i
    return found


def with_coastal(dn: np.ndarray) -> np.ndarray:
    """Bring Collection 2 digital numbers of the six bands of Landsat 4 to 7 (..., 6) to the model's seven, uint16.

    The coastal band is set to the number with the blue band's z-score under the published statistics: the two bands hold
    nearly the same (over the pixels of 199 BigEarthNet-L patches they correlate by 0.999). What has no data stays so.
    """
    published = Statistics.published("bigearthnet_landsat")
    dn = unmasked(dn, NODATA)
    blue = dn[..., :1]
    z = (blue - published.mean[1]) / published.std[1]
    coastal = np.clip(np.rint(z * published.std[0] + published.mean[0]), 1, 65535)
    return np.concatenate([np.where(blue == NODATA, NODATA, coastal), dn], axis=-1).astype(np.uint16)


def spectral_indices(reflectance: Any) -> Any:
    """Compute `INDICES` of every pixel: (..., 7) surface reflectance, a numpy or jax array -> (..., 3) in [-1, 1].

    An index of a band that is NaN, or masked in an array of numpy's masked type, is NaN.

    >>> import numpy as np
    >>> spectral_indices(np.array([0.02, 0.03, 0.05, 0.04, 0.36, 0.2, 0.12])).round(2).tolist()
    [0.8, -0.76, 0.5]
    """
    if isinstance(reflectance, np.ma.MaskedArray):
        reflectance = unmasked(reflectance, np.nan, np.result_type(reflectance, np.float32))
    xp = reflectance.__array_namespace__()
    bands = dict(zip(BANDS, xp.unstack(xp.maximum(reflectance, REFLECTANCE_FLOOR), axis=-1)))
    return xp.stack([(bands[a] - bands[b]) / (bands[a] + bands[b]) for a, b in INDICES.values()], axis=-1)
