"""The step, and whole runs: resume, divergence, errors, devices, processes."""

import csv
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import ROOT

import geomoe
from geomoe.cli.setup import clear_errors
from geomoe.metadata import FIELDS
from geomoe.models import build_mae, patchify, reconstruction_losses
from geomoe.training import default_config, init_params, load_params, loop, make_train_step, read_run
from geomoe.training.input import open_data, rows_of_mix
from geomoe.training.losses import info_nce
from geomoe.training.run_log import TIMING_COLUMNS
from geomoe.training.state import TrainState

MICRO = dict(size="tiny", depth=1, stage_experts=(3,), decoder_depth=1, img_size=16)  # compiles in seconds


CONFIGS = sorted((ROOT / "configs").glob("pretrain*.py")) + sorted((ROOT / "configs" / "recipes").glob("*.py"))
CONFIGS = [str(path.relative_to(ROOT / "configs")) for path in CONFIGS] + ["fake_data.py"]


def tiny_config(**changes):
    """Eight steps of a model of one block on random numbers; `changes` are dotted keys."""
    config = default_config()
    config.model.update(MICRO)
    config.data.name = "fake"
    config.train.batch_size = 8
    config.train.num_steps = 8
    config.log.every_steps = 1
    config.log.eval_every_steps = 4
    config.log.eval_batches = 1
    config.checkpoint.every_steps = 3
    config.update_from_flattened_dict(changes)
    return config


def rows_of(workdir):
    with open(os.path.join(workdir, "metrics.csv"), newline="") as file:
        return [{k: v for k, v in row.items() if k not in TIMING_COLUMNS} for row in csv.DictReader(file)]


def batch_of(model, size, seed=0):
    rng = np.random.default_rng(seed)
    cfg = model.config
    batch = {"image": rng.standard_normal((size, cfg.img_size, cfg.img_size, cfg.in_channels)).astype(np.float32)}
    return batch | {name: rng.standard_normal((size, 2)).astype(np.float32) for name in FIELDS}


@pytest.mark.long
def test_accumulation_averages_the_gradients_of_the_parts():
    model = build_mae(**MICRO)
    params = init_params(model, 0)
    optimizer = optax.sgd(0.1)
    state = TrainState(jnp.int32(0), params, optimizer.init(params))
    batch, key = batch_of(model, 6), jax.random.key(0)
    step = make_train_step(model, optimizer, accumulate=3, axis_name=None)
    after, metrics = jax.jit(step)(state, batch, key)
    parts, losses = [], []

    @jax.jit
    @jax.value_and_grad
    def loss(p, part, part_key):
        rngs = dict(zip(("mask", "router", "dropout"), jax.random.split(part_key, 3)))
        out = model.apply({"params": p}, part["image"], *(part[n] for n in FIELDS), deterministic=False, rngs=rngs)
        masked, unmasked = reconstruction_losses(out.pred, patchify(part["image"], 4), out.mask)
        return masked + 0.1 * unmasked + 0.5 * out.balance_loss

    for i, part_key in enumerate(jax.random.split(jax.random.fold_in(key, 0), 3)):
        value, grads = loss(params, {k: v[2 * i : 2 * i + 2] for k, v in batch.items()}, part_key)
        losses.append(value)
        parts.append(grads)
    np.testing.assert_allclose(metrics["loss"], np.mean(losses), rtol=1e-5)
    mean = jax.tree.map(lambda *g: sum(g) / 3, *parts)
    np.testing.assert_allclose(metrics["grad_norm"], optax.global_norm(mean), rtol=1e-4)
    for a, p, g in zip(*map(jax.tree.leaves, (after.params, params, mean))):
        np.testing.assert_allclose(a, p - 0.1 * g, atol=2e-5)


def test_contrast_loss():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 6, 4))
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    logits = unit(a) @ unit(b).T / 0.2
    both = [-np.mean(np.diag(m) - np.log(np.exp(m).sum(axis=1))) for m in (logits, logits.T)]
    np.testing.assert_allclose(info_nce(jnp.asarray(a), jnp.asarray(b), 0.2), np.mean(both), rtol=1e-5)
    same = jnp.ones((6, 4))
    np.testing.assert_allclose(info_nce(same, same), np.log(6), rtol=1e-5)


