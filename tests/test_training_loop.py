"""Whole runs: what they leave, resume, divergence, interruption, scripts, processes."""

import csv
import json
import os
import shutil
import signal
import time

import jax
import numpy as np
import pytest
from conftest import finish, real_data_config, rows_of, start_script, tiny_config

import geomoe
from geomoe.data.builders import SyntheticConfig, SyntheticLandsat
from geomoe.training import load_params, loop, parallel, read_run
from geomoe.training.evaluate import Evaluation
from geomoe.training.run_file import locked
from geomoe.training.run_log import COLUMNS
from geomoe.version import __version__


def test_a_run_learns_and_leaves_all_that_loading_needs(tmp_path):
    config = tiny_config(**{"optimizer.lr": 3e-3, "train.num_steps": 40, "optimizer.warmup_fraction": 0.0})
    result = loop.train(config, tmp_path)
    assert result.finished and result.step == 40
    rows = rows_of(tmp_path)
    losses = [float(row["loss_masked"]) for row in rows if row["loss_masked"]]
    assert len(losses) == 40 and np.mean(losses[-5:]) < 0.97 * np.mean(losses[:5])
    held_out = [float(row["val_loss_masked"]) for row in rows if row["val_loss_masked"]]
    assert result.val_loss == pytest.approx(held_out[-1], rel=1e-6) and 0.5 < held_out[-1] / losses[-1] < 2
    assert set(rows[0]) | {"images_per_second", "input_wait_share"} == set(COLUMNS)
    lr = [float(row["lr"]) for row in rows if row["lr"]]
    np.testing.assert_allclose(lr, 3e-3 * 0.5 * (1 + np.cos(np.pi * np.arange(40) / 40)), rtol=1e-4, atol=1e-9)
    run = read_run(tmp_path)
    assert run["geomoe_version"] == __version__ and run["model"]["width"] == 16
    encoder = geomoe.load(tmp_path)
    z = encoder.embed(np.ones((2, 16, 16, 7)), normalized=True)
    assert z.shape == (2, 16) and np.isfinite(z).all()
    with open(tmp_path / "expert_usage.csv", newline="") as file:
        usage = [row for row in csv.DictReader(file) if row["step"] == "40"]
    shares = {}
    for row in usage:
        shares.setdefault(row["block"], []).append(float(row["share"]))
    assert len(shares) == 2 and all(abs(sum(values) - 1) < 1e-4 for values in shares.values())
    least = min(min(values) * len(values) for values in shares.values())
    assert float(rows[-1]["val_least_used_expert"]) == pytest.approx(least, abs=1e-4)
    kept = sorted(int(name) for name in os.listdir(tmp_path / "checkpoints") if name.isdigit())
    assert kept[-2:] == [39, 40] and len(kept) <= 3
    assert any("tfevents" in name for name in os.listdir(tmp_path / "tensorboard"))


