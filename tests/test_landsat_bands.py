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
