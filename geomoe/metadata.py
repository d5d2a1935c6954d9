"""Place and time of an image as the model takes them: cyclic [sin, cos] pairs, with [0, 0] for a missing value.

- week: ISO week number (1 to 53) times 2 pi / 52;
- hour: hour of the day in UTC (0 to 23) times 2 pi / 24;
- lat, lon: the angle itself.

A pair on the unit circle is never [0, 0], so "missing" is a value of its own.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

UNKNOWN_TIME = "unknown"  # how prepared records say that a patch has no time


class Metadata(NamedTuple):
    """[sin, cos] pairs, each (N, 2) float32, in the order of the model's arguments."""

    week: np.ndarray
    hour: np.ndarray
    lat: np.ndarray
    lon: np.ndarray


FIELDS = Metadata._fields  # the one order of the four


def _pairs(angle: np.ndarray, known: np.ndarray) -> np.ndarray:
    pairs = np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    return np.where(known[:, None], pairs, 0.0).astype(np.float32)


def iso_week(time: np.ndarray) -> np.ndarray:
    """ISO 8601 week number of datetime64 values: (N,) -> (N,) int64; NaT gives an arbitrary number.

    >>> iso_week(np.array(["2021-01-01", "2018-12-31"], "datetime64[s]")).tolist()
    [53, 1]
    """
    days = np.asarray(time).astype("datetime64[D]").astype(np.int64)
    thursday = days - (days + 3) % 7 + 3  # of the same ISO week; 1970-01-01 was a Thursday
    first_day = thursday.astype("datetime64[D]").astype("datetime64[Y]").astype("datetime64[D]").astype(np.int64)
    return (thursday - first_day) // 7 + 1


def encode_time(time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Week and hour of UTC times.

    Args:
        time: (N,) datetime64; NaT is a missing time.

    Returns:
        week (N, 2), hour (N, 2): float32 [sin, cos], [0, 0] where missing.
    """
    time = np.asarray(time, "datetime64[s]")
    known = ~np.isnat(time)
    time = np.where(known, time, np.datetime64(0, "s"))
    hour = (time - time.astype("datetime64[D]")).astype("timedelta64[h]").astype(np.int64)
    return _pairs(iso_week(time) * (2 * np.pi / 52), known), np.where(known[:, None], hour_pairs(hour), np.float32(0))


def hour_pairs(hour: np.ndarray) -> np.ndarray:
    """Hours of the day, (N,), to (N, 2) float32 [sin, cos]."""
    hour = np.asarray(hour)
    return _pairs(hour * (2 * np.pi / 24), np.ones(hour.shape, bool))


def encode_degrees(degrees: np.ndarray) -> np.ndarray:
    """Latitudes or longitudes in degrees, (N,), to (N, 2) float32 [sin, cos]; NaN is missing and gives [0, 0]."""
    degrees = np.asarray(degrees, np.float64)
    known = np.isfinite(degrees)
    return _pairs(np.radians(np.where(known, degrees, 0.0)), known)


def encode(lat: np.ndarray, lon: np.ndarray, time: np.ndarray) -> Metadata:
    """Places and times to the model's four inputs.

    Args:
        lat, lon: (N,) degrees, NaN where missing.
        time: (N,) datetime64 in UTC, NaT where missing.

    Raises:
        ValueError: a latitude is beyond 90 or a longitude beyond 360 degrees.
    """
    for name, values, limit in (("lat", lat, 90.0), ("lon", lon, 360.0)):
        values = np.asarray(values, np.float64)
        bad = np.flatnonzero(np.abs(values) > limit + 1e-9)
        if bad.size:
            raise ValueError(f"{name}[{bad[0]}] = {values[bad[0]]} is not in degrees: beyond +-{limit:g}")
    week, hour = encode_time(time)
    return Metadata(week, hour, encode_degrees(lat), encode_degrees(lon))


def parse_time(text: str | bytes) -> np.datetime64:
    """A record's time, "2017-10-02T09:40:31" or "unknown", as datetime64 in seconds; unknown is NaT."""
    text = text.decode() if isinstance(text, bytes) else text
    return np.datetime64("NaT", "s") if text == UNKNOWN_TIME else np.datetime64(text, "s")


_SENTINEL_STAMP = re.compile(r"(?<!\d)(\d{8})T(\d{5,6})(?!\d)")
_LANDSAT_STAMP = re.compile(r"L[COTEM]0?\d_L\w{3}_\d{6}_(\d{8})")
_LANDSAT_SCENE = re.compile(r"L[COTEM]\d\d{6}(\d{4})(\d{3})")


def time_from_name(name: str) -> np.datetime64 | None:
    """The time of acquisition that a file or product name tells, or None if it tells none.

    Knows Sentinel-2 stamps as BigEarthNet patches carry them (`..._20171002T094031_...`; a five-digit time lost the leading
    zero of its hour), Landsat Collection product names and pre-collection scene names (date alone: hour 0).

    Raises:
        ValueError: the name has a stamp that is no date.

    >>> str(time_from_name("S2B_MSIL2A_20180525T94030_78_30"))
    '2018-05-25T09:40:30'
    """
    if match := _SENTINEL_STAMP.search(name):
        date, clock = match[1], match[2].zfill(6)
    elif match := _LANDSAT_STAMP.search(name):
        date, clock = match[1], "000000"
    elif match := _LANDSAT_SCENE.search(name):
        day = np.datetime64(f"{match[1]}-01-01", "D") + (int(match[2]) - 1)
        return day.astype("datetime64[s]")
    else:
        return None
    return np.datetime64(f"{date[:4]}-{date[4:6]}-{date[6:]}T{clock[:2]}:{clock[2:4]}:{clock[4:]}", "s")


def published_hour(patch_id: str) -> int:
    """The hour that the published preprocessing gives a BigEarthNet patch: the first digit alone of the time in its name.

    `..._20171002T094031_...` gives 0 and `..._20180525T94030_...` gives 9, where the hour is 9 in both. geomoe encodes the
    true hour; this is for reproducing published inputs.
    """
    match = _SENTINEL_STAMP.search(patch_id)
    if not match:
        raise ValueError(f"no time stamp in the patch name {patch_id!r}")
    return int(match[2][0])
