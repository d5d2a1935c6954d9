"""Metadata: encoding, the parser of time stamps, and which stamp is believed."""

import datetime

import numpy as np
import pytest
from hypothesis import given, strategies as st

from geomoe import metadata

DATETIMES = st.datetimes(datetime.datetime(1972, 7, 23), datetime.datetime(2099, 12, 31)).map(
    lambda t: t.replace(microsecond=0)
)


def test_the_order_of_the_fields():
    assert metadata.FIELDS == ("week", "hour", "lat", "lon")
    encoded = metadata.encode(np.array([30.0]), np.array([-90.0]), np.array(["2021-01-01T06:59"], "datetime64[s]"))
    week = 53 * 2 * np.pi / 52
    expected = [[np.sin(week), np.cos(week)], [1, 0], [0.5, 0.75**0.5], [-1, 0]]
    np.testing.assert_allclose(np.concatenate(encoded), expected, atol=1e-6)


def test_weeks_are_those_of_the_iso_calendar():
    days = np.arange("1995-12-20", "2032-01-15", dtype="datetime64[D]")
    expected = [day.isocalendar().week for day in days.tolist()]
    np.testing.assert_array_equal(metadata.iso_week(days), expected)


def test_what_is_missing_is_zero_and_what_is_no_degree_an_error():
    encoded = metadata.encode([np.nan, 1], [2, np.nan], np.array(["NaT", "2020-01-01"], "datetime64[s]"))
    assert [field.any(axis=1).tolist() for field in encoded] == [[False, True], [False, True], [False, True], [True, False]]
    assert all(field.dtype == np.float32 for field in encoded)
    with pytest.raises(ValueError, match=r"lat\[1\] = 91.0"):
        metadata.encode([0, 91], [0, 0], np.array(["2020-01-01"] * 2, "datetime64[s]"))


@pytest.mark.parametrize(
    "text, expected",
    [
        ("2017-10-02T09:40:31", "2017-10-02T09:40:31"),  # a record
        ("2019:05:04 10:30:00", "2019-05-04T10:30:00"),  # TIFFTAG_DATETIME
        ("2019:05:04 10:30:00\x00", "2019-05-04T10:30:00"),
        ("2017-06-13 10:10:32", "2017-06-13T10:10:32"),  # BigEarthNet's acquisition_date
        ("2020-05-18T09:41:02.1234567Z", "2020-05-18T09:41:02"),  # an MTL file
        ("2020-02-03T04:05:06Z", "2020-02-03T04:05:06"),
        ("2020-05-18T23:30:00-02:00", "2020-05-19T01:30:00"),
        ("2020-05-18", "2020-05-18"),
        ("20171002T094031", "2017-10-02T09:40:31"),
        (b"2017-10-02T09:40", "2017-10-02T09:40:00"),
    ],
)
def test_forms_of_a_time(text, expected):
    time = metadata.parse_time(text)
    assert str(time) == expected and metadata.is_day(time) == (len(expected) == 10)


@pytest.mark.parametrize(
    "text",
    ["", "now", "NaT", "2017", "2017-10", "2020-13-01", "2021-02-29", "2020-01-01T25:00", "2020-W05-1", "0000:00:00 00:00:00"]
    + [
        "1971-12-31",
        "2100-01-01",
        "2020-01-01x10:00",
        "2020:01:32",
        "1972-01-01T00:00:00+01:00",
        "\u0662\u0660\u0662\u0660-01-01",
    ],
)
def test_what_is_no_time_is_named(text):
    with pytest.raises(ValueError, match="is no time") as error:
        metadata.parse_time(text)
    assert repr(text) in str(error.value)


