"""Images as users have them: units, bands, sizes, statistics; and where there are data."""

import warnings

import numpy as np
import pandas as pd
import pytest

from geomoe import landsat
from geomoe.data import preprocess, synthetic
from geomoe.data.preprocess import InputSpec, prepare
from geomoe.landsat import Statistics

STATISTICS = Statistics.published("bigearthnet_landsat")


@pytest.fixture(scope="module")
def images():
    """(6, 44, 44, 7) digital numbers, some without data."""
    images = np.stack([synthetic.scene(0, "test", i).image for i in range(6)])
    images[1, :9, :12] = 0
    return images


def prepared(images, size=44, **fields):
    return prepare(images, InputSpec(**fields), landsat.BANDS, size, STATISTICS)


def other_units(images):
    """The same ground in every unit, by the formulas of the products' handbooks, with their rounding."""
    reflectance = np.where(images == 0, np.nan, images * 0.0000275 - 0.2).astype(np.float32)
    level1 = (reflectance * np.sin(np.radians(50.0)) + 0.1) / 2.0e-5
    eight_bit = 1 + 254 * (np.clip(reflectance, 0.05, 0.45) - 0.05) / 0.4
    return {
        "reflectance": (reflectance, {}, 1e-3),
        "level1_dn": (np.nan_to_num(level1).round().astype(np.uint16), {"sun_elevation": 50.0}, 1e-3),
        "uint8": (np.nan_to_num(eight_bit).round().astype(np.uint8), {"uint8_range": (0.05, 0.45)}, 0.4 / 508 + 1e-6),
    }


@pytest.mark.parametrize("unit", ["reflectance", "level1_dn", "uint8"])
def test_every_unit_gives_the_same_z_scores(images, unit):
    values, options, step = other_units(images)[unit]
    z, valid = prepared(values, unit=unit, **options)
    dn = images.astype(np.float64)
    if unit == "uint8":  # holds reflectances of its range alone
        dn = np.where(images == 0, 0, np.clip(dn, (0.05 + 0.2) / 0.0000275, (0.45 + 0.2) / 0.0000275))
    expected = (dn - STATISTICS.mean) / STATISTICS.std
    np.testing.assert_allclose(z, expected, atol=step / 0.0000275 / min(STATISTICS.std) if unit == "uint8" else step)
    np.testing.assert_array_equal(valid, (images != 0).all(axis=-1))


def test_the_sun_and_the_range_of_bytes_matter(images):
    level1 = other_units(images)["level1_dn"][0][:2]
    low, high = (prepared(level1, unit="level1_dn", sun_elevation=e)[0] for e in (30.0, 60.0))
    assert (low[0] > high[0]).mean() > 0.9
    each, _ = prepared(level1, unit="level1_dn", sun_elevation=np.array([30.0, 60.0]))
    np.testing.assert_array_equal(each, [low[0], high[1]])
    later, _ = prepare(
        level1[1:],
        InputSpec(unit="level1_dn", sun_elevation=np.array([30.0, 60.0])).part(slice(1, 2)),
        landsat.BANDS,
        44,
        STATISTICS,
    )
    np.testing.assert_array_equal(later, high[1:])
    byte = np.full((1, 4, 4, 7), 128, np.uint8)
    dn = [preprocess.to_collection2(byte, InputSpec(unit="uint8", uint8_range=r))[0, 0, 0, 0] for r in ((0, 1), (0, 0.5))]
    np.testing.assert_allclose(dn, [(0.5 + 0.2) / 0.0000275, (0.25 + 0.2) / 0.0000275], rtol=1e-6)


