"""Bands and sensors: the model's seven bands, their names, what Landsat 4 to 7 have of them, and spectral indices."""

import re
from typing import Any

import numpy as np

from geomoe.landsat.statistics import Statistics
from geomoe.landsat.units import NODATA

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
}
# Spectral indices: (first - second) / (first + second) of surface reflectances.
INDICES = {
    "ndvi": ("SR_B5", "SR_B4"),  # vegetation (Rouse et al. 1974)
    "ndwi": ("SR_B3", "SR_B5"),  # open water (McFeeters 1996)
    "nbr": ("SR_B5", "SR_B7"),  # burn (Key and Benson 2006)
}
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


def sensor_of(product: str) -> str | None:
    """Read the sensor from a product's name: "landsat7" for "LE07_L2SP_..." or "LE7...", None for other names.

    >>> sensor_of("LC08_L1TP_224078_20200518_20200518_01_RT")
    'landsat8'
    """
    match = re.match(r"L[COTE]0?([45789])", product)
    return f"landsat{match[1]}" if match else None


def band_title(band: str) -> str:
    """Give the title of a band of `BANDS`: "near infrared" for "SR_B5"."""
    return BAND_TITLES[BANDS.index(band)]


def band_name(name: str, sensor: str = "landsat8") -> str:
    """Give the model's name of a band: "SR_B5" for "SR_B5", "B5", "nir" or "near infrared", in any case of letters.

    `sensor` says whose numbers those of the bands are: "B4" of "landsat7" is near infrared, "SR_B5" to the model. A name that
    no band of the sensor has is a ValueError.
    """
    number = name.upper().removeprefix("SR_").replace("B0", "B")
    if re.fullmatch(r"B\d+", number):
        band = (TM_BANDS if lacks_coastal(sensor) else BAND_ALIASES).get(number)
    else:
        band = BAND_ALIASES.get(name.lower())
    if band is None or band not in sensor_bands(sensor):
        numbers = TM_BANDS if lacks_coastal(sensor) else BANDS
        titles = ", ".join(band_title(band) for band in sensor_bands(sensor))
        raise ValueError(f"unknown band {name!r}; the bands of {sensor} are {', '.join(numbers)} (or {titles})")
    return band


def with_coastal(dn: np.ndarray) -> np.ndarray:
    """Bring Collection 2 digital numbers of the six bands of Landsat 4 to 7 (..., 6) to the model's seven, uint16.

    The coastal band is set to the number with the blue band's z-score under the published statistics: the two bands hold
    nearly the same (over the pixels of 199 BigEarthNet-L patches they correlate by 0.999). What has no data stays so.
    """
    published = Statistics.published("bigearthnet_landsat")
    blue = np.asarray(dn)[..., :1]
    z = (blue - published.mean[1]) / published.std[1]
    coastal = np.clip(np.rint(z * published.std[0] + published.mean[0]), 1, 65535)
    return np.concatenate([np.where(blue == NODATA, NODATA, coastal), dn], axis=-1).astype(np.uint16)


def spectral_indices(reflectance: Any) -> Any:
    """Compute `INDICES` of every pixel: (..., 7) surface reflectance, a numpy or jax array -> (..., 3) in [-1, 1].

    >>> import numpy as np
    >>> spectral_indices(np.array([0.02, 0.03, 0.05, 0.04, 0.36, 0.2, 0.12])).round(2).tolist()
    [0.8, -0.76, 0.5]
    """
    xp = reflectance.__array_namespace__()
    bands = dict(zip(BANDS, xp.unstack(xp.maximum(reflectance, REFLECTANCE_FLOOR), axis=-1)))
    return xp.stack([(bands[a] - bands[b]) / (bands[a] + bands[b]) for a, b in INDICES.values()], axis=-1)
