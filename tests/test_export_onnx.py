"""The encoder as an ONNX graph, in ONNX Runtime against JAX."""

import importlib
import json
import sys

import jax
import numpy as np
import pytest
from conftest import PTH, ROOT, load_module, with_scale

import geomoe
from geomoe import landsat, metadata
from geomoe.cli import convert
from geomoe.models import MAE, ModelConfig
from geomoe.models.pooling import POOLINGS, TOKENS
from geomoe.pretrained import PretrainedEncoder
from geomoe.training import init_params

REASON = "needs ONNX: pip install -r requirements-dev.txt"
onnx = pytest.importorskip("onnx", reason=REASON)
onnxruntime = pytest.importorskip("onnxruntime", reason=REASON)
from geomoe.export.onnx import export_onnx  # noqa: E402

PLACES = dict(
    lat=np.array([48.0, -33.5, np.nan, 0.25, 70.0]),
    lon=np.array([11.0, 151.0, np.nan, -180.0, 25.0]),
    time=np.array(["2020-05-05T10:00", "2019-12-31T23:59", "NaT", "2001-01-01", "2024-02-29T12:00"], "datetime64[s]"),
)


def random_encoder(noise=0.1, **model):
    """An encoder whose parameters are all random: norms, tokens and selection biases as well."""
    config = ModelConfig.from_dict(model)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: leaf + noise * rng.standard_normal(leaf.shape, np.float32), init_params(MAE(config), 0))
    return PretrainedEncoder(config, params, landsat.Statistics.published("bigearthnet_landsat"), "random")


