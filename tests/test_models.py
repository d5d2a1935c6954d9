"""The network's parts, through their public names."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geomoe.models import ModelConfig, build_encoder, build_mae, patchify, random_masking, unpatchify
from geomoe.models.attention import grouped_query_attention, plain_attention
from geomoe.models.layers import layer_norm
from geomoe.models.moe import ExpertParams, balance_loss, loop_mixture, mix_experts, route
from geomoe.training import init_params

MICRO = dict(size="tiny", depth=1, stage_experts=(3,), decoder_depth=1, img_size=16)  # compiles in seconds


def random_experts(rng, e, d, f, shared):
    lead = () if shared else (e,)
    shapes = [(e, d, f), (e, f), (*lead, d, f), (*lead, f), (*lead, f, d), (*lead, d)]
    return ExpertParams(*(jnp.asarray(rng.standard_normal(shape) * 0.3, jnp.float32) for shape in shapes))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("dispatch", ["dense", "ragged", "blocked", "sparse"])
@pytest.mark.parametrize("experts, top_k", [(3, 1), (3, 2), (3, 3), (5, 4), (20, 2)])
def test_every_dispatch_equals_a_loop_over_experts(shared, dispatch, experts, top_k):
    rng = np.random.default_rng(experts * 10 + top_k)
    x = jnp.asarray(rng.standard_normal((17, 6)), jnp.float32)
    params = random_experts(rng, experts, 6, 5, shared)
    clean = jnp.asarray(rng.standard_normal((17, experts)), jnp.float32)
    clean = clean.at[:, 0].add(9.0)  # one expert gets every token
    gates = route(clean, jnp.ones_like(clean), None, top_k).gates
    assert (np.sum(np.asarray(gates) > 0, axis=1) == top_k).all()

    def value(mixture):
        return lambda x, gates, params: jnp.sum(jnp.sin(mixture(x, gates, params)))

    fast = value(lambda x, g, p: mix_experts(x, g, p, top_k, dispatch))
    plain = value(loop_mixture)
    np.testing.assert_allclose(mix_experts(x, gates, params, top_k, dispatch), loop_mixture(x, gates, params), atol=1e-5)
    wrt = (0, 1, 2) if dispatch == "dense" else (0, 2)  # a sparse dispatch gives no gradient to gates that are 0
    ours, theirs = (jax.grad(f, argnums=wrt)(x, gates, params) for f in (fast, plain))
    if (
        dispatch == "dense"
    ):  # gates sum to 1, so that what is common to a token's gradients says nothing; a shared W2 leaves it out
        ours, theirs = ((dx, dg - dg.mean(axis=1, keepdims=True), dp) for dx, dg, dp in (ours, theirs))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs)):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_router_keeps_the_largest_logits_and_breaks_ties_by_index():
    logits = jnp.array([[1.0, 3.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0]])
    routing = route(logits, jnp.ones_like(logits), None, 2)
    np.testing.assert_array_equal(routing.ranks, [[3, 0, 2, 1], [0, 1, 2, 3]])
    np.testing.assert_allclose(routing.gates, [[0, 0.5, 0, 0.5], [0.5, 0.5, 0, 0]], atol=1e-6)
    many = jnp.asarray(np.random.default_rng(0).standard_normal((9, 40)), jnp.float32)
    order = np.argsort(-np.asarray(many), axis=1)
    ranks = np.asarray(route(many, jnp.ones_like(many), None, 3).ranks)
    np.testing.assert_array_equal(np.take_along_axis(ranks, order, 1), np.tile(np.arange(40), (9, 1)))


def test_balance_loss_is_least_for_even_use():
    even = jnp.eye(4)[jnp.arange(8) % 4] * 5.0
    skewed = jnp.eye(4)[jnp.zeros(8, jnp.int32)] * 5.0
    losses = []
    for clean in (even, skewed):
        scale = jnp.ones_like(clean)
        losses.append(float(balance_loss(route(clean, scale, None, 1), 1, "shazeer")))
    assert losses[0] < 1e-6 < 0.01 < losses[1]


def test_attention_and_its_gradient_against_plain_softmax():
    rng = np.random.default_rng(0)
    b, n, heads, groups, d = 2, 7, 6, 3, 4
    q = rng.standard_normal((b, n, heads * d)).astype(np.float32)
    k, v = (rng.standard_normal((b, n, groups * d)).astype(np.float32) for _ in range(2))
    wanted = np.zeros_like(q)
    for h in range(heads):
        g = h % groups
        logits = q[..., h * d : (h + 1) * d] @ k[..., g * d : (g + 1) * d].transpose(0, 2, 1) / np.sqrt(d)
        weights = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
        wanted[..., h * d : (h + 1) * d] = weights @ v[..., g * d : (g + 1) * d]
    np.testing.assert_allclose(grouped_query_attention(q, k, v, groups), wanted, atol=1e-5)
    np.testing.assert_allclose(plain_attention(q, k, v, groups), wanted, atol=1e-5)
    value = lambda attention: lambda *args: jnp.sum(jnp.sin(attention(*args, groups)))  # noqa: E731
    ours, plain = (jax.grad(value(f), argnums=(0, 1, 2))(q, k, v) for f in (grouped_query_attention, plain_attention))
    for a, b in zip(ours, plain):
        np.testing.assert_allclose(a, b, atol=1e-5)
    large = grouped_query_attention(100 * q, 100 * k, v, groups)  # exp of the logits themselves would overflow
    np.testing.assert_allclose(large, plain_attention(100 * q, 100 * k, v, groups), atol=1e-4)


def test_layer_norm_and_its_gradient():
    rng = np.random.default_rng(0)
    x = (3 + rng.standard_normal((4, 5, 16))).astype(np.float32)
    scale, bias = rng.standard_normal((2, 16)).astype(np.float32)
    wanted = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * scale + bias
    np.testing.assert_allclose(layer_norm(x, scale, bias), wanted, atol=1e-5)
    theirs = lambda x, s, b: nn.LayerNorm(epsilon=1e-5).apply({"params": {"scale": s, "bias": b}}, x)  # noqa: E731
    value = lambda norm: lambda *args: jnp.sum(jnp.sin(norm(*args)))  # noqa: E731
    for a, b in zip(*(jax.grad(value(f), argnums=(0, 1, 2))(x, scale, bias) for f in (layer_norm, theirs))):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_wider_experts_filled_with_zeros_are_the_same():
    rng = np.random.default_rng(0)
    x, gates = jnp.asarray(rng.standard_normal((9, 6)), jnp.float32), jnp.full((9, 3), 1 / 3)
    for shared in (True, False):
        params = random_experts(rng, 3, 6, 5, shared)
        np.testing.assert_allclose(loop_mixture(x, gates, params.widened(8)), loop_mixture(x, gates, params), atol=1e-6)


def test_patches_and_masks():
    images = np.random.default_rng(0).standard_normal((2, 12, 12, 3)).astype(np.float32)
    patches = patchify(images, 4)
    np.testing.assert_array_equal(patches[1, 5], images[1, 4:8, 8:12].transpose(2, 0, 1).reshape(-1))
    np.testing.assert_array_equal(unpatchify(patches, 4, 12), images)
    noise = np.array([[0.9, 0.1, 0.5, 0.3]])
    keep, mask, restore = random_masking(jnp.asarray(noise), 2)
    np.testing.assert_array_equal(keep, [[1, 3]])
    np.testing.assert_array_equal(mask, [[1, 0, 1, 0]])
    np.testing.assert_array_equal(restore, [[3, 0, 2, 1]])


def tiny_inputs(config, batch=3):
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, config.img_size, config.img_size, config.in_channels)).astype(np.float32)
    return images, *(rng.standard_normal((batch, 2)).astype(np.float32) for _ in range(4))


def test_deterministic_outside_training_and_random_in_it():
    model = build_mae(**MICRO)
    params = init_params(model, 0)
    inputs = tiny_inputs(model.config)
    noise = np.random.default_rng(1).random((3, 16))
    run = lambda **kw: model.apply({"params": params}, *inputs, mask_noise=noise, **kw).pred  # noqa: E731
    np.testing.assert_array_equal(run(), run())
    streams = [{"router": jax.random.key(i), "dropout": jax.random.key(9)} for i in (0, 1)]
    a, b = (run(deterministic=False, rngs=rngs) for rngs in streams)
    assert np.abs(a - b).max() > 1e-3  # the router's noise alone
    np.testing.assert_array_equal(a, run(deterministic=False, rngs=streams[0]))


def test_encoding_visible_patches_only_ignores_the_hidden_ones():
    encoder = build_encoder(**MICRO)
    params = init_params(build_mae(**MICRO), 0)["encoder"]
    images, *pairs = tiny_inputs(encoder.config)
    keep = jnp.array([[3, 0, 7, 12]] * 3)
    out = encoder.apply({"params": params}, images, *pairs, ids_keep=keep)
    assert out.tokens.shape == (3, 9, 16)
    changed = images.copy()
    changed[:, 4:8, 4:8] += 100.0  # patch 5
    again = encoder.apply({"params": params}, changed, *pairs, ids_keep=keep)
    np.testing.assert_array_equal(out.tokens, again.tokens)


@pytest.mark.long
def test_bfloat16_computes_near_float32_and_keeps_parameters_and_gates_in_float32():
    params = init_params(build_mae(**MICRO), 0)["encoder"]
    inputs = tiny_inputs(build_encoder(**MICRO).config)
    full, half = (build_encoder(**MICRO, dtype=dtype).apply({"params": params}, *inputs) for dtype in ("float32", "bfloat16"))
    assert half.layer_tokens[0].dtype == jnp.bfloat16 and half.tokens.dtype == jnp.float32
    assert all(gates.dtype == jnp.float32 for gates in half.gates)
    error = np.abs(np.asarray(full.tokens - half.tokens))
    assert 0 < np.median(error) < 0.02
    whole, noise = init_params(build_mae(**MICRO), 0), np.random.default_rng(0).random((3, 16))
    value = lambda p, t: jnp.sum(build_mae(**MICRO, dtype=t).apply({"params": p}, *inputs, mask_noise=noise).pred ** 2)  # noqa: E731
    full, half = (jax.tree.leaves(jax.grad(value)(whole, dtype)) for dtype in ("float32", "bfloat16"))
    assert {leaf.dtype for leaf in half} == {jnp.dtype("float32")}
    assert np.median([np.linalg.norm(a - b) / (np.linalg.norm(a) + 1e-6) for a, b in zip(full, half)]) < 0.03
    fresh = build_mae(**MICRO, dtype="bfloat16").init({"params": jax.random.key(0), "mask": jax.random.key(1)}, *inputs)
    assert {leaf.dtype for leaf in jax.tree.leaves(fresh)} == {jnp.dtype("float32")}


def test_host_initialisation_follows_the_modules_own_initialisers():
    model = build_mae(**MICRO, share_projections=False, width=48, num_heads=4)
    ours = init_params(model, 0)
    theirs = model.init({"params": jax.random.key(0), "mask": jax.random.key(1)}, *tiny_inputs(model.config))["params"]
    assert jax.tree.map(np.shape, ours) == jax.tree.map(np.shape, theirs)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs)):
        if a.size >= 200:  # enough draws to compare spreads
            np.testing.assert_allclose(a.std(), np.std(b), rtol=0.2, err_msg=str(path))
        if np.ptp(b) == 0:
            np.testing.assert_array_equal(a, b, err_msg=str(path))


def test_custom_sizes_and_top_k():
    config = dict(size="custom", width=24, depth=4, stage_experts=(6, 3), top_k=3, num_heads=3, num_groups=1)
    config |= dict(expert_width_first=10, expert_width_last=6, decoder_width=12, img_size=8)
    parsed = ModelConfig.from_dict(config)
    assert [parsed.num_experts(i) for i in range(4)] == [6, 6, 3, 3]
    assert [parsed.expert_width(i) for i in range(4)] == [10, 8, 7, 6]
    encoder = build_encoder(**{k: v for k, v in config.items()})
    params = init_params(build_mae(**config), 0)["encoder"]
    out = encoder.apply({"params": params}, *tiny_inputs(parsed))
    assert [g.shape[-1] for g in out.gates] == [6, 6, 3, 3]
    assert all((np.sum(np.asarray(g) > 0, axis=-1) == 3).all() for g in out.gates)


@pytest.mark.parametrize(
    "change, named",
    [
        (dict(top_k=4), "top_k"),
        (dict(depth=4), "depth"),
        (dict(num_groups=3), "num_groups"),
        (dict(img_size=41), "img_size"),
        (dict(dtype="float16"), "dtype"),
        (dict(size="XL"), "XL"),
        (dict(widht=3), "widht"),
    ],
)
def test_bad_architectures_name_the_key(change, named):
    with pytest.raises(ValueError, match=named):
        ModelConfig.from_dict({"size": "S", **change})


def test_wrong_image_size_is_named():
    encoder = build_encoder(**MICRO)
    params = init_params(build_mae(**MICRO), 0)["encoder"]
    images, *pairs = tiny_inputs(encoder.config)
    with pytest.raises(ValueError, match=r"16, 16, 7.*got \(3, 12, 16, 7\)"):
        encoder.apply({"params": params}, images[:, :12], *pairs)