def test_the_second_view_goes_without_metadata():
    """Metadata reach the contrast by one view alone: with them in the second view the loss would be another."""
    model = build_mae(**MICRO, dropout=0.0)
    params = init_params(model, 0)
    batch = batch_of(model, 4)
    batch["second_view"] = batch["image"]
    step = make_train_step(model, optax.sgd(0.0), info_nce_weight=1.0, axis_name=None)
    state = TrainState(jnp.int32(0), params, optax.sgd(0.0).init(params))
    _, metrics = jax.jit(step)(state, batch, jax.random.key(0))
    bare = {**batch, **{name: np.zeros_like(batch[name]) for name in FIELDS}}
    _, without = jax.jit(step)(state, bare, jax.random.key(0))
    assert abs(float(metrics["loss_info_nce"]) - float(without["loss_info_nce"])) > 1e-4
    total = metrics["loss_masked"] + 0.1 * metrics["loss_unmasked"] + 0.5 * metrics["loss_balance"] + metrics["loss_info_nce"]
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-5)


def test_a_run_learns_and_leaves_all_that_loading_needs(tmp_path):
    result = loop.train(
        tiny_config(**{"optimizer.lr": 3e-3, "train.num_steps": 40, "optimizer.warmup_fraction": 0.0}), tmp_path
    )
    assert result.finished and result.step == 40
    rows = rows_of(tmp_path)
    losses = [float(row["loss_masked"]) for row in rows if row["loss_masked"]]
    assert len(losses) == 40 and np.mean(losses[-5:]) < 0.97 * np.mean(losses[:5])
    run = read_run(tmp_path)
    assert run["geomoe_version"] == geomoe.__version__ and run["model"]["width"] == 16
    encoder = geomoe.load(tmp_path)
    z = encoder.embed(np.ones((2, 16, 16, 7)), normalized=True)
    assert z.shape == (2, 16) and np.isfinite(z).all()
    with open(tmp_path / "expert_usage.csv", newline="") as file:
        usage = [row for row in csv.DictReader(file) if row["step"] == "40"]
    shares = {}
    for row in usage:
        shares[row["block"]] = shares.get(row["block"], 0) + float(row["share"])
    assert len(shares) == 2 and all(abs(total - 1) < 1e-4 for total in shares.values())
    kept = sorted(int(name) for name in os.listdir(tmp_path / "checkpoints") if name.isdigit())
    assert kept[-2:] == [39, 40] and len(kept) <= 3
    losses = {s: json.loads((tmp_path / "checkpoints" / str(s) / "metrics" / "metrics").read_text())["val_loss"] for s in kept}
    assert load_params(tmp_path, "best")[0] == min(losses, key=losses.get)
    with pytest.raises(FileNotFoundError, match="no checkpoint 1;"):
        load_params(tmp_path, 1)
    assert any("tfevents" in name for name in os.listdir(tmp_path / "tensorboard"))


def real_data_config(synthetic_dir, **changes):
    config = tiny_config(**changes)
    config.data.name = "synthetic_landsat/small"
    config.data.data_dir = str(synthetic_dir)
    config.data.statistics = "computed"
    config.data.resize_mode = "random_crop"
    config.data.flips = True
    config.data.metadata_dropout = 0.2
    config.model.img_size = 40
    config.log.images = 2
    config.train.batch_size = 32  # three steps an epoch
    return config


def test_resume_gives_the_curve_of_an_uninterrupted_run_bit_for_bit(tmp_path, synthetic_dir, monkeypatch):
    config = real_data_config(synthetic_dir, **{"loss.data2vec_weight": 1.0})  # whose teacher is a part of the state
    loop.train(config, tmp_path / "whole")
    from geomoe.training import parallel

    shard, calls = parallel.shard_batch, []

    def interrupted(batch):
        calls.append(1)
        if len(calls) == 11:  # in step 5 or so, past the checkpoint of step 3
            raise RuntimeError("pulled the plug")
        return shard(batch)

    monkeypatch.setattr(parallel, "shard_batch", interrupted)
    with pytest.raises(RuntimeError, match="plug"):
        loop.train(config, tmp_path / "parts")
    assert int(rows_of(tmp_path / "parts")[-1]["step"]) < 8
    monkeypatch.setattr(parallel, "shard_batch", shard)
    assert loop.train(config, tmp_path / "parts").finished
    whole, parts = rows_of(tmp_path / "whole"), rows_of(tmp_path / "parts")
    assert whole == parts and len(whole) >= 10
    for a, b in zip(*(jax.tree.leaves(load_params(tmp_path / name)[1]) for name in ("whole", "parts"))):
        np.testing.assert_array_equal(a, b)
    assert (tmp_path / "whole" / "expert_usage.csv").read_text() == (tmp_path / "parts" / "expert_usage.csv").read_text()


