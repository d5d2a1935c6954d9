"""PyTorch checkpoints without PyTorch: there and back, damaged, hostile."""

import json
import pickle
import resource
import struct
import time
import zipfile

import jax
import numpy as np
import pytest
from conftest import DATA, LOGARITHM, MICRO, PTH

import geomoe
from geomoe.cli import convert
from geomoe.landsat import Statistics
from geomoe.models import build_mae
from geomoe.pretrained import PretrainedEncoder
from geomoe.training import init_params
from geomoe.weights import TorchFormatError, load_torch_checkpoint, read_torch_checkpoint, save_torch_checkpoint, torch_format


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


def altered(tmp_path, changes, **extra):
    """The published weights with some values changed."""
    state = torch_format.read(PTH)["model_state"]
    path = tmp_path / "altered.pth"
    torch_format.write(path, {"model_state": state | {name: change(state[name]) for name, change in changes.items()}, **extra})
    return path


def with_value(value):
    """A function that puts a value into the middle of an array."""

    def change(array):
        array = array.copy()
        array.reshape(-1)[array.size // 2] = value
        return array

    return change


DECODER = "decoder_layers.0.attn.out_proj.weight"


@pytest.mark.parametrize("name", [DECODER, "mask_token", "encoder.layers.2.moe.experts.0.W.bias", "decoder_pos_embed"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_and_named(tmp_path, name, value):
    with pytest.raises(ValueError, match=rf"altered.pth: {name} holds NaN or infinite"):
        load_torch_checkpoint(altered(tmp_path, {name: with_value(value)}))


@pytest.mark.parametrize(
    "name", ["decoder_pred.weight", "decoder_norm.bias", "encoder.cls_token", "encoder.layers.1.attn.v_proj.weight", DECODER]
)
@pytest.mark.parametrize("change", [lambda a: a[..., :-1], lambda a: a[None], lambda a: np.concatenate([a, a], axis=-1)])
def test_weights_of_another_shape_are_refused_and_named(tmp_path, name, change):
    if name == "decoder_norm.bias" and change(np.zeros((1, 2))).ndim == 2:
        pytest.skip("one case of a vector is enough")
    with pytest.raises(ValueError, match=rf"altered.pth: {name} has the shape .*needs \("):
        load_torch_checkpoint(altered(tmp_path, {name: lambda a: np.ascontiguousarray(change(a))}))


def test_a_projection_that_one_layer_does_not_share_is_kept(tmp_path):
    """The last layer's alone, or a bias alone: each expert keeps its own."""
    for name in ("decoder_layers.1.moe.experts.2.W2.weight", "encoder.layers.0.moe.experts.1.V.bias"):
        config, params = load_torch_checkpoint(altered(tmp_path, {name: lambda a: a + 1}))
        assert not config.share_projections
        save_torch_checkpoint(tmp_path / "again.pth", params, config)
        again = torch_format.read(tmp_path / "again.pth")["model_state"]
        np.testing.assert_array_equal(again[name], torch_format.read(PTH)["model_state"][name] + 1)


def test_the_repeated_projection_may_be_absent_and_must_not_differ(tmp_path):
    state = torch_format.read(PTH)["model_state"]
    torch_format.write(tmp_path / "x.pth", {k: v for k, v in state.items() if not k.startswith("patch_embed.")})
    jax.tree.map(np.testing.assert_array_equal, load_torch_checkpoint(PTH)[1], load_torch_checkpoint(tmp_path / "x.pth")[1])
    with pytest.raises(ValueError, match=r"patch_embed.bias and encoder.patch_proj.bias differ"):
        load_torch_checkpoint(altered(tmp_path, {"patch_embed.bias": lambda a: a + 1}))


def test_an_encoder_alone_is_no_pth_and_the_error_says_what_to_do(tmp_path):
    convert.main(["--checkpoint", str(PTH), "--output", str(tmp_path / "encoder.safetensors")])
    command = ["--checkpoint", str(tmp_path / "encoder.safetensors"), "--output", str(tmp_path / "x.pth")]
    with pytest.raises(
        ValueError, match=r"x.pth: a .pth holds the whole autoencoder.*write .safetensors, or convert the run dir"
    ):
        convert.main(command)
    assert not (tmp_path / "x.pth").exists()
    with pytest.raises(ValueError, match="params must be"):
        save_torch_checkpoint(tmp_path / "x.pth", {"decoder": {}}, load_torch_checkpoint(PTH)[0])


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_statistics_go_with_the_weights(tmp_path, scale):
    """By command, from a run directory to a .pth and back: z-scores, embeddings and heads of a size of its own are the same."""
    model = build_mae(**MICRO, width=24, num_heads=2, num_groups=1)
    statistics = Statistics(tuple(range(9000, 9007)), tuple(range(2000, 2007)), "computed:mine:train")
    statistics = LOGARITHM if scale == "log" else statistics
    encoder = PretrainedEncoder(model.config, init_params(model, 0), statistics, "here", True)
    encoder.save_run(tmp_path / "run")
    convert.main(["--checkpoint", str(tmp_path / "run"), "--output", str(tmp_path / "w.pth")])
    again = geomoe.load(tmp_path / "w.pth")
    assert (
        again.statistics == statistics.of_collection2()
        and again.normalised_targets
        and again.fingerprint == encoder.fingerprint
    )
    assert (again.config.num_heads, again.config.num_groups) == (2, 1)
    images = np.random.default_rng(0).integers(8000, 12000, (2, 16, 16, 7)).astype(np.uint16)
    np.testing.assert_array_equal(again.embed(images), encoder.embed(images))
    assert geomoe.load(PTH).statistics == Statistics.published("bigearthnet_landsat")  # published weights have none
    assert read_torch_checkpoint(PTH).statistics is None


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(statistics={"mean": (1.0,) * 7, "std": (0.0,) * 7, "source": "x"}), "std > 0"),
        (dict(statistics={"mean": (float("nan"),) * 7, "std": (1.0,) * 7, "source": "x"}), "must match, be finite"),
        (dict(statistics={"mean": (1.0,) * 6, "std": (1.0,) * 6, "source": "x"}), "statistics of 6 bands"),
        (dict(num_heads="many"), "'geomoe' is damaged"),
        (dict(statistics=None), "'geomoe' is damaged"),
    ],
)
def test_damaged_statistics_are_refused(tmp_path, change, message):
    extra = {"statistics": {"mean": (1.0,) * 7, "std": (1.0,) * 7, "source": "x"}, "normalised_targets": False}
    extra |= {"num_heads": 4, "num_groups": 2}
    assert read_torch_checkpoint(altered(tmp_path, {}, geomoe=extra)).statistics.mean == (1.0,) * 7
    with pytest.raises(ValueError, match=f"altered.pth: .*{message}"):
        read_torch_checkpoint(altered(tmp_path, {}, geomoe=extra | change))


