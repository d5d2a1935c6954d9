"""What XLA is told, and when it is not."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
from conftest import ROOT

from geomoe import compilation


def test_flags_are_added_once_and_the_users_win(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=true --other=1")
    compilation.set_flags()
    compilation.set_flags()
    flags = os.environ["XLA_FLAGS"].split()
    assert flags[:2] == ["--xla_cpu_use_fusion_emitters=true", "--other=1"]
    assert flags[2:] == ["--xla_cpu_scheduler_type=CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"]
    monkeypatch.setattr(jax, "__version_info__", (0, 99, 0))
    monkeypatch.setenv("XLA_FLAGS", "")
    compilation.set_flags()
    assert os.environ["XLA_FLAGS"] == ""


def test_jit_computes_and_passes_options():
    double = compilation.jit(lambda n, x: x * n, static_argnums=0)
    assert float(double(2, jnp.float32(3))) == 6


def test_images_at_once_divide_the_batch(monkeypatch):
    assert [compilation.images_at_once(n, 1) for n in (256, 96, 40, 32)] == [32, 32, 40, 32]
    assert compilation.images_at_once(256, 4) == 256
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compilation.images_at_once(256, 1) == 256


def test_importing_geomoe_is_quick_and_brings_no_tensorflow():
    code = (
        "import sys; import geomoe\n"
        "assert 'jax' not in sys.modules, 'the package itself is lazy'\n"
        "geomoe.load, geomoe.models.build_encoder, geomoe.probing.linear_probe, geomoe.training.default_config\n"
        "assert not any(m == 'tensorflow' or m.startswith('tensorflow.') for m in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
