"""The commands: every option that a command reads has a use."""

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys

import pytest
from conftest import PTH, ROOT, finish, start_script
from geotiffs import pixels, write_tif

import geomoe
from geomoe import embeddings
from geomoe.cli import convert, embed, info, main, options as shared, report

CLI = ROOT / "geomoe" / "cli"
SHARED = (CLI / "options.py").read_text()  # options of commands that call add_options
COMMANDS = sorted(path for path in CLI.glob("*.py") if "ArgumentParser(" in path.read_text())


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.stem)
def test_every_option_is_used(path):
    text = path.read_text()
    text += SHARED * ("add_options(parser" in text)
    options = re.findall(r'add_argument\(\s*"(?:--)?(\w+)"', text)
    assert options
    by_name = re.findall(r'"(\w+)"', "".join(re.findall(r"getattr\(args.*|.*in \(\"[^)]*\)|OF_SCENES = .*", text)))
    assert [name for name in options if f"args.{name}" not in text and name not in by_name] == []


def test_options_that_a_source_has_no_use_for_are_refused(tmp_path):
    arguments = ["--checkpoint", str(PTH), "--output", str(tmp_path / "o.npz")]
    for options, message in (
        (["--folder", "f", "--min_valid", "0.9"], "--min_valid is for --scene"),
        (["--folder", "f", "--max_cloud", "0.1"], "--max_cloud is for --scene"),
        (["--folder", "f", "--split", "train"], "--split is for --dataset"),
        (["--scene", "s", "--data_dir", "d"], "--data_dir is for --dataset"),
        (["--scene", "s", "--resize_mode", "resize"], "--resize_mode is for patches"),
        (["--dataset", "d", "--mask", "cloud"], "--mask is for --scene"),
        (["--dataset", "d", "--sun_elevation", "0", "--fill_missing"], "--sun_elevation, --fill_missing: a dataset says"),
        (["--stack", "s", "--time", "2020-05-01"], "--time is of one scene"),
        (["--folder", ""], "--folder is empty"),
        (["--dataset", ""], "--dataset is empty"),
        (["--scene", ""], "--scene is empty"),
        (["--folder", "f", "--batch_size", "0"], "batch_size = 0 must be a whole number, 1 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            embed.main([*arguments, *options])


def test_zero_is_a_share_like_any_other():
    """And no sign that an option was not given, which leaves it to the library."""
    parser = argparse.ArgumentParser()
    shared.add_options(parser)
    options = lambda *given: shared.window_options(parser.parse_args(given))
    assert options() == {}
    assert options("--min_valid", "0", "--max_cloud", "0") == {"min_valid": 0.0, "max_cloud": 0.0}
    assert options("--mask", "cloud, shadow", "--stride", "4") == {"mask": ("cloud", "shadow"), "stride": 4}


@pytest.mark.parametrize("command", [convert, embed, report], ids=lambda module: module.__name__)
def test_a_checkpoint_that_is_not_there_is_named(command, run_dir, synthetic_dir, tmp_path):
    """The run has one checkpoint, of step 4."""
    if command is report:
        arguments = [str(run_dir), "--data_dir", str(tmp_path)]
    else:
        arguments = ["--checkpoint", str(run_dir)]
    if command is embed:
        arguments += ["--dataset", "synthetic_landsat/small", "--data_dir", str(synthetic_dir)]
    with pytest.raises(FileNotFoundError, match="no checkpoint '?3"):
        command.main([*arguments, "--which", "3", "--output", str(tmp_path / ("run" if command is convert else "out.npz"))])


def test_an_output_that_cannot_be_written_is_named_before_anything_is_loaded(tmp_path):
    with pytest.raises(ValueError, match=r"o\.csv: embeddings are written as"):
        embed.main(["--checkpoint", "there is none", "--folder", str(tmp_path), "--output", str(tmp_path / "o.csv")])


@pytest.mark.parametrize("name", ["k.ONNX", "k.Pth", "k.StableHLO"])
def test_convert_takes_an_ending_in_any_case(tmp_path, name):
    if name.endswith("ONNX"):
        pytest.importorskip("onnx")
    convert.main(["--checkpoint", str(PTH), "--output", str(tmp_path / name)])
    assert (tmp_path / name).is_file()


@pytest.mark.parametrize("name", ["weights.pt", "encoder.safetensor"])
def test_convert_makes_no_folder_of_a_mistaken_ending(tmp_path, name):
    with pytest.raises(ValueError, match=rf"--output .*{name} has an ending that is none of .safetensors, .pth"):
        convert.main(["--checkpoint", str(PTH), "--output", str(tmp_path / name)])
    for folder in (f"{name}/", "v0.2"):
        convert.main(["--checkpoint", str(PTH), "--output", f"{tmp_path}/{folder}"])
        assert (tmp_path / folder / "run.json").is_file()


def test_convert_takes_spaces_between_platforms(tmp_path):
    path = tmp_path / "e.STABLEHLO"
    convert.main(["--checkpoint", str(PTH), "--output", str(path), "--platforms", "cpu, cuda"])
    assert json.loads((tmp_path / "e.STABLEHLO.json").read_text())["platforms"] == ["cpu", "cuda"]
    with pytest.raises(ValueError, match="--dtype is for .safetensors files"):
        convert.main(["--checkpoint", str(PTH), "--output", str(tmp_path / "x.PTH"), "--dtype", "float16"])


NO_CUDA = pytest.mark.skipif(importlib.util.find_spec("jax_plugins") is not None, reason="JAX is installed for GPUs here")


@pytest.mark.parametrize("platform", [pytest.param("cuda", marks=NO_CUDA), "no-such-kind"])
def test_a_kind_of_device_that_is_not_there_is_named(platform):
    """JAX says it by an assertion without words where no package for the kind is installed."""
    code = "import sys; from geomoe.cli.setup import clear_errors, start; sys.exit(clear_errors(start))"
    environment = {**os.environ, "JAX_PLATFORMS": platform}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 2)
    assert done.stderr.startswith(f"error: JAX finds no device for JAX_PLATFORMS={platform}")


def geomoe_command(*arguments, module="main"):
    return subprocess.run([sys.executable, "-m", f"geomoe.cli.{module}", *arguments], cwd=ROOT, capture_output=True, text=True)


def test_one_command_for_all(run_dir):
    usage = geomoe_command()
    assert usage.returncode == 0 and all(name in usage.stdout for name in main.COMMANDS)
    wrong = geomoe_command("embedd")
    assert wrong.returncode == 1 and "unknown command 'embedd'; there are prepare, train" in wrong.stderr
    help_of = geomoe_command("embed", "--help")
    assert help_of.returncode == 0 and "--checkpoint" in help_of.stdout and help_of.stdout.startswith("usage: geomoe embed ")
    assert geomoe_command("--help", module="embed").stdout.startswith("usage: python -m geomoe.cli.embed ")
    config = geomoe_command("train", "--config", "configs/nope.py")
    assert config.returncode == 1 and "there is no config file configs/nope.py" in config.stderr
    assert geomoe_command("--version").stdout.startswith("geomoe 0.")


def test_completion_knows_every_command_and_option():
    script = main.completion("bash")
    for command in main.COMMANDS:
        assert f"*:{command})" in script
    assert "--checkpoint" in main.options("embed") and "--workdir" in main.options("train")
    completed = subprocess.run(
        ["bash", "-c", script + 'COMP_WORDS=(geomoe embed --check) COMP_CWORD=2; _geomoe; echo "${COMPREPLY[@]}"'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert completed.stdout.strip() == "--checkpoint"
    with pytest.raises(ValueError, match="completion for 'fish'"):
        main.completion("fish")


def test_info_says_what_a_path_is(run_dir, tmp_path):
    encoder = geomoe.load(run_dir)
    encoder.save(tmp_path / "e.safetensors")
    scene = write_tif(tmp_path / "LC08_L2SP_193026_20210613_20210622_02_T1.tif", pixels(size=(60, 60)))
    for name in ("o.npz", "o.tif"):
        embeddings.embed_scene(encoder, embeddings.Sink(tmp_path / name, pool="cls"), scene)
    facts = {path: info.describe(str(path)) for path in (run_dir, tmp_path / "e.safetensors", scene, tmp_path / "o.npz")}
    kinds = [each["kind"] for each in facts.values()]
    assert kinds == ["run directory", "weights", "scene", "embeddings"]
    assert facts[run_dir]["checkpoint"] == "4" and facts[tmp_path / "e.safetensors"]["decoder"] == "no"
    assert facts[scene]["unit"] == "collection2_dn" and facts[scene]["time"] == "2021-06-13"
    assert facts[tmp_path / "o.npz"]["pool"] == "cls" and facts[tmp_path / "o.npz"]["width"] == encoder.embed_dim
    of_map = info.describe(str(tmp_path / "o.tif"))
    assert of_map["kind"] == "embeddings" and of_map["pool"] == "cls" and of_map["width"] == encoder.embed_dim
    assert info.describe("geomoe-xxs")["kind"] == "weights"
    (scene.parent / "scenes.csv").write_text("id,path\n")  # a user's own
    assert info.describe(str(scene))["kind"] == "scene"
    (tmp_path / "many").mkdir()
    lines = ["scene,output,patches,embedded,error", "a,many/a.npz,12,10,", "b,many/b.npz,3,3,", "c,,0,0,no bands"]
    (tmp_path / "many" / "scenes.csv").write_text("\n".join(lines))
    many = info.describe(str(tmp_path / "many"))
    assert (many["scenes"], many["rows"], many["failed: c"]) == ("2 embedded, 1 failed", "15, 13 of them embedded", "no bands")
    with pytest.raises(FileNotFoundError, match="nothing at"):
        info.describe(str(tmp_path / "gone"))


DETECTED = """
import os, sys
from jax._src import clusters, distributed
from jax._src.clusters import cluster, cloud_tpu_cluster, k8s_cluster
from geomoe.cli import setup

kind, process = sys.argv[1:]
if kind == "tpu":
    cluster.running_in_cloud_tpu_vm = cloud_tpu_cluster.running_in_cloud_tpu_vm = True
    os.environ.update(TPU_SKIP_MDS_QUERY="1", TPU_WORKER_HOSTNAMES="localhost,localhost", TPU_WORKER_ID=process)
    os.environ.update(MEGASCALE_COORDINATOR_ADDRESS="localhost", MEGASCALE_NUM_SLICES="1", MEGASCALE_SLICE_ID="0")
else:
    pods = k8s_cluster.K8sCluster
    pods.is_env_present = classmethod(lambda cls: True)
    pods.get_coordinator_address = classmethod(lambda cls, **options: f"localhost:{options['override_coordinator_port']}")
    pods.get_process_count = classmethod(lambda cls: 2)
    os.environ["JOB_COMPLETION_INDEX"] = process
setup.start(distributed=True)
import jax
print(jax.process_index(), jax.process_count(), distributed.global_state.coordinator_address)
"""


@pytest.mark.long
@pytest.mark.parametrize("kind", ["tpu", "kubernetes"])
def test_processes_of_a_pod_are_those_that_jax_finds(kind, free_port, monkeypatch):
    """Of a TPU pod by the variables of Google Kubernetes Engine, of Kubernetes by what JAX asks of its interface."""
    monkeypatch.setenv("JAX_COORDINATOR_PORT", str(free_port))
    both = finish(*(start_script(["-c", DETECTED, kind, str(i)]) for i in (0, 1)))
    assert [out.split() for out, _ in both] == [[str(i), "2", f"localhost:{free_port}"] for i in (0, 1)]
