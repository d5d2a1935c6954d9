"""Facts about Landsat and its patch datasets: bands, units, statistics, label nomenclatures. No code that reads anything."""

from __future__ import annotations

import re

import numpy as np

from geomoe.landsat.statistics import STATISTICS as STATISTICS
from geomoe.landsat.statistics import Statistics as Statistics

# Landsat 8/9 OLI Collection 2 surface reflectance bands, in the order that the model takes.
BANDS = ("SR_B1", "SR_B2", "SR_B3", "SR_B4", "SR_B5", "SR_B6", "SR_B7")
BAND_TITLES = ("coastal aerosol", "blue", "green", "red", "near infrared", "shortwave infrared 1", "shortwave infrared 2")
# Landsat 4, 5 (TM) and 7 (ETM+) have no coastal band and number the others by one less; their B6 is thermal.
SENSORS = ("landsat4", "landsat5", "landsat7", "landsat8", "landsat9")
TM_BANDS = {"B1": "SR_B2", "B2": "SR_B3", "B3": "SR_B4", "B4": "SR_B5", "B5": "SR_B6", "B7": "SR_B7"}
NODATA = 0  # digital number of pixels without data
# Other names of the bands; Landsat files call them B1 to B7, users by colour.
BAND_ALIASES = {
    **{f"B{i}": f"SR_B{i}" for i in range(1, 8)},
    **{f"B0{i}": f"SR_B{i}" for i in range(1, 8)},
    "coastal": "SR_B1",
    "blue": "SR_B2",
    "green": "SR_B3",
    "red": "SR_B4",
    "nir": "SR_B5",
    "swir1": "SR_B6",
    "swir2": "SR_B7",
    **{title: band for band, title in zip(BANDS, BAND_TITLES)},
}

# Collection 2 level-2 science products: reflectance = DN * SCALE + OFFSET (USGS, LSDS-1619).
REFLECTANCE_SCALE = 0.0000275
REFLECTANCE_OFFSET = -0.2
# Level-1 products: top-of-atmosphere reflectance = (DN * scale + offset) / sin(sun elevation), the same factors for every OLI
# reflective band (Landsat 8 Data Users Handbook, LSDS-1574, section 5.2).
LEVEL1_SCALE = 2.0e-5
LEVEL1_OFFSET = -0.1

# What the numbers of an image can be.
UNITS = ("collection2_dn", "reflectance", "level1_dn", "uint8")

EUROSAT_CLASSES = (
    "AnnualCrop",
    "Forest",
    "HerbaceousVegetation",
    "Highway",
    "Industrial",
    "Pasture",
    "PermanentCrop",
    "Residential",
    "River",
    "SeaLake",
)

