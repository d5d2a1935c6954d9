"""Each objective against numbers worked out here, and all of them in one batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import MICRO, batch_of, full_batch

from geomoe.landsat import Statistics
from geomoe.metadata import FIELDS
from geomoe.models import build_mae, encode, patchify
from geomoe.training import default_config, multi_objective_config
from geomoe.training.losses import OBJECTIVES
from geomoe.training.losses.config import LossConfig
from geomoe.training.losses.data2vec import data2vec_loss, data2vec_targets
from geomoe.training.losses.heads import apply_head, init_heads
from geomoe.training.losses.info_nce import info_nce
from geomoe.training.losses.metadata import metadata_loss
from geomoe.training.losses.oriented_gradients import oriented_gradients
from geomoe.training.losses.patch_statistics import patch_statistics
from geomoe.training.losses.reconstruction import normalise_patches, reconstruction_losses
from geomoe.training.losses.spectral_indices import index_statistics
from geomoe.training.losses.total import batch_losses, global_positions, join_views, weighted_sum
from geomoe.training.losses.vicreg import vicreg
from geomoe.training.state import init_params

STATISTICS = Statistics((9000.0,) * 7, (3000.0,) * 7, "test")


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
    normalised = np.asarray(normalise_patches(jnp.asarray(spoilt), valid))[1, 2][counted]
    np.testing.assert_allclose(normalised, (values - values.mean()) / values.std(), atol=1e-3)


def test_reconstruction_is_a_sum_over_a_patch_and_a_mean_over_patches():
    pred, target = np.zeros((1, 4, 3), np.float32), np.zeros((1, 4, 3), np.float32)
    target[0, 0], target[0, 1], target[0, 2] = 1, 2, 3
    mask = np.array([[1, 1, 0, 0]], np.float32)
    masked, unmasked = reconstruction_losses(pred, target, mask)
    assert float(masked) == pytest.approx((3 + 12) / 2) and float(unmasked) == pytest.approx(27 / 2)


def test_info_nce():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 6, 4))
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    logits = unit(a) @ unit(b).T / 0.2
    both = [-np.mean(np.diag(m) - np.log(np.exp(m).sum(axis=1))) for m in (logits, logits.T)]
    np.testing.assert_allclose(info_nce(jnp.asarray(a), jnp.asarray(b), 0.2), np.mean(both), rtol=1e-5)
    same = jnp.ones((6, 4))
    np.testing.assert_allclose(info_nce(same, same), np.log(6), rtol=1e-5)


def test_vicreg():
    rng = np.random.default_rng(1)
    a, b = 0.5 * rng.standard_normal((2, 12, 5))
    expected = 25 * np.mean((a - b) ** 2)
    for z in (a, b):
        covariance = np.cov(z, rowvar=False)
        expected += 25 / 2 * np.mean(np.maximum(0, 1 - np.sqrt(z.var(axis=0, ddof=1) + 1e-4)))
        expected += np.sum((covariance - np.diag(np.diag(covariance))) ** 2) / 5
    np.testing.assert_allclose(vicreg(jnp.asarray(a), jnp.asarray(b)), expected, rtol=1e-4)


COUNTED = np.array([1, 0, 1, 1, 1, 1, 0, 1], np.float32)  # 3 on the first of two devices, 3 of 4 on the second


@pytest.mark.parametrize("objective", [vicreg, lambda a, b, axis=None, counted=None: info_nce(a, b, 0.1, axis, counted)])
def test_places_that_do_not_count_are_as_if_they_were_not_there(objective):
    a, b = np.random.default_rng(3).standard_normal((2, 8, 5)).astype(np.float32)
    expected = objective(*(jnp.asarray(x[COUNTED > 0]) for x in (a, b)))
    np.testing.assert_allclose(objective(jnp.asarray(a), jnp.asarray(b), None, jnp.asarray(COUNTED)), expected, rtol=1e-5)
    halves = [x.reshape(2, 4, *x.shape[1:]) for x in (a, b, COUNTED)]
    devices = jax.vmap(lambda a, b, counted: objective(a, b, "devices", counted), axis_name="devices")(*halves)
    np.testing.assert_allclose(jnp.mean(devices), expected, rtol=1e-5)
    assert np.isfinite(objective(jnp.asarray(a), jnp.asarray(b), None, jnp.zeros(8)))


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


def test_index_statistics():
    """Of reflectances: vegetation 0.05 red and 0.45 near infrared has an NDVI of 0.8."""
    reflectance = np.tile(np.array([0.03, 0.04, 0.06, 0.05, 0.45, 0.2, 0.15]), (1, 4, 4, 1))
    reflectance[0, 0] = [0.03, 0.04, 0.06, 0.02, 0.03, 0.02, 0.02]  # a row of water
    images = jnp.asarray(((reflectance + 0.2) / 0.0000275 - 9000) / 3000, jnp.float32)
    valid = np.ones((1, 4, 4), bool)
    valid[0, 0] = False
    found = np.asarray(index_statistics(images, valid, STATISTICS))[0]
    np.testing.assert_allclose(found, [0.8, (0.06 - 0.45) / 0.51, 0.5, 0.001, 0.001, 0.001], atol=2e-3)
    whole = np.asarray(index_statistics(images, np.ones_like(valid), STATISTICS))[0]
    ndvi = np.array([0.2] * 4 + [0.8] * 12)  # of the row of water: (0.03 - 0.02) / 0.05
    np.testing.assert_allclose(whole[[0, 3]], [ndvi.mean(), ndvi.std()], atol=2e-3)
    assert not np.asarray(index_statistics(images, np.zeros_like(valid), STATISTICS))[0, :3].any()


def test_patch_statistics_are_of_the_valid_pixels_band_by_band():
    """Two patches of 4 x 4, whose third band is a ramp; in the second one the last row holds no data."""
    image = np.zeros((1, 4, 8, 7), np.float32)
    image[..., 2] = np.arange(32).reshape(4, 8)
    valid = np.ones((1, 4, 8), bool)
    image[0, 3, 4:], valid[0, 3, 4:] = 99.0, False
    found, share = patch_statistics(jnp.asarray(image), jnp.asarray(valid), 4)
    ramps = [np.array([[8 * row + column for column in range(4)] for row in range(4)]), None]
    ramps[1] = ramps[0][:3] + 4
    assert found.shape == (1, 2, 14)
    np.testing.assert_allclose(found[0, :, 2], [ramp.mean() for ramp in ramps], rtol=1e-6)
    np.testing.assert_allclose(found[0, :, 9], [ramp.std() for ramp in ramps], rtol=1e-5)
    np.testing.assert_allclose(np.delete(found[0], [2, 9], axis=1), 0, atol=2e-3)
    np.testing.assert_allclose(share, [[1, 0.75]])
    empty, none = patch_statistics(jnp.asarray(image), jnp.zeros_like(valid), 4)
    assert np.abs(empty).max() < 2e-3 and not none.any()


def test_oriented_gradients_are_the_directions_of_a_patchs_edges():
    """Ramps in known directions: the votes of a patch go to the bins around it, whichever way it rises and in whatever band."""
    row, column = np.meshgrid(np.arange(8.0), np.arange(8.0), indexing="ij")
    valid = jnp.ones((1, 8, 8), bool)
    bins = {0: 0.0, 40: 2.0, 90: 4.5, 130: 6.5, 175: 8.75}  # degrees from "rightwards" towards "down", in bins of 20
    for degrees, place in bins.items():
        ramp = np.cos(np.radians(degrees)) * column + np.sin(np.radians(degrees)) * row
        for band, sign in ((0, 1), (5, -1)):
            image = np.zeros((1, 8, 8, 7), np.float32)
            image[..., band] = sign * ramp
            found, share = oriented_gradients(jnp.asarray(image), valid, 4)
            below, part = int(place), place % 1
            inner = oriented_gradients(jnp.asarray(image), valid, 2)[0].reshape(4, 4, 9)[1, 1]  # away from the image's edge
            expected = np.zeros(9)
            expected[below], expected[(below + 1) % 9] = 1 - part, part
            np.testing.assert_allclose(inner, np.sqrt(expected / 1.05), atol=2e-3)  # a gradient of 1 beside the faint 0.05
    assert found.shape == (1, 4, 9) and (share == 1).all()
    smooth, _ = oriented_gradients(jnp.full((1, 8, 8, 7), 3.0), valid, 4)
    assert not np.any(smooth)
    some = valid.at[0, 2, 2].set(False)
    spoilt = jnp.zeros((1, 8, 8, 7)).at[0, 2, 2].set(99.0)
    lost, share = oriented_gradients(spoilt, some, 4)
    assert not np.any(lost)
    np.testing.assert_allclose(share, [[11 / 16, 1, 1, 1]])  # a pixel without data and the four beside it


def test_metadata_counts_where_it_is_known_and_hidden():
    target = np.zeros((2, 4, 2), np.float32)
    target[0] = [[0, 1], [1, 0], [0.6, 0.8], [0, -1]]
    hidden = np.array([[True, False, True, True], [True] * 4])
    predicted = target + 0.0
    predicted[0, 2] = 0
    predicted[1] = 9  # nothing is known of the second
    np.testing.assert_allclose(metadata_loss(predicted, target, hidden), 1 / 3, rtol=1e-6)
    assert metadata_loss(predicted, target, np.zeros((2, 4), bool)) == 0
    predicted[0, 1] = 0  # which the encoder is given: a quarter of a hidden one
    np.testing.assert_allclose(metadata_loss(predicted, target, hidden, 0.25), 1.25 / 3.25, rtol=1e-6)


def test_data2vec_targets_are_the_later_layers_without_scale():
    rng = np.random.default_rng(6)
    layers = [rng.standard_normal((2, 9, 5)) * scale + scale for scale in (100, 1, 10)]
    normal = lambda x: (x - x.mean(axis=-1, keepdims=True)) / x.std(axis=-1, keepdims=True)
    expected = normal(normal(layers[1][:, 5:]) + normal(layers[2][:, 5:]))
    target = data2vec_targets([jnp.asarray(x) for x in layers], prefix=5)
    np.testing.assert_allclose(target, expected, atol=1e-4)
    mask = np.array([[1, 0, 0, 1], [0, 1, 0, 0]], np.float32)
    predicted = rng.standard_normal(expected.shape)
    error = np.mean(np.square(predicted - expected)[mask == 1])
    np.testing.assert_allclose(data2vec_loss(predicted, expected, mask), error, rtol=1e-5)
    assert not np.any(jax.grad(lambda x: jnp.sum(data2vec_targets([x], 5)[..., 0]))(jnp.asarray(layers[0])))


def test_heads_are_linear_and_start_within_their_fan_in():
    heads = init_heads({"a": (4, 300), "b": (4, 3)}, seed=0)
    assert np.abs(heads["a"]["kernel"]).max() <= 0.5 and heads["a"]["kernel"].std() == pytest.approx(0.5 / 3**0.5, rel=0.1)
    x = np.random.default_rng(0).standard_normal((2, 7, 4)).astype(np.float32)
    np.testing.assert_allclose(apply_head(heads["b"], x), x @ heads["b"]["kernel"] + heads["b"]["bias"], atol=1e-6)
    assert not np.array_equal(init_heads({"b": (4, 3)}, 1)["b"]["kernel"], heads["b"]["kernel"])


def test_the_second_view_goes_without_metadata():
    batch = full_batch(build_mae(**MICRO), 2) | {"week": np.ones((2, 2), np.float32)}
    joined = join_views(batch, 2)
    for name in FIELDS:
        np.testing.assert_array_equal(joined[name][:2], batch[name])
        assert not np.any(joined[name][2:])
    np.testing.assert_array_equal(joined["image"][2:], batch["second_view"])
    np.testing.assert_array_equal(joined["valid"][2:], batch["second_valid"])
    np.testing.assert_array_equal(joined["metadata"][2:], batch["metadata"])
    assert join_views(batch, 1) is batch


def test_positions_number_the_crops_of_all_devices_and_parts():
    np.testing.assert_array_equal(global_positions(3, 2, None), [[0, 1, 2], [3, 4, 5]])
    parts = [global_positions(2, 2, None, part, 3) for part in range(3)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), [range(6), range(6, 12)])
    devices = jax.vmap(lambda _: global_positions(2, 1, "d", 1, 2), axis_name="d")(jnp.arange(2))
    np.testing.assert_array_equal(devices, [[[2, 3]], [[6, 7]]])


WEIGHTS = dict(
    router_z=0.01,
    info_nce=1.0,
    vicreg=0.1,
    data2vec=4.0,
    spectral_indices=2.0,
    metadata=3.0,
    patch_statistics=5.0,
    oriented_gradients=6.0,
)


def every_objective(**changes):
    section = {f"{name}_weight": weight for name, weight in WEIGHTS.items()}
    return LossConfig.from_section(section | dict(normalise_targets=True, valid_pixels=True, decoded_views=1) | changes)


def test_held_out_losses_are_those_of_the_two_crops():
    assert set(WEIGHTS) == {objective.name for objective in OBJECTIVES}
    model = build_mae(**MICRO)
    loss = every_objective(info_nce_dim=3, metadata_given_share=0.5)
    params = init_params(model, 0) | {"heads": init_heads(loss.heads(model.config), 0)}
    assert params["heads"]["info_nce"]["kernel"].shape == (model.config.width, 3)
    assert "info_nce" not in every_objective().heads(model.config)
    batch, key = with_gaps(full_batch(model, 4)), jax.random.key(3)
    run = jax.jit(
        lambda params: batch_losses(
            model, params, batch, loss, rngs={"mask": key}, positions=global_positions(4, 2, None), statistics=STATISTICS
        )
    )
    values, usage = run(params)
    images = np.concatenate([batch["image"], batch["second_view"]])
    metadata = [np.concatenate([batch[name], np.zeros_like(batch[name])]) for name in FIELDS]
    valid = np.concatenate([batch["valid"], batch["second_valid"]])
    out = jax.jit(model.apply)({"params": params}, images, *metadata, mask_noise=_mask_noise(key, 8, 16), valid=valid)
    z = np.stack([tokens[present].mean(axis=0) for tokens, present in zip(*map(np.asarray, tokens_of(out)))])
    linear = lambda name, x: np.asarray(x) @ params["heads"][name]["kernel"] + params["heads"][name]["bias"]
    predicted = {name: linear(name, z) for name in ("info_nce", "spectral_indices", "metadata")}
    hidden = np.stack(metadata, axis=1).any(axis=-1) == 0
    distance = ((predicted["metadata"].reshape(8, 4, 2) - np.concatenate([batch["metadata"]] * 2)) ** 2).sum(axis=-1)
    target = patchify(batch["image"], 4)
    counted = patchify(np.repeat(batch["valid"][..., None], 7, axis=-1).astype(np.float32), 4)
    of_hidden = {}
    for name, function in (("patch_statistics", patch_statistics), ("oriented_gradients", oriented_gradients)):
        wanted, share = map(np.asarray, function(batch["image"], batch["valid"], 4))
        error, weight = np.sum((linear(name, out.decoder_tokens[:4]) - wanted) ** 2, axis=-1), np.asarray(out.mask[:4]) * share
        of_hidden[name] = [np.average(e, weights=w) for e, w in zip(error, weight) if w.any()]
        assert len(of_hidden[name]) == 3  # of the first image nothing that is hidden holds data
    masked, unmasked = reconstruction_losses(out.pred[:4], normalise_patches(target, counted), out.mask[:4], counted)
    expected = {
        "masked": masked,
        "unmasked": unmasked,
        "balance": out.balance_loss,
        "info_nce": info_nce(predicted["info_nce"][:4], predicted["info_nce"][4:]),
        "vicreg": vicreg(z[:4], z[4:]),
        "spectral_indices": ((predicted["spectral_indices"] - index_statistics(images, valid, STATISTICS)) ** 2).sum(-1).mean(),
        "metadata": np.average(distance, weights=np.where(hidden, 1, 0.5)),
        **{name: np.mean(by_image) for name, by_image in of_hidden.items()},
    }
    assert values.keys() == expected.keys()  # the router's z-loss and data2vec are for training
    for name, value in expected.items():
        np.testing.assert_allclose(values[name], value, rtol=1e-4, err_msg=name)
    assert set(usage) == {"encoder/block_00", "decoder/block_00"}
    gates, present = np.asarray(out.encoded.gates[0]), tokens_of(out)[1]
    assert not present.all()
    np.testing.assert_allclose(usage["encoder/block_00"], (gates[present] > 0).mean(axis=0) / 2, atol=1e-6)


def test_a_crop_without_data_counts_in_no_objective():
    """The second view of one of four places is empty: the objectives are those of the others."""
    model = build_mae(**MICRO, dropout=0.0)
    weights = dict(info_nce_weight=1.0, vicreg_weight=1.0, spectral_indices_weight=1.0, metadata_weight=1.0)
    loss = LossConfig.from_section({"valid_pixels": True, "metadata_given_share": 1.0} | weights)
    params = init_params(model, 0) | {"heads": init_heads(loss.heads(model.config), 0)}
    batch, key = full_batch(model, 4), jax.random.key(3)
    batch["second_valid"] = batch["second_valid"].copy()
    batch["second_valid"][2] = False

    def values(rows):
        some = {name: value[rows] for name, value in batch.items()}
        positions = np.array([rows, np.asarray(rows) + 4])  # the masks of these rows in the whole batch
        options = dict(rngs={"mask": key}, statistics=STATISTICS)
        run = jax.jit(lambda params, some: batch_losses(model, params, some, loss, positions=positions, **options)[0])
        return run(params, some)

    whole, others, alone = values([0, 1, 2, 3]), values([0, 1, 3]), values([2])
    for name in ("info_nce", "vicreg"):
        np.testing.assert_allclose(whole[name], others[name], rtol=1e-4, err_msg=name)
    for name in ("spectral_indices", "metadata"):  # six crops of the others, and the first view of the third place
        np.testing.assert_allclose(whole[name], (6 * others[name] + alone[name]) / 7, rtol=1e-4, err_msg=name)


def with_gaps(batch):
    """A batch whose first view lacks its first two patches, and of whose first place three patches are left in either view."""
    valid, second = batch["valid"].copy(), batch["second_valid"].copy()
    valid[:, :4, :8] = False
    valid[0, :12], second[0, :12] = False, False
    valid[0, 12:, :4] = second[0, 12:, :4] = False
    return {**batch, "valid": valid, "second_valid": second}


def tokens_of(out):
    return out.encoded.tokens, np.asarray(out.encoded.present)


def test_a_teacher_sees_no_pixels_without_data_and_no_patch_of_them_is_a_target():
    model = build_mae(**MICRO, dropout=0.0)
    loss = LossConfig.from_section({"data2vec_weight": 1.0, "valid_pixels": True})
    params = init_params(model, 0) | {"heads": init_heads(loss.heads(model.config), 0)}
    teacher = init_params(model, 1)["encoder"]
    batch = with_gaps(full_batch(model, 4))
    rngs = {name: jax.random.key(i) for i, name in enumerate(("mask", "router", "dropout"))}
    options = dict(rngs=rngs, positions=global_positions(4, 1, None), router_noise=0.0)
    losses = jax.jit(lambda params, teacher: batch_losses(model, params, batch, loss, teacher=teacher, **options)[0])
    value = losses(params, teacher)["data2vec"]
    inputs = [batch[name] for name in ("image", *FIELDS)]
    noise = _mask_noise(rngs["mask"], 4, 16)
    out = jax.jit(model.apply)({"params": params}, *inputs, mask_noise=noise, valid=batch["valid"])
    whole = encode(model.config, teacher, *inputs, valid=batch["valid"])
    target = np.asarray(data2vec_targets(whole.layer_tokens, 5))
    share = batch["valid"].reshape(4, 4, 4, 4, 4).mean(axis=(2, 4)).reshape(4, 16)
    counted = (np.asarray(out.mask) == 1) & (share >= 0.5)
    assert 0 < counted.sum() < np.sum(out.mask)
    head = params["heads"]["data2vec"]
    predicted = np.asarray(out.decoder_tokens) @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(value, np.mean(np.square(predicted - target)[counted]), rtol=1e-4)


def _mask_noise(key, count, width):
    return np.stack([jax.random.uniform(jax.random.fold_in(key, i), (width,)) for i in range(count)])


def test_the_loss_is_the_weighted_sum():
    loss = every_objective(unmasked_weight=0.3, balance_weight=7.0)
    names = ("masked", "unmasked", "balance", *WEIGHTS)
    values = {name: jnp.float32(i + 1) for i, name in enumerate(names)}
    expected = 1 + 0.3 * 2 + 7.0 * 3 + sum(weight * (i + 4) for i, weight in enumerate(WEIGHTS.values()))
    np.testing.assert_allclose(weighted_sum(values, loss), expected, rtol=1e-6)


def test_what_a_loss_needs_follows_from_its_objectives():
    assert LossConfig().batch_keys == ("image", *FIELDS) and LossConfig().views == 1
    loss = LossConfig.from_section({"vicreg_weight": 1.0, "spectral_indices_weight": 1.0, "metadata_weight": 1.0})
    assert set(loss.batch_keys) == {"image", *FIELDS, "valid", "second_view", "second_valid", "metadata"}
    assert loss.views == 2 and not loss.needs_teacher
    model = build_mae(**MICRO).config
    assert loss.heads(model) == {"spectral_indices": (16, 6), "metadata": (16, 8)}
    assert LossConfig.from_section({"data2vec_weight": 1.0}).needs_teacher
    with pytest.raises(ValueError, match="unknown key config.loss.info_nse_weight"):
        LossConfig.from_section({"info_nse_weight": 1.0})


def test_the_published_recipe_has_no_objective():
    loss = LossConfig.from_section(default_config().loss.to_dict())
    assert not loss.active and (loss.unmasked_weight, loss.balance_weight) == (0.1, 0.5)
    assert not (loss.normalise_targets or loss.valid_pixels)
    active = {o.name for o, _ in LossConfig.from_section(multi_objective_config().loss.to_dict()).active}
    assert active == {"info_nce", "spectral_indices", "metadata"}


def test_reconstruction_is_of_the_hidden_patches_of_the_decoded_views():
    """In training both crops are decoded unless one is asked for: other images, another loss."""
    model = build_mae(**MICRO, dropout=0.0)
    params, batch = init_params(model, 0), full_batch(model, 2)
    rngs = {name: jax.random.key(i) for i, name in enumerate(("mask", "router", "dropout"))}
    values = {}
    for views in (1, 2):
        loss = LossConfig.from_section({"info_nce_weight": 1.0, "decoded_views": views})
        options = dict(rngs=rngs, positions=global_positions(2, 2, None), router_noise=0.0)
        run = jax.jit(functools.partial(batch_losses, model, config=loss, **options))
        values[views] = float(run(params, batch)[0]["masked"])
        images = np.concatenate([batch["image"], batch["second_view"]])[: 2 * views]
        metadata = [np.concatenate([batch[n], np.zeros_like(batch[n])])[: 2 * views] for n in FIELDS]
        noise = _mask_noise(rngs["mask"], 2 * views, 16)
        out = jax.jit(model.apply)({"params": params}, images, *metadata, mask_noise=noise)
        expected, _ = reconstruction_losses(out.pred, patchify(images, 4), out.mask)
        assert values[views] == pytest.approx(float(expected), rel=1e-4)
    assert values[1] != pytest.approx(values[2], rel=1e-5)


def test_batches_without_what_is_read_are_keyerrors_not_guesses():
    model = build_mae(**MICRO)
    loss = LossConfig.from_section({"info_nce_weight": 1.0})
    with pytest.raises(KeyError, match="second_view"):
        batch_losses(
            model,
            init_params(model, 0),
            batch_of(model, 2),
            loss,
            rngs={"mask": jax.random.key(0)},
            positions=global_positions(2, 2, None),
        )
