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
    assert not landsat.is_cloud(np.array([3 << 12]), "BQA").any()  # cirrus
    with pytest.raises(ValueError, match="kind = 'SCL'"):
        landsat.is_cloud(np.zeros(3, int), "SCL")


def test_each_class_by_itself():
    bits = 1 << np.arange(16)
    for bit, name in enumerate(landsat.QUALITY_CLASSES):
        np.testing.assert_array_equal(np.flatnonzero(landsat.is_flagged(bits, "QA_PIXEL", (name,))), [bit])
    # Collection 1, from the table of LSDS-1873: 2720 is clear, 2800 cloud of high confidence, 2976 its shadow, 3744 snow.
    values = np.array([1, 2720, 2800, 2976, 3744, 6816])
    expected = {"fill": [0], "cloud": [2], "shadow": [3], "snow": [4], "cirrus": [5]}
    for name, rows in expected.items():
        np.testing.assert_array_equal(np.flatnonzero(landsat.is_flagged(values, "BQA_C1", (name,))), rows)
    np.testing.assert_array_equal(landsat.is_cloud(values, "BQA_C1"), [False, False, True, True, False, True])
    assert not landsat.is_flagged(bits, "QA_PIXEL", ()).any()
    with pytest.raises(ValueError, match="'shadow' is no class that a quality band BQA tells"):
        landsat.is_flagged(bits, "BQA", ("shadow",))


def test_what_is_masked_or_nan_is_fill():
    masked = np.ma.MaskedArray([0, 8], [True, False])
    for qa in (masked, np.array([np.nan, 8.0], np.float32)):
        assert landsat.is_flagged(qa, "QA_PIXEL", ("fill",)).tolist() == [True, False]
        assert landsat.is_cloud(qa, "QA_PIXEL").tolist() == [False, True]


def test_one_class_is_no_sequence_of_classes():
    with pytest.raises(ValueError, match=r"classes = 'cloud' must be a sequence of classes, as \('cloud',\)"):
        landsat.is_flagged(np.array([8]), "QA_PIXEL", "cloud")
