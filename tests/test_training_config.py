"""Configurations: checked before anything is compiled, and older ones understood."""

import json

import numpy as np
import pytest
from conftest import DATA, ROOT, load_module, tiny_config

import geomoe
from geomoe.cli.setup import clear_errors
from geomoe.training import config as configs, default_config, loop, multi_objective_config, read_run, validate

FILES = [
    str(path.relative_to(ROOT / "configs")) for path in sorted((ROOT / "configs").rglob("*.py")) if "probe" not in path.name
]


@pytest.mark.parametrize("name", FILES)
def test_every_pretraining_config_is_valid(name):
    validate(load_module(ROOT / "configs" / name).get_config())


def test_bigearthnet_config_is_the_published_recipe():
    module = load_module(ROOT / "configs" / "pretrain_bigearthnet.py")
    config, small = module.get_config(), module.get_config("XXS")
    assert (config.optimizer.lr, config.optimizer.weight_decay, config.optimizer.clip_norm) == (3e-4, 0.05, 1.0)
    assert (config.train.batch_size, config.train.num_epochs, config.optimizer.warmup_fraction) == (128, 500, 0.05)
    assert (config.loss.unmasked_weight, config.loss.balance_weight, config.model.mask_ratio) == (0.1, 0.5, 0.75)
    assert not config.loss.normalise_targets and not config.loss.info_nce_weight
    assert validate(small).width == 108


def test_recipes_change_what_they_say():
    base = load_module(ROOT / "configs" / "recipes" / "multi_objective.py").get_config()
    fast = load_module(ROOT / "configs" / "recipes" / "fast_learning.py").get_config()
    assert (
        fast.optimizer.lr / base.optimizer.lr == pytest.approx(5)
        and "Five times" in (ROOT / "configs" / "recipes" / "fast_learning.py").read_text()
    )
    assert configs.differences(base.to_dict(), fast.to_dict()) == ["optimizer.lr: 0.0003 -> 0.0015"]


def test_the_multi_objective_recipe_has_the_size_asked_for():
    for size, width in (("S", 144), ("XXS", 108), ("tiny", 16)):
        config = multi_objective_config(size)
        config.data.name = "some"
        assert validate(config).width == width


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"loss.info_nce_weight": -1.0}, "config.loss.info_nce_weight = -1.0"),
        ({"loss.decoded_views": 3}, "config.loss.decoded_views = 3"),
        ({"loss.teacher_momentum": 1.0}, "teacher_momentum = 1.0"),
        ({"loss.info_nce_temperature": 0.0}, "info_nce_temperature = 0.0"),
        ({"loss.info_nce_dim": -3}, "config.loss.info_nce_dim = -3 must be 0 or more"),
        ({"loss.metadata_given_share": -0.5}, "metadata_given_share = -0.5 must be 0 or more"),
        ({"loss.metadata_weight": 1.0}, "needs images whose encoder is not given"),
        ({"data.crop_sides": (22, 45)}, "crop_sides is for config.data.resize_mode"),
        ({"data.statistics": "mine"}, "config.data.statistics = 'mine'"),
        ({"data.statistics": "computed", "data.statistics_dataset": "x"}, "statistics_dataset = 'x' is for .* 'published'"),
        ({"data.clip": (1.0,)}, "config.data.clip"),
        ({"data.name": ""}, "config.data.name"),
        ({"train.router_noise_end": 2.0}, "router_noise_end = 2.0"),
        ({"train.num_steps": 0, "train.num_epochs": 0.0}, "num_steps"),
        ({"log.every_steps": 0}, "config.log.every_steps = 0"),
        ({"optimizer.warmup_fraction": 2.0}, "warmup_fraction = 2.0"),
        ({"optimizer.warmup_fraction": float("nan")}, r"config.optimizer.warmup_fraction = nan must be in \[0, 1\]"),
        ({"optimizer.lr": -1.0}, "config.optimizer.lr = -1.0 must be 0 or more"),
        ({"optimizer.lr": float("inf")}, "config.optimizer.lr = inf must be 0 or more"),
        ({"optimizer.clip_norm": -1.0}, "config.optimizer.clip_norm = -1.0 must be 0 or more, or inf"),
        ({"optimizer.weight_decay": -0.1}, "config.optimizer.weight_decay = -0.1 must be 0 or more"),
        ({"optimizer.b1": 1.0}, r"config.optimizer.b1 = 1.0 must be in \[0, 1\)"),
        ({"optimizer.b2": -0.5}, r"config.optimizer.b2 = -0.5 must be in \[0, 1\)"),
        ({"train.selection_rate": -0.1}, "config.train.selection_rate = -0.1 must be 0 or more"),
        ({"train.num_steps": 0, "train.num_epochs": float("inf")}, "num_epochs"),
        ({"data.metadata_dropout": 1.5}, r"config.data.metadata_dropout = 1.5 must be in \[0, 1\]"),
        ({"data.coastal_dropout": -0.5}, r"config.data.coastal_dropout = -0.5 must be in \[0, 1\]"),
        ({"data.band_jitter": -0.5}, r"config.data.band_jitter = -0.5 must be in \[0, 1\]"),
        ({"data.clip": (2.0, 1.0)}, r"config.data.clip = \(2.0, 1.0\) must be"),
        ({"log.eval_batches": 0}, "config.log.eval_batches = 0 must be at least 1"),
        ({"log.images": -1}, "config.log.images = -1 must be 0 or more"),
        ({"checkpoint.keep_last": -1}, "config.checkpoint.keep_last = -1 must be 0 or more"),
        ({"loss.info_nce_temperature": float("nan")}, "config.loss.info_nce_temperature = nan must be above 0"),
        ({"model.decoder_width": -12}, "model.decoder_width must be at least 1, got -12"),
        ({"model.num_heads": -4}, "model.num_heads must be at least 1, got -4"),
        ({"model.decoder_depth": -1}, "model.decoder_depth = -1 must be 0 or more"),
        ({"model.dropout": -0.1}, "model.dropout = -0.1"),
        ({"model.mask_ratio": 1.5}, "model.mask_ratio = 1.5"),
        ({"model.top_k": 9}, "top_k = 9"),
        ({"model.missing_metadata": "none"}, "missing_metadata = 'none'"),
    ],
)
def test_values_that_make_no_sense_are_named(changes, message, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "open_data", lambda *a: pytest.fail("went on to read data"))
    with pytest.raises(ValueError, match=message):
        loop.train(tiny_config(**changes), tmp_path / "x")


