"""The configuration of probing runs."""

import importlib.util
import subprocess
import sys

import pytest
from conftest import ROOT

from geomoe.probing import default_probe_config
from geomoe.probing.config import settings_text, validate


@pytest.mark.parametrize("name", sorted(p.name for p in (ROOT / "configs").glob("probe*.py")))
def test_every_probing_config_is_valid(name):
    spec = importlib.util.spec_from_file_location("config", ROOT / "configs" / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    config.checkpoint = "somewhere"
    validate(config)


def test_reading_a_config_loads_no_probe():
    code = (
        "import sys\nfrom geomoe.probing import default_probe_config\ndefault_probe_config()\n"
        "loaded = {'sklearn', 'jax', 'tensorflow', 'geomoe.probing.linear'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
        "import geomoe.probing\nmissing = [n for n in geomoe.probing.__all__ if not hasattr(geomoe.probing, n)]\n"
        "assert not missing, missing\nassert callable(geomoe.probing.finetune)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(checkpoint=""), "config.checkpoint is empty"),
        (dict(pool="mean+metadata"), r"config.pool = 'mean\+metadata'"),
        (dict(probes=("svm",)), "config.probes has 'svm'"),
        (dict(baselines=("zeros",)), "config.baselines has 'zeros'"),
        (dict(seeds=()), "must not be empty"),
        (dict(resamples=-1), "config.resamples = -1"),
        (dict(protocol="nobody"), "config.protocol = 'nobody'"),
        (dict(protocol="moe_mae_paper"), "has no knn probe"),
        ({"data.train_fraction": 0.0}, "config.data.train_fraction = 0.0"),
        ({"data.nodata": "dark"}, "config.data.nodata = 'dark'"),
        ({"linear.C": -1.0}, "config.linear.C = -1.0"),
        ({"linear.max_iter": 0}, "config.linear.max_iter = 0 must be at least 1"),
        ({"knn.k": 0}, "config.knn.k = 0 must be at least 1"),
        ({"data.batch_size": 0}, "config.data.batch_size = 0 must be at least 1"),
        ({"finetune.batch_size": -1}, "config.finetune.batch_size = -1 must be at least 1"),
        ({"finetune.lr": -1.0}, "config.finetune.lr = -1.0 must be 0 or more"),
        ({"finetune.layer_decay": 2.0}, r"config.finetune.layer_decay = 2.0 must be in \(0, 1\]"),
        ({"label_fractions": (0.5, 2.0)}, r"config.label_fractions = \(0.5, 2.0\) must be in \(0, 1\]"),
        ({"ridge.target": "ndwi"}, "config.ridge.target = 'ndwi'"),
        ({"data.test_split": "", "data.folds": 1}, "config.data.folds = 1"),
        ({"data.test_split": "", "probes": ("ridge",)}, "ridge probe needs config.data.test_split"),
        ({"data.test_split": "", "label_fractions": (0.5,)}, "config.label_fractions needs"),
        ({"data.test_split": "", "data.train_fraction": 0.5}, "config.data.train_fraction = 0.5 needs config.data.test_split"),
        ({"data.test_split": "", "data.val_split": "val"}, "config.data.val_split = 'val' needs config.data.test_split"),
        ({"data.folds": 10}, "config.data.folds = 10 needs config.data.test_split = ''"),
        ({"label_fractions": (0.5,), "data.train_fraction": 0.5}, "config.data.train_fraction would be ignored"),
        ({"data.splits": "blocks"}, "config.data.splits = 'blocks' is not one of random, stratified, spatial, group"),
        ({"data.splits": "spatial"}, "config.data.splits = 'spatial' needs config.data.test_split = ''"),
        ({"data.test_split": "", "data.block_km": 5.0}, "config.data.block_km = 5.0 needs config.data.splits = 'spatial'"),
        ({"data.buffer_km": 5.0}, "config.data.buffer_km = 5.0 needs config.data.splits = 'spatial'"),
        ({"data.test_split": "", "data.group": "scene"}, "config.data.group = 'scene' needs config.data.splits = 'group'"),
        ({"data.test_split": "", "data.splits": "spatial", "data.block_km": 0.0}, "config.data.block_km = 0.0"),
        ({"data.test_split": "", "data.splits": "spatial", "data.buffer_km": -1.0}, "config.data.buffer_km = -1.0"),
        ({"data.test_split": "", "data.splits": "group"}, "config.data.group = '' is not scene, folder or TABLE.csv:COLUMN"),
        ({"data.test_split": "", "data.splits": "group", "data.group": "site"}, "config.data.group = 'site'"),
        ({"protocol": "landsat_bench", "linear.C": 2.0}, "config.linear is set"),
        (dict(pool="tokens"), "config.pool = 'tokens' gives every token"),
        (dict(seeds=(0, 1, 0)), r"config.seeds = \(0, 1, 0\) names one of them twice"),
        (dict(probes=("knn", "knn")), "config.probes = .* names one of them twice"),
        (dict(baselines=("random weights", "random weights")), "config.baselines = .* names one of them twice"),
        ({"data.drop": ("lat", "place")}, "config.data.drop has 'place', which is not one of week, hour, lat, lon"),
        *(
            ({"data.name": "synthetic_pairs", key: value}, f"config.{key} = .* is for prepared datasets")
            for key, value in {
                "probes": ("ridge",),
                "protocol": "landsat_bench",
                "label_fractions": (0.5,),
                "data.clip": (8000, 9000),
                "data.resize_mode": "resize",
                "data.hour": "published",
                "data.train_fraction": 0.5,
                "data.test_split": "val",
                "linear.C": 0.1,
                "knn.k": 3,
            }.items()
        ),
        ({"data.name": "synthetic_pairs", "data.pairs": 2}, "config.data.pairs = 2 must be at least 4"),
    ],
)
def test_what_cannot_be_run_is_named(change, message):
    config = default_probe_config()
    config.checkpoint, config.data.name = "somewhere", "some"
    config.update_from_flattened_dict(change)
    with pytest.raises(ValueError, match=message):
        validate(config)


