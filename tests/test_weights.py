"""PyTorch checkpoints without PyTorch: there and back, damaged, hostile."""

import pickle
import zipfile

import jax
import numpy as np
import pytest
from conftest import DATA, MICRO, PTH

from geomoe.models import build_mae
from geomoe.training import init_params
from geomoe.weights import TorchFormatError, load_torch_checkpoint, save_torch_checkpoint, torch_format


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


@pytest.mark.parametrize("change", [dict(missing_metadata="learned"), dict(selection_bias=True)])
def test_what_the_published_format_cannot_hold_is_refused(tmp_path, change):
    model = build_mae(**MICRO, **change)
    with pytest.raises(ValueError, match=r"export StableHLO instead \(geomoe.export.stablehlo.export_encoder\)"):
        save_torch_checkpoint(tmp_path / "x.pth", init_params(model, 0), model.config)
    assert not (tmp_path / "x.pth").exists()


def test_views_of_a_storage_are_read_where_they_stand():
    """PyTorch wrote `views.pth`: a part, the transpose of (4, 6) and every third of one storage that counts to 24."""
    whole = np.arange(24, dtype=np.float32)
    state = torch_format.read(DATA / "views.pth")["model_state"]
    np.testing.assert_array_equal(state["part"], whole[5:11])
    np.testing.assert_array_equal(state["columns"], whole.reshape(4, 6).T)
    np.testing.assert_array_equal(state["step"], whole[2:20:3])
