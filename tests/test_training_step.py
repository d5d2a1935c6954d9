"""The training step: optimizer, accumulation, objectives, devices."""

import json

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import MICRO, batch_of, finish, full_batch, start_script
from test_training_losses import STATISTICS, WEIGHTS, every_objective, with_gaps

from geomoe.models import build_mae
from geomoe.training import LossConfig, create_state, default_config, init_params, make_train_step
from geomoe.training.optimizer import build_optimizer, router_noise_schedule
from geomoe.training.state import TrainState

PUBLISHED = LossConfig()


def state_of(model, optimizer, params=None, loss=PUBLISHED):
    state = create_state(model, optimizer, 0, loss)
    params = state.params if params is None else params
    return state.replace(params=params, opt_state=optimizer.init(jax.flatten_util.ravel_pytree(params)[0]))


def test_accumulated_parts_give_the_step_of_the_whole_batch():
    """Same images, same masks: the gradient of three parts, averaged, is that of the whole."""
    model = build_mae(**MICRO, dropout=0.1)
    optimizer, loss = optax.sgd(0.1), LossConfig(balance_weight=0.0)
    batch, key = batch_of(model, 6), jax.random.key(0)
    results = []
    for accumulate in (1, 3):
        step = jax.jit(make_train_step(model, optimizer, loss, accumulate=accumulate, axis_name=None))
        results.append(step(state_of(model, optimizer), batch, key))
    (one, metrics), (three, again) = results
    for name in ("loss", "loss_masked", "loss_unmasked", "grad_norm"):
        np.testing.assert_allclose(metrics[name], again[name], rtol=2e-5)
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(three.params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_every_objective_weighs_in_one_step_and_its_heads_learn():
    model = build_mae(**MICRO, dropout=0.0)
    loss, optimizer = every_objective(teacher_momentum=0.9), optax.sgd(0.1)
    state = state_of(model, optimizer, loss=loss)
    step = jax.jit(make_train_step(model, optimizer, loss, statistics=STATISTICS, axis_name=None))
    after, metrics = step(state, full_batch(model, 4), jax.random.key(0))
    total = metrics["loss_masked"] + 0.1 * metrics["loss_unmasked"] + 0.5 * metrics["loss_balance"]
    total += sum(weight * metrics[f"loss_{name}"] for name, weight in WEIGHTS.items())
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-5)
    assert all(float(metrics[f"loss_{name}"]) > 0 for name in WEIGHTS)
    for name in ("spectral_indices", "data2vec", "metadata", "patch_statistics", "oriented_gradients"):
        assert not np.array_equal(after.params["heads"][name]["kernel"], state.params["heads"][name]["kernel"])
    old, new = (state.params["encoder"]["patch_proj"]["kernel"] for state in (state, after))
    assert not np.array_equal(old, new)
    np.testing.assert_allclose(after.teacher["patch_proj"]["kernel"], 0.9 * old + 0.1 * new, atol=1e-6)
    with pytest.raises(ValueError, match="spectral_indices needs the statistics"):
        make_train_step(model, optimizer, loss)