def test_resume_gives_the_curve_of_an_uninterrupted_run_bit_for_bit(tmp_path, synthetic_dir, monkeypatch):
    changes = {"loss.data2vec_weight": 1.0, "log.eval_batches": 2, "data.val_split": "train"}  # a teacher, in the state as well
    config = real_data_config(synthetic_dir, **changes)
    loop.train(config, tmp_path / "whole")
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
    for a, b in zip(*(jax.tree.leaves(load_params(tmp_path / name)[1]) for name in ("whole", "parts")), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (tmp_path / "whole" / "expert_usage.csv").read_text() == (tmp_path / "parts" / "expert_usage.csv").read_text()


@pytest.mark.parametrize("lr", [1e30, 1e4], ids=["infinite", "huge"])
def test_a_step_that_explodes_is_not_checkpointed(tmp_path, lr):
    """Step 1 has a learning rate of 0 yet; after step 2 the parameters are 1e30, or 1e4, in place of about 1."""
    changes = {"optimizer.lr": lr, "optimizer.warmup_fraction": 0.5, "checkpoint.every_steps": 1}
    message = r"step 2: loss.*norm.*Checkpoints of steps 1 are kept.*config.optimizer.lr in another --workdir"
    with pytest.raises(loop.TrainingDiverged, match=message):
        loop.train(tiny_config(**changes), tmp_path)
    step, params = load_params(tmp_path)
    assert step == 1 and all(np.abs(leaf).max() < 10 for leaf in jax.tree.leaves(params))


def test_metrics_tell_nan_from_growth(tmp_path):
    def read(loss, param_norm):
        metrics = loop.StepMetrics(2.0, lambda: [])
        metrics.add(
            7, parallel.replicate({k: np.float32(v) for k, v in dict(loss=loss, grad_norm=1, param_norm=param_norm).items()})
        )
        metrics.read()

    read(1e30, 19.9)  # a batch of extreme values, whose gradient is clipped, is no damage
    for loss, norm in ((np.nan, 2), (np.inf, 2), (1, np.nan), (1, 20.1)):
        with pytest.raises(loop.TrainingDiverged, match="step 7: .*was 2 at the last checkpoint or start.*No checkpoint"):
            read(loss, norm)


def test_a_validation_loss_that_is_not_finite_ends_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(Evaluation, "loss", property(lambda self: float("nan")))
    with pytest.raises(loop.TrainingDiverged, match=r"step 3: validation loss nan.*No checkpoint"):
        loop.train(tiny_config(), tmp_path)


def test_a_workdir_with_another_config_is_refused(tmp_path):
    loop.train(tiny_config(**{"train.num_steps": 3}), tmp_path)
    with pytest.raises(ValueError, match=r"another config.*optimizer.lr: 0.0003 -> 0.01"):
        loop.train(tiny_config(**{"train.num_steps": 3, "optimizer.lr": 0.01}), tmp_path)
    assert loop.train(tiny_config(**{"train.num_steps": 3, "log.every_steps": 2}), tmp_path).finished
    run = json.loads((tmp_path / "run.json").read_text())
    del run["config"]["data"]["band_jitter"], run["sha256"]  # as an older version wrote it
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert loop.train(tiny_config(**{"train.num_steps": 3}), tmp_path).finished
    with pytest.raises(ValueError, match=r"data.band_jitter: 0.0 -> 0.1"):
        loop.train(tiny_config(**{"train.num_steps": 3, "data.band_jitter": 0.1}), tmp_path)


def test_batches_that_do_not_divide_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"batch_size = 7 does not divide.*take 6 or 8"):
        loop.train(tiny_config(**{"train.batch_size": 7, "train.accumulate": 2}), tmp_path)


def test_epochs_count_the_main_datasets_rows(tmp_path, synthetic_dir):
    """96 patches in batches of 32, a quarter of them mixed in: four steps an epoch."""
    mix = (("synthetic_landsat/small_dominant", 0.25),)
    config = real_data_config(synthetic_dir, **{"data.mix": mix, "train.num_steps": 0, "train.num_epochs": 0.5})
    config.model.img_size, config.log.images = 16, 0
    result = loop.train(config, tmp_path)
    assert (result.step, read_run(tmp_path)["total_steps"]) == (2, 2)
    assert [float(row["epoch"]) for row in rows_of(tmp_path) if row["lr"]] == [0.25, 0.5]


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
    "--config.loss.balance_weight=0.0",
]


def processes(port, count):
    """The flags of each of the processes of a run; one process needs none."""
    if count == 1:
        return [[]]
    return [[f"--coordinator=localhost:{port}", f"--num_processes={count}", f"--process_id={i}"] for i in range(count)]


