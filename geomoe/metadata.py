"""The metadata of an image as the model takes them: cyclic [sin, cos] pairs, with [0, 0] for a missing value.

The angles are: ISO week number (1 to 53) times 2 pi / 52; hour of the day in UTC (0 to 23) times 2 pi / 24; latitude and
longitude themselves. Also here: the one parser of time stamps, and the one rule for which stamp to believe.
"""

import datetime
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from geomoe.landsat import unmasked

UNKNOWN_TIME = "unknown"  # how prepared records say that a patch has no time
NAT = np.datetime64("NaT", "s")
_FIRST_YEAR, _END_YEAR = 1972, 2100  # from the first Landsat on
_TAG_DATE = re.compile(r"(\d{4}):(\d\d):(\d\d)(?=\D|$)", re.ASCII)
_SENTINEL_STAMP = re.compile(r"(?<!\d)(\d{8})T(\d{5,6})(?!\d)", re.ASCII)
_LANDSAT_STAMP = re.compile(
    r"(?<![A-Za-z])L[COTEM]0?\d_(?:L\w{3}|CU|AK|HI)_\d{6}_(\d{8})", re.ASCII | re.IGNORECASE
)  # and of tiles (ARD)
_EARTH_ENGINE_STAMP = re.compile(r"(?<![A-Za-z])L[COTE]0[4-9]_\d{6}_((?:19|20)\d{6})(?!\d)", re.ASCII | re.IGNORECASE)
_ESPA_STAMP = re.compile(r"(?<![A-Za-z])L[COTEM]0[4-9]\d{6}(\d{8})\d\d(?:T1|T2|RT)", re.ASCII | re.IGNORECASE)
_HLS_STAMP = re.compile(r"HLS\.[LS]30\.T\w{5}\.(\d{4})(\d{3})(T\d{6})", re.ASCII)
_LANDSAT_SCENE = re.compile(r"(?<![A-Za-z])L[COTEM][1-9]\d{6}(\d{4})(\d{3})(?!\d)", re.ASCII | re.IGNORECASE)
_NO_DATE = re.compile(r"[\s:0]*|1970:01:01 00:00:00")  # how TIFFTAG_DATETIME says that there is none


class Metadata(NamedTuple):
    """[sin, cos] pairs, each (N, 2) float32, in the order of the model's arguments."""

    week: np.ndarray
    hour: np.ndarray
    lat: np.ndarray
    lon: np.ndarray


FIELDS = Metadata._fields  # the one order of the four


def _cyclic(angle: np.ndarray, present: np.ndarray) -> np.ndarray:
    """(N,) angles to (N, 2) float32 [sin, cos], [0, 0] where not present."""
    values = np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    return np.where(present[:, None], values, 0.0).astype(np.float32)


def iso_week(time: np.ndarray) -> np.ndarray:
    """Compute the ISO 8601 week number of datetime64 values: (N,) -> (N,) int64; NaT gives an arbitrary number.

    >>> iso_week(np.array(["2021-01-01", "2018-12-31"], "datetime64[s]")).tolist()
    [53, 1]
    """
    days = np.asarray(time).astype("datetime64[D]").astype(np.int64)
    thursday = days - (days + 3) % 7 + 3  # of the same ISO week; 1970-01-01 was a Thursday
    first_day = thursday.astype("datetime64[D]").astype("datetime64[Y]").astype("datetime64[D]").astype(np.int64)
    return (thursday - first_day) // 7 + 1


def is_day(time: np.ndarray | np.datetime64) -> bool:
    """Say whether datetime64 values name days, whose hours are not known, by their unit."""
    return np.datetime_data(time.dtype)[0] in ("Y", "M", "W", "D")


