"""Names of bands and products, and the coastal band that Landsat 4 to 7 lack."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from geomoe import landsat


def test_names_of_bands_and_products():
    assert [landsat.band_name(name, "landsat7") for name in ("B4", "SR_B4", "nir", "B7")] == ["SR_B5"] * 3 + ["SR_B7"]
    assert [landsat.band_name(name) for name in ("B4", "SR_B4", "red", "B04", "RED", "b4")] == ["SR_B4"] * 6
    names = ("LE07_L2SP_199026_20020802_20200916_02_T1", "LT51990261990", "LC09_L2SP", "S2A_MSIL2A")
    assert [landsat.sensor_of(name) for name in names] == ["landsat7", "landsat5", "landsat9", None]
    with pytest.raises(ValueError, match="unknown band 'coastal'; the bands of landsat5 are B1, B2.*or blue"):
        landsat.band_name("coastal", "landsat5")
    with pytest.raises(ValueError, match="sensor = 'spot' is not one of landsat4"):
        landsat.check_sensor("spot")


def test_each_band_has_one_number_and_one_colour():
    """Wavelengths order the bands of both instruments alike; TM's numbers are one less, but for B7."""
    colours = ("coastal", "blue", "green", "red", "nir", "swir1", "swir2")
    assert [landsat.band_name(colour) for colour in colours] == [f"SR_B{i}" for i in range(1, 8)]
    assert [landsat.band_name(f"B{n}", "landsat5") for n in (1, 2, 3, 4, 5, 7)] == [f"SR_B{i}" for i in range(2, 8)]
    assert [landsat.band_title(band) for band in ("SR_B1", "SR_B5")] == ["coastal aerosol", "near infrared"]
    assert landsat.sensor_bands("landsat7") == landsat.BANDS[1:] and landsat.sensor_bands("landsat9") == landsat.BANDS


@given(st.one_of(st.text(max_size=12), st.sampled_from(sorted(landsat.BAND_ALIASES))), st.sampled_from(landsat.SENSORS))
def test_any_text_is_a_band_of_the_sensor_or_a_clear_error(name, sensor):
    try:
        band = landsat.band_name(name, sensor)
    except ValueError as error:
        assert repr(name) in str(error) and sensor in str(error)
    else:
        assert band in landsat.sensor_bands(sensor)
        assert landsat.band_name(landsat.band_title(band), sensor) == band
        if not landsat.lacks_coastal(sensor):
            assert landsat.band_name(band, sensor) == band


@given(st.text(max_size=20))
def test_any_product_name_has_a_sensor_or_none(name):
    assert landsat.sensor_of(name) in (*landsat.SENSORS, None)


def test_the_coastal_band_gets_the_z_score_of_the_blue_one():
    six = np.random.default_rng(0).integers(7000, 15000, (5, 4, 6)).astype(np.uint16)
    six[0, 0] = 0
    seven = landsat.with_coastal(six)
    np.testing.assert_array_equal(seven[..., 1:], six)
    assert seven.dtype == np.uint16 and seven[0, 0, 0] == 0
    # 9405.194 +- 6016.344 is the coastal band of BigEarthNet-L, 9649.677 +- 6095.472 the blue one.
    expected = (six[..., 0].astype(float) - 9649.677) / 6095.472 * 6016.344 + 9405.194
    np.testing.assert_allclose(seven[..., 0][six[..., 0] > 0], expected[six[..., 0] > 0], atol=0.5001)


def test_a_dark_pixel_keeps_its_data_in_the_coastal_band():
    """The z-score of a blue 100 is that of a coastal -20, and of a blue 200 that of 78; 0 would stand for no data."""
    blue = np.array([0, 1, 100, 200])
    seven = landsat.with_coastal(np.stack([blue, *[np.full(4, 9000)] * 5], axis=-1))
    np.testing.assert_array_equal(seven[:, 0], [0, 1, 1, 78])


def test_names_that_are_no_products_have_no_sensor():
    assert landsat.sensor_of("lc7_0001") is landsat.sensor_of("le5") is None
    assert [landsat.sensor_of(name) for name in ("LC7_0012", "LC5_0012", "LC4_1", "LT8_1", "LC07_1", "LE08_1")] == [None] * 6
    assert landsat.sensor_of("lt05_l2sp_193026_20050613_20200902_02_t1") == "landsat5"


def test_products_behind_words_of_programs_and_users():
    for prefix in ("", "subset_0_of_", "clip-", "2_", "1_2_"):
        assert landsat.sensor_of(f"{prefix}LE07_193026_20050613") == "landsat7"
        name = f"{prefix}LT05_L1TP_193026_20050613_20200902_02_T1"
        assert (landsat.sensor_of(name), landsat.unit_of_name(name)) == ("landsat5", "level1_dn")
        assert landsat.unit_of_name(f"{prefix}HLS.L30.T33UUP.2021164T100231.v2.0") == "hls"
        with pytest.raises(ValueError, match="Sentinel-2"):
            landsat.check_name(f"{prefix}HLS.S30.T33UUP.2021164T100231.v2.0")
        with pytest.raises(ValueError, match="MSS"):
            landsat.check_name(f"{prefix}LM05_L1TP_193026_19850613_20200902_02_T2")
    assert landsat.sensor_of("lulc08_l2sp_193026_20210613") is landsat.unit_of_name("xLC08_L1TP_193026_20210613") is None


def test_names_as_users_write_them():
    for name, band in {"ultra blue": 0, "coastal_aerosol": 0, "SWIR 1": 5, "swir-2": 6, "Near_Infrared": 4, " red ": 3}.items():
        assert landsat.band_name(name) == landsat.BANDS[band]
    names = ["ultra blue", "blue", "green", "red", "NIR", "SWIR 1", "SWIR 2"]
    assert landsat.bands_of_file(names) == dict(zip(landsat.BANDS, range(7)))


