"""Digital numbers and reflectance, by the formulas of the products' handbooks."""

import numpy as np
import pytest

from geomoe import landsat


def test_collection_2_numbers_and_reflectance():
    dn = np.array([1, 7273, 20000, 43636, 65535], np.uint16)
    np.testing.assert_allclose(landsat.dn_to_reflectance(dn), dn * 0.0000275 - 0.2)
    np.testing.assert_array_equal(landsat.reflectance_to_dn(landsat.dn_to_reflectance(dn)), dn)
    assert np.isnan(landsat.dn_to_reflectance(np.array([0]))[0])
    np.testing.assert_array_equal(landsat.reflectance_to_dn(np.array([np.nan, -5.0, 5.0])), [0, 1, 65535])


def test_level_1_numbers_by_the_sun_of_each_image():
    dn = np.full((2, 3, 3, 7), 10000)
    dn[0, 0, 0] = 0
    plain = landsat.level1_to_reflectance(dn)
    np.testing.assert_allclose(plain[1], 0.1)
    assert np.isnan(plain[0, 0, 0]).all()
    np.testing.assert_allclose(landsat.level1_to_reflectance(dn, np.array([90.0, 30.0]))[:, 1, 1, 0], [0.1, 0.2])
    for elevation in (0.0, -3.0, 90.5):
        with pytest.raises(ValueError, match=f"sun_elevation = {elevation}"):
            landsat.level1_to_reflectance(dn, elevation)