def encode_time(time: np.ndarray | Sequence[np.datetime64]) -> tuple[np.ndarray, np.ndarray]:
    """Encode UTC times as week and hour, each (N, 2) float32 [sin, cos]; NaT is missing and gives [0, 0].

    `time` is (N,) datetime64, or a sequence of N of any units; what is masked is missing. Of a value to the day (as
    `parse_time` gives it for a date), the hour is missing.
    """
    if np.ma.is_masked(time):
        time = read_times(time)
    if isinstance(time, np.ndarray) and time.dtype.kind == "M":
        hourless = np.full(len(time), is_day(time))
    else:
        hourless = np.array([is_day(value) for value in time], bool)
    time = np.array(time, "datetime64[s]")
    present = ~np.isnat(time)
    time = np.where(present, time, np.datetime64(0, "s"))
    hour = (time - time.astype("datetime64[D]")).astype("timedelta64[h]").astype(np.int64)
    return _cyclic(iso_week(time) * (2 * np.pi / 52), present), _cyclic(hour * (2 * np.pi / 24), present & ~hourless)


def encode_hour(hour: np.ndarray) -> np.ndarray:
    """Encode hours of the day, (N,), as (N, 2) float32 [sin, cos]; what is masked is missing and gives [0, 0]."""
    present = ~np.ma.getmaskarray(np.ma.asarray(hour))
    return _cyclic(np.asarray(hour) * (2 * np.pi / 24), present)


def wrap_longitude(lon: Any) -> np.ndarray:
    """Bring longitudes to -180 to 180 degrees, NaN where masked; files may count them from 0 to 360, or on beyond.

    >>> wrap_longitude([190.0, -180.0, 365.0]).tolist()
    [-170.0, -180.0, 5.0]
    """
    lon = unmasked(lon, np.nan, np.float64)
    beyond = np.isfinite(lon) & (np.abs(lon) > 180)
    return np.where(beyond, (np.where(beyond, lon, 0.0) + 180) % 360 - 180, lon)


def check_degrees(lat: Any, lon: Any) -> None:
    """Raise ValueError for what a file's coordinates give as latitude and longitude and is none, as metres."""
    for name, values, limit in (("latitude", lat, 90.0), ("longitude", lon, 540.0)):
        bad = ~(np.abs(values) <= limit + 1e-6)  # NaN and infinite ones too
        if np.any(bad):
            raise ValueError(f"{name} {np.asarray(values)[bad].flat[0]:g} is beyond {limit:g} degrees")


def encode_degrees(degrees: np.ndarray) -> np.ndarray:
    """Encode latitudes or longitudes in degrees, (N,), as (N, 2) float32 [sin, cos].

    What is NaN or masked is missing and gives [0, 0].
    """
    degrees = unmasked(degrees, np.nan, np.float64)
    present = np.isfinite(degrees)
    return _cyclic(np.radians(np.where(present, degrees, 0.0)), present)


def encode(lat: Any, lon: Any, time: Any) -> Metadata:
    """Encode (N,) latitudes, longitudes (degrees, NaN or masked where missing) and times (as for `read_times`).

    A latitude beyond 90 or a longitude beyond 360 degrees is a ValueError.
    """
    for name, values, limit in (("lat", lat, 90.0), ("lon", lon, 360.0)):
        values = unmasked(values, np.nan, np.float64)
        bad = np.flatnonzero(np.abs(values) > limit + 1e-9)
        if bad.size:
            raise ValueError(f"{name}[{bad[0]}] = {values[bad[0]]} is not in degrees: beyond +-{limit:g}")
    week, hour = encode_time(read_times(time))
    return Metadata(week, hour, encode_degrees(lat), encode_degrees(lon))


def from_uniform(numbers: np.ndarray) -> Metadata:
    """Make any week, hour, latitude and longitude of uniform numbers in [0, 1), (N, 4) in the order of `FIELDS`."""
    angles = (np.asarray(numbers, np.float32) - np.float32(0.5)) * np.float32(2 * np.pi)
    angles[:, FIELDS.index("lat")] /= 2
    return Metadata(*np.stack([np.sin(angles), np.cos(angles)], axis=-1).swapaxes(0, 1))


