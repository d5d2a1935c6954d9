"""The frozen encoder."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import DATA, ROOT

import geomoe


@pytest.fixture(scope="module")
def encoder():
    return geomoe.load(DATA / "reference_tiny_random.pth")


def test_importing_geomoe_is_quick_and_brings_no_tensorflow():
    code = (
        "import time, sys; t = time.perf_counter(); import geomoe; d = time.perf_counter() - t\n"
        "assert d < 2, d\n"
        "geomoe.load, geomoe.models.build_encoder, geomoe.probing.linear_probe, geomoe.training.default_config\n"
        "assert not any(m == 'tensorflow' or m.startswith('tensorflow.') for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_embedding_of_published_weights(encoder):
    golden = np.load(DATA / "golden_tiny.npz")
    images = golden["images_nchw"].transpose(0, 2, 3, 1)
    out = encoder.apply_tokens(images, *(golden[name] for name in ("week", "hour", "lat", "lon")))
    np.testing.assert_allclose(out.tokens, golden["encoder_tokens"], atol=2e-5)
    bare = golden["encoder_tokens_no_metadata"]
    tokens = encoder.embed(images, normalized=True, pool="tokens")
    np.testing.assert_allclose(tokens, bare, atol=2e-5)
    np.testing.assert_allclose(encoder.embed(images, normalized=True), bare.mean(axis=1), atol=2e-5)
    np.testing.assert_allclose(encoder.embed(images, normalized=True, pool="patch_mean"), bare[:, 5:].mean(axis=1), atol=2e-5)
    np.testing.assert_allclose(encoder.embed(images, normalized=True, pool="cls", batch_size=3), bare[:, 4], atol=2e-5)
    assert encoder.embed_dim == 16 and encoder.num_params == 8788


def test_digital_numbers_and_metadata_of_each_sample(encoder):
    rng = np.random.default_rng(0)
    dn = rng.integers(1, 30000, (3, 8, 8, 7)).astype(np.uint16)
    mean, std = (np.array(encoder.statistics[k]) for k in ("mean", "std"))
    time = np.array(["2017-06-13T10:00", "NaT", "2018-01-01T00:30"], "datetime64[m]")
    z = encoder.embed(dn, lat=[48.2, None, np.nan], lon=[16.4, 3.0, None], time=time)
    week, hour = geomoe.metadata.encode_time(time)
    lat, lon = (geomoe.metadata.encode_degrees(v) for v in ([48.2, np.nan, np.nan], [16.4, 3.0, np.nan]))
    out = encoder.apply_tokens((dn - mean) / std, week, hour, lat, lon)
    np.testing.assert_allclose(z, np.mean(out.tokens, axis=1), atol=2e-5)
    assert not week[1].any() and not lat[2].any() and lat[0].any()


def test_bad_input_is_named(encoder):
    good = np.ones((2, 8, 8, 7), np.uint16)
    for arguments, message in (
        (dict(images=good[0]), r"images must be \(N, H, W, C\), got \(8, 8, 7\)"),
        (dict(images=good[..., :6]), r"\(N, H, W, 7\), got \(2, 8, 8, 6\)"),
        (dict(images=good[:, :7]), "images of 7 x 8 pixels for a model of 8 x 8"),
        (dict(images=good.astype(str)), "dtype"),
        (dict(images=good * np.float32("nan")), "NaN"),
        (dict(images=good, lat=[1.0]), r"lat must be \(2,\)"),
        (dict(images=good, lat=[1.0, 91.0], lon=[0, 0]), r"lat\[1\] = 91"),
        (dict(images=good, pool="max"), "pool = 'max'"),
    ):
        with pytest.raises(ValueError, match=message):
            encoder.embed(**arguments)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        geomoe.load("nowhere")
