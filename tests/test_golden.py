"""Equality with the PyTorch model: its numbers in tests/data and, full size, beside the project."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import DATA

from geomoe.metadata import encode_degrees, encode_time
from geomoe.models import MAE, ModelConfig, build_mae, count_params, encode, patchify
from geomoe.models.block import MixtureOfExperts
from geomoe.models.kernels import Draws
from geomoe.models.router import balance_loss
from geomoe.training import init_params, warmup_cosine
from geomoe.training.losses.reconstruction import reconstruction_losses
from geomoe.weights import load_torch_checkpoint
from geomoe.weights.torch_weights import flax_mixture_params, torch_state

COUNTS = {"S": (2_366_798, 2_537_562), "XS": (1_209_996, 1_379_032), "XXS": (657_817, 824_693)}


@pytest.mark.parametrize("size", COUNTS)
def test_parameter_counts_are_the_published_ones(size):
    params = init_params(build_mae(size), seed=0)
    assert (count_params(params["encoder"]), count_params(params)) == COUNTS[size]


@pytest.fixture(scope="module", params=["tiny", pytest.param("S", marks=pytest.mark.long)])
def golden(request):
    """Config, parameters, golden arrays, and our outputs for one of the two reference models."""
    if request.param == "tiny":
        folder = DATA
    else:
        folder = request.getfixturevalue("shared") / "golden"
    config, params = load_torch_checkpoint(folder / f"reference_{request.param}_random.pth")
    arrays = np.load(folder / f"golden_{request.param}.npz")
    images = arrays["images_nchw"].transpose(0, 2, 3, 1)
    metadata = [arrays[name] for name in ("week", "hour", "lat", "lon")]
    model = MAE(config)

    def loss(params):
        out = model.apply({"params": params}, images, *metadata, mask_noise=arrays["mask_noise"])
        masked, unmasked = reconstruction_losses(out.pred, patchify(images, config.patch_size), out.mask)
        return masked + 0.1 * unmasked + 0.5 * out.balance_loss, (out, masked, unmasked)

    (total, (out, masked, unmasked)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    losses = {"loss_total": total, "loss_masked": masked, "loss_unmasked": unmasked, "mae_moe_loss": out.balance_loss}
    run = jax.jit(lambda params, *inputs: encode(config, params, *inputs))
    encoded = run(params["encoder"], images, *metadata)
    bare = run(params["encoder"], images, *[np.zeros_like(field) for field in metadata])
    return dict(config=config, arrays=arrays, out=out, losses=losses, grads=grads, encoded=encoded, bare=bare, images=images)


def test_encoder(golden):
    arrays, encoded = golden["arrays"], golden["encoded"]
    np.testing.assert_allclose(encoded.tokens, arrays["encoder_tokens"], atol=2e-5, rtol=0)
    np.testing.assert_allclose(encoded.normed, arrays["encoder_normed"], atol=2e-5, rtol=0)
    np.testing.assert_allclose(golden["bare"].tokens, arrays["encoder_tokens_no_metadata"], atol=2e-5, rtol=0)
    np.testing.assert_allclose(encoded.balance_loss, arrays["encoder_moe_loss"], rtol=1e-5)
    assert len(encoded.gates) == golden["config"].depth
    for i, gates in enumerate(encoded.gates):
        wanted = arrays[f"layer{i}_gates"]
        np.testing.assert_allclose(np.reshape(gates, wanted.shape), wanted, atol=2e-5, rtol=0)
        np.testing.assert_array_equal(np.reshape(gates, wanted.shape) > 0, wanted > 0)
        if f"layer{i}_tokens" in arrays:
            np.testing.assert_allclose(encoded.layer_tokens[i], arrays[f"layer{i}_tokens"], atol=2e-5, rtol=0)


def test_autoencoder(golden):
    arrays, out = golden["arrays"], golden["out"]
    np.testing.assert_allclose(out.pred, arrays["pred"], atol=2e-5, rtol=0)
    np.testing.assert_array_equal(out.mask, arrays["mask"])
    np.testing.assert_array_equal(out.ids_restore, arrays["ids_restore"])
    np.testing.assert_array_equal(patchify(golden["images"], golden["config"].patch_size), arrays["target_patches_unfold"])
    for name, value in golden["losses"].items():
        np.testing.assert_allclose(value, np.squeeze(arrays[name]), rtol=1e-5, err_msg=name)


def test_gradients(golden):
    arrays = golden["arrays"]
    state = torch_state(jax.tree.map(np.asarray, golden["grads"]), golden["config"])
    compared = 0
    for key in arrays.files:
        kind, _, name = key.partition(":")
        if kind not in ("grad", "gradnorm"):
            continue
        compared += 1
        ours = state[name]
        if kind == "grad":
            size, error = np.linalg.norm(arrays[key]), np.linalg.norm(ours - arrays[key])
            bound = 1e-4
        else:
            size = float(arrays[key])
            error, bound = abs(np.linalg.norm(ours) - size), 1e-3
        # The bias of the keys shifts all logits of a query alike, so its gradient is zero but for rounding.
        if name.endswith("attn.k_proj.bias"):
            assert max(size, np.linalg.norm(ours)) < 1e-6, name
        else:
            assert error <= bound * size, f"{name}: {error} of {size}"
    assert compared > 100


def test_size_s_with_the_parameters_of_a_seed():
    """Numbers recorded beside the model that equals the PyTorch golden numbers."""
    golden = np.load(DATA / "golden_S_seed0.npz")
    model = build_mae("S")
    params = init_params(model, 0)
    rng = np.random.default_rng(2509_10919)
    images = rng.standard_normal((3, 40, 40, 7)).astype(np.float32)
    angles = rng.uniform(0, 2 * np.pi, (4, 3))
    metadata = [np.stack([np.sin(a), np.cos(a)], -1).astype(np.float32) for a in angles]
    noise = rng.random((3, 100)).astype(np.float32)

    @jax.jit
    def forward(params):
        out = model.apply({"params": params}, images, *metadata, mask_noise=noise)
        masked, unmasked = reconstruction_losses(out.pred, patchify(images, 4), out.mask)
        total = masked + 0.1 * unmasked + 0.5 * out.balance_loss
        whole = encode(model.config, params["encoder"], images, *metadata)
        return out.pred, jnp.stack([total, masked, unmasked, out.balance_loss]), whole

    pred, losses, whole = forward(params)
    np.testing.assert_allclose(np.mean(whole.tokens, axis=1), golden["pooled"], atol=2e-5)
    np.testing.assert_allclose(whole.tokens[:, 4], golden["cls"], atol=2e-5)
    np.testing.assert_allclose([np.mean(g[:, :, :3], axis=(0, 1)) for g in whole.gates], golden["gates"], atol=1e-5)
    np.testing.assert_allclose(losses, golden["losses"], rtol=1e-5)
    np.testing.assert_allclose(pred[:, ::25, ::16], golden["pred"], atol=2e-5)


def test_mixture_layer_with_given_noise():
    golden = np.load(DATA / "golden_moe_layer.npz")
    state = {key.removeprefix("param:"): golden[key] for key in golden.files if key.startswith("param:")}
    config = ModelConfig.from_dict(dict(size="tiny", stage_experts=(4,), dropout=0.0))
    layer = MixtureOfExperts(config, width=16, num_experts=4, hidden=12)
    y, router = layer.apply({"params": flax_mixture_params(state, "")}, golden["x"], Draws(golden["noise"], None))
    np.testing.assert_allclose(y, golden["y"], atol=2e-6)
    np.testing.assert_allclose(router.clean_logits, golden["clean_logits"], atol=2e-6)
    np.testing.assert_allclose(router.noise_scale, golden["noise_scale"], atol=2e-6)
    np.testing.assert_allclose(router.gates, golden["gates"], atol=2e-6)
    np.testing.assert_allclose(balance_loss(router, 2, "reference"), golden["aux_loss"], rtol=1e-5)


def test_metadata_pairs():
    golden = json.loads((DATA / "golden_metadata.json").read_text())
    times = np.array([t["iso"] for t in golden["timestamps"]], "datetime64[s]")
    week, hour = encode_time(times)
    np.testing.assert_allclose(week, [t["week"] for t in golden["timestamps"]], atol=1e-7)
    np.testing.assert_allclose(hour, [t["hour"] for t in golden["timestamps"]], atol=1e-7)
    for name in ("lat", "lon"):
        pairs = encode_degrees([p[name] for p in golden["latlon"]])
        np.testing.assert_allclose(pairs, [p[f"{name}_sincos"] for p in golden["latlon"]], atol=1e-7)


def test_schedule():
    golden = json.loads((DATA / "golden_schedule.json").read_text())
    schedule = warmup_cosine(golden["base_lr"], golden["total_steps"], golden["warmup_steps"])
    ours = jax.vmap(schedule)(jnp.arange(len(golden["lr"])))
    np.testing.assert_allclose(ours, golden["lr"], rtol=1e-5, atol=1e-10)


def test_real_samples(shared, tmp_path):
    """Six real patches through conversion and pipeline, with the published reading of the hour."""
    from geomoe import data
    from geomoe.data.builders import BigearthnetLandsat

    builder = BigearthnetLandsat(source=shared / "landsat_sample", data_dir=tmp_path)
    builder.download_and_prepare()
    golden = np.load(shared / "golden" / "golden_real_samples.npz")
    wanted = {str(golden[f"{i}_id"]): i for i in range(6)}
    found = {}
    for batch in data.load(builder, "train", hour="published").as_numpy_iterator():
        for row, patch_id in enumerate(batch["id"]):
            found[patch_id.decode()] = {name: value[row] for name, value in batch.items()}
    assert wanted.keys() <= found.keys()
    for patch_id, i in wanted.items():
        ours = found[patch_id]
        np.testing.assert_allclose(ours["image"].transpose(2, 0, 1), golden[f"{i}_image_chw"], atol=2e-6)
        np.testing.assert_array_equal(ours["labels"], golden[f"{i}_target19"])
        for name in ("week", "hour", "lat", "lon"):
            np.testing.assert_allclose(ours[name], golden[f"{i}_{name}"], atol=1e-6, err_msg=name)
