"""Shared paths, small data, tiny models and runs."""

import csv
import dataclasses
import importlib.util
import os
import pathlib
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile many programs and run each a few times: no optimisation takes a fifth of the time.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0".strip()

import jax
import numpy as np
import pytest

from geomoe import compilation
from geomoe.landsat import Statistics

DATA = pathlib.Path(__file__).parent / "data"
ROOT = pathlib.Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"
PTH = DATA / "reference_tiny_random.pth"  # 8 x 8 pixels, width 16, three blocks
MICRO = dict(size="tiny", depth=1, stage_experts=(3,), decoder_depth=1, img_size=16)  # compiles in seconds

compilation.set_flags()  # as the scripts do
if os.environ["JAX_PLATFORMS"] != "cpu":
    jax.config.update("jax_default_matmul_precision", "highest")  # the numbers are float32's; see `compilation.isolated`

# Many tests compile the same small programs; scripts that tests start read GEOMOE_CACHE.
os.environ["GEOMOE_CACHE"] = str(ROOT / ".cache" / "jax")
jax.config.update("jax_compilation_cache_dir", os.environ["GEOMOE_CACHE"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


LOGARITHM = Statistics(
    (-1.7, -1.65, -1.6, -1.55, -1.1, -1.3, -1.5), (0.5, 0.48, 0.4, 0.44, 0.38, 0.42, 0.35), "by hand", "collection2_dn", "log"
)


def on_scale(dn, scale):
    """Collection 2 digital numbers as the z-score takes them."""
    return np.log(np.maximum(np.float64(dn) * 0.0000275 - 0.2 + 0.1, 0.02)) if scale == "log" else np.float64(dn)


def with_scale(encoder, scale):
    """An encoder whose statistics are on a scale."""
    return dataclasses.replace(encoder, statistics=LOGARITHM) if scale == "log" else encoder


def load_module(path):
    """A Python file as a module: a config, an example."""
    spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def batch_of(model, size, seed=0):
    """Random images and metadata for a model."""
    rng = np.random.default_rng(seed)
    cfg = model.config
    batch = {"image": rng.standard_normal((size, cfg.img_size, cfg.img_size, cfg.in_channels)).astype(np.float32)}
    return batch | {name: rng.standard_normal((size, 2)).astype(np.float32) for name in ("week", "hour", "lat", "lon")}


def full_batch(model, size):
    """`batch_of` with everything that any objective reads; week and hour are hidden from the encoder."""
    rng = np.random.default_rng(5)
    batch = batch_of(model, size)
    batch["metadata"] = np.stack([batch[name] for name in ("week", "hour", "lat", "lon")], axis=1)
    batch["second_view"] = batch["image"][:, ::-1].copy()
    batch["valid"] = rng.random(batch["image"].shape[:3]) < 0.9
    batch["second_valid"] = batch["valid"][:, ::-1].copy()
    return batch | {name: np.zeros_like(batch[name]) for name in ("week", "hour")}


def tiny_config(**changes):
    """Eight steps of a model of one block on random numbers; `changes` are dotted keys."""
    from geomoe.training import default_config

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


def real_data_config(data_dir, **changes):
    """The same on prepared synthetic patches, three steps an epoch."""
    config = tiny_config()
    config.data.name = "synthetic_landsat/small"
    config.data.data_dir = str(data_dir)
    config.data.statistics = "computed"
    config.data.resize_mode = "random_crop"
    config.data.flips = True
    config.data.metadata_dropout = 0.2
    config.model.img_size = 40
    config.log.images = 2
    config.train.batch_size = 32
    config.update_from_flattened_dict(changes)
    return config


def rows_of(workdir):
    """The rows of a run's metrics.csv, without the columns that depend on the machine's speed."""
    from geomoe.training.run_log import TIMING_COLUMNS

    with open(os.path.join(workdir, "metrics.csv"), newline="") as file:
        return [{k: v for k, v in row.items() if k not in TIMING_COLUMNS} for row in csv.DictReader(file)]


def start_script(args, devices=1, **options):
    """Starts a script in a process of its own, with so many simulated devices."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    env = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    options = dict(cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) | options
    return subprocess.Popen([sys.executable, *args], env=env, **options)


def finish(*processes):
    """Outputs of processes that must end well."""
    outputs = [process.communicate(timeout=300) for process in processes]
    for process, (_out, err) in zip(processes, outputs):
        assert process.returncode == 0, err[-3000:]
    return outputs


@pytest.fixture(scope="session")
def shared():
    """The folder of golden numbers and real samples beside the project; tests that need it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the real samples and the full-size weights in {SHARED}, which is absent")
    return SHARED


@pytest.fixture(scope="session")
def encoder():
    """The tiny published-format encoder, of 8 x 8 pixels."""
    import geomoe

    return geomoe.load(PTH)


@pytest.fixture(scope="session")
def synthetic_dir(tmp_path_factory):
    """A data_dir with small synthetic sets: "small" (multi-label) and "small_dominant" (multi-class)."""
    from geomoe.data.builders import SyntheticConfig, SyntheticLandsat

    folder = tmp_path_factory.mktemp("synthetic")
    counts = {"train": 96, "val": 32, "test": 48}
    for name, dominant in (("small", False), ("small_dominant", True)):
        config = SyntheticConfig(name=name, counts=counts, dominant=dominant)
        SyntheticLandsat(config=config, data_dir=folder).download_and_prepare()
    return folder


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory, synthetic_dir):
    """A run directory of a tiny model, four steps old."""
    from geomoe.training import default_config, loop

    config = default_config()
    config.model.size = "tiny"
    config.data.name = "synthetic_landsat/small"
    config.data.data_dir = str(synthetic_dir)
    config.data.statistics = "computed"
    config.train.batch_size = 16
    config.train.num_steps = 4
    config.log.images = 0
    folder = tmp_path_factory.mktemp("run")
    loop.train(config, folder)
    return folder


@pytest.fixture
def free_port():
    """A port of this machine that nothing listens on."""
    import socket

    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]