def parse_time(text: str | bytes) -> np.datetime64:
    """Parse a time stamp, UTC, to datetime64 in seconds, or in days where it names a date alone, whose hour is not known.

    Takes ISO 8601 from a day to fractions of a second ("2017-10-02", "2017-10-02 09:40:31", "20171002T094031",
    "2017-10-02T09:40:31.5Z"), UTC unless it names an offset; the form of TIFFTAG_DATETIME ("2017:10:02 09:40:31"); and
    "unknown", which is NaT. What is no time, or none from 1972 to 2099, is a ValueError.

    >>> str(parse_time("2017:10:02 09:40:31")), str(parse_time("2017-10-02T09:40:31+02:00")), str(parse_time("20171002"))
    ('2017-10-02T09:40:31', '2017-10-02T07:40:31', '2017-10-02')
    """
    stamp = (text.decode("utf-8", "replace") if isinstance(text, bytes) else text).strip("\x00 \t\r\n")
    if stamp == UNKNOWN_TIME:
        return NAT
    if stamp[4:5] == ":":
        stamp = _TAG_DATE.sub(r"\1-\2-\3", stamp, count=1)
    stamp = re.sub(r"z$", "Z", stamp)  # as RFC 3339 allows
    day = 10 if stamp[4:5] == "-" else 8  # characters of the date
    try:
        if stamp[day : day + 1] not in "T " or "W" in stamp:  # any separator, weeks: fromisoformat takes them
            raise ValueError
        time = datetime.datetime.fromisoformat(stamp)
        if time.tzinfo is not None:
            time = time.astimezone(datetime.UTC)
        if not _FIRST_YEAR <= time.year < _END_YEAR:
            raise ValueError
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no time (as 2017-10-02T09:40:31) from {_FIRST_YEAR} to {_END_YEAR - 1}") from None
    return np.datetime64(time.isoformat()[:10], "D") if len(stamp) == day else np.datetime64(time.isoformat()[:19], "s")


def format_time(time: np.datetime64) -> str:
    """Write a time as records hold it, ISO 8601, a date alone if in days, "unknown" for NaT: the inverse of `parse_time`."""
    return UNKNOWN_TIME if np.isnat(time) else str(time.astype("datetime64[D]" if is_day(time) else "datetime64[s]"))


def read_times(values: Any) -> np.ndarray | list[np.datetime64]:
    """Read times in any form that users have them, for `encode_time`; ValueError for what is no time, with its position.

    Takes a datetime64 array as it is, and a sequence (a pandas Series, say) of datetime64, text as for `parse_time`, Python's
    or pandas' datetimes (UTC where they name no time zone) and dates, None, NaT and NA (missing).

    >>> [str(t) for t in read_times(["2017-10-02T09:40:31", datetime.date(2017, 10, 2), None])]
    ['2017-10-02T09:40:31', '2017-10-02', 'NaT']
    """
    if np.ma.is_masked(values):
        data, mask = np.atleast_1d(np.ma.getdata(values)), np.atleast_1d(np.ma.getmaskarray(values))
        values = [None if masked else value for value, masked in zip(data, mask)]
    elif isinstance(values, list | tuple):
        values = [None if value is np.ma.masked else value for value in values]
    array = np.atleast_1d(np.asarray(values))
    times: np.ndarray | list[np.datetime64] = array
    # Of several units numpy would make the finest, and of a date alone midnight.
    mixed = isinstance(values, list | tuple) and len({getattr(value, "dtype", None) for value in values}) > 1
    if array.dtype.kind != "M" or mixed:
        items = np.atleast_1d(np.asarray(values, object))
        if items.ndim != 1:
            raise ValueError(f"time must be one for each image, got an array of shape {items.shape}")
        times = []
        for i, value in enumerate(items):
            try:
                times.append(_read_time(value))
            except ValueError as error:
                raise ValueError(f"time[{i}]: {error}") from None
    coarse = ("Y", "M")
    for i, value in enumerate(times if isinstance(times, list) or np.datetime_data(times.dtype)[0] in coarse else ()):
        if np.datetime_data(value.dtype)[0] in coarse and not np.isnat(value):
            raise ValueError(f"time[{i}] = {value} names no day, and its week is not known; give a date, or NaT")
    seconds = np.array(times, "datetime64[s]")
    bad = ~np.isnat(seconds) & ((seconds < np.datetime64(f"{_FIRST_YEAR}")) | (seconds >= np.datetime64(f"{_END_YEAR}")))
    if bad.any():
        raise ValueError(f"time[{np.argmax(bad)}] = {seconds[np.argmax(bad)]} is not from {_FIRST_YEAR} to {_END_YEAR - 1}")
    return times


