"""The encoder in other systems: StableHLO, a PyTorch module, and the command that converts."""

import datetime
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import PTH, with_scale

import geomoe
from geomoe import landsat, metadata
from geomoe.cli import convert
from geomoe.export import stablehlo
from geomoe.weights import torch_format


def here():
    """The platform, by its name in exported files."""
    return {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())


@pytest.fixture(scope="module")
def some():
    """Five images with their place and time, one time unknown; two lack data in half a patch and in more."""
    rng = np.random.default_rng(0)
    time = np.full(5, np.datetime64("2020-05-05T10:00", "s"))
    time[2] = np.datetime64("NaT")
    images = rng.integers(7000, 20000, (5, 8, 8, 7)).astype(np.uint16)
    images[1, :2, :3] = images[3, :3, 5] = 0
    return images, dict(lat=rng.uniform(-60, 60, 5), lon=rng.uniform(-180, 180, 5), time=time)


def test_stablehlo_holds_statistics_of_the_logarithm(tmp_path, some):
    images, place = some
    images = images.copy()
    images[0, 3, 3] = 100  # darker than anything on Earth, and data
    encoder = with_scale(geomoe.load(PTH), "log")
    stablehlo.export_encoder(encoder, tmp_path / "a.stablehlo", platforms=[here()])
    function = jax.export.deserialize(bytearray((tmp_path / "a.stablehlo").read_bytes()))
    out = function.call(images.astype(np.float32), *metadata.encode(**place))
    np.testing.assert_allclose(out, encoder.embed(images, **place), atol=2e-5)


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


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "encoder.stablehlo"
    stablehlo.export_encoder(geomoe.load(PTH), path, platforms=[here()])
    return path


def test_an_exported_file_asks_every_platform_for_products_in_float32(exported):
    """On GPU and TPU JAX would shorten the factors to 10 or 8 bits, and the file would give other numbers there."""
    products = re.findall(r"stablehlo\.dot_general.*", stablehlo.load_exported(exported).mlir_module())
    assert products and all("precision = [HIGHEST, HIGHEST]" in product for product in products)


def redescribed(path, folder, **facts):
    """A copy of an exported function of which PATH.json says something else; None takes a fact away."""
    copy = folder / path.name
    copy.write_bytes(path.read_bytes())
    facts = json.loads(pathlib.Path(f"{path}.json").read_text()) | facts
    pathlib.Path(f"{copy}.json").write_text(json.dumps({key: value for key, value in facts.items() if value is not None}))
    return copy


def test_an_exported_file_loads_up_to_its_day(exported, tmp_path, some):
    images, place = some
    facts = json.loads(pathlib.Path(f"{exported}.json").read_text())
    assert facts["jax_version"] == jax.__version__ and "six months" in facts["guarantee"]
    days = (datetime.date.fromisoformat(facts["expires"]) - datetime.date.today()).days
    assert 181 <= days <= 184
    inputs = images.astype(np.float32), *metadata.encode(**place)
    out = stablehlo.load_exported(exported).call(*inputs)
    np.testing.assert_allclose(out, geomoe.load(PTH).embed(images, **place), atol=1e-5)
    yesterday, today = (str(datetime.date.today() - datetime.timedelta(days=n)) for n in (1, 0))
    for still_good in (
        dict(expires=yesterday),  # by the same JAX
        dict(expires=today, jax_version="0.9.0"),
        dict(expires=None, jax_version="0.9.0"),  # a file of geomoe 0.1
    ):
        assert stablehlo.load_exported(redescribed(exported, tmp_path, **still_good)).platforms == (here(),)
    expired = redescribed(exported, tmp_path, expires=yesterday, jax_version="0.9.0")
    with pytest.raises(ValueError, match=rf"JAX 0.9.0 and expired on {yesterday}.*six months of its versions only.*again"):
        stablehlo.load_exported(expired)


def test_an_exported_file_that_cannot_be_read_is_named(exported, tmp_path):
    whole = exported.read_bytes()
    copy = redescribed(exported, tmp_path)
    copy.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match="encoder.stablehlo is not the file that .*json describes: it is damaged"):
        stablehlo.load_exported(copy)
    other = b"not what JAX wrote" * 10
    copy.write_bytes(other)
    redescribed(copy, tmp_path, sha256=hashlib.sha256(other).hexdigest(), jax_version="0.1.0")
    with pytest.raises(ValueError, match=f"JAX {jax.__version__} cannot read it.*six months.*or use JAX 0.1.0"):
        stablehlo.load_exported(copy)
    description = pathlib.Path(f"{copy}.json")
    for text in ("{", "[]", "{}", '{"jax_version": "0.9", "expires": "soon"}'):
        description.write_text(text)
        with pytest.raises(ValueError, match="encoder.stablehlo.json is no description"):
            stablehlo.load_exported(copy)
    description.unlink()
    with pytest.raises(FileNotFoundError, match="encoder.stablehlo.json"):
        stablehlo.load_exported(copy)
    with pytest.raises(FileNotFoundError, match="nothing.stablehlo"):
        stablehlo.load_exported(tmp_path / "nothing.stablehlo")


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
    half = tensor.bfloat16()
    np.testing.assert_allclose(module(half, **place).numpy(), module(half.float(), **place).numpy(), atol=1e-6)
    resized = torch.nn.functional.interpolate(tensor, (22, 22), mode="bilinear")
    assert module(resized).shape == (5, 16)
    six = TorchEncoder(encoder, InputSpec(bands=("B2", "B3", "B4", "B5", "B6", "B7"), fill_missing=True))
    assert six(tensor[:, 1:]).shape == (5, 16)
    z_scored, valid = encoder.prepare(images)
    assert valid.sum() == valid.size - 6 - 3
    given = torch.from_numpy(z_scored).permute(0, 3, 1, 2)
    same = TorchEncoder(encoder, None)(given, **place, valid=torch.from_numpy(valid))
    np.testing.assert_allclose(same.numpy(), out.numpy(), atol=1e-5)


def test_a_pixel_that_lacks_one_band_is_no_data_in_an_exported_encoder(tmp_path):
    encoder, rng = geomoe.load(PTH), np.random.default_rng(0)
    images = rng.integers(7000, 20000, (1, 8, 8, 7)).astype(np.float32)
    images[0, :3, :3, 3] = 0
    stablehlo.export_encoder(encoder, tmp_path / "e", platforms=(here(),))
    found = stablehlo.load_exported(tmp_path / "e").call(images, *metadata.encode([np.nan], [np.nan], [None]))
    np.testing.assert_allclose(found, encoder.embed(images.astype(np.uint16)), atol=1e-5)


def test_an_encoder_is_converted_with_other_statistics(encoder, tmp_path):
    """Those of a prepared dataset, for files that know no others; of as many bands as it takes."""
    own = landsat.Statistics.published("eurosat_landsat")
    (tmp_path / "s.json").write_text(json.dumps(dict(own)))
    (tmp_path / "six.json").write_text('{"mean": [1, 2, 3, 4, 5, 6], "std": [1, 2, 3, 4, 5, 6]}')
    encoder.save(tmp_path / "a.safetensors")
    run = lambda output, file: convert.main(
        [f"--checkpoint={tmp_path / 'a.safetensors'}", f"--output={tmp_path / output}", f"--statistics={tmp_path / file}"]
    )
    for output in ("b.safetensors", "run"):
        run(output, "s.json")
        assert geomoe.load(tmp_path / output).statistics == own
    with pytest.raises(ValueError, match="statistics of unnamed are of 6 bands, and .* takes 7"):
        run("c.safetensors", "six.json")