# The 19-class nomenclature of BigEarthNet (Sumbul et al. 2020, "BigEarthNet dataset with a new class-nomenclature"), each
# with the CORINE level-3 classes that it joins; CORINE classes without a place in it stand in BIGEARTHNET_DROPPED.
BIGEARTHNET_19 = {
    "Urban fabric": ("Continuous urban fabric", "Discontinuous urban fabric"),
    "Industrial or commercial units": ("Industrial or commercial units",),
    "Arable land": ("Non-irrigated arable land", "Permanently irrigated land", "Rice fields"),
    "Permanent crops": (
        "Vineyards",
        "Fruit trees and berry plantations",
        "Olive groves",
        "Annual crops associated with permanent crops",
    ),
    "Pastures": ("Pastures",),
    "Complex cultivation patterns": ("Complex cultivation patterns",),
    "Land principally occupied by agriculture, with significant areas of natural vegetation": (
        "Land principally occupied by agriculture, with significant areas of natural vegetation",
    ),
    "Agro-forestry areas": ("Agro-forestry areas",),
    "Broad-leaved forest": ("Broad-leaved forest",),
    "Coniferous forest": ("Coniferous forest",),
    "Mixed forest": ("Mixed forest",),
    "Natural grassland and sparsely vegetated areas": ("Natural grassland", "Sparsely vegetated areas"),
    "Moors, heathland and sclerophyllous vegetation": ("Moors and heathland", "Sclerophyllous vegetation"),
    "Transitional woodland, shrub": ("Transitional woodland/shrub",),
    "Beaches, dunes, sands": ("Beaches, dunes, sands",),
    "Inland wetlands": ("Inland marshes", "Peatbogs"),
    "Coastal wetlands": ("Salt marshes", "Salines"),
    "Inland waters": ("Water courses", "Water bodies"),
    "Marine waters": ("Coastal lagoons", "Estuaries", "Sea and ocean"),
}
BIGEARTHNET_DROPPED = (
    "Road and rail networks and associated land",
    "Port areas",
    "Airports",
    "Mineral extraction sites",
    "Dump sites",
    "Construction sites",
    "Green urban areas",
    "Sport and leisure facilities",
    "Bare rock",
    "Burnt areas",
    "Intertidal flats",
)
BIGEARTHNET_CLASSES_19 = tuple(BIGEARTHNET_19)
CORINE_TO_19 = {corine: name for name, members in BIGEARTHNET_19.items() for corine in members}
# CORINE level 3 in the order of its codes, 111 to 523, less the classes that BigEarthNet's area does not hold.
BIGEARTHNET_CLASSES_43 = (
    "Continuous urban fabric",
    "Discontinuous urban fabric",
    "Industrial or commercial units",
    "Road and rail networks and associated land",
    "Port areas",
    "Airports",
    "Mineral extraction sites",
    "Dump sites",
    "Construction sites",
    "Green urban areas",
    "Sport and leisure facilities",
    "Non-irrigated arable land",
    "Permanently irrigated land",
    "Rice fields",
    "Vineyards",
    "Fruit trees and berry plantations",
    "Olive groves",
    "Pastures",
    "Annual crops associated with permanent crops",
    "Complex cultivation patterns",
    "Land principally occupied by agriculture, with significant areas of natural vegetation",
    "Agro-forestry areas",
    "Broad-leaved forest",
    "Coniferous forest",
    "Mixed forest",
    "Natural grassland",
    "Moors and heathland",
    "Sclerophyllous vegetation",
    "Transitional woodland/shrub",
    "Beaches, dunes, sands",
    "Bare rock",
    "Sparsely vegetated areas",
    "Burnt areas",
    "Inland marshes",
    "Peatbogs",
    "Salt marshes",
    "Salines",
    "Intertidal flats",
    "Water courses",
    "Water bodies",
    "Coastal lagoons",
    "Estuaries",
    "Sea and ocean",
)


def dn_to_reflectance(dn: np.ndarray) -> np.ndarray:
    """Collection 2 digital numbers to surface reflectance, float64; digital number 0 (no data) becomes NaN.

    >>> float(dn_to_reflectance(np.array([20000]))[0])
    0.35
    """
    dn = np.asarray(dn)
    return np.where(dn == NODATA, np.nan, dn * REFLECTANCE_SCALE + REFLECTANCE_OFFSET)


def reflectance_to_dn(reflectance: np.ndarray) -> np.ndarray:
    """Surface reflectance to Collection 2 digital numbers, uint16, clipped to 1..65535; NaN becomes 0 (no data).

    >>> int(reflectance_to_dn(np.array([0.35]))[0])
    20000
    """
    dn = np.rint((np.asarray(reflectance, np.float64) - REFLECTANCE_OFFSET) / REFLECTANCE_SCALE)
    return np.where(np.isnan(dn), NODATA, np.clip(np.nan_to_num(dn), 1, 65535)).astype(np.uint16)


def check_sensor(sensor: str) -> None:
    """Raises ValueError for a sensor that is none of `SENSORS`."""
    if sensor not in SENSORS:
        raise ValueError(f"sensor = {sensor!r} is not one of {', '.join(SENSORS)}")


def lacks_coastal(sensor: str) -> bool:
    """Whether a sensor has six bands, without the coastal one: Landsat 4 to 7."""
    return sensor in ("landsat4", "landsat5", "landsat7")


def sensor_bands(sensor: str) -> tuple[str, ...]:
    """The reflective bands of a sensor, by the model's names, in the order of its own numbers."""
    return tuple(TM_BANDS.values()) if lacks_coastal(sensor) else BANDS