@pytest.mark.long
def test_a_run_goes_on_with_another_number_of_processes_and_devices(tmp_path, free_port):
    """One process, two of one device, four, two of two devices, one again: the losses of one alone."""
    command = ["train.py", *OVERRIDES, "--config.train.num_steps=10", "--config.log.eval_every_steps=5"]
    finish(start_script([*command, f"--workdir={tmp_path / 'whole'}"]))
    parts = tmp_path / "parts"
    for count, devices in ((1, 1), (2, 1), (4, 1), (2, 2), (1, 1)):
        if parts.exists():  # as if it had been stopped before its last checkpoints
            for step in (10, 8) if (count, devices) == (2, 1) else (10,):
                shutil.rmtree(parts / "checkpoints" / str(step))
        flags = processes(free_port, count)
        (out, _), *_ = finish(*(start_script([*command, f"--workdir={parts}", *each], devices=devices) for each in flags))
        assert "done: step 10" in out
    whole, parts = rows_of(tmp_path / "whole"), rows_of(parts)
    assert [r["step"] for r in whole] == [r["step"] for r in parts]
    for a, b in zip(whole, parts, strict=True):
        for column in ("loss", "val_loss_masked", "grad_norm", "param_norm"):
            assert bool(a[column]) == bool(b[column])
            if a[column]:
                assert float(a[column]) == pytest.approx(float(b[column]), rel=2e-5), column


@pytest.mark.long
@pytest.mark.parametrize("end, seconds", [(signal.SIGKILL, 30), (signal.SIGSTOP, 30)], ids=["killed", "not answering"])
@pytest.mark.parametrize("ended", [0, 1])
def test_when_a_process_ends_the_others_end_with_a_sentence(tmp_path, free_port, end, seconds, ended):
    command = ["train.py", *OVERRIDES, "--config.train.num_steps=100000", f"--workdir={tmp_path}"]
    outputs = [open(tmp_path / f"err{i}", "w+") for i in (0, 1)]  # noqa: SIM115
    both = [start_script([*command, *flags], stderr=err) for flags, err in zip(processes(free_port, 2), outputs, strict=True)]
    while "step 4/" not in (tmp_path / "err0").read_text():
        assert both[0].poll() is None and both[1].poll() is None, (tmp_path / "err0").read_text()
        time.sleep(0.2)
    both[ended].send_signal(end)
    assert both[1 - ended].wait(timeout=seconds) == 75
    both[ended].kill()
    both[ended].wait()
    err = (tmp_path / f"err{1 - ended}").read_text()
    assert err.splitlines()[-1].startswith("error: another process of this run ended or cannot be reached; the same command")
    assert "Traceback" not in err and "Fatal" not in err and "***" not in err


