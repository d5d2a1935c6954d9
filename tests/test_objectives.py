"""What a training step minimises: each objective against numbers worked out here, and all of them in one step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_training import MICRO, batch_of

from geomoe import weights
from geomoe.metadata import FIELDS
from geomoe.models import Encoder, build_mae, count_params, normalise_patches, patchify, reconstruction_losses
from geomoe.models.moe import balanced_bias, route, router_z_loss
from geomoe.training import default_config, init_params, make_eval_step, make_train_step, multi_objective_config, validate
from geomoe.training.losses import (
    data2vec_loss,
    data2vec_targets,
    index_statistics,
    info_nce,
    metadata_loss,
    spectral_indices,
    vicreg,
)
from geomoe.training.optimizer import noise_factor
from geomoe.training.state import create_state
from geomoe.training.step import LossConfig


def test_pixels_without_data_count_neither_as_targets_nor_in_the_normalisation():
    rng = np.random.default_rng(0)
    pred, target = rng.standard_normal((2, 2, 4, 6)).astype(np.float32)
    mask = np.array([[1, 0, 1, 0], [0, 1, 1, 0]], np.float32)
    valid = (rng.random((2, 4, 6)) < 0.7).astype(np.float32)
    valid[0, 0] = 0
    ours = reconstruction_losses(pred, target, mask, valid)
    for loss, chosen in zip(ours, (mask, 1 - mask)):
        counted = (valid * chosen[:, :, None]).astype(bool)
        np.testing.assert_allclose(loss, 6 * np.mean(np.square(pred - target)[counted]), rtol=1e-5)
    whole = reconstruction_losses(pred, target, mask, np.ones_like(valid))
    np.testing.assert_allclose(whole, reconstruction_losses(pred, target, mask), rtol=1e-5)
    assert reconstruction_losses(pred, target, mask, np.zeros_like(valid)) == (0, 0)
    spoilt = np.where(valid == 0, 1e4, target)
    np.testing.assert_array_equal(reconstruction_losses(pred, spoilt, mask, valid), ours)
    counted = valid[1, 2].astype(bool)
    values = target[1, 2][counted]
    made = np.asarray(normalise_patches(jnp.asarray(spoilt), valid))[1, 2][counted]
    np.testing.assert_allclose(made, (values - values.mean()) / values.std(), atol=1e-3)


def test_variance_and_covariance():
    rng = np.random.default_rng(1)
    a, b = 0.5 * rng.standard_normal((2, 12, 5))
    expected = 25 * np.mean((a - b) ** 2)
    for z in (a, b):
        covariance = np.cov(z, rowvar=False)
        expected += 25 / 2 * np.mean(np.maximum(0, 1 - np.sqrt(z.var(axis=0, ddof=1) + 1e-4)))
        expected += np.sum((covariance - np.diag(np.diag(covariance))) ** 2) / 5
    np.testing.assert_allclose(vicreg(jnp.asarray(a), jnp.asarray(b)), expected, rtol=1e-4)


@pytest.mark.parametrize("objective", [vicreg, lambda a, b, axis=None: info_nce(a, b, 0.1, axis)])
def test_objectives_over_places_are_those_of_all_devices(objective):
    """Two devices with half of the places each have the loss and, averaged, the gradient of one with all."""
    a, b = jnp.asarray(np.random.default_rng(2).standard_normal((2, 8, 5)), jnp.float32)

    def split(a, b):
        halves = (x.reshape(2, 4, 5) for x in (a, b))
        return jnp.mean(jax.vmap(lambda *z: objective(*z, "devices"), axis_name="devices")(*halves))

    (ours, gradient), (theirs, expected) = (jax.value_and_grad(f, (0, 1))(a, b) for f in (split, objective))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected, atol=1e-4)


def test_spectral_indices():
    """Of reflectances: vegetation 0.05 red and 0.45 near infrared has an NDVI of 0.8."""
    reflectance = np.tile(np.array([0.03, 0.04, 0.06, 0.05, 0.45, 0.2, 0.15]), (1, 4, 4, 1))
    reflectance[0, 0] = [0.03, 0.04, 0.06, 0.02, 0.03, 0.02, 0.02]  # a row of water
    mean, std = np.full(7, 9000.0), np.full(7, 3000.0)
    images = jnp.asarray(((reflectance + 0.2) / 0.0000275 - mean) / std, jnp.float32)
    found = np.asarray(spectral_indices(images, mean, std))
    np.testing.assert_allclose(found[0, 1, 0], [0.8, (0.06 - 0.45) / 0.51, 0.5], atol=1e-3)
    np.testing.assert_allclose(found[0, 0, 0], [0.2, 1 / 3, 0.2], atol=1e-3)
    valid = np.ones((1, 4, 4), bool)
    valid[0, 0] = False
    told = np.asarray(index_statistics(images, valid, mean, std))[0]
    np.testing.assert_allclose(told, [0.8, -0.7647, 0.5, 0.001, 0.001, 0.001], atol=2e-3)
    assert not np.asarray(index_statistics(images, np.zeros_like(valid), mean, std))[0, :3].any()


def test_place_and_time_count_where_they_are_known_and_hidden():
    pairs = np.zeros((2, 4, 2), np.float32)
    pairs[0] = [[0, 1], [1, 0], [0.6, 0.8], [0, -1]]
    hidden = np.array([[True, False, True, True], [True] * 4])
    predicted = pairs + 0.0
    predicted[0, 2] = 0
    predicted[1] = 9  # nothing is known of the second
    np.testing.assert_allclose(metadata_loss(predicted, pairs, hidden), 1 / 3, rtol=1e-6)
    assert metadata_loss(predicted, pairs, np.zeros((2, 4), bool)) == 0


def test_latent_targets_are_the_later_layers_without_scale():
    rng = np.random.default_rng(6)
    layers = [rng.standard_normal((2, 9, 5)) * scale + scale for scale in (100, 1, 10)]
    own = lambda x: (x - x.mean(axis=-1, keepdims=True)) / x.std(axis=-1, keepdims=True)
    expected = own(own(layers[1][:, 5:]) + own(layers[2][:, 5:]))
    target = data2vec_targets([jnp.asarray(x) for x in layers], prefix=5)
    np.testing.assert_allclose(target, expected, atol=1e-4)
    mask = np.array([[1, 0, 0, 1], [0, 1, 0, 0]], np.float32)
    predicted = rng.standard_normal(expected.shape)
    error = np.mean(np.square(predicted - expected)[mask == 1])
    np.testing.assert_allclose(data2vec_loss(predicted, expected, mask), error, rtol=1e-5)
    assert not np.any(jax.grad(lambda x: jnp.sum(data2vec_targets([x], 5)[..., 0]))(jnp.asarray(layers[0])))


def full_batch(model, size):
    rng = np.random.default_rng(5)
    batch = batch_of(model, size)
    batch["metadata"] = np.stack([batch[name] for name in FIELDS], axis=1)
    batch["second_view"] = batch["image"][:, ::-1].copy()
    batch["valid"] = rng.random(batch["image"].shape[:3]) < 0.9
    batch["second_valid"] = batch["valid"][:, ::-1].copy()
    return batch | {name: np.zeros_like(batch[name]) for name in FIELDS[:2]}


def test_every_objective_weighs_in_one_step_and_its_heads_learn():
    model = build_mae(**MICRO, dropout=0.0)
    weights = dict(router_z=0.01, contrast=1.0, variance=0.1, latent=4.0, indices=2.0, metadata=3.0)
    loss = {f"{name}_weight": weight for name, weight in weights.items()}
    loss |= dict(normalise_targets=True, valid_pixels=True, decoded_views=1, teacher_momentum=0.9)
    optimizer = optax.sgd(0.1)
    state = create_state(model, optimizer, 0, LossConfig(**loss))
    flat = jax.flatten_util.ravel_pytree(state.params)[0]
    state = state.replace(opt_state=optimizer.init(flat))
    statistics = {"mean": [9000.0] * 7, "std": [3000.0] * 7}
    step = jax.jit(make_train_step(model, optimizer, statistics=statistics, axis_name=None, **loss))
    after, metrics = step(state, full_batch(model, 4), jax.random.key(0))
    total = metrics["loss_masked"] + 0.1 * metrics["loss_unmasked"] + 0.5 * metrics["loss_balance"]
    total += sum(weight * metrics[f"loss_{name}"] for name, weight in weights.items())
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-5)
    assert all(float(metrics[f"loss_{name}"]) > 0 for name in weights)
    for name in ("indices", "latent", "metadata"):
        assert not np.array_equal(after.params["heads"][name]["kernel"], state.params["heads"][name]["kernel"])
    old, new = (state.params["encoder"]["patch_proj"]["kernel"] for state in (state, after))
    assert not np.array_equal(old, new)
    np.testing.assert_allclose(after.teacher["patch_proj"]["kernel"], 0.9 * old + 0.1 * new, atol=1e-7)
    with pytest.raises(ValueError, match="need the statistics"):
        make_train_step(model, optimizer, spectral_indices_weight=1.0)


def test_held_out_objectives_are_those_of_the_two_crops():
    model = build_mae(**MICRO)
    loss = dict(info_nce_weight=1.0, vicreg_weight=1.0, spectral_indices_weight=2.0, metadata_weight=3.0, decoded_views=1)
    params = create_state(model, optax.sgd(0.1), 0, LossConfig(**loss)).params
    statistics = {"mean": [9000.0] * 7, "std": [3000.0] * 7}
    batch, key = full_batch(model, 4), jax.random.key(3)
    step = jax.jit(make_eval_step(model, statistics=statistics, axis_name=None, **loss))
    metrics = step(params, batch, key)
    images = np.concatenate([batch["image"], batch["second_view"]])
    pairs = [np.concatenate([batch[name], np.zeros_like(batch[name])]) for name in FIELDS]
    out = model.apply({"params": params}, images, *pairs, rngs={"mask": key})
    z = np.asarray(out.encoded.tokens).mean(axis=1)
    told = {name: z @ np.asarray(head["kernel"]) + np.asarray(head["bias"]) for name, head in params["heads"].items()}
    valid = np.concatenate([batch["valid"], batch["second_valid"]])
    wanted = index_statistics(images, valid, np.float32(statistics["mean"]), np.float32(statistics["std"]))
    hidden = np.stack(pairs, axis=1).any(axis=-1) == 0
    distance = ((told["metadata"].reshape(8, 4, 2) - np.concatenate([batch["metadata"]] * 2)) ** 2).sum(axis=-1)
    expected = {
        "info_nce": info_nce(z[:4], z[4:]),
        "vicreg": vicreg(z[:4], z[4:]),
        "spectral_indices": ((told["indices"] - wanted) ** 2).sum(axis=-1).mean(),
        "metadata": distance[hidden].mean(),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[f"val_loss_{name}"], value, rtol=1e-4)
    painted = reconstruction_losses(out.pred[:4], patchify(batch["image"], model.config.patch_size), out.mask[:4])
    np.testing.assert_allclose(metrics["val_loss_masked"], painted[0], rtol=1e-4)
    with pytest.raises(ValueError, match="need the statistics"):
        make_eval_step(model, spectral_indices_weight=1.0)


def test_only_the_views_asked_for_are_painted():
    model = build_mae(**MICRO, dropout=0.0)
    params = init_params(model, 0)
    batch = batch_of(model, 4)
    noise = np.random.default_rng(0).random((4, model.config.num_patches))
    pairs = [batch[name] for name in FIELDS]
    whole = model.apply({"params": params}, batch["image"], *pairs, mask_noise=noise)
    half = model.apply({"params": params}, batch["image"], *pairs, mask_noise=noise, num_decoded=2)
    np.testing.assert_allclose(half.pred, whole.pred[:2], atol=1e-5)
    np.testing.assert_array_equal(half.encoded.tokens, whole.encoded.tokens)
    assert half.mask.shape == whole.mask.shape and len(half.decoder_gates[0]) == 2


def test_router_noise_falls_to_none():
    factor = noise_factor(0.25, 101)
    np.testing.assert_allclose([factor(jnp.int32(s)) for s in (0, 50, 100)], [1, 0.625, 0.25])
    assert noise_factor(1.0, 100) is None
    model = build_mae(**MICRO, dropout=0.0)
    batch, params = batch_of(model, 2), init_params(model, 0)
    args = [{"params": params["encoder"]}, batch["image"], *(batch[name] for name in FIELDS)]
    rngs = {"router": jax.random.key(0), "dropout": jax.random.key(1)}
    encoder = Encoder(model.config)
    still = encoder.apply(*args, deterministic=False, rngs=rngs, router_noise=0.0)
    np.testing.assert_allclose(still.tokens, encoder.apply(*args).tokens, atol=1e-6)
    moved = encoder.apply(*args, deterministic=False, rngs=rngs)
    assert np.abs(moved.tokens - still.tokens).max() > 1e-3


def test_the_selection_bias_ranks_and_does_not_weigh():
    logits = jnp.array([[1.0, 0.9, 0.0], [0.5, 0.0, -1.0]])
    routing = route(logits, jnp.ones_like(logits), None, 2, jnp.array([0.0, 0.0, 5.0]))
    first, third = np.exp(1.0), np.exp(0.0)
    np.testing.assert_allclose(routing.gates[0], [first / (first + third), 0, third / (first + third)], rtol=1e-5)
    assert (np.asarray(routing.ranks)[:, 2] == 0).all()
    np.testing.assert_allclose(router_z_loss(routing), np.mean(np.log(np.exp(logits).sum(axis=1)) ** 2), rtol=1e-5)
    moved = balanced_bias(jnp.zeros(4), jnp.array([0.1, 0.4, 0.25, 0.25]), 0.01)
    np.testing.assert_allclose(moved, [0.01, -0.01, 0, 0], atol=1e-8)


def test_a_selection_bias_evens_out_the_experts():
    """With weights held still, the bias alone brings a router that prefers one expert to even use."""
    model = build_mae(**MICRO, dropout=0.0, selection_bias=True, top_k=1)
    optimizer = optax.sgd(0.0)
    params = init_params(model, 0)
    router = params["encoder"]["block_00"]["moe"]["router"]
    assert not router["selection_bias"].any()
    router["clean"]["bias"] = np.array([2.0, 0.0, 0.0], np.float32)
    state = create_state(model, optimizer, 0).replace(params=params)
    step = jax.jit(make_train_step(model, optimizer, selection_rate=0.05, axis_name=None))
    batch, shares = batch_of(model, 16), []
    for _ in range(120):
        state, metrics = step(state, batch, jax.random.key(0))
        shares.append(np.asarray(metrics["usage"]["encoder/block_00"]))
    assert shares[0][0] > 0.5
    assert np.mean(shares[-20:], axis=0).min() > 0.25
    np.testing.assert_array_equal(state.params["encoder"]["block_00"]["moe"]["router"]["clean"]["bias"], [2, 0, 0])


def test_missing_metadata_can_be_a_learned_token(tmp_path):
    model = build_mae(**MICRO, missing_metadata="learned")
    plain = build_mae(**MICRO)
    params = init_params(model, 0)
    assert count_params(params) == count_params(init_params(plain, 0)) + 4 * model.config.width
    batch = batch_of(model, 2)
    pairs = {name: batch[name] for name in FIELDS} | {"lat": np.zeros((2, 2), np.float32)}

    def tokens(**changes):
        changed = {**params["encoder"], **changes}
        return np.asarray(Encoder(model.config).apply({"params": changed}, batch["image"], *pairs.values()).tokens)

    other = np.array(params["encoder"]["missing_metadata"])
    other[:, 2] += 1  # latitude, which is missing
    assert np.abs(tokens(missing_metadata=other) - tokens()).max() > 1e-3
    known = np.array(params["encoder"]["missing_metadata"])
    known[:, [0, 1, 3]] += 1
    np.testing.assert_array_equal(tokens(missing_metadata=known), tokens())
    with pytest.raises(ValueError, match="no learned token"):
        weights.save_torch_checkpoint(tmp_path / "x.pth", params, model.config)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"loss.info_nce_weight": -1.0}, "config.loss.info_nce_weight = -1.0"),
        ({"loss.decoded_views": 3}, "config.loss.decoded_views = 3"),
        ({"loss.teacher_momentum": 1.0}, "teacher_momentum = 1.0"),
        ({"loss.info_nce_temperature": 0.0}, "info_nce_temperature = 0.0"),
        ({"loss.metadata_weight": 1.0}, "needs images whose encoder is not told"),
        ({"data.crop_sides": (22, 45)}, "crop_sides is for config.data.resize_mode"),
        ({"train.router_noise_end": 2.0}, "router_noise_end = 2.0"),
        ({"model.missing_metadata": "none"}, "missing_metadata = 'none'"),
    ],
)
def test_objectives_that_make_no_sense_are_named(changes, message):
    config = default_config()
    config.data.name = "fake"
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        validate(config)


def test_the_published_recipe_has_none_of_this():
    loss = default_config().loss.to_dict()
    on = {key for key, value in loss.items() if value and key.endswith("weight")}
    assert on == {"unmasked_weight", "balance_weight"} and not (loss["normalise_targets"] or loss["valid_pixels"])
    ours = multi_objective_config()
    assert ours.loss.info_nce_weight and ours.data.resize_mode == "random_resized_crop"
