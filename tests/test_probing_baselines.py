"""Features without training, by their definitions."""

import numpy as np

from geomoe.probing import GaussianConvFeatures, RandomConvFeatures, band_statistics


def test_band_statistics_leave_out_pixels_without_data():
    images = np.random.default_rng(0).standard_normal((2, 5, 5, 3))
    valid = np.ones((2, 5, 5), bool)
    valid[0, :2] = False
    out = band_statistics(images, valid)
    wanted = images[0, 2:].reshape(-1, 3)
    np.testing.assert_allclose(out[0], [*wanted.mean(axis=0), *wanted.std(axis=0)], atol=1e-6)
    assert not band_statistics(images, valid & False).any()


def test_random_convolutional_features_follow_their_definition():
    rng = np.random.default_rng(0)
    images = rng.standard_normal((20, 9, 9, 2)).astype(np.float32).cumsum(axis=1)
    features = RandomConvFeatures(images, num_filters=12, size=3, seed=1)
    out = features(images[:3])
    assert out.shape == (3, 12) and (out >= 0).all()
    kernels, bias = np.asarray(features._kernels), np.asarray(features._bias)
    windows = np.lib.stride_tricks.sliding_window_view(images[:3], (3, 3), axis=(1, 2)).transpose(0, 1, 2, 4, 5, 3)
    response = np.einsum("nyxabc,abck->nyxk", windows, kernels) + bias
    np.testing.assert_allclose(out, np.maximum(response, 0).mean(axis=(1, 2)), rtol=1e-3, atol=1e-5)
    # whitened: over the data, responses have about the same size in every direction
    assert response.std(axis=(0, 1, 2)).max() < 4 * response.std(axis=(0, 1, 2)).min()
    # the epsilon is relative to the variances, so that a change of unit changes nothing
    scaled = RandomConvFeatures(1000 * images, num_filters=12, size=3, seed=1)
    np.testing.assert_allclose(scaled(1000 * images[:3]), out, rtol=1e-3, atol=1e-4)


def test_gaussian_filters_are_rectified_both_ways():
    """Against a loop, with pixels without data at one edge."""
    images = np.random.default_rng(0).standard_normal((2, 7, 6, 3)).astype(np.float32)
    valid = np.ones((2, 7, 6), bool)
    valid[1, :, :2] = False
    features = GaussianConvFeatures(3, num_filters=5, size=3, bias=-0.5, seed=1)
    filters = np.random.default_rng(1).standard_normal((3, 3, 3, 5))
    wanted = []
    for image, first in zip(images, (0, 2)):
        places = [image[y : y + 3, x : x + 3] for y in range(5) for x in range(first, 4)]
        response = np.array([[(place * filters[..., k]).sum() - 0.5 for k in range(5)] for place in places])
        wanted.append([*np.maximum(response, 0).mean(axis=0), *np.maximum(-response, 0).mean(axis=0)])
    np.testing.assert_allclose(features(images, valid), wanted, rtol=1e-4)
    assert not features(images, valid & False).any()
