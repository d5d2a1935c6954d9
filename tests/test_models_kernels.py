"""Each fast version against its plain definition, and the definitions against numpy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geomoe.models import kernels
from geomoe.models.kernels import ExpertParams

RNG = np.random.default_rng(0)


def gradients(function, *args):
    """Of the sum of sines, which has a different cotangent everywhere."""
    return jax.tree.leaves(jax.grad(lambda *a: jnp.sum(jnp.sin(function(*a))), tuple(range(len(args))))(*args))


def test_attention_reads_key_value_head_h_mod_g():
    b, n, heads, groups, d = 2, 7, 6, 3, 4
    q = RNG.standard_normal((b, n, heads * d)).astype(np.float32)
    k, v = (RNG.standard_normal((b, n, groups * d)).astype(np.float32) for _ in range(2))
    expected = np.zeros_like(q)
    for h in range(heads):
        g = h % groups
        logits = q[..., h * d : (h + 1) * d] @ k[..., g * d : (g + 1) * d].transpose(0, 2, 1) / np.sqrt(d)
        weights = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
        expected[..., h * d : (h + 1) * d] = weights @ v[..., g * d : (g + 1) * d]
    for function in (kernels.fast_attention, kernels.plain_attention, kernels.attention):
        np.testing.assert_allclose(function(q, k, v, groups), expected, atol=1e-5)
    fast, plain = (gradients(lambda *a, f=f: f(*a, groups), q, k, v) for f in (kernels.fast_attention, kernels.plain_attention))
    for a, b in zip(fast, plain, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    large = kernels.fast_attention(100 * q, 100 * k, v, groups)  # exp of the logits themselves would overflow
    np.testing.assert_allclose(large, kernels.plain_attention(100 * q, 100 * k, v, groups), atol=1e-4)


def test_attention_looks_at_the_keys_that_are_present():
    """As if the others were not there, whatever they hold; the same for every query and in the gradients."""
    b, n, groups, d = 2, 7, 3, 4
    rng = np.random.default_rng(1)
    q = rng.standard_normal((b, n, 6 * d)).astype(np.float32)
    k, v = (rng.standard_normal((b, n, groups * d)).astype(np.float32) for _ in range(2))
    present = np.ones((b, n), bool)
    present[0, [1, 4]] = present[1, 6] = False
    for function in (kernels.fast_attention, kernels.plain_attention):
        out = function(q, k, v, groups, present)
        for i in range(b):
            rows = present[i]
            alone = kernels.plain_attention(q[i : i + 1, rows], k[i : i + 1, rows], v[i : i + 1, rows], groups)
            np.testing.assert_allclose(out[i : i + 1, rows], alone, atol=1e-5)
        np.testing.assert_array_equal(function(q, k, v, groups, present | True), function(q, k, v, groups))
    fast, plain = (
        gradients(lambda *a, f=f: f(*a, groups, present), q, k, v) for f in (kernels.fast_attention, kernels.plain_attention)
    )
    for a, b in zip(fast, plain, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert not np.any(np.asarray(fast[1])[~present]) and np.all(np.any(np.asarray(fast[1])[present] != 0, axis=-1))


def test_layer_norm():
    x = (3 + RNG.standard_normal((4, 5, 16))).astype(np.float32)
    scale, bias = RNG.standard_normal((2, 16)).astype(np.float32)
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * scale + bias
    library = lambda x, s, b: nn.LayerNorm(epsilon=1e-5).apply({"params": {"scale": s, "bias": b}}, x)
    for function in (kernels.fast_layer_norm, kernels.plain_layer_norm, kernels.layer_norm, library):
        np.testing.assert_allclose(function(x, scale, bias), expected, atol=1e-5)
    for function in (kernels.fast_layer_norm, kernels.plain_layer_norm):
        for a, b in zip(gradients(function, x, scale, bias), gradients(library, x, scale, bias), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)
    assert kernels.fast_layer_norm(x.astype(jnp.bfloat16), scale, bias).dtype == jnp.bfloat16


def test_shared_mixture():
    e, d, f, tokens = 3, 6, 5, 17
    params = ExpertParams(
        *(jnp.asarray(0.3 * RNG.standard_normal(s), jnp.float32) for s in ((e, d, f), (e, f), (d, f), (f,), (f, d), (d,)))
    )
    x = jnp.asarray(RNG.standard_normal((tokens, d)), jnp.float32)
    gates = jax.nn.softmax(jnp.asarray(RNG.standard_normal((tokens, e)), jnp.float32))
    silu = lambda z: z / (1 + np.exp(-z))
    w, w_bias, v, v_bias, w2, w2_bias = map(np.asarray, params)
    mixed = sum(np.asarray(gates)[:, i : i + 1] * silu(x @ w[i] + w_bias[i]) for i in range(e))
    expected = (mixed * (x @ v + v_bias)) @ w2 + w2_bias
    for function in (kernels.fast_shared_mixture, kernels.plain_shared_mixture, kernels.shared_mixture):
        np.testing.assert_allclose(function(x, gates, params), expected, atol=1e-5)
    fast, plain = (gradients(f, x, gates, params) for f in (kernels.fast_shared_mixture, kernels.plain_shared_mixture))
    for a, b in zip(fast, plain, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_draws_follow_from_the_position_in_the_global_batch():
    keys = jax.random.key(0), jax.random.key(1)
    whole = kernels.draw(keys, jnp.arange(6), (4, 8), (3, 5), 0.25, 1.0)
    part = kernels.draw(keys, jnp.array([4, 1]), (4, 8), (3, 5), 0.25, 1.0)
    for a, b in zip(whole, part, strict=True):
        for x, y in zip(a, b, strict=True):
            by_image = np.asarray(x).reshape(6, 4, -1)
            np.testing.assert_array_equal(by_image[[4, 1]], np.asarray(y).reshape(2, 4, -1))
            assert not np.array_equal(by_image[0], by_image[1])


def test_draws_have_their_distributions():
    draws = kernels.draw((jax.random.key(0), jax.random.key(1)), jnp.arange(64), (50, 16), (3, 4), 0.3, 2.0)
    assert [(d.noise.shape, d.keep.shape) for d in draws] == [((3200, 3), (3200, 16)), ((3200, 4), (3200, 16))]
    noise = np.concatenate([d.noise.ravel() for d in draws])
    assert abs(noise.mean()) < 0.05 and noise.std() == pytest.approx(2.0, rel=0.03)
    assert np.mean([d.keep.mean() for d in draws]) == pytest.approx(0.7, abs=0.01)
    assert not np.array_equal(draws[0].keep, draws[1].keep)
    assert kernels.draw((jax.random.key(0), jax.random.key(1)), jnp.arange(2), (5, 4), (3,), 0.0, 1.0)[0].keep is None


@pytest.mark.parametrize("size", [1, 6, 7])
def test_materialize_changes_nothing(size):
    vector = jnp.arange(1.0, size + 1)
    np.testing.assert_array_equal(jax.jit(kernels.materialize)(vector), vector)
    np.testing.assert_array_equal(jax.grad(lambda v: jnp.sum(kernels.materialize(v) ** 2))(vector), 2 * vector)


def test_plain_versions_are_taken_on_accelerators(monkeypatch):
    """The one choice: on another backend the operations are the definitions."""
    x = jnp.asarray(RNG.standard_normal((2, 4)), jnp.float32)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(kernels, "fast_layer_norm", lambda *a: pytest.fail("took the CPU's version"))
    jax.clear_caches()
    kernels.layer_norm(x, jnp.ones(4), jnp.zeros(4))
    jax.clear_caches()
