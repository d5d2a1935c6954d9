"""Other systems' formats: PyTorch checkpoints without PyTorch, StableHLO, a PyTorch module."""

import json
import os
import pickle
import subprocess
import sys
import zipfile

import jax
import numpy as np
import pytest
from conftest import DATA

import geomoe
from geomoe import metadata
from geomoe.cli import convert
from geomoe.models import build_mae
from geomoe.training import init_params
from geomoe.weights import TorchFormatError, load_torch_checkpoint, save_torch_checkpoint, torch_format

PTH = DATA / "reference_tiny_random.pth"


def test_a_checkpoint_survives_the_way_to_flax_and_back(tmp_path):
    config, params = load_torch_checkpoint(PTH)
    save_torch_checkpoint(tmp_path / "again.pth", params, config)
    before, after = (torch_format.read(path)["model_state"] for path in (PTH, tmp_path / "again.pth"))
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)


def test_experts_of_their_own_survive_too(tmp_path):
    model = build_mae("tiny", img_size=8, share_projections=False)
    params = init_params(model, 3)
    save_torch_checkpoint(tmp_path / "own.pth", params, model.config)
    config, again = load_torch_checkpoint(tmp_path / "own.pth")
    assert not config.share_projections and config.width == model.config.width
    jax.tree.map(np.testing.assert_array_equal, params, again)


def test_unknown_sizes_need_the_heads(tmp_path):
    model = build_mae("tiny", img_size=8, width=24, num_heads=2, num_groups=1, decoder_width=12)
    save_torch_checkpoint(tmp_path / "odd.pth", init_params(model, 0), model.config)
    with pytest.raises(ValueError, match="num_heads="):
        load_torch_checkpoint(tmp_path / "odd.pth")
    with pytest.raises(ValueError, match="4 heads and 4 groups"):
        load_torch_checkpoint(tmp_path / "odd.pth", num_heads=4, num_groups=4)
    config, _ = load_torch_checkpoint(tmp_path / "odd.pth", num_heads=2, num_groups=1)
    assert (config.num_heads, config.num_groups, config.width) == (2, 1, 24)


class Evil:
    def __reduce__(self):
        return print, ("this must never run",)


def test_code_in_a_checkpoint_is_refused(tmp_path, capsys):
    path = tmp_path / "evil.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("evil/data.pkl", pickle.dumps({"model_state": Evil()}, protocol=2))
    with pytest.raises(TorchFormatError, match="evil.pth.*print"):
        load_torch_checkpoint(path)
    assert "never" not in capsys.readouterr().out


def test_damaged_and_foreign_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        load_torch_checkpoint(tmp_path / "nowhere.pth")
    text = tmp_path / "text.pth"
    text.write_text("hello")
    with pytest.raises(TorchFormatError, match="text.pth is not a PyTorch zip"):
        load_torch_checkpoint(text)
    cut = tmp_path / "cut.pth"
    with zipfile.ZipFile(PTH) as whole, zipfile.ZipFile(cut, "w") as part:
        for item in whole.namelist():
            if not item.endswith("/data/3"):
                part.writestr(item, whole.read(item))
    with pytest.raises(TorchFormatError, match="data/3"):
        load_torch_checkpoint(cut)
    other = tmp_path / "other.pth"
    torch_format.write(other, {"model_state": {"fc.weight": np.zeros((2, 2), np.float32)}})
    with pytest.raises(ValueError, match=r"other.pth holds no geo-moe-mae weights"):
        load_torch_checkpoint(other)


def test_missing_keys_are_named(tmp_path):
    checkpoint = torch_format.read(PTH)
    state = {k: v for k, v in checkpoint["model_state"].items() if k != "encoder.layers.1.attn.q_proj.weight"}
    torch_format.write(tmp_path / "short.pth", {"model_state": state})
    with pytest.raises(ValueError, match="encoder.layers.1.attn.q_proj.weight"):
        load_torch_checkpoint(tmp_path / "short.pth")


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
    encoders = [geomoe.load(path) for path in (PTH, tmp_path / "run", tmp_path / "again.pth")]
    one, two, three = (encoder.embed(images, **place) for encoder in encoders)
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, three)
    with pytest.raises(ValueError, match="is there already"):
        convert.main(["--checkpoint", str(PTH), "--output", str(tmp_path / "run")])


@pytest.mark.long
def test_pytorch_reads_our_weights(tmp_path, shared):
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install -r requirements-long.txt")
    model = build_mae("S")
    params = init_params(model, 5)
    save_torch_checkpoint(tmp_path / "S.pth", params, model.config)
    ours = torch.load(tmp_path / "S.pth", weights_only=True)["model_state"]
    published = torch.load(shared / "golden" / "reference_S_random.pth", weights_only=True)["model_state"]
    assert ours.keys() == published.keys()
    for name, value in published.items():
        assert ours[name].shape == value.shape and ours[name].dtype == value.dtype, name
    # Linear weights are (out, in) there and (in, out) here.
    block = params["encoder"]["block_03"]
    np.testing.assert_array_equal(ours["encoder.layers.3.moe.experts.1.W.weight"].numpy(), block["moe"]["experts"]["w"][1].T)
    np.testing.assert_array_equal(ours["encoder.layers.3.moe.experts.2.V.bias"].numpy(), block["moe"]["experts"]["v_bias"])
    np.testing.assert_array_equal(ours["encoder.norm.weight"].numpy(), params["encoder"]["norm"]["scale"])


@pytest.mark.long
def test_a_pytorch_module_around_the_encoder(some):
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install -r requirements-long.txt")
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
    six = TorchEncoder(encoder, bands=("B2", "B3", "B4", "B5", "B6", "B7"), fill_missing=True)
    assert six(tensor[:, 1:]).shape == (5, 16)
