"""Fine-tuning: what learns, how fast, on which rows."""

import jax
import numpy as np
import pytest

from geomoe import metadata
from geomoe.landsat import Statistics
from geomoe.models import MAE, ModelConfig
from geomoe.pretrained import PretrainedEncoder, embed_in_batches
from geomoe.probing import FineTuneOptions, finetune, linear_probe
from geomoe.probing.finetuning import rate_factors
from geomoe.probing.splits import holdout
from geomoe.training.state import init_params

DEPTH = 2


@pytest.fixture(scope="module")
def encoder():
    config = ModelConfig(
        width=16,
        depth=DEPTH,
        expert_width_first=16,
        expert_width_last=8,
        num_heads=4,
        num_groups=2,
        decoder_width=12,
        stage_experts=(3,),
        decoder_depth=1,
        img_size=8,
    )
    return PretrainedEncoder(config, init_params(MAE(config), 0), Statistics((0.0,) * 7, (1.0,) * 7, "none"), "fresh")


@pytest.fixture(scope="module")
def data():
    """What decides the class is a mean's absolute value, which no linear probe of a random encoder reads off."""
    count = 120
    images = np.random.default_rng(0).standard_normal((count, 8, 8, 7)).astype(np.float32)
    missing = np.full(count, np.nan)
    fields = metadata.encode(missing, missing, np.full(count, np.datetime64("NaT")))._asdict()
    return {"image": images, **fields, "labels": (np.abs(images[:, :4, :4, 0].mean(axis=(1, 2))) > 0.17).astype(int)}


def rows(data, index):
    return {name: value[index] for name, value in data.items()}


def leaves(params):
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def test_rates_fall_from_the_head_down():
    params = {"head": {"coef": 0.0}, "encoder": {"block_00": {"w": 0.0}, "block_01": {"w": 0.0}, "pos_embed": 0.0}}

    def of(blocks):
        factors = rate_factors(params, 2, blocks, 0.5)
        encoder = factors["encoder"]
        return factors["head"]["coef"], encoder["block_01"]["w"], encoder["block_00"]["w"], encoder["pos_embed"]

    assert of(None) == of(2) == (1.0, 0.5, 0.25, 0.125)
    assert of(1) == (1.0, 0.5, 0.0, 0.0) and of(0) == (1.0, 0.0, 0.0, 0.0)


def test_a_step_is_as_long_as_its_layer_is_high(encoder, data):
    """Adam's first steps have the length of the learning rate, whatever the gradient."""
    options = dict(epochs=2, lr=0.02, layer_decay=0.5, weight_decay=0.0, batch_size=120, resamples=0, patience=9)
    result = finetune(data, data, encoder=encoder, task="multiclass", val=data, **options)
    assert result.settings["best_epoch"] == 2  # the rate of the very first step is 0
    before, after = (leaves(p) for p in (encoder.params["encoder"], result.settings["params"]["encoder"]))
    for block, factor in (("block_01", 0.5), ("block_00", 0.25)):
        moved = [np.abs(after[name] - before[name]).ravel() for name in before if block in name and "moe" not in name]
        assert np.median(np.concatenate(moved)) == pytest.approx(0.02 * factor, rel=0.1)


@pytest.mark.parametrize("blocks, lr", [(0, 0.3), (1, 0.02)])
def test_frozen_blocks_stay(encoder, data, blocks, lr):
    options = dict(epochs=3, lr=lr, blocks=blocks, batch_size=60, resamples=0)
    result = finetune(data, data, encoder=encoder, task="multiclass", val=data, **options)
    assert result.settings["best_epoch"] > 0
    before, after = (leaves(p) for p in (encoder.params["encoder"], result.settings["params"]["encoder"]))
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert all("block_01" in name for name in moved) and bool(moved) == bool(blocks)


def test_the_best_epoch_is_kept_and_the_validation_rows_are_not_learned(encoder, data):
    train, test = rows(data, slice(80)), rows(data, slice(80, None))
    options = dict(encoder=encoder, task="multiclass", epochs=3, lr=3e-3, batch_size=32, resamples=0, seed=4)
    drawn = finetune(train, test, **options)
    learned, validation = holdout(80, 4)
    explicit = finetune(rows(train, learned), test, val=rows(train, validation), **options)
    assert drawn.settings["train"] == 64 == explicit.settings["train"] and drawn.settings["val"] == 16
    assert drawn.settings["val_scores"] == explicit.settings["val_scores"]
    np.testing.assert_array_equal(drawn.scores, explicit.scores)
    other = finetune(train, test, **{**options, "seed": 5})
    assert not np.array_equal(drawn.scores, other.scores)
    scores = drawn.settings["val_scores"]
    assert scores[drawn.settings["best_epoch"]] == max(scores) and set(drawn.settings["params"]) == {"encoder", "head"}


def test_it_starts_from_the_linear_probe_learns_and_stops(encoder, data):
    options = dict(encoder=encoder, task="multiclass", val=data, batch_size=32, resamples=0)
    z = embed_in_batches(encoder, data["image"], [data[name] for name in metadata.FIELDS])
    train, val = (z[:70], data["labels"][:70]), (z[70:], data["labels"][70:])
    probe, fitted = (linear_probe(train, split, task="multiclass", resamples=0) for split in (val, train))
    start = finetune(rows(data, slice(70)), data, epochs=0, **{**options, "val": rows(data, slice(70, None))})
    np.testing.assert_allclose(start.scores, np.concatenate([fitted.scores, probe.scores]), atol=1e-3)
    assert start.settings["val_scores"] == [probe.metrics["accuracy"]] != [fitted.metrics["accuracy"]]
    tuned = finetune(data, data, epochs=8, lr=3e-3, **options)
    assert max(tuned.settings["val_scores"]) > tuned.settings["val_scores"][0] + 0.02
    assert tuned.metrics["accuracy"] == max(tuned.settings["val_scores"])
    options["val"] = rows(data, slice(70, None))
    start, worse = (finetune(rows(data, slice(70)), data, epochs=epochs, lr=0.1, **options) for epochs in (0, 2))
    assert worse.settings["best_epoch"] == 0
    np.testing.assert_array_equal(worse.scores, start.scores)  # of the parameters of the best epoch
    still = finetune(data, data, epochs=8, lr=0.0, patience=2, **options)
    assert len(still.settings["val_scores"]) == 3 and still.settings["best_epoch"] == 0