def test_what_pixels_without_data_hold_changes_no_step():
    """With every objective, two views and a teacher; and with all pixels valid a step is that of a recipe without validity."""
    model, optimizer = build_mae(**MICRO, dropout=0.0), optax.sgd(0.1)
    loss = every_objective(decoded_views=2)
    step = jax.jit(make_train_step(model, optimizer, loss, statistics=STATISTICS, axis_name=None))
    batch, results = with_gaps(full_batch(model, 4)), []
    for value in (0.0, 30.0):
        spoilt = dict(batch)
        for name, valid in (("image", "valid"), ("second_view", "second_valid")):
            spoilt[name] = np.where(batch[valid][..., None], batch[name], value).astype(np.float32)
        results.append(step(state_of(model, optimizer, loss=loss), spoilt, jax.random.key(0)))
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)
    np.testing.assert_allclose([np.sum(shares) for shares in results[0][1]["usage"].values()], 1, rtol=1e-5)

    whole = {**batch, "valid": batch["valid"] | True, "second_valid": batch["valid"] | True}
    without = every_objective(decoded_views=2, valid_pixels=False)
    plain = jax.jit(make_train_step(model, optimizer, without, statistics=STATISTICS, axis_name=None))
    results = [f(state_of(model, optimizer, loss=loss), whole, jax.random.key(0)) for f in (step, plain)]
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("total_steps, at", [(100, 2), (100, 5), (2, 0)])
def test_an_update_is_clipped_adamw_with_warmup_and_decay_on_every_parameter(total_steps, at):
    model = build_mae(**MICRO, dropout=0.0)
    config = default_config().optimizer
    config.lr, config.weight_decay, config.clip_norm = 0.01, 0.5, 0.1
    optimizer, schedule = build_optimizer(config, total_steps)
    params = init_params(model, 0)
    params["encoder"]["norm"]["bias"] += 1.0  # biases decay too, as in PyTorch's AdamW
    vector = jax.flatten_util.ravel_pytree(params)[0]
    opt_state = jax.tree.map(lambda x: jnp.full_like(x, at) if x.dtype == jnp.int32 else x, optimizer.init(vector))
    batch, key = batch_of(model, 4), jax.random.key(0)
    sgd = optax.sgd(1.0)
    plain = TrainState(jnp.int32(0), params, sgd.init(vector))
    moved, metrics = jax.jit(make_train_step(model, sgd, axis_name=None))(plain, batch, key)
    leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(params)]
    grads = [p - np.asarray(q, np.float64) for p, q in zip(leaves, jax.tree.leaves(moved.params))]
    after, metrics = jax.jit(make_train_step(model, optimizer, axis_name=None))(
        TrainState(jnp.int32(0), params, opt_state), batch, key
    )
    # At count `at` Adam's bias correction differs from the first step's: undo it, the moments being zero before.
    t = at + 1
    correction = (1 - config.b1) / (1 - config.b1**t) / np.sqrt((1 - config.b2) / (1 - config.b2**t))
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in grads))
    lr = float(schedule(at))
    warmup = int(config.warmup_fraction * total_steps)
    expected_lr = (
        config.lr * at / warmup
        if at < warmup
        else config.lr * 0.5 * (1 + np.cos(np.pi * (at - warmup) / (total_steps - warmup)))
    )
    assert lr == pytest.approx(expected_lr, rel=1e-5, abs=1e-12)
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-3)
    assert norm > config.clip_norm
    scale = config.clip_norm / norm
    for p, g, q in zip(leaves, grads, jax.tree.leaves(after.params), strict=True):
        large = np.abs(g) * scale > 1e-5  # smaller ones are lost in Adam's epsilon and in p - q
        expected = p - lr * (np.sign(g) * correction + config.weight_decay * p)
        np.testing.assert_allclose(np.asarray(q)[large], expected[large], rtol=2e-3, atol=2e-5 + 1e-2 * lr)


def test_clipping_bounds_the_update_and_can_be_turned_off():
    config = default_config().optimizer
    config.weight_decay, config.warmup_fraction = 0.0, 0.0
    vector = jnp.zeros(4)
    grads = jnp.array([3.0, 4.0, 0.0, 0.0])
    first = jnp.array([1e-9, 0.0, 0.0, 0.0])
    for clip, second in ((1.0, grads / 5), (0.0, grads)):
        config.clip_norm = clip
        optimizer, _ = build_optimizer(config, 10)
        state = optimizer.init(vector)
        _, state = optimizer.update(first, state, vector)
        _, state = optimizer.update(grads, state, vector)
        moments = [x for x in jax.tree.leaves(state) if x.shape == (4,)]
        np.testing.assert_allclose(moments[0], 0.1 * second + 0.09 * first, rtol=1e-5, atol=1e-9)