def sensor_of(product: str) -> str | None:
    """The sensor that a product's name tells: "landsat7" for "LE07_L2SP_..." or "LE7...", None for other names.

    >>> sensor_of("LC08_L1TP_224078_20200518_20200518_01_RT")
    'landsat8'
    """
    match = re.match(r"L[COTE]0?([45789])", product)
    return f"landsat{match[1]}" if match else None


def band_name(name: str, sensor: str = "landsat8") -> str:
    """The model's name of a band: "SR_B5" for "SR_B5", "B5", "nir" or "near infrared".

    Args:
        sensor: whose numbers those of the bands are: "B4" of "landsat7" is near infrared, "SR_B5" to the model.

    Raises:
        ValueError: no band of the sensor is called so.
    """
    number = name.upper().removeprefix("SR_").replace("B0", "B")
    if re.fullmatch(r"B\d+", number):
        found = TM_BANDS.get(number) if lacks_coastal(sensor) else BAND_ALIASES.get(number)
    else:
        found = next((band for alias, band in BAND_ALIASES.items() if name.lower() == alias.lower()), None)
    if found not in sensor_bands(sensor):
        numbers, titles = (TM_BANDS, BAND_TITLES[1:]) if lacks_coastal(sensor) else (BANDS, BAND_TITLES)
        raise ValueError(f"unknown band {name!r}; the bands of {sensor} are {', '.join(numbers)} (or {', '.join(titles)})")
    return found


def with_coastal(dn: np.ndarray) -> np.ndarray:
    """Collection 2 digital numbers of the six bands of Landsat 4 to 7 (..., 6) to the model's seven, uint16.

    The coastal band is set to the number with the blue band's z-score under the published statistics: the two tell nearly the
    same (over the pixels of 199 BigEarthNet-L patches they correlate by 0.999). What has no data stays so.
    """
    mean, std = (np.asarray(STATISTICS["bigearthnet_landsat"][key]) for key in ("mean", "std"))
    blue = np.asarray(dn)[..., :1]
    coastal = np.clip(np.rint((blue - mean[1]) / std[1] * std[0] + mean[0]), 1, 65535)
    return np.concatenate([np.where(blue == NODATA, NODATA, coastal), dn], axis=-1).astype(np.uint16)


def level1_to_reflectance(dn: np.ndarray, sun_elevation: float | np.ndarray | None = None) -> np.ndarray:
    """Level-1 digital numbers to top-of-atmosphere reflectance, float64; digital number 0 (no data) becomes NaN.

    Args:
        dn: (..., C) digital numbers.
        sun_elevation: degrees, one number or one an image; None leaves the reflectance uncorrected for the sun's angle.

    >>> float(level1_to_reflectance(np.array([10000]), 30.0)[0])
    0.2
    """
    dn = np.asarray(dn)
    reflectance = np.where(dn == NODATA, np.nan, dn * LEVEL1_SCALE + LEVEL1_OFFSET)
    if sun_elevation is None:
        return reflectance
    elevation = np.asarray(sun_elevation, np.float64)
    if not ((elevation > 0) & (elevation <= 90)).all():
        raise ValueError(f"sun_elevation = {sun_elevation} must be degrees over the horizon, more than 0 and at most 90")
    return reflectance / np.sin(np.radians(elevation)).reshape(elevation.shape + (1,) * (dn.ndim - elevation.ndim))


def is_cloud(qa: np.ndarray, kind: str) -> np.ndarray:
    """Clouds (and, in Collection 2, their shadows) in a quality band: bool, of the shape of `qa`.

    Args:
        qa: uint16 bit field.
        kind: "QA_PIXEL" of Collection 2 (bits 1 dilated cloud, 2 cirrus, 3 cloud, 4 shadow; USGS LSDS-1619), or "BQA" from
            before the collections (bits 14 and 15: cloud confidence, 3 is high).

    Raises:
        ValueError: `kind` is neither.
    """
    qa = np.asarray(qa, np.uint16)
    if kind == "QA_PIXEL":
        return (qa & 0b11110) != 0
    if kind == "BQA":
        return (qa >> 14) == 3
    raise ValueError(f"kind = {kind!r} is not 'QA_PIXEL' or 'BQA'")
