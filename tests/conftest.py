"""Shared paths and small data."""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

from geomoe import compilation

DATA = pathlib.Path(__file__).parent / "data"
ROOT = pathlib.Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"

compilation.set_flags()  # as the scripts do

# Many tests compile the same small programs; scripts that tests start read GEOMOE_CACHE.
os.environ["GEOMOE_CACHE"] = str(ROOT / ".cache" / "jax")
jax.config.update("jax_compilation_cache_dir", os.environ["GEOMOE_CACHE"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture(scope="session")
def shared():
    """The folder of golden numbers and real samples beside the project; tests that need it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the real samples and the full-size weights in {SHARED}, which is absent")
    return SHARED


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