def test_the_router_noise_of_the_schedule_reaches_the_router():
    """Without dropout, noise that falls to 0 at the last step leaves a deterministic loss there, and not at the first."""
    model = build_mae(**MICRO, dropout=0.0)
    optimizer = optax.sgd(0.0)
    schedule = router_noise_schedule(0.0, 11)
    assert [float(schedule(step)) for step in (0, 5, 10)] == [1.0, 0.5, 0.0]
    assert [float(router_noise_schedule(1.0, 11)(step)) for step in (0, 10)] == [1.0, 1.0]
    noisy = jax.jit(make_train_step(model, optimizer, router_noise=schedule, axis_name=None))
    clean = jax.jit(make_train_step(model, optimizer, router_noise=lambda step: 0.0, axis_name=None))
    batch, key = batch_of(model, 4), jax.random.key(0)
    for step, same in ((0, False), (10, True)):
        state = state_of(model, optimizer).replace(step=jnp.int32(step))
        a, b = (float(f(state, batch, key)[1]["loss"]) for f in (noisy, clean))
        assert (a == pytest.approx(b, rel=1e-6)) == same


def test_steps_have_other_masks_and_runs_other_seeds():
    model = build_mae(**MICRO, dropout=0.0)
    optimizer = optax.sgd(0.0)
    step = jax.jit(make_train_step(model, optimizer, router_noise=lambda s: 0.0, axis_name=None))
    batch, state = batch_of(model, 4), state_of(model, optimizer)
    losses = [
        float(step(state.replace(step=jnp.int32(s)), batch, jax.random.key(k))[1]["loss"])
        for s, k in ((0, 0), (1, 0), (0, 1), (0, 0))
    ]
    assert losses[0] == losses[3] and len(set(losses)) == 3


def test_a_selection_bias_evens_out_the_experts():
    """With weights held still, the bias alone brings a router that prefers one expert to even use."""
    model = build_mae(**MICRO, dropout=0.0, selection_bias=True, top_k=1)
    optimizer, rate = optax.sgd(0.0), 0.05
    params = init_params(model, 0)
    router = params["encoder"]["block_00"]["moe"]["router"]
    assert not router["selection_bias"].any()
    router["clean"]["bias"] = np.array([2.0, 0.0, 0.0], np.float32)
    state = state_of(model, optimizer, params)
    step = jax.jit(make_train_step(model, optimizer, selection_rate=rate, axis_name=None))
    batch, shares = batch_of(model, 16), []
    for i in range(120):
        state, metrics = step(state, batch, jax.random.key(0))
        shares.append(np.asarray(metrics["usage"]["encoder/block_00"]))
        if i == 0:
            bias = state.params["encoder"]["block_00"]["moe"]["router"]["selection_bias"]
            np.testing.assert_allclose(bias, rate * np.sign(1 / 3 - shares[0]), atol=1e-7)
    assert shares[0][0] > 0.5
    assert np.mean(shares[-20:], axis=0).min() > 0.25
    np.testing.assert_array_equal(state.params["encoder"]["block_00"]["moe"]["router"]["clean"]["bias"], [2, 0, 0])


