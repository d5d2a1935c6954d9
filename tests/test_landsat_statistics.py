"""The one z-score."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import on_scale

from geomoe.landsat import SCALES, STATISTICS, Moments, Statistics

PUBLISHED = {"bigearthnet_landsat": (9405.194, 3130.776), "eurosat_landsat": (8515.321, 4044.071)}  # first mean, last std


@pytest.mark.parametrize("dataset", STATISTICS)
def test_published_statistics_are_those_of_their_dataset(dataset):
    statistics = Statistics.published(dataset)
    assert (statistics.mean[0], statistics.std[-1]) == PUBLISHED[dataset]
    assert len(statistics.mean) == len(statistics.std) == 7 and statistics.source == f"published:{dataset}"


def test_z_scores_and_back():
    statistics = Statistics((100.0, 1000.0), (10.0, 50.0), "test")
    images = np.array([[[110, 900], [95, 1025]]], np.float32)
    z = statistics.normalize(images)
    np.testing.assert_array_equal(z, np.array([[[1, -2], [-0.5, 0.5]]], np.float32))
    assert z.dtype == np.float32
    np.testing.assert_array_equal(statistics.unnormalize(z), images)
    np.testing.assert_array_equal(statistics.normalize(jnp.asarray(images)), z)
    assert statistics.normalize(images, out=images) is images
    np.testing.assert_array_equal(images, z)
    np.testing.assert_array_equal(statistics.select([1]).normalize(np.array([[1050.0]])), [[1.0]])


def test_z_scores_of_the_logarithm_of_reflectance():
    """Reflectance 0.1, 0.5 and 0.9 are ln(0.2), ln(0.6) and ln(1); nothing is below ln(0.02)."""
    statistics = Statistics((-1.5, 0.0), (0.5, 2.0), "by hand", "collection2_dn", "log")
    reflectance = np.array([[[0.1, 0.5], [0.9, -0.2], [-0.1, -0.08]]])
    images = ((reflectance + 0.2) / 0.0000275).astype(np.float32)
    dark = -3.912023
    expected = [[[(-1.609438 + 1.5) / 0.5, -0.510826 / 2], [1.5 / 0.5, dark / 2], [(dark + 1.5) / 0.5, dark / 2]]]
    z = statistics.normalize(images)
    np.testing.assert_allclose(z, expected, atol=2e-5)
    assert z.dtype == np.float32
    np.testing.assert_allclose(jax.jit(statistics.normalize)(images), z, atol=1e-5)
    back = np.where(reflectance < -0.08, -0.08, reflectance)
    for values in (statistics.unnormalize(z), jax.jit(statistics.unnormalize)(z)):
        np.testing.assert_allclose(values * 0.0000275 - 0.2, back, atol=1e-5)
    np.testing.assert_array_equal(statistics.normalize(images, out=np.empty_like(images)), z)
    assert statistics.normalize(images, out=images) is images
    np.testing.assert_array_equal(images, z)
    assert statistics.select([1]) == Statistics((0.0,), (2.0,), "by hand", "collection2_dn", "log")
    assert Statistics.of(json.loads(json.dumps(dict(statistics)))) == statistics and dict(statistics)["scale"] == "log"
    np.testing.assert_allclose(statistics.values_at(1) * 0.0000275 - 0.2, np.exp([-1, 2]) - 0.1, rtol=1e-5)
    positive = dataclasses.replace(statistics, mean=(1.5, 0.0))
    linear = dataclasses.replace(positive, scale="linear")
    assert "scale" not in linear and linear.digest != positive.digest
    with pytest.raises(ValueError, match="no band of an image has a mean of -1.5; those of the logarithm"):
        Statistics((9000.0, -1.5), (3000.0, 0.5), "no scale")
    for change, message in (
        ({"unit": ""}, "scale = 'log' is of reflectance; say unit"),
        ({"scale": "sqrt"}, "not 'linear' or 'log'"),
    ):
        with pytest.raises(ValueError, match=message):
            Statistics.of({**dict(statistics), **change})


def test_writing_in_place_gives_the_same_bits():
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 65535, (3, 5, 4, 7)).astype(np.float32)
    statistics = Statistics.published("eurosat_landsat")
    expected = statistics.normalize(images)
    np.testing.assert_array_equal(statistics.normalize(images, out=np.empty_like(images)), expected)
    with pytest.raises(ValueError, match="contiguous"):
        statistics.normalize(images, out=np.empty_like(images)[:, ::2])


def test_they_are_a_mapping_and_survive_json():
    statistics = Statistics((1, 2), (3, 4), "here")
    assert Statistics.of(json.loads(json.dumps(dict(statistics)))) == statistics
    assert Statistics.of(statistics) is statistics and set(statistics) == {"mean", "std", "source"}
    with pytest.raises(KeyError):
        statistics["median"]
    for mean, std in (((1, 2), (3,)), ((1, 2), (3, 0)), ((1,), (float("nan"),))):
        with pytest.raises(ValueError, match="statistics of bad"):
            Statistics(mean, std, "bad")
    with pytest.raises(ValueError, match="no published statistics of 'mnist'"):
        Statistics.published("mnist")


def test_what_is_no_statistics_is_named():
    for values, message in (
        ({"std": [1.0]}, "statistics lack 'mean'"),
        ({"mean": [np.nan], "std": [1.0]}, "must match, be finite"),
        ({"mean": [0.0], "std": [np.inf]}, "must match, be finite"),
        ({"mean": [0.0], "std": [0.0]}, "and std > 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Statistics.of(values)


@pytest.mark.parametrize("scale", SCALES)
def test_statistics_follow_from_parts_of_the_pixels(scale):
    """Of some bands at once: those without a pixel have no statistics of their own."""
    pixels = np.random.default_rng(0).integers(7000, 60000, (500, 7)).astype(np.uint16)
    moments, values = Moments(8, scale), on_scale(pixels, scale)
    for part in np.split(pixels, [3, 3, 200]):
        moments.add(part[:, :4], slice(4))
        moments.add(part[:, 4:], [4, 5, 7])
    statistics = moments.statistics("here")
    np.testing.assert_allclose(statistics.mean, [*values.mean(axis=0)[:6], 0, values.mean(axis=0)[6]], rtol=1e-12)
    np.testing.assert_allclose(statistics.std, [*values.std(axis=0)[:6], 1, values.std(axis=0)[6]], rtol=1e-9)
    assert statistics.source == "here" and statistics.scale == scale and statistics.unit == "collection2_dn"
    pixels[:, 2] = 12345
    flat = Moments(7)
    flat.add(pixels)
    with pytest.raises(ValueError, match="one number, 12345, in band 3"):
        flat.statistics("here")


def test_statistics_say_their_unit_where_they_have_one():
    plain, dn = Statistics((1.0,), (2.0,), "here"), Statistics((1.0,), (2.0,), "here", "collection2_dn")
    assert dict(dn) == {**dict(plain), "unit": "collection2_dn"} and "unit" not in plain and Statistics.of(dict(dn)) == dn
    assert plain.of_collection2() == dn and plain.digest == dn.digest != Statistics((1.0,), (3.0,), "here").digest
    assert dn.select([0]) == dn and Statistics.published("eurosat_landsat").unit == "collection2_dn"
    for values, message in (
        ({"mean": 5.0, "std": 2.0}, "are sequences"),
        ({**dict(plain), "unit": "hls"}, "unit = 'hls' is not"),
    ):
        with pytest.raises(ValueError, match=message):
            Statistics.of(values)


def test_axes_of_length_1_are_those_of_keepdims_and_others_are_named():
    pixels = np.random.default_rng(0).integers(7000, 20000, (4, 5, 6, 7))
    kept = {"mean": pixels.mean((0, 1, 2), keepdims=True), "std": pixels.std((0, 1, 2), keepdims=True)[0, 0]}
    plain = {"mean": pixels.mean((0, 1, 2)), "std": pixels.std((0, 1, 2))}
    assert dict(Statistics.of(kept)) == dict(Statistics.of(plain)) and len(Statistics.of(kept).mean) == 7
    for change, message in (
        ({"mean": pixels.mean((1, 2))}, r"mean of statistics of unnamed must be \(C,\), one number a band, got \(4, 7\)"),
        ({"std": np.ones((7, 1))}, r"std of statistics of unnamed must be \(C,\), one number a band, got \(7, 1\)"),
        ({"std": ["a"]}, r"std of statistics of unnamed must be numbers, one a band, got \['a'\]"),
        ({"mean": {"SR_B1": 9000.0}}, "mean of statistics of unnamed must be numbers, one a band, got {'SR_B1'"),
        ({"mean": np.ma.MaskedArray([9000.0] * 7, [True] + [False] * 6)}, "must match, be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            Statistics.of({**plain, **change})
    with pytest.raises(ValueError, match=r"mean of statistics of by hand must be \(C,\), one number a band, got \(\)"):
        Statistics(9000.0, 3000.0, "by hand")