def test_bands_go_by_name(images):
    expected, valid = prepared(images)
    names = ("swir2", "B1", "SR_B4", "blue", "nir", "B3", "SR_B6")
    z, valid_too = prepared(images[..., [6, 0, 3, 1, 4, 2, 5]], bands=names)
    np.testing.assert_array_equal(z, expected)
    np.testing.assert_array_equal(valid_too, valid)
    thermal = np.concatenate([images[..., :3], images[..., :1] * 0, images[..., 3:]], axis=-1)
    z, valid_too = prepared(thermal, bands=("SR_B1", "SR_B2", "SR_B3", "ST_B10", "SR_B4", "SR_B5", "SR_B6", "SR_B7"))
    np.testing.assert_array_equal(z, expected)
    np.testing.assert_array_equal(valid_too, valid)  # that the band beyond the model's is empty does not matter
    with pytest.raises(ValueError, match="unknown band 'nri'"):
        prepared(thermal, bands=("SR_B1", "SR_B2", "SR_B3", "nri", "SR_B4", "SR_B5", "SR_B6", "SR_B7"))
    six = dict(images=images[..., 1:], bands=("B2", "B3", "B4", "B5", "B6", "B7"))
    z, _ = prepared(**six)
    np.testing.assert_array_equal(z[..., 0], expected[..., 1])  # blue for coastal
    np.testing.assert_array_equal(z[..., 1:], expected[..., 1:])
    five = dict(images=images[..., 2:], bands=("B3", "B4", "B5", "B6", "B7"))
    with pytest.raises(ValueError, match=r"SR_B1 \(coastal aerosol\), SR_B2 \(blue\), which the images lack"):
        prepared(**five)
    z, _ = prepared(**five, fill_missing=True)
    assert not z[..., :2].any()  # the training mean
    np.testing.assert_array_equal(z[..., 2:], expected[..., 2:])
    with pytest.raises(ValueError, match="band SR_B4 is named twice"):
        prepared(images[..., :2], bands=("red", "B4"))


def test_sensors_without_the_coastal_band(images):
    """Landsat 7's numbers, colours and Landsat 8's names are one; the blue band stands in for the coastal."""
    six = images[..., 1:]
    z, _ = prepared(six, sensor="landsat7")
    expected, _ = prepared(images)
    np.testing.assert_array_equal(z[..., 1:], expected[..., 1:])
    np.testing.assert_array_equal(z[..., 0], expected[..., 1])
    colours = ("swir2", "nir", "blue", "green", "red", "swir1")
    shuffled, _ = prepared(six[..., [5, 3, 0, 1, 2, 4]], sensor="landsat5", bands=colours)
    np.testing.assert_array_equal(shuffled, z)
    with pytest.raises(ValueError, match=r"N, H, W, 6.*landsat7 has B1, B2, B3, B4, B5, B7"):
        prepared(images, sensor="landsat7")
    with pytest.raises(ValueError, match="needs SR_B7"):
        prepared(six, sensor="landsat7", bands=("B1", "B2", "B3", "B4", "B5", "B6"))
    with pytest.raises(ValueError, match="level-1 numbers of landsat7 have factors of each band's own"):
        InputSpec(sensor="landsat7", unit="level1_dn")
    with pytest.raises(ValueError, match="sensor = 'sentinel2'"):
        InputSpec(sensor="sentinel2")


def test_sizes_change_only_when_asked(images):
    with pytest.raises(ValueError, match="44 x 44 pixels for a model of 8 x 8; pass resize_mode='centre_crop'"):
        prepared(images, 8)
    whole, valid = prepared(images)
    z, cropped = prepared(images, 9, resize_mode="centre_crop")
    np.testing.assert_array_equal(z, whole[:, 17:26, 17:26])  # (44 - 9) // 2
    np.testing.assert_array_equal(cropped, valid[:, 17:26, 17:26])
    z, resized = prepared(images, 22, resize_mode="resize")
    np.testing.assert_allclose(z, whole.reshape(6, 22, 2, 22, 2, 7).mean(axis=(2, 4)), atol=2e-3)  # halves meet in the middle
    np.testing.assert_array_equal(resized, valid.reshape(6, 22, 2, 22, 2).all(axis=(2, 4)))


@pytest.mark.parametrize("shape, mode", [((22, 31), "resize"), ((31, 22), "centre_crop"), ((60, 50), "resize")])
def test_resizing_is_that_of_tensorflow(shape, mode):
    tf = pytest.importorskip("tensorflow")
    image = np.random.default_rng(0).uniform(0, 60000, (1, *shape, 7)).astype(np.float32)
    ours = preprocess.to_size(image, 40, mode)
    if mode == "resize":
        theirs = tf.image.resize(image, (40, 40), "bilinear").numpy()
    else:  # enlarged in its form, 56 x 40, before the crop
        theirs = tf.image.resize(image, (56, 40), "bilinear").numpy()[:, 8:48]
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_random_crops_stand_at_their_position():
    image = np.arange(6 * 7).reshape(1, 6, 7, 1)
    for position, (top, left) in (((0, 0), (0, 0)), ((0.999999, 0.999999), (2, 3)), ((0.5, 0.3), (1, 1)), (None, (1, 1))):
        crop = preprocess.to_size(image, 4, "random_crop", position)
        np.testing.assert_array_equal(crop, image[:, top : top + 4, left : left + 4])
    assert np.shares_memory(preprocess.to_size(image, 4, "centre_crop"), image)
    smaller = preprocess.to_size(image, 4, "random_resized_crop", (0, 0), 2)
    np.testing.assert_allclose(smaller, preprocess.resize(image[:, :2, :2], 4, 4))