def test_settings_tell_apart_what_a_result_depends_on():
    def text(probe="linear", **changes):
        config = default_probe_config()
        config.update_from_flattened_dict(changes)
        return settings_text(config, probe)

    changes = [
        {"data.drop": ("lat",)},
        {"data.nodata": "published"},
        {"data.train_fraction": 0.5},
        {"data.val_split": "val"},
        {"data.test_split": ""},
        {"data.test_split": "", "data.folds": 3},
        {"data.test_split": "", "data.folds": 4},
        {"data.test_split": "", "data.splits": "random"},
        {"data.test_split": "", "data.splits": "spatial"},
        {"data.test_split": "", "data.splits": "spatial", "data.block_km": 20.0},
        {"data.test_split": "", "data.splits": "spatial", "data.buffer_km": 20.0},
        {"data.test_split": "", "data.splits": "group", "data.group": "scene"},
        {"data.test_split": "", "data.splits": "group", "data.group": "folder"},
        {"data.test_split": "", "linear.C": 0.0},
        {"data.resize_mode": "resize"},
        {"data.clip": (0.0, 1.0)},
        {"data.hour": "local"},
        {"data.name": "synthetic_pairs", "data.pairs": 10},
        {"data.name": "synthetic_pairs", "data.pairs": 20},
        {"linear.C": 2.0},
        {"linear.standardise": True},
        {"resamples": 0},
    ]
    texts = [text(), *(text(**change) for change in changes)]
    assert len(set(texts)) == len(texts)
    assert text("knn", **{"knn.k": 3}) != text("knn") and text("linear", **{"knn.k": 3}) == text("linear")
    blocks = {"data.test_split": "", "data.splits": "spatial"}
    assert ";val=spatial;" in text(**blocks, **{"linear.C": 0.0}) and ";val=" not in text("knn", **blocks, **{"linear.C": 0.0})
    assert ";val=spatial;" in text(**blocks, protocol="torchgeo_bench") and ";val=" not in text(**blocks)
    for probe, change in (("finetune", {"finetune.lr": 1.0}), ("ridge", {"ridge.target": "latitude"})):
        assert text(probe, **change) != text(probe)


def test_another_table_of_groups_is_another_setting(tmp_path):
    config, path, texts = default_probe_config(), tmp_path / "sites.csv", []
    config.data.test_split, config.data.splits, config.data.group = "", "group", f"{path}:site"
    for site in "ab":
        path.write_text(f"id,site\np1,{site}\n")
        texts.append(settings_text(config, "linear"))
    assert texts[0] != texts[1] and "group=sites.csv:site:" in texts[0]