DEVICES = """
import json, sys
import jax, numpy as np
sys.path.insert(0, "tests")
from conftest import MICRO, full_batch
from geomoe.landsat import Statistics
from geomoe.models import build_mae
from geomoe.training import LossConfig, create_state, default_config, make_eval_step, make_train_step, parallel
from geomoe.training.optimizer import build_optimizer

coordinator, process, statistics, out = json.loads(sys.argv[1])
if coordinator:
    jax.distributed.initialize(coordinator, 2, process)
plain = jax.device_count() == 1
axis = dict(axis_name=None) if plain else {}
model, statistics = build_mae(**MICRO), Statistics.of(statistics)
config = default_config().optimizer
config.lr, config.warmup_fraction = 5e-5, 0.0
optimizer, _ = build_optimizer(config, 100)
fetch = (lambda tree: jax.tree.map(np.asarray, tree)) if plain else parallel.fetch
numbers = lambda metrics: {k: float(v) for k, v in fetch({k: v for k, v in metrics.items() if k != "usage"}).items()}
found, leaves = {}, {}
for weight in (0.0, 1.0):
    loss = LossConfig.from_section({"balance_weight": 0.0, "info_nce_weight": weight})
    batch = {key: np.asarray(value) for key, value in full_batch(model, 8).items() if key in loss.batch_keys}
    batch["positions"] = np.arange(8)[:, None] + 8 * np.arange(loss.views)
    step = make_train_step(model, optimizer, loss, **axis)
    step = jax.jit(step) if plain else parallel.map_train_step(step)
    state = create_state(model, optimizer, 0, loss)
    if plain:
        data = batch
    else:
        local = 8 // jax.process_count()
        rows = slice(process * local, (process + 1) * local)
        state, data = parallel.replicate(state), next(parallel.prefetch([{k: v[rows] for k, v in batch.items()}]))
    losses = []
    for _ in range(3):
        state, metrics = step(state, data, jax.random.key(7))
        losses.append(numbers(metrics))
    evaluate = make_eval_step(model, loss, **axis)
    evaluate = jax.jit(evaluate) if plain else parallel.map_eval_step(evaluate)
    found[weight] = [*losses, numbers(evaluate(state.params, data, jax.random.key(7)))]
    leaves |= {f"{weight}/{i}": leaf for i, leaf in enumerate(jax.tree.leaves(fetch(state.params)))}
if process == 0:
    np.savez(out, **leaves, metrics=json.dumps(found))
"""


def test_devices_and_processes_do_not_change_a_run(tmp_path, free_port):
    """One device with a batch of 8, four devices with 2 each, two processes of two devices with 2 each: one run.

    Without and with InfoNCE over all places; without balance losses, which are a device's own and not linear in the batch.
    """

    def arguments(where, coordinator="", process=0):
        return ["-c", DEVICES, json.dumps([coordinator, process, dict(STATISTICS), str(tmp_path / where)])]

    address = f"localhost:{free_port}"
    finish(start_script(arguments("one.npz"), devices=1), start_script(arguments("four.npz"), devices=4))
    finish(*(start_script(arguments("two.npz", address, i), devices=2) for i in (0, 1)))
    one, *others = (np.load(tmp_path / f"{where}.npz") for where in ("one", "four", "two"))
    expected = json.loads(str(one["metrics"]))
    assert expected["1.0"][0]["loss_info_nce"] > 0
    for other in others:
        for weight, metrics in json.loads(str(other["metrics"])).items():
            for ours, theirs in zip(metrics, expected[weight], strict=True):
                for key in ours:
                    if "balance" not in key:
                        assert ours[key] == pytest.approx(theirs[key], rel=1e-5 if "norm" in key else 2e-6), key
        for leaf in one.files:
            if leaf != "metrics":
                np.testing.assert_allclose(other[leaf], one[leaf], atol=1e-5, rtol=0)


def test_the_moments_decay_by_b1_and_b2():
    config = default_config().optimizer
    config.b1, config.b2, config.clip_norm, config.weight_decay = 0.6, 0.7, 0.0, 0.0
    optimizer, _ = build_optimizer(config, 10)
    grads = jnp.array([1.0, -2.0, 3.0])
    _, state = optimizer.update(grads, optimizer.init(jnp.zeros(3)), jnp.zeros(3))
    mu, nu = (leaf for leaf in jax.tree.leaves(state) if leaf.shape == (3,))
    np.testing.assert_allclose(mu, 0.4 * grads, rtol=1e-5)
    np.testing.assert_allclose(nu, 0.3 * grads**2, rtol=1e-5)


def test_parameters_and_heads_start_from_the_seed():
    model, loss = build_mae(**MICRO), every_objective()
    states = [create_state(model, optax.sgd(0.1), seed, loss).params for seed in (0, 1)]
    for part in ("encoder", "decoder", "heads"):
        a, b = (jax.flatten_util.ravel_pytree(params[part])[0] for params in states)
        assert np.mean(np.asarray(a) == np.asarray(b)) < 0.2, part