def test_pixels_with_data():
    dn = np.array([[[1, 2], [0, 2]]], np.uint16)
    np.testing.assert_array_equal(preprocess.has_data(dn), [[True, False]])
    np.testing.assert_array_equal(preprocess.has_data(dn.astype(np.float32)), [[True, False]])
    reflectance = np.array([[[0.0, 0.1], [np.nan, 0.1]]], np.float32)
    np.testing.assert_array_equal(preprocess.has_data(reflectance, "reflectance"), [[True, False]])


def test_wrong_units_are_named(images):
    for values, options, message in (
        (images.astype(np.float32) * 2.75e-5, {}, "no digital numbers; for reflectance pass unit='reflectance'"),
        (images.astype(np.float32), dict(unit="reflectance"), "no reflectance"),
        (images, dict(unit="reflectance"), "needs float images"),
        (images, dict(unit="uint8"), "beyond the 0 to 255"),
        (images.astype(np.int32) - 20000, {}, "beyond the 0 to 65535"),
        (images.astype(np.int16) - 30000, dict(unit="hls"), "beyond the -9999 to 20000"),
        (np.full((1, 44, 44, 7), np.inf, np.float32), dict(unit="reflectance"), "infinite"),
        (images, dict(unit="level1_dn", sun_elevation=-3.0), "sun_elevation = -3.0"),
        (images.astype(str), {}, "must be numbers"),
        (images[0], {}, r"must be \(N, H, W, C\)"),
        ((images // 256).astype(np.uint8), {}, "uint8 images hold no Collection 2 digital numbers"),
        (np.moveaxis(images, -1, 1), {}, "layout='NCHW' says that the bands come first"),
        (images[..., :3], {}, r"must be \(N, H, W, 7\).*the model takes SR_B1"),
    ):
        with pytest.raises(ValueError, match=message):
            prepared(values, **options)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(unit="dn"), "unit = 'dn' is not one of collection2_dn"),
        (dict(resize_mode="random_crop"), "resize_mode = 'random_crop' is not one of exact, centre_crop, resize"),
        (dict(unit="collection2_dn", sun_elevation=40.0), "sun_elevation is for unit='level1_dn'"),
        (dict(unit="level1_dn", sun_elevation=np.ma.masked_equal([40.0, 0.0], 0)), "sun_elevation is masked for some"),
        (dict(bands={"red", "green"}), "must be a sequence of names, in their order"),
        (dict(bands=(4, 3, 2)), "must be a sequence of names, in their order"),
        (dict(bands="B1"), "sequence of names"),
        (dict(uint8_range=(1.0, 0.0)), "must rise"),
        (dict(statistics={"mean": [0.0], "std": [0.0]}), "std > 0"),
    ],
)
def test_descriptions_without_a_meaning_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        InputSpec(**fields)


def test_statistics_of_the_users_own(images):
    values = (images[..., ::-1] / 100).astype(np.float32)
    bands = landsat.BANDS[::-1]
    statistics = {"mean": list(range(7)), "std": list(range(1, 8)), "source": "here"}
    z, _ = prepared(values, bands=bands, statistics=statistics)
    np.testing.assert_allclose(z, ((values - np.arange(7)) / np.arange(1, 8))[..., ::-1], rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="statistics hold 2 bands where the images have 7"):
        prepared(values, statistics={"mean": [0, 0], "std": [1, 1]})


def test_images_far_from_the_training_data_raise_a_warning_with_both_numbers():
    z, valid = prepared(np.full((2, 44, 44, 7), 60, np.uint16))
    with pytest.warns(preprocess.StatisticsWarning, match=r"SR_B7: mean 60 where training had 7466 to 13727") as caught:
        preprocess.warn_if_far(z, valid, STATISTICS, landsat.BANDS, "uint8")
    assert "SR_B1: mean" not in str(caught[0].message)  # 1.55 standard deviations
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        preprocess.warn_if_far(z, np.zeros_like(valid), STATISTICS, landsat.BANDS, "uint8")
        preprocess.warn_if_far(z * 0 + 2.9, valid, STATISTICS, landsat.BANDS, "uint8")