def archive(path, body, storages=(), compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as out:
        out.writestr("x/data.pkl", body)
        for key, raw in enumerate(storages):
            out.writestr(f"x/data/{key}", raw)
    return path


def tensor(shape, strides, offset=0):
    """The pickle opcodes of a tensor on the storage 0."""
    whole = lambda value: pickle.dumps(value, protocol=2)[2:-1]
    storage = b"(" + whole("storage") + b"ctorch\nFloatStorage\n" + whole("0") + whole("cpu") + whole(1) + b"tQ"
    empty = b"ccollections\nOrderedDict\n)R"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + whole(offset)
        + whole(shape)
        + whole(strides)
        + b"\x89"
        + empty
        + b"tR"
    )


def state_dict(*pairs):
    items = b"".join(pickle.dumps(name, protocol=2)[2:-1] + value for name, value in pairs)
    return b"\x80\x02}(" + items + b"u."


def laughs(depth=60):
    """A list of two references to a list of two references ..., 2 ** depth values if anything walks it."""
    body = b"\x80\x02]q\x00"
    for i in range(depth):
        body += b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1])
    return body


BOMBS = {
    "zero strides": (state_dict(("encoder.pos_embed", tensor((10**9, 10**9), (0, 0)))), [b"\0" * 4], "100,000,000 values"),
    "many small ones": (state_dict(*[("k", tensor((10**7,), (0,)))] * 20), [b"\0" * 4], "100,000,000 values"),
    "no elements": (state_dict(("encoder.pos_embed", tensor((10**15, 0), (0, 0)))), [b"\0" * 4], "is empty"),
    "huge strides": (state_dict(("encoder.pos_embed", tensor((2,), (2**61,)))), [b"\0" * 4], "reaches past its storage"),
    "negative": (state_dict(("encoder.pos_embed", tensor((2,), (-1,)))), [b"\0" * 8], "which is none"),
    "text for a shape": (state_dict(("encoder.pos_embed", tensor("ab", "cd"))), [b"\0" * 8], "which is none"),
    "memo": (b"\x80\x02}r" + struct.pack("<I", 2**32 - 1) + b".", [], "no geo-moe-mae weights"),
    "a value of references": (laughs() + b"}X\x11\0\0\0encoder.pos_embedh<s.", [], "is no tensor"),
    "a storage of references": (laughs() + b"h<Q.", [], "unknown kind of storage"),
    "a key of references": (laughs() + b"}(h<K\x01u.", [], "damaged"),
    "long numbers": (b"\x80\x02\x8b" + struct.pack("<i", 10**6) + b"\x7f" * 10**6 + b".", [], "no geo-moe-mae weights"),
    "long text": (b"\x80\x04\x8d" + struct.pack("<Q", 10**15) + b"x.", [], "damaged"),
    "a long pickle": (b"\x80\x02" + b"N0" * 2_500_000 + b"N.", [], "data.pkl has 5,000,00"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_at_once_and_in_little_memory(tmp_path, name):
    body, storages, message = BOMBS[name]
    path = archive(tmp_path / "bomb.pth", body, storages)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(ValueError, match=f"bomb.pth.*{message}") as raised:
        load_torch_checkpoint(path)
    assert time.process_time() - began < 2 and len(str(raised.value)) < 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # kilobytes


def test_an_archive_that_unpacks_to_much_more_is_refused(tmp_path):
    body = state_dict(("encoder.pos_embed", tensor((1,), (1,))))
    path = archive(tmp_path / "bomb.pth", body, [b"\0" * 50_000_000], zipfile.ZIP_DEFLATED)
    with pytest.raises(TorchFormatError, match="unpack to 50,000,"):
        load_torch_checkpoint(path)


def test_numbers_of_layers_that_leave_others_out_are_refused(tmp_path):
    state = torch_format.read(PTH)["model_state"]
    for name, message in (
        ("encoder.layers.1000000000.norm1.weight", r"no encoder.layers.3, but others"),
        ("encoder.layers.0.moe.experts.1000000000.W.weight", r"no encoder.layers.0.moe.experts.3, but others"),
        ("decoder_layers.1000000000.norm1.weight", r"no decoder_layers.2, but others"),
    ):
        torch_format.write(tmp_path / "x.pth", {"model_state": {**state, name: np.zeros(1, np.float32)}})
        began = time.process_time()
        with pytest.raises(ValueError, match=f"x.pth: there is {message}"):
            load_torch_checkpoint(tmp_path / "x.pth")
        assert time.process_time() - began < 2


def test_a_larger_model_is_read_where_that_is_asked_for(tmp_path):
    count = sum(value.size for value in torch_format.read(PTH)["model_state"].values())
    load_torch_checkpoint(PTH, max_params=count)
    for read in (load_torch_checkpoint, geomoe.load):
        with pytest.raises(TorchFormatError, match=f"more than {count - 1:,} values in all. max_params takes more"):
            read(PTH, max_params=count - 1)


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


def test_numbers_in_the_other_order_of_bytes_are_refused(tmp_path):
    with zipfile.ZipFile(PTH) as old, zipfile.ZipFile(tmp_path / "big.pth", "w") as new:
        root = next(name for name in old.namelist() if name.endswith("/data.pkl")).removesuffix("/data.pkl")
        for name in old.namelist():
            if not name.endswith("/byteorder"):
                new.writestr(name, old.read(name))
        new.writestr(f"{root}/byteorder", b"big")
    with pytest.raises(TorchFormatError, match="big-endian"):
        read_torch_checkpoint(tmp_path / "big.pth")


@pytest.mark.parametrize("change", [dict(top_k=1), dict(stage_experts=(2, 2, 3)), dict(decoder_heads=2, decoder_groups=1)])
def test_the_architecture_goes_with_the_weights(tmp_path, change):
    """Nothing in the shapes of weights tells how many experts a token goes to, nor how many heads there are."""
    model = build_mae("tiny", img_size=8, mask_ratio=0.5, **change)
    statistics = Statistics((9000.0,) * 7, (3000.0,) * 7, "mine")
    encoder = PretrainedEncoder(model.config, init_params(model, 0), statistics, "x")
    save_torch_checkpoint(tmp_path / "a.pth", encoder.params, model.config, statistics)
    again = geomoe.load(tmp_path / "a.pth")
    assert again.config == model.config
    images = np.random.default_rng(0).integers(8000, 12000, (2, 8, 8, 7)).astype(np.uint16)
    np.testing.assert_allclose(again.embed(images), encoder.embed(images), atol=1e-6)
    tree = torch_format.read(tmp_path / "a.pth")
    tree["geomoe"]["model"] = json.dumps({**model.config.to_dict(), "depth": 3 * 10**7})
    torch_format.write(tmp_path / "bomb.pth", tree)
    with pytest.raises(ValueError, match="its entry 'geomoe' is of a larger model than its weights"):
        geomoe.load(tmp_path / "bomb.pth")
    with pytest.raises(ValueError, match="the weights do not say .*; give the statistics as well"):
        save_torch_checkpoint(tmp_path / "b.pth", encoder.params, model.config)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model."])
@pytest.mark.parametrize("key", ["model_state", "state_dict", "model_state_dict", "model", None])
def test_weights_as_wrappers_save_them(tmp_path, prefix, key):
    state = {prefix + name: value for name, value in torch_format.read(PTH)["model_state"].items()}
    torch_format.write(tmp_path / "a.pth", state if key is None else {key: state})
    jax.tree.map(np.testing.assert_array_equal, load_torch_checkpoint(tmp_path / "a.pth")[1], load_torch_checkpoint(PTH)[1])


def test_arguments_that_a_file_has_no_use_for_are_refused(tmp_path):
    encoder = geomoe.load(PTH)
    encoder.save_run(tmp_path / "run")
    for path, arguments in (("geomoe-xxs", {"num_heads": 9}), (tmp_path / "run", {"num_heads": 9})):
        with pytest.raises(TypeError, match="num_heads: a .* says its sizes itself"):
            geomoe.load(path, **arguments)
    for path in ("geomoe-xxs", PTH):
        with pytest.raises(ValueError, match="checkpoint = 'best' is for a run directory"):
            geomoe.load(path, "best")