def _read_time(value: Any) -> np.datetime64:
    if (
        value is None
        or type(value).__name__ in ("NaTType", "NAType")
        or isinstance(value, float | np.floating)
        and np.isnan(value)
    ):
        return NAT
    if isinstance(value, np.datetime64):
        return value
    if isinstance(value, str | bytes):
        return NAT if value == "NaT" else parse_time(value)  # as pandas and numpy write a missing time
    if isinstance(value, datetime.datetime):
        return np.datetime64((value.astimezone(datetime.UTC) if value.tzinfo else value).replace(tzinfo=None), "s")
    if isinstance(value, datetime.date):
        return np.datetime64(value, "D")
    raise ValueError(f"must be datetime64 (or ISO 8601 text) in UTC, got {value!r}")


def time_from_name(name: str) -> np.datetime64:
    """Read the time of acquisition from the name of a file or product; NaT if it has none.

    Knows names of Landsat's collections, of its tiles (ARD), of Earth Engine's images, of ESPA's orders and of scenes before
    the collections (a date alone), HLS product names, and, where none of them stands there, Sentinel-2 stamps as BigEarthNet
    patches carry them (`..._20171002T094031_...`; a five-digit time lost the leading zero of its hour). A stamp that is no
    time is a ValueError.

    >>> str(time_from_name("S2B_MSIL2A_20180525T94030_78_30"))
    '2018-05-25T09:40:30'
    """
    if match := _LANDSAT_STAMP.search(name) or _EARTH_ENGINE_STAMP.search(name) or _ESPA_STAMP.search(name):
        return parse_time(match[1])
    for pattern in (_LANDSAT_SCENE, _HLS_STAMP):
        if match := pattern.search(name):
            day = parse_time(f"{match[1]}-01-01").astype("datetime64[D]") + (int(match[2]) - 1)
            if str(day)[:4] != match[1]:
                raise ValueError(f"{name!r}: year {match[1]} has no day {match[2]}")
            return day if pattern is _LANDSAT_SCENE else parse_time(f"{str(day).replace('-', '')}{match[3]}")
    match = _SENTINEL_STAMP.search(name)  # last: programs write such stamps of processing behind a product's name
    return parse_time(f"{match[1]}T{match[2].zfill(6)}") if match else NAT


def _time_of_tag(text: str) -> np.datetime64:
    """Read TIFFTAG_DATETIME. It cannot hold a date alone: writers that know no more put midnight."""
    if _NO_DATE.fullmatch(text.strip("\x00 ")):
        return NAT
    time = parse_time(text)
    day = time.astype("datetime64[D]")
    return day if time == day else time


def acquisition_time(*, explicit: str = "", name: str = "", date_tag: str = "", strict: bool = False) -> np.datetime64:
    """Read the time of acquisition from the most trustworthy source that has one; NaT where none has.

    Args:
        explicit: of a table of the user's or of a product's metadata file; ValueError if it is no time.
        name: of the file or product, which may hold a stamp of the acquisition.
        date_tag: TIFFTAG_DATETIME of the file, which is often the time of its writing; at midnight it is a date alone.
        strict: whether a stamp of `name` or `date_tag` that is no time is a ValueError; otherwise the next source is read.

    >>> str(acquisition_time(name="S2A_MSIL2A_20170613T101031_1_1", date_tag="2021:01:01 00:00:00"))
    '2017-06-13T10:10:31'
    """
    if explicit.strip():
        return parse_time(explicit)
    for text, parse in ((name, time_from_name), (date_tag, _time_of_tag)):
        try:
            if text.strip("\x00 ") and not np.isnat(time := parse(text)):
                return time
        except ValueError:
            if strict:
                raise
    return NAT


def published_hour(patch_id: str) -> int:
    """Give the hour that the published preprocessing gives a BigEarthNet patch: the first digit of the time in its name.

    `..._20171002T094031_...` gives 0 and `..._20180525T94030_...` gives 9, where the hour is 9 in both. geomoe encodes the
    true hour; this is for reproducing published inputs. A name without a time stamp is a ValueError.
    """
    if match := _SENTINEL_STAMP.search(patch_id):
        return int(match[2][0])
    raise ValueError(f"no time stamp in the patch name {patch_id!r}")
