"""Equality with the PyTorch model: its numbers in tests/data and, full size, beside the project."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import DATA

from geomoe.metadata import encode_degrees, encode_time
from geomoe.models import MAE, Encoder, build_mae, count_params, patchify, reconstruction_losses
from geomoe.models.moe import Draws, MixtureOfExperts, balance_loss, mixture_of_experts
from geomoe.training import init_params, warmup_cosine
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
    pairs = [arrays[name] for name in ("week", "hour", "lat", "lon")]
    model = MAE(config)

    def loss(params):
        out = model.apply({"params": params}, images, *pairs, mask_noise=arrays["mask_noise"])
        masked, unmasked = reconstruction_losses(out.pred, patchify(images, config.patch_size), out.mask)
        return masked + 0.1 * unmasked + 0.5 * out.balance_loss, (out, masked, unmasked)

    (total, (out, masked, unmasked)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    losses = {"loss_total": total, "loss_masked": masked, "loss_unmasked": unmasked, "mae_moe_loss": out.balance_loss}
    encode = jax.jit(lambda p, *args: Encoder(config).apply({"params": p}, *args))
    encoded = encode(params["encoder"], images, *pairs)
    bare = encode(params["encoder"], images, *[np.zeros_like(pair) for pair in pairs])
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


def _golden_layer():
    arrays = np.load(DATA / "golden_moe_layer.npz")
    state = {key.removeprefix("param:"): arrays[key] for key in arrays.files if key.startswith("param:")}
    return arrays, flax_mixture_params(state, "")


def _apply_layer(arrays, params, estimator, noise):
    weights = MixtureOfExperts(width=16, num_experts=4, hidden=12).apply({"params": params})
    settings = dict(top_k=2, dispatch="auto", dropout=0.1, dtype=jnp.float32)
    y, routing = mixture_of_experts(arrays["x"], weights, Draws(noise, None), **settings)
    return y, routing.gates, balance_loss(routing, 2, estimator)


def test_mixture_layer_with_given_noise():
    arrays, params = _golden_layer()
    y, gates, loss = _apply_layer(arrays, params, "reference", arrays["noise"])
    np.testing.assert_allclose(y, arrays["y"], atol=2e-6)
    np.testing.assert_allclose(np.reshape(gates, (20, 4)), arrays["gates"], atol=2e-6)
    np.testing.assert_allclose(loss, arrays["aux_loss"], rtol=1e-5)
    np.testing.assert_allclose(np.reshape(gates, (20, 4)).sum(axis=0), arrays["importance"], rtol=1e-5)


def test_shazeer_load_is_the_probability_over_fresh_noise():
    """P(expert e is among the top 2 when its own noise alone is drawn again), by 100,000 draws."""
    arrays, params = _golden_layer()
    clean, scale, logits = (arrays[name].astype(np.float64) for name in ("clean_logits", "noise_scale", "noisy_logits"))
    _, gates, loss = _apply_layer(arrays, params, "shazeer", arrays["noise"])
    rng = np.random.default_rng(0)
    load = np.zeros(4)
    for e in range(4):
        others = np.sort(np.delete(logits, e, axis=1), axis=1)[:, -2]  # the second largest of the others
        fresh = clean[:, e] + scale[:, e] * rng.standard_normal((100_000, 20))
        load[e] = (fresh > others).mean(axis=0).sum()
    importance = np.reshape(gates, (20, 4)).sum(axis=0)
    cv = lambda v: np.std(v) / (np.mean(v) + 1e-6)  # noqa: E731
    np.testing.assert_allclose(loss, 0.01 * cv(importance) + 0.01 * cv(load), rtol=5e-3)
    assert not np.isclose(loss, arrays["aux_loss"], rtol=1e-2)  # the two estimators differ here


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
