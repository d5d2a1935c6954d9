"""Features, labels and targets of prepared splits."""

import numpy as np
import pytest

from geomoe import data, metadata
from geomoe.landsat import Statistics
from geomoe.pretrained import embed_in_batches
from geomoe.probing import band_statistics, embed_split, load_images

NAME = "synthetic_landsat/small"


@pytest.fixture(scope="module")
def options(synthetic_dir):
    return dict(data_dir=synthetic_dir, resize_mode="centre_crop")


def test_a_split_is_embedded_in_its_order_with_labels_and_targets(encoder, options):
    features = embed_split({"a": encoder}, NAME, "test", pool=("mean", "metadata"), batch_size=20, **options)
    images = load_images(encoder, NAME, "test", batch_size=16, **options)
    fields = [images[name] for name in metadata.FIELDS]
    assert len(images["image"]) == 48
    expected = np.concatenate([embed_in_batches(encoder, images["image"], fields), *fields], axis=1)
    np.testing.assert_allclose(features.sets["a"], expected, atol=2e-5)
    np.testing.assert_array_equal(features.labels, images["labels"])
    np.testing.assert_allclose(features.sets["band statistics"], band_statistics(images["image"], images["valid"]), atol=1e-5)
    np.testing.assert_allclose(metadata.encode_degrees(features.targets["latitude"]), images["lat"], atol=1e-6)
    np.testing.assert_allclose(metadata.encode_degrees(features.targets["longitude"]), images["lon"], atol=1e-6)
    assert (load_images(encoder, NAME, "test", limit=5, batch_size=4, **options)["labels"] == images["labels"][:5]).all()


def test_ndvi_is_of_the_mean_reflectance_of_the_valid_pixels(encoder, options):
    ndvi = embed_split({"a": encoder}, NAME, "test", **options).targets["ndvi"]
    raw = Statistics((0.0,) * 7, (1.0,) * 7, "digital numbers as they are")
    batches = data.load(NAME, "test", img_size=8, statistics=raw, batch_size=48, **options)
    dn, valid = next(iter(batches.map(lambda batch: (batch["image"], batch["valid"])).as_numpy_iterator()))
    for value, image, mask in zip(ndvi, dn, valid):
        # A band counts as at least 0.02, as in every index.
        red, nir = (max(image[mask][:, i].astype(float).mean() * 0.0000275 - 0.2, 0.02) for i in (3, 4))
        assert value == pytest.approx((nir - red) / (nir + red), abs=1e-4)
    assert ndvi.std() > 0.05


def test_dropped_fields_are_not_given(encoder, options):
    whole = load_images(encoder, NAME, "test", **options)
    for drop in (("lat",), ("week", "hour")):
        images = load_images(encoder, NAME, "test", drop=drop, **options)
        for name in metadata.FIELDS:
            np.testing.assert_array_equal(images[name], 0 * whole[name] if name in drop else whole[name])
            assert whole[name].any()
        z = embed_split({"a": encoder}, NAME, "test", drop=drop, **options).sets["a"]
        expected = embed_in_batches(encoder, images["image"], [images[name] for name in metadata.FIELDS])
        np.testing.assert_allclose(z, expected, atol=2e-5)
        assert not np.allclose(z, embed_split({"a": encoder}, NAME, "test", **options).sets["a"], atol=1e-3)
    with pytest.raises(ValueError, match="drop has 'place'"):
        load_images(encoder, NAME, "test", drop=("place",), **options)