def test_masked_numbers_are_no_data():
    masked = np.ma.MaskedArray([[20000] * 6, [14000] * 6], [[False] * 6, [True] * 6])
    assert (landsat.with_coastal(masked)[1] == 0).all() and (landsat.with_coastal(masked)[0, 1:] == 20000).all()
    dn = masked[:, 0]
    assert landsat.dn_to_reflectance(dn)[0] == pytest.approx(0.35) and np.isnan(landsat.dn_to_reflectance(dn)[1])
    assert np.isnan(landsat.level1_to_reflectance(dn, 30.0)[1]) and np.isfinite(landsat.level1_to_reflectance(dn, 30.0)[0])
    assert landsat.reflectance_to_dn(np.ma.MaskedArray([0.35, 0.2], [False, True])).tolist() == [20000, 0]


def test_numbers_from_0_in_order_are_positions():
    for names in (["0", "1", "2"], ["band_0", "band_1", "band_2"], ["Band 1", "Band 2", ""], ["01", "02", "03"]):
        assert landsat.bands_of_file(names) is None
    assert landsat.bands_of_file(["Band 4", "Band 3", "Band 2"]) == {"SR_B4": 0, "SR_B3": 1, "SR_B2": 2}
    for names in (["band_1", "band_0"], ["0", "1", "3"]):
        with pytest.raises(ValueError, match="numbers from 0 on do not say which they are; name them all"):
            landsat.bands_of_file(names)


@pytest.mark.parametrize("reducer", ["median", "mean", "min", "max", "first", "mosaic", "p5", "p50"])
def test_bands_of_earth_engines_reducers(reducer):
    names = [f"{band}_{reducer}" for band in (*landsat.BANDS, "ST_B10", "QA_PIXEL")]
    assert landsat.bands_of_file(names) == dict(zip(landsat.BANDS, range(7)))
    assert [landsat.is_other_band(name) for name in names] == [False] * 7 + [True] * 2
    assert landsat.band_name(f"SR_B4_{reducer}", "landsat5") == "SR_B5"


def test_what_is_no_reflectance_is_no_band():
    for reducer in ("stdDev", "variance", "count"):
        assert landsat.bands_of_file([f"{band}_{reducer}" for band in landsat.BANDS]) == {}
        assert not landsat.is_band(f"SR_B1_{reducer}") and not landsat.is_band(f"B1_{reducer}")
    with pytest.raises(ValueError, match="SR_B1 is named twice: SR_B1_min, SR_B1_max; name them all"):
        landsat.bands_of_file(["SR_B1_min", "SR_B1_max"])


def test_numbers_with_titles():
    """As USGS writes them, and users; thermal, panchromatic and cirrus are none of the model's."""
    usgs = ["Band 1 - Coastal aerosol", "Band 2 - Blue", "Band 3 - Green", "Band 4 - Red", "Band 5 - Near Infrared (NIR)"]
    usgs += ["Band 6 - Shortwave Infrared (SWIR) 1", "Band 7 - SWIR 2", "Band 8 - Panchromatic", "Band 10 - TIRS 1"]
    short = ["B1 coastal", "B2 blue", "B3: green", "B4_red", "B5 (NIR)", "SR_B6 swir1", "B7 SWIR 2", "B9 cirrus"]
    for names in (usgs, short):
        assert landsat.bands_of_file(names, "landsat8") == dict(zip(landsat.BANDS, range(7)))
        assert all(landsat.is_other_band(name) for name in names[7:])
    tm = ["Band 1 - Blue", "Band 4 - NIR", "Band 6 - Thermal", "Band 7 - SWIR 2"]
    assert landsat.bands_of_file(tm, "landsat7") == {"SR_B2": 0, "SR_B5": 1, "SR_B7": 3}
    with pytest.raises(ValueError, match="band 'Band 1 - Blue': blue of landsat8 is B2, not B1; name the sensor"):
        landsat.bands_of_file(tm, "landsat8")
    with pytest.raises(ValueError, match="near infrared of landsat8 is B5, not B8; name the sensor"):  # Sentinel-2's
        landsat.bands_of_file(["B2 blue", "B8 NIR"], "landsat8")


def test_a_thermal_band_6_is_of_landsat_4_to_7():
    for name in ("ST_B6", "X_ST_B6.TIF", "B6_VCID_1"):
        names = ["SR_B1", "SR_B2", name, "SR_B7"]
        assert landsat.bands_of_file(names, "landsat7") == {"SR_B2": 0, "SR_B3": 1, "SR_B7": 3}
        with pytest.raises(
            ValueError, match=f"{name} is a thermal band of Landsat 4, 5 or 7, not of landsat9; name the sensor"
        ):
            landsat.bands_of_file(names, "landsat9")


def test_a_band_without_a_name_before_numbered_ones_shifts_none():
    numbered = ["Band 1", "Band 2", "Band 3"]
    assert landsat.bands_of_file([None, *numbered]) == {"SR_B1": 1, "SR_B2": 2, "SR_B3": 3}
    assert landsat.bands_of_file([None, "Band 2", "Band 3"]) is None


def test_a_statistic_of_a_band_goes_behind_the_band():
    names = [*landsat.BANDS, "SR_B4_p90", "LC08_SR_B5_median.tif"]
    assert landsat.bands_of_file(names) == {band: i for i, band in enumerate(landsat.BANDS)}
    assert landsat.bands_of_file(["SR_B4_p90", "SR_B4"]) == {"SR_B4": 1}
    with pytest.raises(ValueError, match="band SR_B4 is named twice"):
        landsat.bands_of_file(["SR_B4_min", "SR_B4_max"])
