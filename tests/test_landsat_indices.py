"""Spectral indices, the same for numpy and jax."""

import jax
import jax.numpy as jnp
import numpy as np

from geomoe import landsat


def test_indices_of_plants_water_and_burns():
    assert landsat.INDICES == {"ndvi": ("SR_B5", "SR_B4"), "ndwi": ("SR_B3", "SR_B5"), "nbr": ("SR_B5", "SR_B7")}
    reflectance = np.array([0.02, 0.03, 0.06, 0.05, 0.45, 0.2, 0.15])
    expected = [(0.45 - 0.05) / 0.5, (0.06 - 0.45) / 0.51, (0.45 - 0.15) / 0.6]
    np.testing.assert_allclose(landsat.spectral_indices(reflectance), expected)
    np.testing.assert_allclose(landsat.spectral_indices(np.stack([reflectance] * 3)[:, None]), [[expected]] * 3)


def test_dark_and_negative_reflectances_count_as_the_floor():
    dark = np.array([0, 0, 0.001, -0.1, 0.02, 0, 0.06])
    np.testing.assert_allclose(landsat.spectral_indices(dark), [0, 0, (0.02 - 0.06) / 0.08])
    random = np.random.default_rng(0).normal(0, 0.5, (500, 7))
    assert np.abs(landsat.spectral_indices(random)).max() <= 1


def test_jax_arrays_give_the_same_under_jit_and_have_gradients():
    reflectance = np.random.default_rng(0).uniform(-0.1, 0.6, (4, 5, 7)).astype(np.float32)
    ours = landsat.spectral_indices(reflectance)
    theirs = jax.jit(landsat.spectral_indices)(jnp.asarray(reflectance))
    assert isinstance(theirs, jax.Array) and ours.dtype == theirs.dtype == np.float32
    np.testing.assert_allclose(theirs, ours, atol=1e-6)
    slope = jax.grad(lambda x: landsat.spectral_indices(x)[..., 0].sum())(jnp.full((7,), 0.2))
    np.testing.assert_allclose(slope, [0, 0, 0, -2.5, 2.5, 0, 0], rtol=1e-5)  # -+ 2 b / (a + b)^2


def test_what_is_masked_or_nan_has_no_index():
    """Also where the number below the mask would have one; of a single band that is masked, the indices of that band."""
    reflectance = np.array([[0.1] * 7, [0.3, 0.3, 0.3, 0.3, 0.6, 0.3, 0.3]], np.float32)
    for masked in (np.ma.masked_less(reflectance, 0.2), np.where(reflectance < 0.2, np.nan, reflectance)):
        found = landsat.spectral_indices(masked)
        assert type(found) is np.ndarray and found.dtype == np.float32
        np.testing.assert_allclose(found, [[np.nan] * 3, [1 / 3, -1 / 3, 1 / 3]], rtol=1e-6)
    red = np.ma.MaskedArray(reflectance[1], np.arange(7) == 3)
    assert np.isnan(landsat.spectral_indices(red)).tolist() == [True, False, False]
    assert landsat.spectral_indices(np.ma.MaskedArray([0, 0, 0, 0, 1, 0, 0], [True] + [False] * 6))[0] > 0.9