def test_divergence_stops_with_the_last_good_checkpoint(tmp_path):
    good = tiny_config(**{"train.num_steps": 6})
    loop.train(good, tmp_path / "good")
    bad = tiny_config(
        **{"optimizer.lr": 1e30, "optimizer.warmup_fraction": 0.5, "train.num_steps": 8, "checkpoint.every_steps": 1}
    )
    with pytest.raises(loop.TrainingDiverged, match=r"step \d+: loss.*checkpoint of step \d+.*config.optimizer.lr"):
        loop.train(bad, tmp_path / "bad")
    _, params = load_params(tmp_path / "bad")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_errors_before_any_compile(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "create_state", lambda *a: pytest.fail("went on to build the model"))
    for changes, message in (
        ({"train.batch_size": 7, "train.accumulate": 2}, r"batch_size = 7 does not divide.*take 6 or 8"),
        ({"model.top_k": 9}, "top_k = 9"),
        ({"train.num_steps": 0, "train.num_epochs": 0.0}, "num_steps"),
        ({"data.name": ""}, "config.data.name"),
        ({"data.clip": (1.0,)}, "config.data.clip"),
    ):
        with pytest.raises(ValueError, match=message):
            loop.train(tiny_config(**changes), tmp_path / "x")
    config = tiny_config()
    with config.unlocked():
        config.train.batchsize = 3
    with pytest.raises(ValueError, match="unknown config key train.batchsize"):
        loop.train(config, tmp_path / "x")
    with pytest.raises(AttributeError, match="batchsize"):
        tiny_config().train.batchsize = 3


def test_a_workdir_with_another_config_is_refused(tmp_path):
    loop.train(tiny_config(**{"train.num_steps": 3}), tmp_path)
    with pytest.raises(ValueError, match=r"another config.*optimizer.lr: 0.0003 -> 0.01"):
        loop.train(tiny_config(**{"train.num_steps": 3, "optimizer.lr": 0.01}), tmp_path)
    assert loop.train(tiny_config(**{"train.num_steps": 3, "log.every_steps": 2}), tmp_path).finished
    run = read_run(tmp_path)
    del run["config"]["data"]["band_jitter"]  # as an older version wrote it
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert loop.train(tiny_config(**{"train.num_steps": 3}), tmp_path).finished
    with pytest.raises(ValueError, match=r"data.band_jitter: 0.0 -> 0.1"):
        loop.train(tiny_config(**{"train.num_steps": 3, "data.band_jitter": 0.1}), tmp_path)