@pytest.mark.long
@pytest.mark.parametrize("cluster", ["slurm", "open mpi"])
def test_processes_are_found_as_a_cluster_names_them(tmp_path, cluster):
    """The variables of Slurm and of Open MPI, as JAX reads them; the port follows from the job's number."""
    number = os.getpid()
    if cluster == "slurm":
        job = {"SLURM_JOB_ID": str(number), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
        ranks = ("SLURM_PROCID", "SLURM_LOCALID")
    else:
        job = {"OMPI_MCA_orte_hnp_uri": f"{number << 12}.0;tcp://127.0.0.1:34911", "OMPI_COMM_WORLD_SIZE": "2"}
        ranks = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK")
    command = ["train.py", *OVERRIDES, f"--workdir={tmp_path}", "--distributed"]
    both = []
    for i in (0, 1):
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (job | dict.fromkeys(ranks, str(i))).items():
                patch.setenv(name, value)
            both.append(start_script(command))
    (out, err), (second, _) = finish(*both)
    assert "done: step 4" in out and "done: step 4" in second and "2 cpu devices" in err


def test_script_errors_are_one_line(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("import math\n\n\ndef get_config():\n    return math.nothing\n")
    empty, plain, misspelt = (tmp_path / f"{name}.py" for name in ("empty", "plain", "misspelt"))
    empty.write_text("config = {}\n")
    plain.write_text("def get_config():\n    return {}\n")
    start = "from geomoe.training import default_config\n\n\ndef get_config():\n    config = default_config()\n"
    misspelt.write_text(f"{start}    config.data.nam = 'x'\n    return config\n")
    workdir = f"--workdir={tmp_path}/run"
    cases = [
        ([*OVERRIDES, "--config.train.batch_size=9", workdir], 2, "batch_size = 9"),
        ([*OVERRIDES, "--config.train.batchsize=9", workdir], 1, "unknown config key 'batchsize'"),
        ([*OVERRIDES, "--config.loss.contrast_weight=1", workdir], 1, "it is now config.loss.info_nce_weight"),
        (["--config=configs/nope.py", workdir], 1, "there is no config file configs/nope.py"),
        ([f"--config={bad}", workdir], 1, f"the config file {bad}, line 5 cannot be loaded: AttributeError"),
        ([f"--config={empty}", workdir], 1, f"the config file {empty} lacks the function get_config"),
        ([f"--config={plain}", workdir], 1, f"get_config of {plain} returns dict; it has to return a config"),
        ([f"--config={misspelt}", workdir], 1, f"the config file {misspelt}, line 6 cannot be loaded: AttributeError"),
        ([*OVERRIDES, "--workdir="], 1, "--workdir is empty; name a folder"),
        ([*OVERRIDES, "--config.seed=-1", workdir], 1, "config.seed = -1 must be 0 or more"),
        ([], 1, "--config is missing, --workdir is missing; for example: python train.py --config configs/"),
        ([*OVERRIDES, workdir, "--bogus=1"], 1, "Unknown command line flag 'bogus'"),
        ([*OVERRIDES, workdir, "extra"], 1, "unknown argument 'extra'"),
        ([*OVERRIDES, workdir, "--num_processes=2"], 1, "--coordinator, --process_id missing"),
        ([*OVERRIDES, workdir, "--distributed"], 1, "JAX cannot join processes"),
    ]
    processes = [start_script(["train.py", *args], devices=devices) for args, devices, _ in cases]
    for process, (_, _, message) in zip(processes, cases, strict=True):
        _, err = process.communicate(timeout=300)
        assert process.returncode == 1 and message in err and "Traceback" not in err, (message, err[-500:])


@pytest.mark.long
def test_sigterm_stops_with_a_checkpoint_and_the_same_command_goes_on(tmp_path):
    command = ["train.py", *OVERRIDES, "--config.train.num_steps=100000", f"--workdir={tmp_path}"]
    process = start_script(command)
    while "step 2/" not in (line := process.stderr.readline()):
        assert line, "the run ended before its second step"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75 and "stopped at step" in out, err
    stopped = int(out.split("stopped at step ")[1].split(";")[0])
    assert load_params(tmp_path)[0] == stopped
    process = start_script(command)
    while "resumed" not in (line := process.stderr.readline()):
        assert line
    assert f"resumed at step {stopped}" in line
    process.kill()
    process.communicate()


@pytest.mark.long
def test_runs_killed_at_random_moments_end_as_one_that_was_not(tmp_path):
    """SIGKILL, while checkpoints are written most of the time; GEOMOE_KILLS says how often."""
    kills, rng = int(os.environ.get("GEOMOE_KILLS", 3)), np.random.default_rng(0)
    steps = [f"--config.train.num_steps={40 * kills}", "--config.log.every_steps=5", "--config.log.eval_every_steps=10"]
    command = ["train.py", *OVERRIDES, *steps, "--config.checkpoint.every_steps=10"]
    finish(start_script([*command, "--config.checkpoint.every_steps=1000", f"--workdir={tmp_path / 'whole'}"]))
    step = 0
    for _ in range(kills):
        process = start_script([*command, f"--workdir={tmp_path / 'parts'}"])
        until = step + rng.integers(0, 30)
        while step < until and (line := process.stderr.readline()):
            step = int(line.split()[1].partition("/")[0]) if line.startswith("step ") and "/" in line else step
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    (_, err) = finish(start_script([*command, f"--workdir={tmp_path / 'parts'}"]))[0]
    assert "resumed at step" in err
    assert rows_of(tmp_path / "whole") == rows_of(tmp_path / "parts")
    for a, b in zip(*(jax.tree.leaves(load_params(tmp_path / name)[1]) for name in ("whole", "parts")), strict=True):
        np.testing.assert_array_equal(a, b)


def stopped_in(monkeypatch, owner, name, call):
    """SIGTERM comes during so many-th call of a method."""
    method, calls = getattr(owner, name), []

    def stop(self, *args, **options):
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGTERM)
        return method(self, *args, **options)

    monkeypatch.setattr(owner, name, stop)


@pytest.mark.parametrize(
    "owner, name, call, step",
    [(loop.StepMetrics, "add", 2, 2), (loop.Evaluator, "__call__", 2, 4), (loop.Checkpoints, "save", 1, 4)],
    ids=["in a step", "in an evaluation", "in a checkpoint"],
)
def test_a_stop_leaves_a_checkpoint_and_the_rest_is_that_of_a_whole_run(tmp_path, monkeypatch, owner, name, call, step):
    """Evaluations of the whole run: before the checkpoints of steps 3 and 6, at 4 and at 8."""
    loop.train(tiny_config(), tmp_path / "whole")
    with monkeypatch.context() as patch:
        stopped_in(patch, owner, name, call)
        result = loop.train(tiny_config(), tmp_path / "parts")
    assert (result.step, result.finished) == (step, False) and load_params(tmp_path / "parts")[0] == step
    assert loop.train(tiny_config(), tmp_path / "parts").finished
    assert rows_of(tmp_path / "whole") == rows_of(tmp_path / "parts")
    for a, b in zip(*(jax.tree.leaves(load_params(tmp_path / part)[1]) for part in ("whole", "parts")), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_stop_before_the_first_step_is_one_that_the_same_command_goes_on_from(tmp_path, monkeypatch):
    """While the data are opened, which may take minutes."""
    open_data = loop.open_data

    def stopped(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return open_data(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "open_data", stopped)
        result = loop.train(tiny_config(), tmp_path)
    assert (result.step, result.finished) == (0, False)
    assert loop.train(tiny_config(), tmp_path).finished


def test_a_model_without_decoder_blocks_and_one_of_single_experts_train(tmp_path):
    for name, changes in (
        ("no decoder", {"model.decoder_depth": 0}),
        ("one expert", {"model.stage_experts": (1,), "model.depth": 1, "model.decoder_experts": 1, "model.top_k": 1}),
    ):
        assert loop.train(tiny_config(**changes), tmp_path / name).finished


def test_a_run_goes_on_from_the_last_whole_checkpoint(tmp_path, capsys):
    loop.train(tiny_config(), tmp_path)
    rows = rows_of(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "8" / "params")
    assert loop.train(tiny_config(), tmp_path).finished
    err = capsys.readouterr().err
    assert "step 8 is damaged (params/ is missing): moved to" in err and "resumed at step 6" in err
    assert rows_of(tmp_path) == rows and load_params(tmp_path)[0] == 8


def test_a_run_that_is_in_use_is_refused(tmp_path):
    with locked(tmp_path), pytest.raises(ValueError, match=f"in use by process {os.getpid()} on host"):
        loop.train(tiny_config(), tmp_path)
    assert loop.train(tiny_config(**{"train.num_steps": 1}), tmp_path).finished


def test_every_option_of_the_config_reaches_the_step_and_the_evaluation(tmp_path, monkeypatch):
    """What the step makes of its options is tested there; here, that a run gives it the config's."""
    seen = {}

    def make_train_step(model, optimizer, loss, **options):
        seen.update(options, model=model, loss=loss)
        return lambda state, batch, key: pytest.fail("not run")

    def make_eval_step(model, loss, **options):
        seen.update(eval_loss=loss, eval_statistics=options["statistics"])
        raise InterruptedError

    monkeypatch.setattr(loop, "make_train_step", make_train_step)
    monkeypatch.setattr(loop, "make_eval_step", make_eval_step)
    changes = {
        "train.accumulate": 2,
        "train.router_noise_end": 0.25,
        "train.selection_rate": 0.5,
        "model.selection_bias": True,
        "loss.info_nce_weight": 3.0,
        "loss.info_nce_temperature": 0.7,
        "loss.normalise_targets": True,
    }
    with pytest.raises(InterruptedError):
        loop.train(tiny_config(**changes), tmp_path)
    assert (seen["accumulate"], seen["selection_rate"], seen["model"].config.selection_bias) == (2, 0.5, True)
    assert [float(seen["router_noise"](step)) for step in (0, 7)] == [1.0, 0.25]  # of eight steps
    for loss in (seen["loss"], seen["eval_loss"]):
        assert loss.weights["info_nce"] == 3.0 and loss.options["info_nce_temperature"] == 0.7 and loss.normalise_targets
    assert seen["statistics"].source == seen["eval_statistics"].source == "fake"


def test_a_run_does_not_go_on_with_other_records(tmp_path):
    """A dataset prepared again under its name: the same records go on, others are refused."""

    def prepare(seed):
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        own = SyntheticConfig(name="small", counts={"train": 16, "val": 8}, dominant=bool(seed))
        SyntheticLandsat(config=own, data_dir=tmp_path / "data").download_and_prepare()

    config = real_data_config(tmp_path / "data", **{"data.val_split": "val", "train.batch_size": 8})
    prepare(0)
    steps = loop.train(config, tmp_path / "run").step
    prepare(0)
    assert loop.train(config, tmp_path / "run").step == steps
    prepare(1)
    with pytest.raises(ValueError, match="synthetic_landsat/small.* holds other records than when the run in"):
        loop.train(config, tmp_path / "run")


def test_the_best_checkpoint_is_the_best_by_its_own_loss(tmp_path):
    """Checkpoints come twice as often as evaluations, and the state between has a loss of its own."""
    changes = {"train.num_steps": 8, "log.eval_every_steps": 4, "checkpoint.every_steps": 2, "checkpoint.keep_last": 9}
    loop.train(tiny_config(**changes), tmp_path)
    evaluated = {int(row["step"]): float(row["val_loss_masked"]) for row in rows_of(tmp_path) if row["val_loss_masked"]}
    saved = {}
    for step in (2, 4, 6, 8):
        saved[step] = json.loads((tmp_path / "checkpoints" / str(step) / "metrics" / "metrics").read_text())["val_loss"]
    assert evaluated == pytest.approx(saved, rel=1e-6) and len(set(saved.values())) == 4
    assert load_params(tmp_path, "best")[0] == min(saved, key=saved.get)


def test_part_of_an_epoch_is_a_step_at_least(tmp_path):
    assert loop.train(tiny_config(**{"train.num_steps": 0, "train.num_epochs": 0.01}), tmp_path).step == 1


def test_a_run_on_clipped_numbers_says_so(tmp_path):
    loop.train(tiny_config(**{"train.num_steps": 1, "data.clip": (7500.0, 11000.0)}), tmp_path)
    with pytest.warns(UserWarning, match=r"digital numbers clipped to 7500 \.\.\. 11000, which an encoder does not do"):
        geomoe.load(tmp_path)


def test_the_checkpoint_of_a_stop_has_no_loss_of_another_step(tmp_path, monkeypatch):
    """Step 4 was evaluated and step 5, of the stop, was not: it is the last one, and never the best."""
    stopped_in(monkeypatch, loop.StepMetrics, "add", 5)
    assert loop.train(tiny_config(), tmp_path).step == 5
    saved = json.loads((tmp_path / "checkpoints" / "5" / "metrics" / "metrics").read_text())["val_loss"]
    assert saved == np.inf and load_params(tmp_path)[0] == 5 and load_params(tmp_path, "best")[0] == 3
