"""What a run's probes are fitted on: of which encoder, which seed, which rows."""

import numpy as np
import pytest

from geomoe import data, metadata
from geomoe.data import preprocess, synthetic
from geomoe.pretrained import embed_in_batches
from geomoe.probing import RandomConvFeatures, band_statistics, default_probe_config, load_images
from geomoe.probing.config import BANDS, PRETRAINED, RANDOM, RCF
from geomoe.probing.data import ChangeData, SplitData

NAME = "synthetic_landsat/small"


@pytest.fixture
def config(synthetic_dir):
    config = default_probe_config()
    config.data.data_dir, config.data.drop, config.seeds = str(synthetic_dir), ("lon",), (0, 2)
    return config


def test_each_set_of_features_is_of_its_encoder_and_seed(encoder, config):
    splits = SplitData(config, encoder, data.builder(NAME, config.data.data_dir))
    options = dict(data_dir=config.data.data_dir, resize_mode="centre_crop", drop=("lon",))
    train, test = (load_images(encoder, NAME, split, **options) for split in ("train", "test"))
    np.testing.assert_array_equal(splits.images("test")["image"], test["image"])
    assert not test["lon"].any() and not splits.images("test")["lon"].any()
    fields = [test[name] for name in metadata.FIELDS]

    def check(features, seed, model):
        expected = embed_in_batches(model, test["image"], fields, valid=test["valid"])
        np.testing.assert_allclose(splits.features("test", features, seed), expected, atol=2e-5)
        assert splits.encoder(features, seed).fingerprint == model.fingerprint
        return expected

    embedded = [check(PRETRAINED, 0, encoder), *(check(RANDOM, seed, encoder.random_weights(1000 + seed)) for seed in (0, 2))]
    assert min(np.abs(a - b).max() for a, b in zip(embedded, embedded[1:])) > 0.1
    for seed in (0, 2):
        filters = RandomConvFeatures(train["image"], seed=seed, valid=train["valid"])
        expected = filters(test["image"], test["valid"])
        np.testing.assert_allclose(splits.features("test", RCF, seed), expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(splits.features("test", BANDS, seed), band_statistics(test["image"], test["valid"]))
    assert splits.split("test") is splits.split("test") and splits.images("test") is splits.images("test")


def test_pairs_are_halved_and_embedded_before_and_after(encoder, config):
    config.data.pairs = 10
    changes = ChangeData(config, encoder)
    pairs = synthetic.change_pairs(2, 10)
    spec = preprocess.InputSpec(resize_mode="centre_crop")
    for features, model in ((PRETRAINED, encoder), (RANDOM, encoder.random_weights(1002)), (BANDS, None)):
        train, test = changes.split(features, 2)
        assert [len(part) for part in (*train, *test)] == [5] * 6
        np.testing.assert_array_equal(np.concatenate([train[2], test[2]]), pairs["changed"])
        for i, view in enumerate(("before", "after")):
            z, valid = encoder.prepare(pairs[view], spec)
            fields = metadata.encode(pairs["lat"], pairs["lon"], pairs[f"time_{view}"])._asdict() | {"lon": np.zeros((10, 2))}
            expected = band_statistics(z, valid) if model is None else embed_in_batches(model, z, list(fields.values()))
            np.testing.assert_allclose(np.concatenate([train[i], test[i]]), expected, atol=2e-5)
    assert not np.array_equal(changes.split(BANDS, 0)[0][0], changes.split(BANDS, 2)[0][0])
    z = encoder.prepare(pairs["before"], spec)[0]
    train, test = changes.split(RCF, 2)
    filters, found = RandomConvFeatures(z, seed=2), np.concatenate([train[0], test[0]])
    np.testing.assert_allclose(found, filters(z), rtol=1e-4, atol=1e-5)
