"""Features, labels and targets of prepared splits."""

import numpy as np
import pytest
from conftest import LOGARITHM

from geomoe import data, metadata
from geomoe.landsat import Statistics
from geomoe.pretrained import embed_in_batches
from geomoe.probing import RandomConvFeatures, band_statistics, embed_split, load_images

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
    batches = data.load(NAME, "test", img_size=8, statistics=encoder.statistics, **options).as_numpy_iterator()
    assert features.ids.tolist() == [name.decode() for batch in batches for name in batch["id"]]
    np.testing.assert_allclose(features.sets["band statistics"], band_statistics(images["image"], images["valid"]), atol=1e-5)
    np.testing.assert_allclose(metadata.encode_degrees(features.targets["latitude"]), images["lat"], atol=1e-6)
    np.testing.assert_allclose(metadata.encode_degrees(features.targets["longitude"]), images["lon"], atol=1e-6)
    assert (load_images(encoder, NAME, "test", limit=5, batch_size=4, **options)["labels"] == images["labels"][:5]).all()


def test_ndvi_is_of_the_mean_reflectance_of_the_valid_pixels(encoder, options):
    ndvi = embed_split({"a": encoder}, NAME, "test", **options).targets["ndvi"]
    for other in (Statistics((5000.0,) * 7, (1234.0,) * 7, "others"), LOGARITHM):
        of_others = embed_split({"a": encoder}, NAME, "test", statistics=other, **options).targets["ndvi"]
        np.testing.assert_allclose(of_others, ndvi, atol=1e-4)
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


def with_holes(monkeypatch, value):
    """Let `geomoe.data.load` give batches of which every image lacks its left half, and holds `value` there."""
    real = data.load

    class Batches:
        def __init__(self, *args, **options):
            self.batches = real(*args, **options)

        def as_numpy_iterator(self):
            for batch in self.batches.as_numpy_iterator():
                image, valid = batch["image"].copy(), batch["valid"].copy()
                image[:, :, :4], valid[:, :, :4] = value, False
                yield {**batch, "image": image, "valid": valid}

    monkeypatch.setattr(data, "load", Batches)


def test_pixels_without_data_speak_to_nobody_unless_asked_for(encoder, options, monkeypatch):
    filters = RandomConvFeatures(load_images(encoder, NAME, "test", **options)["image"], num_filters=8)
    baselines = {"bands": band_statistics, "filters": filters}
    found = {}
    for value in (0.0, -5.0):
        with monkeypatch.context() as patch:
            with_holes(patch, value)
            for nodata in ("masked", "published"):
                found[value, nodata] = (
                    embed_split({"z": encoder}, NAME, "test", nodata=nodata, baselines=baselines, **options),
                    load_images(encoder, NAME, "test", nodata=nodata, **options),
                )
    (dark, images), (published, speaking) = found[-5.0, "masked"], found[-5.0, "published"]
    fields = [images[name] for name in metadata.FIELDS]
    for name in ("z", "bands", "filters"):
        np.testing.assert_allclose(dark.sets[name], found[0.0, "masked"][0].sets[name], atol=1e-6)
        assert not np.allclose(published.sets[name], found[0.0, "published"][0].sets[name], atol=0.1)
    expected = embed_in_batches(encoder, images["image"], fields, valid=images["valid"])
    np.testing.assert_allclose(dark.sets["z"], expected, atol=2e-5)
    np.testing.assert_allclose(published.sets["z"], embed_in_batches(encoder, images["image"], fields), atol=2e-5)
    assert not images["valid"][:, :, :4].any() and images["valid"][:, :, 4:].all() and speaking["valid"].all()
    np.testing.assert_allclose(dark.targets["ndvi"], published.targets["ndvi"])  # what is to be learned stays true
    with pytest.raises(ValueError, match="nodata = 'dark'"):
        load_images(encoder, NAME, "test", nodata="dark", **options)


def test_filters_are_drawn_from_and_averaged_over_whole_patches():
    """Half of an image without data is as the other half alone."""
    images = np.random.default_rng(0).standard_normal((6, 8, 12, 2)).astype(np.float32)
    valid = np.ones((6, 8, 12), bool)
    valid[:, :, :5] = False
    filters = RandomConvFeatures(images, num_filters=5, size=3)
    np.testing.assert_allclose(filters(images, valid), filters(images[:, :, 5:]), atol=1e-6)
    assert not filters(images, np.zeros_like(valid)).any()
    empty = np.where(valid[..., None], images, 1e3).astype(np.float32)
    drawn = [RandomConvFeatures(x, num_filters=5, size=3, valid=valid)(images) for x in (images, empty)]
    np.testing.assert_allclose(drawn[0], drawn[1], atol=1e-6)
    with pytest.raises(ValueError, match="0 of 360 patches"):
        RandomConvFeatures(images, num_filters=5, size=3, valid=np.zeros_like(valid))
