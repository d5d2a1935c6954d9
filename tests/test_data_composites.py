"""RGB composites."""

import numpy as np
import pytest
from conftest import LOGARITHM, on_scale

from geomoe.data.composites import FALSE_COLOUR, TRUE_COLOUR, composite, side_by_side
from geomoe.landsat import Statistics
from geomoe.models.reconstruction import Reconstruction

STATISTICS = Statistics.published("bigearthnet_landsat")


@pytest.mark.parametrize("statistics", [STATISTICS, LOGARITHM], ids=lambda statistics: statistics.scale)
def test_composites_show_the_bands_at_their_brightness(statistics):
    reflectance = np.array([0.0, 0.05, 0.1, 0.2, 0.4, 0.3, 0.3])
    dn = np.tile((reflectance + 0.2) / 0.0000275, (1, 2, 2, 1))
    dn[0, 0, 0] = 0
    z = ((on_scale(dn, statistics.scale) - statistics.mean) / statistics.std).astype(np.float32)
    for colours, bands, brightest in ((TRUE_COLOUR, [3, 2, 1], 0.3), (FALSE_COLOUR, [4, 3, 2], 0.5)):
        rgb = composite(z, dict(statistics), colours)
        np.testing.assert_allclose(rgb[0, 1, 1], (reflectance[bands] / brightest) ** (1 / 1.6), atol=1e-4)
        assert not rgb[0, 0, 0].any()
    assert composite(z * 0 + 9, statistics).max() == 1


def test_original_masked_and_reconstruction_stand_side_by_side():
    rng = np.random.default_rng(0)
    original, reconstruction = rng.normal(0, 0.3, (2, 3, 8, 8, 7)).astype(np.float32)
    mask = np.zeros((3, 8, 8), np.float32)
    mask[:, :4] = 1
    fields = {"original": original, "reconstruction": reconstruction, "mask": mask}
    result = Reconstruction(**{name: fields.get(name) for name in Reconstruction._fields})
    image = side_by_side(result, STATISTICS)
    assert image.shape == (3, 8, 28, 3) and image.dtype == np.float32
    np.testing.assert_allclose(image[:, :, :8], composite(original, STATISTICS), rtol=1e-6)
    np.testing.assert_allclose(image[:, :, 20:], composite(reconstruction, STATISTICS), rtol=1e-6)
    assert (image[:, :4, 10:18] == 0.5).all() and (image[:, :, 8:10] == 1).all()
    np.testing.assert_allclose(image[:, 4:, 10:18], image[:, 4:, :8])
