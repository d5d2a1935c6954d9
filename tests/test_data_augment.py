"""Random choices of training, image by image, by numbers that the test draws."""

import numpy as np
import pytest

from geomoe.data.augment import DRAWS, Augment, Preparation
from geomoe.landsat import Statistics

RAW = Statistics((0.0,) * 7, (1.0,) * 7, "none")
# Positions of a view's uniform numbers.
ROW, COLUMN, UPDOWN, LEFTRIGHT, ROTATION, SIDE, COASTAL = range(7)


def run(images, draws=None, size=6, resize_mode="centre_crop", statistics=RAW, **options):
    draws = np.full((len(images), DRAWS), 0.5, np.float32) if draws is None else draws
    values = np.array([image.tobytes() for image in images], object)
    shapes = np.array([image.shape for image in images])
    return Preparation(size, resize_mode, statistics, **options)(values, shapes, draws)


def uniform(count, seed=0):
    return np.random.default_rng(seed).random((count, DRAWS)).astype(np.float32)


@pytest.fixture
def image():
    return np.random.default_rng(1).integers(1, 60000, (6, 6, 7)).astype(np.uint16)


def seen(outputs, candidates):
    """Which candidates the outputs are; each must be one."""
    hits = [[k for k, candidate in enumerate(candidates) if np.array_equal(candidate, out)] for out in outputs]
    assert all(hits), "an output that is none of the candidates"
    return {hit[0] for hit in hits}


def test_flips_flip_and_rot90_rotates(image):
    flips = [image, image[::-1], image[:, ::-1], image[::-1, ::-1]]
    rotations = [np.rot90(image, k) for k in range(4)]
    draws = uniform(64)
    assert seen(run([image] * 64, draws, augment=Augment(flips=True))[0], flips) == {0, 1, 2, 3}
    assert seen(run([image] * 64, draws, augment=Augment(rot90=True))[0], rotations) == {0, 1, 2, 3}
    eight = [np.rot90(start, k) for start in (image, image[::-1]) for k in range(4)]
    assert seen(run([image] * 64, draws, augment=Augment(flips=True, rot90=True))[0], eight) == set(range(8))
    assert seen(run([image] * 64, draws)[0], [image]) == {0}


def test_what_is_valid_moves_with_the_pixels(image):
    image[:2, :1] = 0
    images, valid = run([image] * 64, uniform(64), augment=Augment(flips=True, rot90=True))
    np.testing.assert_array_equal(valid, images.all(axis=-1))
    image[4, 4, 3] = 0  # one band is enough
    assert not run([image])[1][0, 4, 4]


def test_random_crops_cover_the_image(image):
    draws = np.full((3, DRAWS), 0.5, np.float32)
    draws[:, [ROW, COLUMN]] = [[0, 0], [0.99999, 0], [0.34, 0.67]]
    crops, _ = run([image] * 3, draws, size=4, resize_mode="random_crop")
    for crop, (top, left) in zip(crops, [(0, 0), (2, 0), (1, 2)]):
        np.testing.assert_array_equal(crop, image[top : top + 4, left : left + 4])


def test_resized_crops_have_the_sides_asked_for():
    """A ramp of one a pixel, enlarged from side s to 40, rises by s / 40 a pixel."""
    ramp = np.tile(np.arange(1, 45, dtype=np.uint16)[:, None, None] * 100, (1, 44, 7))
    draws = np.full((5, DRAWS), 0.5, np.float32)
    draws[:, SIDE] = [0, 0.2, 0.5, 0.8, 0.9999]
    for sides, expected in (((22, 30), [22, 23, 26, 29, 30]), ((40, 40), [40] * 5), ((30, 90), [30, 33, 37, 42, 44])):
        options = dict(size=40, resize_mode="random_resized_crop", augment=Augment(crop_sides=sides))
        crops, _ = run([ramp] * 5, draws, **options)
        np.testing.assert_allclose(np.diff(crops[:, :, 20, 0], axis=1)[:, 20] / 100 * 40, expected, rtol=1e-3)
    plain, _ = run([ramp] * 5, draws, size=40, resize_mode="random_resized_crop")
    np.testing.assert_array_equal(plain, run([ramp] * 5, draws, size=40, resize_mode="random_crop")[0])