def images_with_holes(encoder, count=5):
    """Digital numbers: the first image lacks nothing, the others a pixel, half a patch and a band of a pixel, much, and all."""
    cfg = encoder.config
    images = np.random.default_rng(1).uniform(7000, 20000, (5, cfg.img_size, cfg.img_size, cfg.in_channels)).astype(np.float32)
    images[0, 3, 3] = 100  # darker than anything on Earth, and data
    images[1, 1, 2] = 0
    images[2, 0, 0, 3] = np.nan
    images[2, -2:, -4:] = 0
    images[3, : cfg.img_size // 2 + 1, 1:] = 0
    images[4] = 0
    return images[:count]


def run(path, images, places):
    """What ONNX Runtime makes of the graph."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images, **metadata.encode(**places)._asdict()})[0]


def compare(encoder, path, pool="mean", atol=2e-5):
    """Of one image and of five, with metadata and without, against `embed`."""
    export_onnx(encoder, path, pool=pool)
    images = images_with_holes(encoder)
    nothing = dict(lat=np.full(5, np.nan), lon=np.full(5, np.nan), time=np.full(5, np.datetime64("NaT", "s")))
    for places in (PLACES, nothing):
        wanted = encoder.embed(images, **places, pool=pool)
        for count in (1, 5):
            part = {name: values[:count] for name, values in places.items()}
            np.testing.assert_allclose(run(path, images[:count], part), wanted[:count], atol=atol, rtol=0)


@pytest.mark.parametrize("pool", [*POOLINGS, TOKENS, ("mean", "stages", "metadata")], ids=str)
def test_every_pooling_equals_jax(pool, encoder, tmp_path):
    compare(encoder, tmp_path / "encoder.onnx", pool)


@pytest.mark.parametrize(
    "model",
    [
        dict(missing_metadata="learned", selection_bias=True, depth=6),
        dict(share_projections=False, top_k=3, num_heads=8, num_groups=2),
        dict(stage_experts=(9,), depth=1, dispatch="sparse", patch_size=8, top_k=1),
    ],
    ids=["learned metadata, selection bias", "own projections", "many experts"],
)
def test_every_architecture_equals_jax(model, tmp_path):
    compare(
        random_encoder(size="tiny", img_size=16, **model),
        tmp_path / "encoder.onnx",
        ("cls", "patch_std", "metadata_tokens", "stages"),
    )


def test_statistics_of_the_logarithm_are_inside(encoder, tmp_path):
    compare(with_scale(encoder, "log"), tmp_path / "encoder.onnx")
    assert json.loads((tmp_path / "encoder.onnx.json").read_text())["normalisation (inside)"]["scale"] == "log"


def test_equal_logits_go_to_the_lower_experts(tmp_path):
    """Without a kernel all logits are the bias: of three equal ones the first two are taken, half and half."""
    encoder = random_encoder(size="tiny", img_size=16, depth=1, stage_experts=(4,))
    router = encoder.params["encoder"]["block_00"]["moe"]["router"]["clean"]
    router["kernel"], router["bias"] = np.zeros_like(router["kernel"]), np.array([0, 1, 1, 1], np.float32)
    encoder = PretrainedEncoder(encoder.config, encoder.params, encoder.statistics, "ties")
    compare(encoder, tmp_path / "ties.onnx")
    experts = encoder.params["encoder"]["block_00"]["moe"]["experts"]
    images, wanted = images_with_holes(encoder), run(tmp_path / "ties.onnx", images_with_holes(encoder), PLACES)
    experts["w"] = np.array(experts["w"])
    experts["w"][[0, 3]] = 100  # those that nobody takes
    export_onnx(PretrainedEncoder(encoder.config, encoder.params, encoder.statistics, "ties"), tmp_path / "other.onnx")
    np.testing.assert_array_equal(run(tmp_path / "other.onnx", images, PLACES), wanted)


@pytest.mark.long
@pytest.mark.parametrize("size", ["S", "XS", "XXS"])
@pytest.mark.parametrize("pool", ["mean", TOKENS])
def test_the_published_sizes_equal_jax(size, pool, tmp_path):
    compare(random_encoder(size=size, noise=0.02), tmp_path / "encoder.onnx", pool)


def test_a_bfloat16_model_is_exported_in_float32(tmp_path):
    encoder = random_encoder(size="tiny", img_size=16, dtype="bfloat16")
    facts = export_onnx(encoder, tmp_path / "encoder.onnx")
    float32 = PretrainedEncoder(
        ModelConfig.from_dict(encoder.config.to_dict() | {"dtype": "float32"}), encoder.params, encoder.statistics, "random"
    )
    images = images_with_holes(encoder)
    np.testing.assert_allclose(run(tmp_path / "encoder.onnx", images, PLACES), float32.embed(images, **PLACES), atol=2e-5)
    assert facts["dtype"] == "float32"


def test_the_command_and_the_facts(tmp_path, capsys):
    path = tmp_path / "encoder.onnx"
    convert.main(["--checkpoint", str(PTH), "--output", str(path), "--pool", "stages+metadata"])
    assert "opset 18" in capsys.readouterr().out
    facts = json.loads((tmp_path / "encoder.onnx.json").read_text())
    assert facts["inputs"] == {"images": ["N", 8, 8, 7], **{name: ["N", 2] for name in ("week", "hour", "lat", "lon")}}
    assert facts["output"] == ["N", 3 * 16 + 8] and facts["pool"] == "stages+metadata" and facts["opset"] == 18
    assert facts["bands"] == list(landsat.BANDS) and facts["bytes"] == path.stat().st_size
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    (inside,) = (json.loads(prop.value) for prop in model.metadata_props if prop.key == "geomoe")
    assert inside.items() <= facts.items()
    session = onnxruntime.InferenceSession(path)
    assert [value.shape for value in session.get_inputs()] == [["N", 8, 8, 7], *[["N", 2]] * 4]
    assert session.get_outputs()[0].shape == ["N", 56]


def test_the_example_compares_speeds(capsys):
    load_module(ROOT / "examples" / "onnx_speed.py").main(["--checkpoint", str(PTH), "--batches", "2"])
    count, _, _, difference = capsys.readouterr().out.splitlines()[-1].strip("| ").split(" | ")
    assert count == "2" and float(difference) < 2e-5


def test_what_cannot_be_exported_is_named(encoder, tmp_path, monkeypatch):
    path = tmp_path / "encoder.onnx"
    with pytest.raises(ValueError, match="'median' is not one of"):
        export_onnx(encoder, path, pool="median")
    monkeypatch.setitem(POOLINGS, "mine", POOLINGS["mean"])
    with pytest.raises(ValueError, match="'mine' has no ONNX form; there are mean, "):
        export_onnx(encoder, path, pool="mine")
    with pytest.raises(ValueError, match="--platforms is for .stablehlo"):
        convert.main(["--checkpoint", str(PTH), "--output", str(path), "--platforms", "cpu"])
    with pytest.raises(ValueError, match="--pool is for .stablehlo and .onnx"):
        convert.main(["--checkpoint", str(PTH), "--output", str(tmp_path / "weights.pth"), "--pool", "cls"])
    assert not list(tmp_path.iterdir())


def test_without_onnx_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "geomoe.export.onnx")
    with pytest.raises(ImportError, match="pip install onnx"):
        importlib.import_module("geomoe.export.onnx")
    with pytest.raises(ImportError, match="pip install onnx"):
        convert.main(["--checkpoint", str(PTH), "--output", str(tmp_path / "encoder.onnx")])
    assert geomoe.load(PTH).num_params
