"""Evaluation: a mean over all batches, of the hidden patches, with the same masks each time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import MICRO, batch_of

from geomoe.landsat import Statistics
from geomoe.metadata import FIELDS
from geomoe.models import build_mae, patchify
from geomoe.training import LossConfig, init_params, make_eval_step, parallel
from geomoe.training.evaluate import Evaluator, reconstruction_images


def test_an_evaluation_is_the_mean_over_its_batches():
    values = [3.0, 5.0, 100.0]
    usage = [np.array([0.2, 0.8]), np.array([0.4, 0.6]), np.array([0.0, 1.0])]

    def eval_step(params, batch, key):
        assert params == "params"
        i = int(parallel.fetch(batch["i"]).ravel()[0])
        metrics = {"val_loss_masked": jnp.float32(values[i]), "val_loss_unmasked": jnp.float32(2 * values[i])}
        blocks = {"encoder/block_00": usage[i].astype(np.float32), "decoder/block_00": np.full(2, 0.5, np.float32)}
        return parallel.replicate({**metrics, "usage": blocks})

    batches = lambda: iter([{"i": np.full((jax.local_device_count(), 1), i)} for i in range(3)])
    for count, expected, least in ((2, 4.0, 0.6), (3, 36.0, 0.4), (9, 36.0, 0.4)):
        evaluation = Evaluator(eval_step, batches, count, jax.random.key(0))("params")
        assert evaluation.loss == pytest.approx(expected) == evaluation.metrics["val_loss_unmasked"] / 2
        assert evaluation.metrics["val_least_used_expert"] == pytest.approx(least)
        assert evaluation.usage["encoder/block_00"].sum() == pytest.approx(1)


def test_the_validation_loss_is_that_of_the_hidden_patches():
    model = build_mae(**MICRO)
    params, batch, key = init_params(model, 0), batch_of(model, 4), jax.random.key(2)
    metrics = jax.jit(make_eval_step(model, LossConfig(), axis_name=None))(params, batch, key)
    noise = np.stack([jax.random.uniform(jax.random.fold_in(key, i), (16,)) for i in range(4)])
    out = model.apply({"params": params}, *(batch[name] for name in ("image", *FIELDS)), mask_noise=noise)
    error = np.sum((np.asarray(out.pred) - patchify(batch["image"], 4)) ** 2, axis=-1)
    visible = np.zeros((4, 16), bool)
    np.put_along_axis(visible, np.argsort(noise, axis=1)[:, :4], True, axis=1)
    assert float(metrics["val_loss_masked"]) == pytest.approx(error[~visible].mean(), rel=1e-5)
    assert float(metrics["val_loss_unmasked"]) == pytest.approx(error[visible].mean(), rel=1e-5)
    assert abs(error[~visible].mean() / error[visible].mean() - 1) > 1e-3


def test_reconstruction_images_show_original_mask_and_reconstruction():
    model = build_mae(**MICRO)
    statistics = Statistics((9000.0,) * 7, (300.0,) * 7, "test")
    batch = batch_of(model, 3)
    images = reconstruction_images(model, init_params(model, 0), batch, 2, statistics, False, 0)
    assert images.shape == (2, 16, 3 * 16 + 4, 3) and images.min() >= 0 and images.max() <= 1
    original, masked, reconstruction = images[:, :, :16], images[:, :, 18:34], images[:, :, 36:]
    hidden = (masked == 0.5).all(axis=-1)
    assert hidden.mean() == pytest.approx(0.75)
    np.testing.assert_array_equal(masked[~hidden], original[~hidden])
    assert not np.allclose(original, reconstruction, atol=0.02)