def test_datasets_are_mixed_row_by_row(synthetic_dir):
    """A quarter of each batch from another dataset, z-scored by its own statistics; any batch can be gone to."""
    changes = {
        "data.mix": ("synthetic_landsat/small_dominant=0.25",),
        "data.val_split": "val[:10]",
    }
    config = real_data_config(synthetic_dir, **changes)
    size = config.train.batch_size
    opened = open_data(config, geomoe.training.validate(config), None)
    facts = opened.mix["synthetic_landsat/small_dominant"]
    assert facts["rows"] == size // 4 and facts["statistics"]["source"].startswith("computed:synthetic_landsat/small_dominant")
    whole = [batch for batch, _ in zip(opened.train(0), range(3))]
    assert whole[0]["image"].shape[0] == size
    again = next(opened.train(2))
    for key in again:
        np.testing.assert_array_equal(again[key], whole[2][key])
    plain = real_data_config(synthetic_dir)
    plain.train.batch_size = size - size // 4
    alone = next(open_data(plain, geomoe.training.validate(plain), None).train(0))
    np.testing.assert_array_equal(whole[0]["image"][: size - size // 4], alone["image"])
    held_out = next(opened.val())
    assert len(held_out["image"]) == 10  # fewer than a batch
    untold = np.mean([~held_out[name].any(axis=1) for name in FIELDS])
    assert 0 < untold < 0.5  # of metadata_dropout = 0.2, as in training
    plain.data.metadata_dropout = 1.0
    plain.loss.info_nce_weight = plain.loss.metadata_weight = 1.0
    opened = open_data(plain, geomoe.training.validate(plain), None)
    first, again = next(opened.val()), next(opened.val())
    assert not any(first[name].any() for name in FIELDS) and first["metadata"].all()
    assert first["second_view"].shape == first["image"].shape and not np.array_equal(first["second_view"], first["image"])
    for key in first:  # the same held-out crops at each evaluation
        np.testing.assert_array_equal(first[key], again[key])
    for mix, message in (("synthetic_landsat", "not 'NAME=SHARE'"), ("a=0.01", "gives no row"), ("a=1.0", "leaves no")):
        with pytest.raises(ValueError, match=message):
            rows_of_mix((mix,), 16, 1)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_pretraining_config_is_valid(name):
    spec = importlib.util.spec_from_file_location("config", ROOT / "configs" / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    geomoe.training.validate(module.get_config())


def test_bigearthnet_config_is_the_published_recipe():
    spec = importlib.util.spec_from_file_location("config", ROOT / "configs" / "pretrain_bigearthnet.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config, small = module.get_config(), module.get_config("XXS")
    assert (config.optimizer.lr, config.optimizer.weight_decay, config.optimizer.clip_norm) == (3e-4, 0.05, 1.0)
    assert (config.train.batch_size, config.train.num_epochs, config.optimizer.warmup_fraction) == (128, 500, 0.05)
    assert (config.loss.unmasked_weight, config.loss.balance_weight, config.model.mask_ratio) == (0.1, 0.5, 0.75)
    assert not config.loss.normalise_targets and not config.loss.info_nce_weight
    assert geomoe.training.validate(small).width == 108


def run_script(args, devices=1, **options):
    env = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, *args], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


OVERRIDES = [
    "--config=configs/fake_data.py:tiny",
    "--config.model.img_size=16",
    "--config.model.depth=3",
    "--config.model.decoder_depth=1",
    "--config.train.batch_size=8",
    "--config.train.num_steps=4",
    "--config.log.every_steps=1",
    "--config.log.eval_every_steps=2",
    "--config.checkpoint.every_steps=2",
    "--config.loss.info_nce_weight=1.0",
]


def finish(*processes):
    outputs = [p.communicate(timeout=300) for p in processes]
    for process, (_out, err) in zip(processes, outputs):
        assert process.returncode == 0, err[-3000:]
    return outputs


@pytest.mark.long
def test_four_devices_in_one_process_and_in_two(tmp_path):
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    finish(run_script(["train.py", *OVERRIDES, f"--workdir={tmp_path / 'one'}"], devices=4))
    common = [f"--workdir={tmp_path / 'two'}", f"--coordinator=localhost:{port}", "--num_processes=2"]
    two = [["train.py", *OVERRIDES, *common, f"--process_id={i}"] for i in (0, 1)]
    finish(*(run_script(args, devices=2) for args in two))
    (out, _), _ = finish(*(run_script(args, devices=2) for args in two))  # finds its last checkpoint and has nothing to do
    assert "done: step 4" in out
    one, two = rows_of(tmp_path / "one"), rows_of(tmp_path / "two")
    assert [r["step"] for r in one] == [r["step"] for r in two] and len(one) >= 6
    # The random numbers of the fake data differ with the number of processes, so the values do too.
    for rows in (one, two):
        losses = [float(r["loss"]) for r in rows if r["loss"]]
        assert len(losses) == 4 and np.isfinite(losses).all()
        assert np.isfinite([float(r["val_loss_info_nce"]) for r in rows if r["val_loss_masked"]]).all()
    trees = [jax.tree.map(np.shape, load_params(tmp_path / name)[1]) for name in ("one", "two")]
    assert trees[0] == trees[1]


def test_script_errors_are_one_line(tmp_path):
    process = run_script(["train.py", *OVERRIDES, "--config.train.batch_size=9", f"--workdir={tmp_path}"], devices=2)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1 and "batch_size = 9" in err and "Traceback" not in err
    process = run_script(["train.py", *OVERRIDES, "--config.train.batchsize=9", f"--workdir={tmp_path}"])
    out, err = process.communicate(timeout=120)
    assert process.returncode != 0 and "batchsize" in err and "Traceback" not in err


@pytest.mark.long
def test_sigterm_stops_with_a_checkpoint_and_the_same_command_goes_on(tmp_path):
    command = ["train.py", *OVERRIDES, "--config.train.num_steps=100000", f"--workdir={tmp_path}"]
    process = run_script(command)
    while "step 2/" not in (line := process.stderr.readline()):
        assert line, "the run ended before its second step"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0 and "stopped at step" in out, err
    stopped = int(out.split("stopped at step ")[1].split(";")[0])
    assert load_params(tmp_path)[0] == stopped
    process = run_script(command)
    while "resumed" not in (line := process.stderr.readline()):
        assert line
    assert f"resumed at step {stopped}" in line
    process.kill()
    process.communicate()


def test_a_misspelt_key_is_named_in_plain_words(capsys):
    config = default_config()

    def misspell():
        config.loss.contrast_wieght = 2.0

    assert clear_errors(misspell) == 1
    told = capsys.readouterr().err
    assert "contrast_wieght" in told and "info_nce_weight" in told
    assert "\\n" not in told and "Traceback" not in told  # no text within the quotes of a text