def test_lists_and_text_are_encoded_as_arrays_are():
    time = np.array(["2017-06-13T10:10", "NaT"], "datetime64[s]")
    expected = metadata.encode(np.array([52.5, np.nan]), np.array([13.4, 9.0]), time)
    for a, b in zip(metadata.encode([52.5, None], [13.4, 9.0], ["2017-06-13T10:10", "NaT"]), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_unknown_is_a_time():
    assert np.isnat(metadata.parse_time("unknown")) and np.isnat(metadata.parse_time(b"unknown"))
    assert metadata.format_time(np.datetime64("NaT", "s")) == "unknown"


@given(DATETIMES)
def test_every_form_gives_the_same_time(time):
    expected = np.datetime64(time, "s")
    assert metadata.parse_time(metadata.format_time(expected)) == expected
    forms = ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%SZ", "%Y:%m:%d %H:%M:%S", "%Y%m%dT%H%M%S", "%Y-%m-%dT%H:%M:%S.25+00:00")
    for form in forms:
        assert metadata.parse_time(time.strftime(form)) == expected, form
    assert metadata.time_from_name(time.strftime("S2A_MSIL2A_%Y%m%dT%H%M%S_3_4")) == expected
    day = expected.astype("datetime64[D]")
    assert metadata.time_from_name(time.strftime("LC08_L2SP_192026_%Y%m%d_20200820_02_T1")) == day
    assert metadata.time_from_name(time.strftime("LC8020039%Y%jLGN00_B1")) == day


@given(st.one_of(st.text(max_size=30), st.text("0123456789-:T Z.+W", max_size=26), st.binary(max_size=20)))
def test_any_text_is_a_plausible_time_or_an_error_that_names_it(text):
    try:
        time = metadata.parse_time(text)
    except ValueError as error:
        assert repr(text) in str(error)
    else:
        assert np.isnat(time) or np.datetime64("1972") <= time < np.datetime64("2100")


@given(st.one_of(st.text(max_size=40), st.from_regex(r"\w{0,4}_?[0-9]{8}T[0-9]{5,6}_x", fullmatch=True)))
def test_any_name_has_a_time_or_none_or_an_error(name):
    try:
        time = metadata.time_from_name(name)
    except ValueError as error:
        assert "is no time" in str(error) or "has no day" in str(error)
    else:
        assert np.isnat(time) or np.datetime64("1972") <= time < np.datetime64("2100")


def test_times_in_names():
    assert str(metadata.time_from_name("LC08_L2SP_192026_20200518_20200820_02_T1")) == "2020-05-18"
    assert str(metadata.time_from_name("LC80200392015216LGN00_B1")) == "2015-08-04"
    assert str(metadata.time_from_name("S2B_MSIL2A_20180525T94030_78_30")) == "2018-05-25T09:40:30"
    assert np.isnat(metadata.time_from_name("forest_12"))
    for name in ("S2A_MSIL2A_20171302T094031_1_1", "LC80200392015366LGN00", "LC80200392015000LGN00"):
        with pytest.raises(ValueError):
            metadata.time_from_name(name)


def test_a_table_is_believed_before_a_name_and_a_name_before_the_date_of_writing():
    name, tag = "S2A_MSIL2A_20170613T101031_1_1", "2021:01:01 00:00:00"
    read = lambda **sources: str(metadata.acquisition_time(**sources))
    assert read(explicit="2016-02-03", name=name, date_tag=tag) == "2016-02-03"
    assert read(explicit=" ", name=name, date_tag=tag) == "2017-06-13T10:10:31"
    assert read(name="forest_1", date_tag=tag) == "2021-01-01"  # midnight: the tag cannot say that the hour is not known
    assert read(name="forest_1", date_tag="2021:01:01 10:00:01") == "2021-01-01T10:00:01"
    assert read(name="forest_1") == read() == "NaT"
    with pytest.raises(ValueError, match="yesterday"):
        metadata.acquisition_time(explicit="yesterday", name=name)
    bad = dict(name=name.replace("0613", "1313"), date_tag=tag)
    assert read(**bad) == "2021-01-01" and read(name="a", date_tag="never") == "NaT"
    for sources in (bad, dict(name="a", date_tag="never")):
        with pytest.raises(ValueError, match="is no time"):
            metadata.acquisition_time(**sources, strict=True)


def test_the_published_hour_is_the_first_digit():
    assert metadata.published_hour("S2A_MSIL2A_20171002T094031_1_1") == 0
    assert metadata.published_hour("S2B_MSIL2A_20180525T94030_78_30") == 9
    assert metadata.published_hour("S2A_MSIL2A_20170613T101031_1_1") == 1
    with pytest.raises(ValueError, match="no time stamp in the patch name 'a'"):
        metadata.published_hour("a")
    np.testing.assert_allclose(metadata.encode_hour([0, 6, 12]), [[0, 1], [1, 0], [0, -1]], atol=1e-6)


def test_longitudes_may_go_round_the_globe_once():
    time = np.array([np.datetime64("2020-05-05", "s")])
    east, west = (metadata.encode(np.zeros(1), np.array([lon]), time).lon for lon in (200.0, -160.0))
    np.testing.assert_allclose(east, west, atol=1e-6)
    for name, lat, lon in (("lat", 90.1, 0.0), ("lon", 0.0, 360.1)):
        with pytest.raises(ValueError, match=name):
            metadata.encode(np.array([lat]), np.array([lon]), time)


def test_the_hour_of_a_date_is_missing_and_midnight_is_not():
    midnight = np.array(["2020-05-18T00:00:00"], "datetime64[s]")
    week, hour = metadata.encode_time(midnight)
    np.testing.assert_allclose(hour, [[0, 1]])
    day = metadata.encode_time(midnight.astype("datetime64[D]"))
    np.testing.assert_array_equal(day[0], week)
    np.testing.assert_array_equal(day[1], [[0, 0]])
    mixed = metadata.encode_time([metadata.parse_time(text) for text in ("2020-05-18", "2020-05-18T00:00", "unknown")])
    np.testing.assert_array_equal(mixed[0], np.concatenate([week, week, [[0, 0]]]))
    np.testing.assert_allclose(mixed[1], [[0, 0], [0, 1], [0, 0]])
    for text in ("2020-05-18", "2020-05-18T09:41:02"):
        assert metadata.format_time(metadata.parse_time(text)) == text


def test_times_in_the_forms_that_users_have():
    """pandas' missing values by the names of their types; time zones brought to UTC."""
    zone = datetime.timezone(datetime.timedelta(hours=-5))
    missing = [type(name, (), {})() for name in ("NaTType", "NAType")]
    times = metadata.read_times(
        [
            "20170613",
            b"2017-06-13T10:20:30Z",
            np.datetime64("2017-06-13T10:20:30.5", "ms"),
            datetime.datetime(2017, 6, 13, 5, 20, 30, tzinfo=zone),
            datetime.datetime(2017, 6, 13, 10, 20, 30),
            datetime.date(2017, 6, 13),
            None,
            float("nan"),
            *missing,
        ]
    )
    at = "2017-06-13T10:20:30"
    assert [str(t)[:19] for t in times] == ["2017-06-13", at, at, at, at, "2017-06-13", *["NaT"] * 4]
    array = np.array(["2017-06-13T10:20"], "datetime64[ns]")
    assert metadata.read_times(array) is array
    for values, message in (
        (["2017-06-13", "now"], r"time\[1\]: 'now' is no time"),
        ([1497312000000], r"time\[0\]: must be datetime64"),
        (np.array([20170613]), r"time\[0\]: must be datetime64"),
        (np.array(["20170613"]).astype("datetime64[s]"), r"time\[0\] = 20170613-01-01.* is not from 1972 to 2099"),
        ([["2017-06-13"]], "one for each image"),
    ):
        with pytest.raises(ValueError, match=message):
            metadata.read_times(values)


def test_a_date_alone_has_no_hour_beside_times_that_have_one():
    day, second = np.datetime64("2020-01-01"), np.datetime64("2020-01-02T06:00:00")
    _, hour = metadata.encode_time(metadata.read_times([day, second]))
    np.testing.assert_allclose(hour, [[0, 0], [1, 0]], atol=1e-6)  # no hour is no pair; six of 24 hours is a quarter turn


def test_masked_values_are_missing():
    time = np.array(["2017-06-13", "2018-01-01"], "datetime64[s]")
    masked = metadata.encode([48.0, 10.0], [11.0, 11.0], np.ma.MaskedArray(time, [False, True]))
    missing = metadata.encode([48.0, 10.0], [11.0, 11.0], [time[0], None])
    for a, b in zip(masked, missing):
        np.testing.assert_array_equal(a, b)


def test_a_single_masked_time_is_missing():
    masked = np.ma.array(np.datetime64("2020-01-01"), mask=True)
    for values in (masked, np.ma.masked, [np.ma.masked]):
        assert np.isnat(np.array(metadata.read_times(values), "datetime64[s]")).all()


def test_a_year_or_a_month_has_no_week():
    for text in ("2017", "2017-06"):
        with pytest.raises(ValueError, match=rf"time\[1\] = {text} names no day"):
            metadata.read_times(np.array(["NaT", text], f"datetime64[{'Y' if len(text) == 4 else 'M'}]"))


def test_stamps_of_tiles_of_orders_and_of_names_in_lower_case():
    for name, day in {
        "LC08_CU_012008_20210613_20210622_02_SR_B1": "2021-06-13",
        "LC080200392015080401T1_1": "2015-08-04",
        "lc08_l2sp_193026_20210613_20210622_02_t1": "2021-06-13",
        "LC08_193026_20210613": "2021-06-13",
        "1_2_LE07_193026_20050613": "2005-06-13",
    }.items():
        assert str(metadata.time_from_name(name)) == day
    for name in (
        "LC08_193026_12345678",
        "LC08_193026_202106130",
        "tile20150612093015",
        "sample20200101000000",
        "tile20190704123456",
    ):
        assert np.isnat(metadata.time_from_name(name))
    for text in ("    :  :     :  :  ", "0000:00:00 00:00:00", "1970:01:01 00:00:00", "\x00"):
        assert np.isnat(metadata.acquisition_time(date_tag=text, strict=True))


def test_a_missing_time_may_be_nan_of_any_float():
    for missing in (np.float32("nan"), np.float64("nan"), float("nan")):
        assert [str(t) for t in metadata.read_times(["2021-06-13", missing])] == ["2021-06-13", "NaT"]


def test_a_stamp_of_processing_is_no_acquisition():
    """Programs write it into the names of products, before or behind."""
    for name, time in {
        "LC08_L2SP_193026_20210613_20210622_02_T1_20240105T101010": "2021-06-13",
        "20240105T101010_LC08_193026_20210613": "2021-06-13",
        "LC80200392015216LGN00_20240105T101010": "2015-08-04",
        "LC080200392015080401T1-SC20240105T101010": "2015-08-04",
        "HLS.L30.T33UUP.2021164T100231.v2.0_clip_20240105T101010": "2021-06-13T10:02:31",
        "forest_20240105T101010": "2024-01-05T10:10:10",
    }.items():
        assert str(metadata.acquisition_time(name=name)) == time


def test_masked_numbers_are_missing_and_what_lies_below_the_mask_is_not_read():
    degrees = np.ma.MaskedArray([50.0, -9999.0, 10.0], [True, True, False])
    missing = [np.nan, np.nan, 10.0]
    np.testing.assert_array_equal(metadata.encode_degrees(degrees), metadata.encode_degrees(missing))
    for a, b in zip(metadata.encode(degrees, degrees, [None] * 3), metadata.encode(missing, missing, [None] * 3)):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(metadata.wrap_longitude(degrees + 360), missing)
    hours = metadata.encode_hour(np.ma.MaskedArray([3, 6], [True, False]))
    np.testing.assert_allclose(hours, [[0, 0], [1, 0]], atol=1e-6)
    time = np.ma.MaskedArray(np.array(["2017-06-13T06", "2018-01-01T06"], "datetime64[s]"), [True, False])
    for masked, none in zip(metadata.encode_time(time), metadata.encode_time(metadata.read_times([None, time[1]]))):
        np.testing.assert_array_equal(masked, none)
        assert not masked[0].any() and masked[1].any()
