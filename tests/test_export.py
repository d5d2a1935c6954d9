"""The encoder in other systems: StableHLO, a PyTorch module, and the command that converts."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import PTH

import geomoe
from geomoe import metadata
from geomoe.cli import convert
from geomoe.weights import torch_format


@pytest.fixture(scope="module")
def some():
    """Five images with their place and time, one time unknown."""
    rng = np.random.default_rng(0)
    time = np.full(5, np.datetime64("2020-05-05T10:00", "s"))
    time[2] = np.datetime64("NaT")
    images = rng.integers(7000, 20000, (5, 8, 8, 7)).astype(np.uint16)
    return images, dict(lat=rng.uniform(-60, 60, 5), lon=rng.uniform(-180, 180, 5), time=time)


def test_stablehlo_runs_without_the_package(tmp_path, some):
    images, place = some
    path = tmp_path / "encoder.stablehlo"
    convert.main(["--checkpoint", str(PTH), "--output", str(path), "--platforms", "cpu,tpu,cuda"])
    facts = json.loads((tmp_path / "encoder.stablehlo.json").read_text())
    assert facts["inputs"]["images"] == ["N", 8, 8, 7] and facts["unit"] == "collection2_dn"
    wanted = geomoe.load(PTH).embed(images, **place)
    np.savez(tmp_path / "in.npz", images=images.astype(np.float32), **metadata.encode(**place)._asdict(), wanted=wanted)
    code = f"""
import sys
import jax, jax.export, numpy as np
function = jax.export.deserialize(bytearray(open({str(path)!r}, "rb").read()))
data = np.load({str(tmp_path / "in.npz")!r})
for n in (1, 5):
    out = function.call(data["images"][:n], *(data[k][:n] for k in ("week", "hour", "lat", "lon")))
    np.testing.assert_allclose(np.asarray(out), data["wanted"][:n], atol=1e-5)
assert function.platforms == ("cpu", "tpu", "cuda"), function.platforms
assert not any(name.startswith(("geomoe", "flax")) for name in sys.modules)
"""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    with pytest.raises(ValueError, match="platform 'metal'"):
        convert.main(["--checkpoint", str(PTH), "--output", str(tmp_path / "x.stablehlo"), "--platforms", "metal"])


def test_conversion_there_and_back(tmp_path, some):
    images, place = some
    convert.main(["--checkpoint", str(PTH), "--output", str(tmp_path / "run")])
    convert.main(["--checkpoint", str(tmp_path / "run"), "--output", str(tmp_path / "again.pth")])
    before, after = (torch_format.read(path)["model_state"] for path in (PTH, tmp_path / "again.pth"))
    assert before.keys() == after.keys() and all(np.array_equal(before[name], after[name]) for name in before)
    paths = ((PTH, "last"), (tmp_path / "run", "best"), (tmp_path / "again.pth", "last"))
    encoders = [geomoe.load(*path) for path in paths]
    one, two, three = (encoder.embed(images, **place) for encoder in encoders)
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, three)
    with pytest.raises(ValueError, match="is there already"):
        convert.main(["--checkpoint", str(PTH), "--output", str(tmp_path / "run")])


@pytest.mark.long
def test_a_pytorch_module_around_the_encoder(some):
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install -r requirements-long.txt")
    from geomoe.data.preprocess import InputSpec
    from geomoe.export.torch_module import TorchEncoder

    images, place = some
    encoder = geomoe.load(PTH)
    module = TorchEncoder(encoder).eval()
    tensor = torch.from_numpy(images.astype(np.float32)).permute(0, 3, 1, 2)
    out = module(tensor, **place)
    assert out.shape == (5, module.num_features) and out.dtype == torch.float32 and not out.requires_grad
    np.testing.assert_allclose(out.numpy(), encoder.embed(images, **place), atol=1e-6)
    resized = torch.nn.functional.interpolate(tensor, (22, 22), mode="bilinear")
    assert module(resized).shape == (5, 16)
    six = TorchEncoder(encoder, InputSpec(bands=("B2", "B3", "B4", "B5", "B6", "B7"), fill_missing=True))
    assert six(tensor[:, 1:]).shape == (5, 16)
    z_scored = torch.from_numpy(encoder.prepare(images)[0]).permute(0, 3, 1, 2)
    np.testing.assert_allclose(TorchEncoder(encoder, None)(z_scored, **place).numpy(), out.numpy(), atol=1e-5)