def test_options_out_of_range_are_named(encoder, data):
    for changes, message in (
        (dict(blocks=5), "blocks = 5"),
        (dict(layer_decay=0.0), "layer_decay = 0.0"),
        (dict(batch_size=0), "batch_size = 0"),
        (dict(batch_size=2.5), "batch_size = 2.5 must be a whole number, 1 or more"),
        (dict(epochs=-1), "epochs = -1"),
        (dict(patience=-1), "patience = -1"),
        (dict(resamples=-1), "resamples = -1"),
        (dict(seed=0.5), "seed = 0.5"),
        (dict(blocks=1.5), "blocks = 1.5 must be a whole number"),
        (dict(blocks=-1), "blocks = -1"),
        (dict(lr=-0.01), "lr = -0.01 must be 0 or more"),
        (dict(lr=np.nan), "lr = nan"),
        (dict(weight_decay=np.inf), "weight_decay = inf"),
        (dict(pool="tokens"), "pool = 'tokens'"),
    ):
        with pytest.raises(ValueError, match=message):
            finetune(data, data, encoder=encoder, task="multiclass", **changes)
    with pytest.raises(TypeError, match="rate"):
        finetune(data, data, encoder=encoder, task="multiclass", options=FineTuneOptions(), rate=1.0)


def test_splits_that_cannot_be_learned_from_are_named(encoder, data):
    valid = np.ones(data["image"].shape[:3], bool)
    valid[[3, 7]] = False
    without = lambda key: {name: values for name, values in data.items() if name != key}
    spoilt = np.where(np.arange(120)[:, None] < 4, np.nan, data["week"])
    fit = lambda train, test=data, **options: finetune(train, test, encoder=encoder, task="multiclass", epochs=0, **options)
    for train, message in (
        (without("labels"), "train has no labels; it must have image, week, hour, lat, lon, labels"),
        (without("week"), "train has no week"),
        ((data["image"], data["labels"]), "train must be a dict of image, .* got tuple"),
        ({**data, "week": spoilt}, r"train: values of week hold NaN .* in 4 of 120 rows; give \[0, 0\] where it is unknown"),
        ({**data, "image": data["image"] * np.nan}, "train: values of image hold NaN .* say in valid"),
        ({**data, "image": data["image"][..., :6]}, r"train: image must be \(120, 8, 8, 7\), got \(120, 8, 8, 6\)"),
        ({**data, "lat": np.full(120, 48.0)}, r"train: lat must be \(120, 2\), got \(120,\)"),
        ({**data, "week": data["week"][:5]}, r"train: week must be \(120, 2\), got \(5, 2\)"),
        ({**data, "labels": data["labels"][:5]}, r"train: labels must be \(120,\), got \(5,\)"),
        ({**data, "valid": valid[:4]}, r"train: valid must be \(120, 8, 8\), got \(4, 8, 8\)"),
        ({**data, "valid": valid}, "train: 2 of 120 images have no valid pixel; leave out rows 3, 7"),
        (rows(data, slice(1)), "none of 1 training rows can be held out to choose on; give val, or more rows"),
        (rows(data, slice(0)), "train: values of image are empty"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(train)
    with pytest.raises(ValueError, match="test: values of image are empty"):
        fit(data, rows(data, slice(0)))
    with pytest.raises(ValueError, match="val: values of image are empty"):
        fit(data, val=rows(data, slice(0)))
    with pytest.raises(ValueError, match="val: 2 of 120 images have no valid pixel"):
        fit(data, val={**data, "valid": valid})


def test_masked_labels_and_pixels_are_refused(encoder, data):
    labels = np.ma.MaskedArray(data["labels"], np.arange(len(data["labels"])) < 2)
    image = np.ma.MaskedArray(data["image"], np.abs(data["image"]) > 3)
    for part, message in (
        ({"labels": labels}, "train: values of labels are masked in 2 of 120 rows; leave these rows out"),
        ({"image": image}, "train: values of image are masked in .*say in valid which pixels hold data"),
    ):
        with pytest.raises(ValueError, match=message):
            finetune({**data, **part}, data, encoder=encoder, task="multiclass", epochs=0)


def test_pixels_without_data_do_not_speak(encoder, data):
    options = dict(encoder=encoder, task="multiclass", epochs=1, batch_size=32, resamples=0)
    valid = np.random.default_rng(3).random(data["image"].shape[:3]) < 0.8
    scores = []
    for value in (0.0, 20.0):
        spoilt = {**data, "image": np.where(valid[..., None], data["image"], value).astype(np.float32)}
        masked, plain = ({**spoilt, "valid": v} for v in (valid, valid | True))
        # Without a mask of its own a split is whole.
        scores.append([finetune(rows(d, slice(80)), rows(data, slice(80, None)), **options).scores for d in (masked, plain)])
    np.testing.assert_allclose(scores[0][0], scores[1][0], atol=1e-4)
    assert not np.allclose(scores[0][1], scores[1][1], atol=1e-2)
