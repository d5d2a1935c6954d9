"""Evaluation: a mean over all examples, of the hidden patches, with the same masks each time."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import MICRO, batch_of, finish, start_script

from geomoe.landsat import Statistics
from geomoe.metadata import FIELDS
from geomoe.models import build_mae, patchify
from geomoe.training import LossConfig, init_params, make_eval_step, parallel
from geomoe.training.evaluate import Evaluator, reconstruction_images


def test_an_evaluation_is_the_mean_over_its_examples():
    """Batches of 4, 4 and 3 examples: values 3, 5, 100; InfoNCE and the balance loss of the whole batches alone."""
    sizes, values = [4, 4, 3], [3.0, 5.0, 100.0]
    usage = [np.array([0.2, 0.8]), np.array([0.4, 0.6]), np.array([0.0, 1.0])]

    def eval_step(params, batch, key):
        assert params == "params"
        i = int(parallel.fetch(batch["image"]).ravel()[0])
        names = ("masked", "unmasked", "info_nce", "balance")
        metrics = {f"val_loss_{name}": jnp.float32(values[i] * (1 + (name == "unmasked"))) for name in names}
        blocks = {"encoder/block_00": usage[i].astype(np.float32), "decoder/block_00": np.full(2, 0.5, np.float32)}
        return parallel.replicate({**metrics, "usage": blocks})

    loss = LossConfig.from_section({"info_nce_weight": 1.0})
    batches = lambda: iter([{"image": np.full((size, 1), i)} for i, size in enumerate(sizes)])
    for count, expected, least in ((2, 4.0, 0.6), (3, 332 / 11, 2 * 2.4 / 11), (9, 332 / 11, 2 * 2.4 / 11)):
        evaluation = Evaluator(eval_step, None, batches, 11, 4, count, jax.random.key(0), loss)("params")
        assert evaluation.loss == pytest.approx(expected) == evaluation.metrics["val_loss_unmasked"] / 2
        assert evaluation.metrics["val_loss_info_nce"] == evaluation.metrics["val_loss_balance"] == pytest.approx(4.0)
        assert evaluation.metrics["val_least_used_expert"] == pytest.approx(least)
        assert evaluation.usage["encoder/block_00"].sum() == pytest.approx(1)


UNEVEN = """
import json, sys
import jax, numpy as np
sys.path.insert(0, "tests")
from conftest import MICRO, batch_of, finish, start_script
from geomoe.models import build_mae
from geomoe.training import LossConfig, init_params, make_eval_step, parallel
from geomoe.training.evaluate import Evaluator

coordinator, process, count, out = json.loads(sys.argv[1])
if coordinator:
    jax.distributed.initialize(coordinator, 2, process)
model = build_mae(**MICRO)
held_out, processes = batch_of(model, count), jax.process_count()
mine = np.array_split(np.arange(count), processes)[process]
size = 4 // processes
batches = lambda: ({k: v[mine[i : i + size]] for k, v in held_out.items()} for i in range(0, len(mine), size))
steps = [make_eval_step(model, axis_name=axis) for axis in (parallel.AXIS, None)]
evaluate = Evaluator(
    parallel.map_eval_step(steps[0]), jax.jit(steps[1]), batches, count // processes, 4, 9, jax.random.key(3)
)
found = evaluate(parallel.replicate(init_params(model, 0)))
if process == 0:
    with open(out, "w") as file:
        json.dump([found.metrics, {k: v.tolist() for k, v in found.usage.items()}], file)
"""


def test_every_held_out_example_counts_once_on_any_number_of_devices_and_processes(tmp_path, free_port):
    """11 examples in batches of 4, against each example evaluated by itself; 3 on four devices, fewer than there are.

    11 on two devices leave a batch of which part divides over them.
    """

    def start(where, count, devices, coordinator="", process=0):
        arguments = [coordinator, process, count, str(tmp_path / where)]
        return start_script(["-c", UNEVEN, json.dumps(arguments)], devices=devices)

    address = f"localhost:{free_port}"
    finish(start("one", 11, 1), start("pair", 11, 2), start("four", 11, 4), start("few", 3, 4))
    finish(*(start("two", 11, 2, address, i) for i in (0, 1)))
    model = build_mae(**MICRO)
    params, key, step = init_params(model, 0), jax.random.key(3), jax.jit(make_eval_step(model, axis_name=None))
    whole = {example: (example // 4, example % 4) for example in range(11)}  # -> number of the batch, position in it
    # Two processes of two devices: 6 and 5 examples; of the last batch none divides over all devices.
    first, second = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)], [(0, 2), (0, 3), (1, 2), (1, 3), (2, 2)]
    places = {
        "one": whole,
        "pair": whole,
        "four": whole,
        "two": dict(enumerate(first + second)),
        "few": dict(enumerate([(0, 0), (0, 1), (0, 2)])),
    }
    for where, place in places.items():
        examples, each = batch_of(model, len(place)), []
        for example, (batch, position) in place.items():
            alone = {name: value[example : example + 1] for name, value in examples.items()}
            each.append(step(params, alone | {"positions": np.array([[position]])}, jax.random.fold_in(key, batch)))
        metrics, usage = json.loads((tmp_path / where).read_text())
        for name in ("val_loss_masked", "val_loss_unmasked"):
            assert metrics[name] == pytest.approx(np.mean([values[name] for values in each]), rel=2e-6), (where, name)
        for block, shares in usage.items():
            expected = np.mean([values["usage"][block] for values in each], axis=0)
            np.testing.assert_allclose(shares, expected, rtol=1e-5, atol=1e-6, err_msg=f"{where} {block}")


def test_the_validation_loss_is_that_of_the_hidden_patches():
    model = build_mae(**MICRO)
    params, batch, key = init_params(model, 0), batch_of(model, 4), jax.random.key(2)
    metrics = jax.jit(make_eval_step(model, LossConfig(), axis_name=None))(
        params, batch | {"positions": np.arange(4)[:, None]}, key
    )
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