def test_metadata_prediction_is_fine_where_metadata_are_hidden():
    validate(tiny_config(**{"loss.metadata_weight": 1.0, "data.metadata_dropout": 0.5}))
    validate(tiny_config(**{"loss.metadata_weight": 1.0, "loss.vicreg_weight": 1.0}))


def test_unknown_and_retired_keys_are_named(capsys):
    config = tiny_config()
    with config.unlocked():
        config.train.batchsize = 3
    with pytest.raises(ValueError, match="unknown config key train.batchsize"):
        validate(config)
    with pytest.raises(AttributeError, match="batchsize"):
        tiny_config().train.batchsize = 3
    for old, new in configs.RETIRED_KEYS.items():
        section, _, name = old.partition(".")
        with pytest.raises(AttributeError, match=f"{name} was renamed: it is now config.{new}"):
            setattr(default_config()[section], name, 1)
        with pytest.raises(AttributeError, match=f"it is now config.{new}"):
            getattr(default_config()[section], name)

    def misspell():
        default_config().loss.info_nse_weight = 2.0

    assert clear_errors(misspell) == 1
    shown = capsys.readouterr().err
    assert "unknown config key" in shown and "info_nse_weight" in shown and "info_nce_weight" in shown
    assert "\\n" not in shown and "Traceback" not in shown  # no text within the quotes of a text


def test_differences_leave_out_what_is_only_shown_or_kept():
    a, b = default_config(), default_config()
    b.log.every_steps, b.checkpoint.keep_last, b.data.data_dir = 3, 9, "elsewhere"
    assert configs.differences(a.to_dict(), b.to_dict()) == []
    b.data.band_jitter = 0.1
    old = a.to_dict()
    del old["data"]["band_jitter"]  # as an older version wrote it
    assert configs.differences(old, a.to_dict()) == []
    assert configs.differences(old, b.to_dict()) == ["data.band_jitter: 0.0 -> 0.1"]


def test_a_run_of_the_previous_version_still_loads():
    """A run directory written before keys and objectives had today's names, and the embeddings that it gave then."""
    expected = np.load(DATA / "run_0.1_expected.npz")
    metadata = dict(lat=[50.0, None, -30.0], lon=[8.0, None, 100.0], time=["2019-05-04T10:30", None, "2020-11-01T02:00"])
    encoder = geomoe.load(DATA / "run_0.1")
    np.testing.assert_allclose(encoder.embed(expected["images"], **metadata), expected["mean"], atol=2e-6)
    tokens = encoder.embed(expected["images"], pool="tokens", **metadata)
    np.testing.assert_allclose(tokens, expected["tokens"], atol=2e-5)
    assert encoder.normalised_targets
    raw = json.loads((DATA / "run_0.1" / "run.json").read_text())["config"]
    config = read_run(DATA / "run_0.1")["config"]
    assert config["loss"]["info_nce_weight"] == raw["loss"]["contrast_weight"] == 1.0
    assert config["data"]["resize_mode"] == "random_resized_crop" and config["data"]["rot90"] is True
    assert config["data"]["mix"] == [["synthetic_landsat/small", 0.25]]
    today = multi_objective_config().to_dict()
    later = {"data.own_shards", "data.val_name", "loss.info_nce_dim", "loss.metadata_given_share"}  # keys that it did not know
    later |= {"loss.patch_statistics_weight", "loss.oriented_gradients_weight", "data.random_metadata"}
    assert configs.flatten(config).keys() == configs.flatten(today).keys() - later
