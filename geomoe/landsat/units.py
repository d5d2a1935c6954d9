"""Numbers in Landsat files: digital numbers of the collections and of level 1, and reflectance."""

from typing import Any

import numpy as np

NODATA = 0  # digital number of pixels without data
# Collection 2 level-2 science products: reflectance = DN * SCALE + OFFSET (USGS, LSDS-1619).
REFLECTANCE_SCALE = 0.0000275
REFLECTANCE_OFFSET = -0.2
# Level-1 products: top-of-atmosphere reflectance = (DN * scale + offset) / sin(sun elevation), the same factors for every OLI
# reflective band (Landsat 8 Data Users Handbook, LSDS-1574, section 5.2).
LEVEL1_SCALE = 2.0e-5
LEVEL1_OFFSET = -0.1
# Collection 1 and LEDAPS/LaSRC surface reflectance, and HLS: int16, reflectance * 10,000 (USGS LSDS-1368 and LSDS-1370).
SCALED_SCALE = 0.0001
SCALED_FILL = -9999
SCALED_SATURATED = (16000, 20000)  # the sensor was at its limit: no measurement
SCALED_UNITS = ("collection1_sr", "hls")
UNITS = ("collection2_dn", "collection1_sr", "hls", "reflectance", "level1_dn", "uint8")  # what the numbers of an image can be
# Types in which files hold each unit, the products' own first; `geomoe.data.preprocess.check_values` looks at the numbers.
_WIDE_DTYPES = ("int32", "uint32", "int64", "uint64", "float32", "float64")
FILE_DTYPES = {
    "collection2_dn": ("uint16", "int16", *_WIDE_DTYPES),
    **dict.fromkeys(SCALED_UNITS, ("int16", "uint16", *_WIDE_DTYPES)),
    "reflectance": ("float32", "float64"),
    "level1_dn": ("uint16", "uint8", "int16", *_WIDE_DTYPES),
    "uint8": ("uint8", "uint16", "int16", *_WIDE_DTYPES),
}

# Scale and offset that files may carry, and the unit that they tell.
_SCALES = {
    (REFLECTANCE_SCALE, REFLECTANCE_OFFSET): "collection2_dn",
    (SCALED_SCALE, 0.0): "hls",
    (LEVEL1_SCALE, LEVEL1_OFFSET): "level1_dn",
}


def unit_of_scale(scale: float, offset: float) -> str | None:
    """What numbers are, by the scale and the offset that bring them to reflectance; None for those of none.

    >>> unit_of_scale(0.0000275, -0.2), unit_of_scale(1.0, 0.0)
    ('collection2_dn', None)
    """
    return next((unit for pair, unit in _SCALES.items() if np.allclose(pair, (scale, offset), rtol=1e-3, atol=1e-9)), None)


def nodata_value(unit: str, dtype: np.dtype) -> float:
    """Give the value that stands for no data in images of a unit and type: NaN in floats, else -9999 or 0.

    >>> nodata_value("hls", np.dtype("int16")), nodata_value("collection2_dn", np.dtype("uint16"))
    (-9999, 0)
    """
    if dtype.kind == "f":
        return float("nan")
    return SCALED_FILL if unit in SCALED_UNITS and dtype.kind == "i" else NODATA


def unmasked(values: Any, nodata: float, dtype: Any = None) -> np.ndarray:
    """Bring numbers to a plain array, in which the value of no data stands where one of numpy's masked type is masked."""
    array: np.ma.MaskedArray = np.ma.MaskedArray(values, dtype=dtype)
    return array.filled(array.dtype.type(nodata))


def dn_to_reflectance(dn: np.ndarray) -> np.ndarray:
    """Convert Collection 2 digital numbers to surface reflectance, float64; digital number 0 (no data) becomes NaN.

    >>> dn_to_reflectance(np.array([20000])).round(4).tolist()
    [0.35]
    """
    dn = unmasked(dn, NODATA)
    return np.where(dn == NODATA, np.nan, dn * REFLECTANCE_SCALE + REFLECTANCE_OFFSET)


def reflectance_to_dn(reflectance: np.ndarray) -> np.ndarray:
    """Convert surface reflectance to Collection 2 digital numbers, uint16, clipped to 1..65535; NaN becomes 0 (no data).

    >>> int(reflectance_to_dn(np.array([0.35]))[0])
    20000
    """
    dn = np.rint((unmasked(reflectance, np.nan, np.float64) - REFLECTANCE_OFFSET) / REFLECTANCE_SCALE)
    return np.where(np.isnan(dn), NODATA, np.clip(np.nan_to_num(dn), 1, 65535)).astype(np.uint16)


def level1_to_reflectance(
    dn: np.ndarray,
    sun_elevation: float | np.ndarray | None = None,
    scale: float | np.ndarray = LEVEL1_SCALE,
    offset: float | np.ndarray = LEVEL1_OFFSET,
) -> np.ndarray:
    """Convert level-1 digital numbers to top-of-atmosphere reflectance, float64; digital number 0 (no data) becomes NaN.

    `sun_elevation` is in degrees in (0, 90], one or one an image; None leaves the reflectance uncorrected for the sun's angle.
    `scale` and `offset` are one number, or one a channel; the default is that of every reflective band of Landsat 8 and 9.

    >>> level1_to_reflectance(np.array([10000]), 30.0).round(4).tolist()
    [0.2]
    """
    dn = unmasked(dn, NODATA)
    reflectance = np.where(dn == NODATA, np.nan, dn * np.asarray(scale, np.float64) + np.asarray(offset, np.float64))
    if sun_elevation is None:
        return reflectance
    elevation = np.asarray(sun_elevation, np.float64)
    if not ((elevation > 0) & (elevation <= 90)).all():
        raise ValueError(f"sun_elevation = {sun_elevation} must be degrees over the horizon, more than 0 and at most 90")
    return reflectance / np.sin(np.radians(elevation)).reshape(elevation.shape + (1,) * (dn.ndim - elevation.ndim))
