"""Clouds in quality bands."""

import numpy as np
import pytest

from geomoe import landsat


def test_each_bit_of_qa_pixel():
    """LSDS-1619: 0 fill, 1 dilated cloud, 2 cirrus, 3 cloud, 4 cloud shadow, 5 snow, 6 clear, 7 water, then confidences."""
    bits = 1 << np.arange(16)
    np.testing.assert_array_equal(np.flatnonzero(landsat.is_cloud(bits, "QA_PIXEL")), [1, 2, 3, 4])
    assert not landsat.is_cloud(np.array([0, 21824]), "QA_PIXEL").any()  # 21824: clear land, low confidences of all else


def test_the_confidence_of_bqa():
    np.testing.assert_array_equal(landsat.is_cloud(np.arange(4) << 14, "BQA"), [False, False, False, True])
    with pytest.raises(ValueError, match="kind = 'SCL'"):
        landsat.is_cloud(np.zeros(3, int), "SCL")
