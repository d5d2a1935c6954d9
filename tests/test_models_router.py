"""The router: gates, ranks, balance losses, selection bias."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import DATA

from geomoe.models.router import balance_loss, balanced_bias, expected_load, route, router_z_loss


def test_the_largest_logits_are_kept_and_ties_go_to_the_lower_index():
    logits = jnp.array([[1.0, 3.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0]])
    out = route(logits, jnp.ones_like(logits), None, 2)
    np.testing.assert_array_equal(out.ranks, [[3, 0, 2, 1], [0, 1, 2, 3]])
    np.testing.assert_allclose(out.gates, [[0, 0.5, 0, 0.5], [0.5, 0.5, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(out.kth, [[3.0], [0.0]])
    np.testing.assert_allclose(out.next, [[2.0], [0.0]])
    many = jnp.asarray(np.random.default_rng(0).standard_normal((9, 40)), jnp.float32)
    order = np.argsort(-np.asarray(many), axis=1)
    ranks = np.asarray(route(many, jnp.ones_like(many), None, 3).ranks)
    np.testing.assert_array_equal(np.take_along_axis(ranks, order, 1), np.tile(np.arange(40), (9, 1)))


def test_noise_is_scaled_and_added_before_the_ranking():
    clean, scale = jnp.array([[1.0, 0.0, 0.0]]), jnp.array([[1.0, 2.0, 0.5]])
    out = route(clean, scale, jnp.array([[0.0, 1.0, -1.0]]), 1)
    np.testing.assert_allclose(out.logits, [[1.0, 2.0, -0.5]])
    np.testing.assert_allclose(out.gates, [[0, 1, 0]])


def test_balance_loss_is_least_for_even_use():
    even = jnp.eye(4)[jnp.arange(8) % 4] * 5.0
    skewed = jnp.eye(4)[jnp.zeros(8, jnp.int32)] * 5.0
    losses = []
    for clean in (even, skewed):
        out = route(clean, jnp.ones_like(clean), None, 1)
        losses.append(float(balance_loss(out, 1, "shazeer")))
    assert losses[0] < 1e-6 < 0.01 < losses[1]


def test_balance_of_experts_that_are_used_alike_asks_for_nothing():
    """One expert alone, or all of equal use: where the standard deviation is 0, its gradient is not NaN."""
    for experts, top_k in ((1, 1), (3, 3)):
        clean = jnp.zeros((4, experts))
        loss = lambda clean, k=top_k: balance_loss(route(clean, jnp.ones_like(clean), None, k), k, "shazeer")
        np.testing.assert_array_equal(jax.grad(loss)(clean), 0)
        assert loss(clean) == 0


@pytest.fixture(scope="module")
def golden():
    return np.load(DATA / "golden_moe_layer.npz")


def routed(golden):
    return route(golden["clean_logits"], golden["noise_scale"], golden["noise"], 2)


def test_golden_router(golden):
    out = routed(golden)
    np.testing.assert_allclose(out.logits, golden["noisy_logits"], atol=2e-6)
    np.testing.assert_allclose(out.gates, golden["gates"], atol=2e-6)
    np.testing.assert_allclose(out.gates.sum(axis=0), golden["importance"], rtol=1e-5)
    np.testing.assert_allclose(balance_loss(out, 2, "reference"), golden["aux_loss"], rtol=1e-5)


def test_shazeer_load_is_the_probability_over_fresh_noise(golden):
    """P(expert e is among the top 2 when its own noise alone is drawn again), by 100,000 draws."""
    clean, scale, logits = (golden[name].astype(np.float64) for name in ("clean_logits", "noise_scale", "noisy_logits"))
    rng = np.random.default_rng(0)
    load = np.zeros(4)
    for e in range(4):
        others = np.sort(np.delete(logits, e, axis=1), axis=1)[:, -2]  # the second largest of the others
        fresh = clean[:, e] + scale[:, e] * rng.standard_normal((100_000, 20))
        load[e] = (fresh > others).mean(axis=0).sum()
    out = routed(golden)
    np.testing.assert_allclose(expected_load(out, 2, "shazeer"), load, rtol=5e-3)
    assert not np.allclose(expected_load(out, 2, "reference"), load, rtol=1e-2)  # the two estimators differ here
    cv = lambda v: np.std(v) / (np.mean(v) + 1e-6)
    expected = 0.01 * cv(out.gates.sum(axis=0)) + 0.01 * cv(load)
    np.testing.assert_allclose(balance_loss(out, 2, "shazeer"), expected, rtol=5e-3)
    with pytest.raises(ValueError, match="load_estimator = 'mean'"):
        expected_load(out, 2, "mean")
    np.testing.assert_array_equal(expected_load(route(clean, scale, None, 4), 4, "reference"), [20] * 4)


def test_the_selection_bias_ranks_and_does_not_weigh():
    logits = jnp.array([[1.0, 0.9, 0.0], [0.5, 0.0, -1.0]])
    out = route(logits, jnp.ones_like(logits), None, 2, jnp.array([0.0, 0.0, 5.0]))
    first, third = np.exp(1.0), np.exp(0.0)
    np.testing.assert_allclose(out.gates[0], [first / (first + third), 0, third / (first + third)], rtol=1e-5)
    assert (np.asarray(out.ranks)[:, 2] == 0).all()
    np.testing.assert_allclose(router_z_loss(out), np.mean(np.log(np.exp(logits).sum(axis=1)) ** 2), rtol=1e-5)
    moved = balanced_bias(jnp.zeros(4), jnp.array([0.1, 0.4, 0.25, 0.25]), 0.01)
    np.testing.assert_allclose(moved, [0.01, -0.01, 0, 0], atol=1e-8)


def test_the_z_loss_is_of_logits_without_noise():
    rng = np.random.default_rng(0)
    clean, noise = (jnp.asarray(rng.standard_normal((6, 4)), jnp.float32) for _ in range(2))
    out = route(clean, jnp.ones((6, 4)), noise, 2)
    assert not np.allclose(out.logits, clean)
    np.testing.assert_allclose(router_z_loss(out), router_z_loss(route(clean, jnp.ones((6, 4)), None, 2)), rtol=1e-6)
