"""Class names, as the datasets count them."""

from geomoe import landsat


def test_nomenclatures():
    assert len(landsat.BIGEARTHNET_CLASSES_19) == 19 and len(set(landsat.BIGEARTHNET_CLASSES_43)) == 43
    assert set(landsat.CORINE_TO_19) | set(landsat.BIGEARTHNET_DROPPED) == set(landsat.BIGEARTHNET_CLASSES_43)
    assert not set(landsat.CORINE_TO_19) & set(landsat.BIGEARTHNET_DROPPED)
    assert landsat.CORINE_TO_19["Sea and ocean"] == landsat.BIGEARTHNET_CLASSES_19[18] == "Marine waters"
    assert tuple(sorted(landsat.EUROSAT_CLASSES)) == landsat.EUROSAT_CLASSES and len(landsat.EUROSAT_CLASSES) == 10