def test_no_pixel_without_data_is_mixed_into_a_valid_one():
    image = np.full((44, 44, 7), 1000, np.uint16)
    image[:10] = 0
    options = dict(size=40, resize_mode="random_resized_crop", augment=Augment(crop_sides=(20, 44)))
    images, valid = run([image] * 50, uniform(50), **options)
    assert valid.any() and not valid.all()
    np.testing.assert_allclose(images[valid], 1000, rtol=1e-3)
    assert (images[~valid] < 999.5).all()


def test_z_scores_and_clipping(image):
    mean, std = np.arange(100, 800, 100.0), np.arange(10, 80, 10.0)
    statistics = Statistics(tuple(mean), tuple(std), "test")
    z, _ = run([image], statistics=statistics)
    np.testing.assert_allclose(z[0], (image - mean) / std, rtol=1e-5)
    z, _ = run([image], statistics=statistics, clip=(20000, 30000))
    np.testing.assert_allclose(z[0], (np.clip(image, 20000, 30000) - mean) / std, rtol=1e-5)


def test_the_blue_band_replaces_the_coastal_one_as_often_as_asked(image):
    statistics = Statistics((5.0,) * 7, tuple(range(1, 8)), "test")
    z, _ = run([image] * 400, uniform(400), statistics=statistics, augment=Augment(coastal_dropout=0.3))
    dropped = (z[..., 0] == z[..., 1]).all(axis=(1, 2))
    assert 0.2 < dropped.mean() < 0.4
    kept, _ = run([image], statistics=statistics)
    np.testing.assert_array_equal(z[dropped][0][..., 1:], kept[0][..., 1:])
    np.testing.assert_array_equal(z[~dropped][0], kept[0])
    assert not (run([image] * 50, uniform(50), augment=Augment(metadata_dropout=1.0))[0] != image).any()
    draws = np.where(np.arange(DRAWS) == COASTAL, [[0.1], [0.9]], [[0.9], [0.1]]).astype(np.float32)
    z, _ = run([image] * 2, draws, statistics=statistics, augment=Augment(coastal_dropout=0.3))
    assert (z[..., 0] == z[..., 1]).all(axis=(1, 2)).tolist() == [True, False]  # by a number of its own


def test_jitter_moves_whole_bands_by_the_standard_deviation_asked_for(image):
    statistics = Statistics((30000.0,) * 7, (9000.0,) * 7, "test")
    plain, _ = run([image], statistics=statistics)
    moved, _ = run([image] * 500, uniform(500), statistics=statistics, augment=Augment(band_jitter=0.1))
    x = plain[0].reshape(-1, 7).astype(np.float64)
    y = moved.reshape(500, -1, 7).astype(np.float64)
    centred = x - x.mean(axis=0)
    gain = (centred * y).sum(axis=1) / (centred**2).sum(axis=0)
    offset = y.mean(axis=1) - gain * x.mean(axis=0)
    np.testing.assert_allclose(gain[:, None] * x + offset[:, None], y, atol=1e-3)
    np.testing.assert_allclose([gain.mean(), gain.std()], [1, 0.1], atol=0.01)
    np.testing.assert_allclose([offset.mean(), offset.std()], [0, 0.1 * 2**0.5], atol=0.01)
    correlation = np.corrcoef(offset.T)[0, 1]  # half of the variance is common to all bands
    assert 0.4 < correlation < 0.6


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(metadata_dropout=1.5), "metadata_dropout = 1.5"),
        (dict(random_metadata=1.1), "random_metadata = 1.1"),
        (dict(coastal_dropout=-0.1), "coastal_dropout = -0.1"),
        (dict(band_jitter=1.0), "band_jitter = 1.0"),
        (dict(crop_sides=(30, 20)), "crop_sides = "),
        (dict(crop_sides=(30,)), "crop_sides = "),
    ],
)
def test_choices_without_a_meaning_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Augment(**options)


def test_the_jitter_of_bands_has_draws_of_its_own():
    draws = uniform(3)
    other = draws.copy()
    other[:, 6] = 0.9  # that of the coastal dropout
    rng = np.random.default_rng(0)
    images = [rng.integers(7000, 20000, (6, 6, 7)).astype(np.uint16) for _ in range(3)]
    one, two = (run(images, each, augment=Augment(band_jitter=0.1))[0] for each in (draws, other))
    np.testing.assert_array_equal(one, two)
