"""The experts: every dispatch against the definition, expert by expert, in numpy."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from geomoe.models.experts import expert_outputs, mix_experts
from geomoe.models.kernels import ExpertParams
from geomoe.models.router import route


def random_experts(rng, e, d, f, shared):
    lead = () if shared else (e,)
    shapes = [(e, d, f), (e, f), (*lead, d, f), (*lead, f), (*lead, f, d), (*lead, d)]
    return ExpertParams(*(jnp.asarray(rng.standard_normal(shape) * 0.3, jnp.float32) for shape in shapes))


def by_definition(x, params):
    """W2_e (silu(W_e x) * V_e x) of each expert: (T, E, D)."""
    outputs = []
    for e in range(len(params.w)):
        v, v_bias, w2, w2_bias = params[2:] if params.shared else (leaf[e] for leaf in params[2:])
        z = x @ params.w[e] + params.w_bias[e]
        outputs.append((z / (1 + jnp.exp(-z)) * (x @ v + v_bias)) @ w2 + w2_bias)
    return jnp.stack(outputs, axis=1)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("dispatch", ["dense", "ragged", "blocked"])
@pytest.mark.parametrize("experts, top_k", [(3, 2), (3, 3), (20, 1), (20, 2)])
def test_every_dispatch_equals_the_sum_over_experts(shared, dispatch, experts, top_k):
    rng = np.random.default_rng(experts * 10 + top_k)
    x = jnp.asarray(rng.standard_normal((17, 6)), jnp.float32)
    params = random_experts(rng, experts, 6, 5, shared)
    clean = jnp.asarray(rng.standard_normal((17, experts)), jnp.float32)
    clean = clean.at[:, 0].add(9.0)  # one expert gets every token
    gates = route(clean, jnp.ones_like(clean), None, top_k).gates
    assert (np.sum(np.asarray(gates) > 0, axis=1) == top_k).all()
    np.testing.assert_allclose(expert_outputs(x, params), by_definition(x, params), atol=1e-5)

    fast = lambda x, gates, params: mix_experts(x, gates, params, top_k, dispatch)
    plain = lambda x, gates, params: jnp.einsum("te,ted->td", gates, by_definition(x, params))
    np.testing.assert_allclose(fast(x, gates, params), plain(x, gates, params), atol=1e-5)
    wrt = (0, 1, 2) if dispatch == "dense" else (0, 2)  # a sparse dispatch gives no gradient to gates that are 0
    ours, theirs = (jax.grad(lambda *a, f=f: jnp.sum(jnp.sin(f(*a))), wrt)(x, gates, params) for f in (fast, plain))
    if dispatch == "dense":
        # Gates sum to 1, so what is common to a token's gradients is no difference; a shared W2 leaves it out.
        ours, theirs = ((dx, dg - dg.mean(axis=1, keepdims=True), dp) for dx, dg, dp in (ours, theirs))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_sparse_is_blocked_on_cpu():
    rng = np.random.default_rng(0)
    x, params = jnp.asarray(rng.standard_normal((9, 6)), jnp.float32), random_experts(rng, 8, 6, 5, True)
    gates = route(jnp.asarray(rng.standard_normal((9, 8)), jnp.float32), jnp.ones((9, 8)), None, 2).gates
    sparse, blocked = (mix_experts(x, gates, params, 2, dispatch) for dispatch in ("auto", "blocked"))
    np.testing.assert_allclose(sparse, blocked, atol=1e-6)


def test_auto_is_dense_for_few_experts_and_an_unknown_dispatch_is_named():
    rng = np.random.default_rng(0)
    x, gates = jnp.ones((4, 6)), jnp.full((4, 3), 1 / 3)
    params = random_experts(rng, 3, 6, 5, True)
    np.testing.assert_array_equal(mix_experts(x, gates, params, 3), mix_experts(x, gates, params, 3, "dense"))
    with pytest.raises(ValueError, match="dispatch = 'fast' is not one of auto, dense"):
        mix_experts(x, gates, params, 3, "fast")


@pytest.mark.parametrize("platform, product", [("tpu", "ragged_dot"), ("cuda", "ragged_dot"), ("cpu", "dot_general")])
def test_many_experts_go_through_the_product_that_the_platform_has(platform, product):
    shapes = [(64, 8, 4), (64, 4), (8, 4), (4,), (4, 8), (8,)]
    params = ExpertParams(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))
    x, gates = (jax.ShapeDtypeStruct((32, n), jnp.float32) for n in (8, 64))
    mixture = jax.jit(lambda x, gates, params: mix_experts(x, gates, params, 2))
    text = jax.export.export(mixture, platforms=[platform])(x, gates, params).mlir_module()
    assert product in text and ("ragged_dot" in text) == (product == "ragged_dot")
    assert "64x32x4" not in text and "32x64x4" not in text  # nothing of every expert for every token