@pytest.mark.parametrize("unit", ["collection1_sr", "hls"])
def test_surface_reflectance_times_10000(unit):
    values = np.array([[2500, -9999, 20000, 16000, -150]], np.int16)[..., None]
    dn = preprocess.to_collection2(values, InputSpec(unit=unit))[0, :, 0]
    np.testing.assert_allclose(dn, [0.45 / 2.75e-5, 0, 0, 0, 0.185 / 2.75e-5], rtol=1e-6)  # saturated is no measurement
    np.testing.assert_array_equal(preprocess.has_data(values, unit), [[True, False, False, False, True]])
    unsigned = np.array([[2500, 0]], np.uint16)[..., None]
    np.testing.assert_array_equal(preprocess.has_data(unsigned, unit), [[True, False]])
    floats = np.array([[2500.0, np.nan]], np.float32)[..., None]
    np.testing.assert_allclose(preprocess.to_collection2(floats, InputSpec(unit=unit))[0, :, 0], [0.45 / 2.75e-5, 0], rtol=1e-6)
    np.testing.assert_array_equal(preprocess.to_records(floats, InputSpec(unit=unit))[0, :, 0], [16364, 0])


def test_nan_is_no_data_in_every_unit(images):
    z, valid = prepared(images)
    floats = np.where(images == 0, np.nan, images).astype(np.float32)
    again, valid_too = prepared(floats)
    np.testing.assert_array_equal(again, z)
    np.testing.assert_array_equal(valid_too, valid)


def test_masked_arrays_hold_no_data_where_masked():
    values = np.full((2, 2, 7), 9000, np.uint16)
    mask = np.zeros(values.shape, bool)
    mask[0] = True
    for unit, dtype, empty in (("collection2_dn", np.uint16, 0), ("hls", np.int16, -9999), ("reflectance", np.float32, np.nan)):
        filled = preprocess.filled(np.ma.array(values.astype(dtype), mask=mask), unit)
        np.testing.assert_array_equal(filled, np.where(mask, np.array(empty, dtype), values.astype(dtype)))
        np.testing.assert_array_equal(preprocess.has_data(filled, unit), [[False, False], [True, True]])


@pytest.mark.parametrize("ground", [[0.12, 0.14, 0.18, 0.23, 0.30, 0.36, 0.31], [0.03, 0.03, 0.03, 0.02, 0.015, 0.01, 0.008]])
def test_reflectance_times_10000_taken_for_digital_numbers_raises_a_warning(ground):
    """The published mean lies less than 3 deviations above 0 in most bands: what tells is a reflectance that nothing has."""
    reflectance = np.clip(np.random.default_rng(0).normal(ground, 0.01, (2, 44, 44, 7)), 0.0001, 1)
    right, valid = prepared(np.rint((reflectance + 0.2) / 2.75e-5).astype(np.uint16))
    wrong, _ = prepared(np.rint(reflectance * 10000).astype(np.uint16))
    with pytest.warns(preprocess.StatisticsWarning, match="SR_B4: 100% of the pixels have a reflectance below -0.05"):
        preprocess.warn_if_far(wrong, valid, STATISTICS, landsat.BANDS, "collection2_dn")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        preprocess.warn_if_far(right, valid, STATISTICS, landsat.BANDS, "collection2_dn")


def test_reflectance_that_fill_became_is_no_data(images):
    """Digital number 0 scaled without a mask is -0.2; what reprojecting fills with is 0 in every band."""
    expected = prepared(images)
    scaled = (images * 0.0000275 - 0.2).astype(np.float32)
    warped = np.where(images == 0, 0, scaled)
    for other in (scaled, scaled.astype(np.float64), warped):
        z, valid = prepared(other, unit="reflectance")
        np.testing.assert_array_equal(valid, expected[1])
        np.testing.assert_allclose(z, expected[0], atol=2e-3)
    dark = scaled.copy()
    dark[0, 0, 0, :6] = 0  # one band's 0 is a number like any other
    assert prepared(dark, unit="reflectance")[1][0, 0, 0]


def test_bytes_that_were_divided_by_255_are_refused():
    grey = np.random.default_rng(0).integers(1, 255, (1, 44, 44, 7)).astype(np.uint8)
    with pytest.raises(ValueError, match="float values up to 0.99.* are no digital numbers; multiply by 255"):
        prepared((grey / 255).astype(np.float32), unit="uint8")
    np.testing.assert_array_equal(prepared(grey.astype(np.float32), unit="uint8")[0], prepared(grey, unit="uint8")[0])


