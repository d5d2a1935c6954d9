"""What XLA is told, and when it is not."""

import multiprocessing
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import PTH, ROOT

import geomoe
from geomoe import compilation, probing
from geomoe.models import build_mae
from geomoe.models.encoder import Encoder
from geomoe.pretrained import encoder as pretrained_encoder, programs
from geomoe.probing import features
from geomoe.training.state import init_params


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


def test_what_is_compared_with_other_machines_asks_for_products_in_float32(encoder, monkeypatch):
    """On CPU they are; on GPU and TPU JAX would shorten the factors to 10 or 8 bits."""
    asked = set()

    def watched(function):
        def run(*args, **options):
            asked.add((function.__name__, jax.config.jax_default_matmul_precision))
            return function(*args, **options)

        return run

    watch = {programs: ("embed", "apply"), pretrained_encoder: ("reconstruct",), features: ("_rectified_mean",)}
    for module, name in ((module, name) for module, names in watch.items() for name in names):
        monkeypatch.setattr(module, name, watched(getattr(module, name)))
    images = np.full((2, 8, 8, 7), 9000, np.uint16)
    encoder.embed(images), encoder.routing(images), encoder.reconstruct(images)
    probing.GaussianConvFeatures(7, num_filters=8)(np.zeros((2, 8, 8, 7), np.float32))
    assert asked == {(name, "highest") for name in ("embed", "apply", "reconstruct", "_rectified_mean")}
    assert jax.config.jax_default_matmul_precision is None


def test_the_router_chooses_in_float32_whatever_other_products_are_in():
    model = build_mae("tiny", img_size=8)
    inputs = [np.zeros((1, 8, 8, 7), np.float32), *[np.zeros((1, 2), np.float32)] * 4]
    encoder = Encoder(model.config)
    params = init_params(model, 0)["encoder"]
    text = jax.jit(lambda *args: encoder.apply({"params": params}, *args).gates).lower(*inputs).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    exact = [line for line in products if "precision = [HIGHEST, HIGHEST]" in line]
    routers = [line for line in products if re.search(r"x16xf32>, tensor<16x[345]xf32>", line)]
    assert len(routers) == model.config.depth and routers == exact != products


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


@pytest.mark.long
def test_other_defaults_of_the_program_change_nothing(encoder):
    """Double precision and no broadcasting of ranks, as another library may ask for: the same numbers, and its own stay."""
    rng = np.random.default_rng(0)
    x, images = rng.standard_normal((60, 6)).astype(np.float32), rng.integers(8000, 12000, (4, 8, 8, 7)).astype(np.uint16)
    y, several = (x[:, 0] > 0).astype(int) + (x[:, 1] > 1), (x[:, :3] > 0.5).astype(int)
    z, shape = rng.standard_normal((8, 8, 8, 7)).astype(np.float32), dict(num_filters=8)
    fields = {name: rng.standard_normal((8, 2)).astype(np.float32) for name in ("week", "hour", "lat", "lon")}
    rows = {"image": z, "labels": np.arange(8) % 2, **fields}

    def everything():
        classes, pairs = (x[:40], y[:40]), (x[:20], x[20:40], np.arange(20) % 2 == 0)
        results = [
            probing.linear_probe(classes, (x[40:], y[40:]), task="multiclass", resamples=20),
            probing.linear_probe((x[:40], several[:40]), (x[40:], several[40:]), task="multilabel", C=(0.1, 1.0), resamples=0),
            probing.knn_probe(classes, (x[40:], y[40:]), task="multiclass", resamples=0),
            probing.finetune(rows, rows, encoder=encoder, task="multiclass", epochs=1, resamples=0),
            probing.change_probe(pairs, pairs, resamples=0),
        ]
        arrays = [result.scores for result in results] + [np.array(list(results[0].intervals.values()))]
        arrays += [encoder.embed(images), encoder.reconstruct(images).reconstruction, encoder.routing(images).gates[0]]
        arrays += [geomoe.load(PTH).random_weights(1).embed(images), probing.RandomConvFeatures(z, **shape)(z)]
        return arrays

    expected = everything()
    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        found = everything()
        assert jax.numpy.ones(1).dtype == np.float64
    for a, b in zip(expected, found):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, atol=1e-6)


def _embed_into(queue, encoder, images):
    try:
        queue.put(encoder.embed(images).shape)
    except RuntimeError as error:
        queue.put(str(error))


@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_fork_is_told_to_be_spawned(encoder):
    """It would hang in JAX, whose threads a fork lacks."""
    images = np.full((1, 8, 8, 7), 9000, np.uint16)
    encoder.embed(images)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=_embed_into, args=(queue, encoder, images), daemon=True)
    worker.start()
    assert "start worker processes by multiprocessing.get_context('spawn')" in queue.get(timeout=120)
    worker.join()
    assert encoder.embed(images).shape == (1, 16)  # the parent goes on
