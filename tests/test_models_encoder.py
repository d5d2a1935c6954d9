"""Pixels without data in the encoder: they must not speak, and with none of them nothing changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import MICRO, batch_of

from geomoe.metadata import FIELDS
from geomoe.models import build_encoder, build_mae, encode, patchify
from geomoe.models.block import Stochastic
from geomoe.models.config import NUM_PREFIX_TOKENS
from geomoe.models.encoder import fill_patches
from geomoe.models.pooling import POOLINGS, pool_tokens
from geomoe.models.router import RouterOutput, balance_loss, expected_load, route, router_z_loss
from geomoe.training import init_params


@pytest.fixture(scope="module")
def setting():
    """A small encoder, and images of which each lacks some pixels: two whole patches, a few pixels of a third."""
    model = build_mae(**MICRO)
    batch = batch_of(model, 3)
    params = init_params(model, 0)
    size, p = model.config.img_size, model.config.patch_size
    valid = np.ones((3, size, size), bool)
    valid[:, :p, : 2 * p] = False  # two patches
    valid[:, p : p + 1, :p] = False  # one row of another
    return model, params, batch, valid


def run(model, params, batch, **options):
    inputs = [batch[name] for name in ("image", *FIELDS)]
    return encode(model.config, params["encoder"], *inputs, **options)


def assert_pooled_alike(model, batch, output, expected, atol):
    """Every pooling of two outputs is the same."""
    meta = [batch[name] for name in FIELDS]
    for pool in POOLINGS:
        a, b = (pool_tokens(out, meta, model.config, pool) for out in (output, expected))
        np.testing.assert_allclose(a, b, atol=atol)


def test_empty_pixels_take_the_mean_of_their_patch():
    images = np.arange(2 * 4 * 4 * 2, dtype=np.float32).reshape(2, 4, 4, 2)
    valid = np.ones((2, 4, 4), bool)
    valid[1, 0, 0] = valid[1, 1, 1] = False
    valid[0, 2:, 2:] = False
    filled = np.asarray(fill_patches(patchify(images, 2), valid, 2)).reshape(2, 4, 2, 4)  # images, patches, bands, pixels
    original = np.asarray(patchify(images, 2)).reshape(2, 4, 2, 4)
    np.testing.assert_array_equal(filled[1, 0, :, [0, 3]], [original[1, 0, :, 1:3].mean(axis=1)] * 2)
    np.testing.assert_array_equal(filled[1, 0, :, 1:3], original[1, 0, :, 1:3])
    np.testing.assert_array_equal(filled[0, 3], 0)  # no pixel to take a mean of
    np.testing.assert_array_equal(filled[1, 1:], original[1, 1:])


def test_what_empty_pixels_hold_changes_nothing(setting):
    model, params, batch, valid = setting
    outputs = []
    for value in (0.0, -5.0, 1e4):
        image = np.where(valid[..., None], batch["image"], value).astype(np.float32)
        outputs.append(run(model, params, {**batch, "image": image}, valid=valid))
    meta = [batch[name] for name in FIELDS]
    for out in outputs[1:]:
        assert_pooled_alike(model, batch, out, outputs[0], atol=1e-6)
        np.testing.assert_allclose(out.balance_loss, outputs[0].balance_loss, atol=1e-7)
        np.testing.assert_allclose(out.router_z_loss, outputs[0].router_z_loss, rtol=1e-5)
    present = np.asarray(outputs[0].present)
    assert present.shape == (3, model.config.num_tokens)
    np.testing.assert_array_equal(np.flatnonzero(~present[0]), NUM_PREFIX_TOKENS + np.array([0, 1]))
    assert all(not np.any(np.asarray(gate)[~present]) for gate in outputs[0].gates)
    tokens = np.asarray(pool_tokens(outputs[0], meta, model.config, "tokens"))
    np.testing.assert_array_equal(np.isnan(tokens).all(axis=-1), ~present)


def test_absent_patches_are_as_if_they_were_not_there(setting):
    """The encoder of the other patches alone, which masking has always had."""
    model, params, batch, _ = setting
    size, p = model.config.img_size, model.config.patch_size
    valid = np.ones((3, size, size), bool)
    valid[:, :p, : 2 * p] = False
    keep = np.tile(np.arange(2, model.config.num_patches), (3, 1))
    alone = run(model, params, batch, ids_keep=keep)
    masked = run(model, params, batch, valid=valid)
    rows = np.concatenate([np.arange(NUM_PREFIX_TOKENS), NUM_PREFIX_TOKENS + keep[0]])
    np.testing.assert_allclose(masked.tokens[:, rows], alone.tokens, atol=2e-5)
    np.testing.assert_allclose(masked.balance_loss, alone.balance_loss, rtol=1e-4)
    np.testing.assert_allclose(masked.router_z_loss, alone.router_z_loss, rtol=1e-4)
    assert_pooled_alike(model, batch, masked, alone, atol=2e-5)


def test_with_all_pixels_valid_nothing_changes(setting):
    model, params, batch, valid = setting
    plain, whole = run(model, params, batch), run(model, params, batch, valid=valid | True)
    np.testing.assert_allclose(whole.tokens, plain.tokens, atol=2e-6)
    np.testing.assert_allclose(whole.balance_loss, plain.balance_loss, rtol=1e-6)
    assert_pooled_alike(model, batch, whole, plain, atol=1e-6)


def test_half_a_patch_is_enough(setting):
    model, params, batch, _ = setting
    size, p = model.config.img_size, model.config.patch_size
    valid = np.ones((3, size, size), bool)
    valid[0, : p // 2, :p] = False  # half
    valid[1, : p // 2 + 1, :p] = False  # more
    present = np.asarray(run(model, params, batch, valid=valid).present)[:, NUM_PREFIX_TOKENS]
    np.testing.assert_array_equal(present, [True, False, True])


def test_patches_without_data_are_hidden_first_in_training(setting):
    model, params, batch, valid = setting
    inputs = [batch[name] for name in ("image", *FIELDS)]
    apply = lambda image, valid: model.apply(
        {"params": params}, image, *inputs[1:], mask_noise=noise, stochastic=None, valid=valid
    )
    noise = jnp.zeros((3, model.config.num_patches)).at[:, 2:].set(1.0)  # which would leave the empty ones visible
    out = apply(inputs[0], valid)
    assert np.all(np.asarray(out.mask)[:, :2] == 1)
    few = np.zeros_like(valid)
    few[:, -model.config.patch_size :, -model.config.patch_size :] = True  # fewer than are shown
    outputs = [apply(np.where(few[..., None], inputs[0], value).astype(np.float32), few) for value in (0.0, 50.0)]
    np.testing.assert_allclose(outputs[0].pred, outputs[1].pred, atol=1e-5)  # shown for want of others, they say nothing
    assert bool(jnp.isfinite(outputs[0].pred).all())


def test_balance_counts_present_tokens_alone():
    rng = np.random.default_rng(0)
    clean, noise = (jnp.asarray(rng.standard_normal((12, 4)), jnp.float32) for _ in range(2))
    counted = np.array([1.0] * 7 + [0.0] * 5, np.float32)
    whole = route(clean, jnp.ones((12, 4)), noise, 2)
    part = RouterOutput(*(leaf[:7] for leaf in whole))
    for estimator in ("reference", "shazeer"):
        np.testing.assert_allclose(balance_loss(whole, 2, estimator, counted), balance_loss(part, 2, estimator), rtol=1e-6)
        np.testing.assert_allclose(expected_load(whole, 2, estimator, counted), expected_load(part, 2, estimator), rtol=1e-6)
    np.testing.assert_allclose(router_z_loss(whole, counted), router_z_loss(part), rtol=1e-6)
    np.testing.assert_array_equal(expected_load(route(clean, jnp.ones((12, 4)), None, 4), 4, "reference", counted), [7.0] * 4)


def test_training_noise_goes_with_validity(setting):
    model, params, batch, valid = setting
    rngs = {"router": jax.random.key(0), "dropout": jax.random.key(1)}
    encoder = build_encoder(**MICRO)
    inputs = [batch[name] for name in ("image", *FIELDS)]
    for value in (0.0, 30.0):
        image = np.where(valid[..., None], inputs[0], value).astype(np.float32)
        out = encoder.apply({"params": params["encoder"]}, image, *inputs[1:], stochastic=Stochastic(), valid=valid, rngs=rngs)
        if value == 0.0:
            first = out
    present = np.asarray(first.present)
    np.testing.assert_allclose(np.asarray(out.tokens)[present], np.asarray(first.tokens)[present], atol=1e-5)
    np.testing.assert_allclose(out.balance_loss, first.balance_loss, rtol=1e-5)