@pytest.mark.parametrize("unit", ["hls", "collection1_sr"])
def test_what_reprojecting_fills_with_is_no_data_in_scaled_reflectance(unit):
    images = np.full((2, 2, 7), 1200, np.int16)
    images[0, 0], images[1, 1, 3] = 0, 0  # nothing; black in one band
    assert preprocess.has_data(images, unit).tolist() == [[False, True], [True, True]]
    assert preprocess.has_data(images[..., :1], unit).all()  # a single band may be black


def test_fractions_are_told_from_digital_numbers_even_below_zero():
    with pytest.raises(ValueError, match="no digital numbers; for reflectance pass unit='reflectance'"):
        preprocess.check_values(np.array([-0.03, 0.3], np.float32), "collection2_dn")
    with pytest.raises(ValueError, match="no digital numbers"):
        preprocess.check_values(np.array([-9998, 0.3], np.float32), "hls")


@pytest.mark.parametrize(
    "names", [("SR_B1", "SR_B2", "SR_B3", "SR_B4", "SR_B5", "SR_B7"), ("B7", "B5", "B4", "B3", "B2", "B1", "QA_PIXEL")]
)
@pytest.mark.parametrize("fill_missing", [False, True])
def test_numbers_of_landsat_5_need_its_name(images, names, fill_missing):
    """To Landsat 8 these would be all bands but B6, each of them another than it is."""
    six = images[..., [0, 1, 2, 3, 4, 5, 0][: len(names)]]
    with pytest.raises(ValueError, match="numbered as those of Landsat 4, 5 and 7; name the sensor: sensor='landsat5'"):
        prepared(six, bands=names, fill_missing=fill_missing)
    assert prepared(six, bands=names, fill_missing=True, sensor="landsat5")[0].shape[-1] == 7
    of_landsat8, _ = prepared(six, bands=names, fill_missing=True, sensor="landsat8")
    assert not of_landsat8[..., 5].any()
    with pytest.raises(ValueError, match="the model needs SR_B6"):
        prepared(six, bands=names, sensor="landsat9")


def test_colours_need_no_sensor(images):
    names = ("coastal", "blue", "green", "red", "nir", "swir2")
    assert prepared(images[..., [0, 1, 2, 3, 4, 6]], bands=names, fill_missing=True)[0].shape[-1] == 7


def test_names_of_bands_are_any_sequence():
    for bands in (np.array(landsat.BANDS), pd.Index(landsat.BANDS), pd.Series(landsat.BANDS)):
        assert InputSpec(bands=bands).bands == landsat.BANDS
    for bands in (np.array("SR_B1"), np.arange(7), 7):
        with pytest.raises(ValueError, match="must be a sequence of names, in their order"):
            InputSpec(bands=bands)


def test_a_range_of_bytes_is_two_numbers_for_bytes():
    for wrong in (None, (0, 1, 2), ("0", "1"), 1.0, (0.0, np.nan)):
        with pytest.raises(ValueError, match="uint8_range = .* must rise: two numbers"):
            InputSpec("uint8", uint8_range=wrong)
    for unit in ("collection2_dn", "reflectance"):
        with pytest.raises(ValueError, match=f"uint8_range is for unit='uint8'; with unit='{unit}' it would be ignored"):
            InputSpec(unit, uint8_range=(0, 0.4))
    with pytest.raises(ValueError, match="it would be ignored"):
        InputSpec(uint8_range=(0, 0.4)).known()
    assert InputSpec("hls", uint8_range=[0, 1]).uint8_range == (0.0, 1.0)


@pytest.mark.parametrize("sensor", ["landsat7", "landsat8", None])
def test_factors_of_level_1_go_by_the_sensors_names(images, sensor):
    numbers = landsat.band_numbers(sensor or "landsat8")
    bands = landsat.sensor_bands(sensor or "landsat8")
    pairs = [(1e-5 * (i + 1), -0.1) for i in range(len(numbers))]
    options = dict(unit="level1_dn", sensor=sensor, sun_elevation=50.0)
    expected, _ = prepared(images[..., -len(bands) :], level1_factors=dict(zip(bands, pairs)), **options)
    of_product = dict(zip(numbers, pairs)) | {"B8": (1.0, 0.0), "B10": (1.0, 0.0)}
    z, _ = prepared(images[..., -len(bands) :], level1_factors=of_product, **options)
    np.testing.assert_array_equal(z, expected)
