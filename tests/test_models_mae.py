"""Blocks, encoder, decoder and masked autoencoder as modules that compute."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import MICRO, batch_of

from geomoe.metadata import FIELDS
from geomoe.models import MAE, ModelConfig, build_encoder, build_mae, count_params, encode, patchify, random_masking, unpatchify
from geomoe.models.block import Block, MixtureOfExperts, Stochastic
from geomoe.models.kernels import Draws
from geomoe.models.mae import uniform_by_position
from geomoe.models.reconstruction import reconstruct
from geomoe.training import init_params

RNGS = {"router": jax.random.key(0), "dropout": jax.random.key(1)}


def inputs_of(model, size=3):
    batch = batch_of(model, size)
    return [batch[name] for name in ("image", *FIELDS)]


def test_patches_and_masks():
    images = np.random.default_rng(0).standard_normal((2, 12, 12, 3)).astype(np.float32)
    patches = patchify(images, 4)
    np.testing.assert_array_equal(patches[1, 5], images[1, 4:8, 8:12].transpose(2, 0, 1).reshape(-1))
    np.testing.assert_array_equal(unpatchify(patches, 4, 12), images)
    keep, mask, restore = random_masking(jnp.array([[0.9, 0.1, 0.5, 0.3]]), 2)
    np.testing.assert_array_equal(keep, [[1, 3]])
    np.testing.assert_array_equal(mask, [[1, 0, 1, 0]])
    np.testing.assert_array_equal(restore, [[3, 0, 2, 1]])


def test_masks_follow_from_the_position_in_the_global_batch():
    key = jax.random.key(3)
    whole = uniform_by_position(key, 6, 16)
    np.testing.assert_array_equal(uniform_by_position(key, 2, 16, jnp.array([4, 1])), whole[jnp.array([4, 1])])
    assert whole.min() >= 0 and whole.max() < 1 and len(np.unique(whole)) > 90
    model = build_mae(**MICRO)
    params, inputs = init_params(model, 0), inputs_of(model)
    apply = lambda **kw: model.apply({"params": params}, *inputs, rngs={"mask": key}, **kw).mask
    assert not np.array_equal(apply()[0], apply()[1])
    assert (apply().sum(axis=1) == 12).all()  # of 16 patches


def test_deterministic_without_stochastic_and_random_with_it():
    model = build_mae(**MICRO)
    params, inputs = init_params(model, 0), inputs_of(model)
    noise = np.random.default_rng(1).random((3, 16))
    run = lambda **kw: model.apply({"params": params}, *inputs, mask_noise=noise, **kw).pred
    np.testing.assert_array_equal(run(), run())
    streams = [{**RNGS, "router": jax.random.key(i)} for i in (0, 1)]
    a, b = (run(stochastic=Stochastic(), rngs=rngs) for rngs in streams)
    assert np.abs(a - b).max() > 1e-3  # the router's noise alone
    np.testing.assert_array_equal(a, run(stochastic=Stochastic(), rngs=streams[0]))


def test_the_factor_of_the_router_noise_is_used():
    model = build_mae(**MICRO, dropout=0.0)
    params, inputs = init_params(model, 0)["encoder"], inputs_of(model)
    clean = encode(model.config, params, *inputs)
    still = encode(model.config, params, *inputs, stochastic=Stochastic(0.0), rngs=RNGS)
    moved = encode(model.config, params, *inputs, stochastic=Stochastic(1.0), rngs=RNGS)
    np.testing.assert_allclose(still.tokens, clean.tokens, atol=1e-6)
    assert np.abs(moved.tokens - still.tokens).max() > 1e-3


def test_dropout_sets_outputs_to_zero_and_rescales_the_rest():
    config = build_mae(**MICRO, dropout=0.25).config
    layer = MixtureOfExperts(config, width=16, num_experts=3, hidden=8)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 16)), jnp.float32)
    variables = layer.init(jax.random.key(0), x)
    plain, _ = layer.apply(variables, x)
    keep = jnp.asarray(np.random.default_rng(1).random((10, 16)) < 0.75)
    dropped, _ = layer.apply(variables, x, Draws(jnp.zeros((10, 3)), keep))
    expected = np.where(np.asarray(keep).reshape(2, 5, 16), np.asarray(plain) / 0.75, 0)
    np.testing.assert_allclose(dropped, expected, atol=1e-6)


def test_dropout_acts_in_training_at_its_rate():
    """With one block whose mixture is all there is after attention, dropped outputs show in the residual."""
    for rate in (0.0, 0.4):
        model = build_mae(**MICRO, dropout=rate)
        params, inputs = init_params(model, 0)["encoder"], inputs_of(model, 16)
        out = encode(model.config, params, *inputs, stochastic=Stochastic(0.0), rngs=RNGS)
        clean = encode(model.config, params, *inputs)
        before = np.asarray(clean.layer_tokens[0]) - _mixture_output(model, params, clean)
        same = np.isclose(np.asarray(out.layer_tokens[0]), before, atol=1e-6).mean()
        assert same == pytest.approx(rate, abs=0.02)


def _mixture_output(model, params, out):
    cfg = model.config
    layer = MixtureOfExperts(cfg, cfg.width, cfg.num_experts(0), cfg.expert_width(0))
    return np.asarray(layer.apply({"params": params["block_00"]["moe"]}, out.mixture_inputs[0])[0])


def test_encoding_visible_patches_only_ignores_the_hidden_ones():
    encoder = build_encoder(**MICRO)
    params = init_params(build_mae(**MICRO), 0)["encoder"]
    images, *metadata = inputs_of(encoder)
    keep = jnp.array([[3, 0, 7, 12]] * 3)
    out = encode(encoder.config, params, images, *metadata, ids_keep=keep)
    assert out.tokens.shape == (3, 9, 16)
    changed = images.copy()
    changed[:, 4:8, 4:8] += 100.0  # patch 5
    np.testing.assert_array_equal(out.tokens, encode(encoder.config, params, changed, *metadata, ids_keep=keep).tokens)
    changed[:, :4, 12:] += 100.0  # patch 3
    assert not np.array_equal(out.tokens, encode(encoder.config, params, changed, *metadata, ids_keep=keep).tokens)


def test_each_metadata_field_has_its_own_projection_and_place():
    """The token of week is made of week's pair by week's weights: the order of the arguments is that of the tokens."""
    encoder = build_encoder(**MICRO)
    params = init_params(build_mae(**MICRO), 0)["encoder"]
    images, *metadata = inputs_of(encoder)
    captured = encoder.apply({"params": params}, images, *metadata, capture_intermediates=True, mutable=["intermediates"])[1]
    for name, value in zip(FIELDS, metadata, strict=True):
        (token,) = captured["intermediates"][f"{name}_proj"]["__call__"]
        weights = params[f"{name}_proj"]
        np.testing.assert_allclose(token, value @ weights["kernel"] + weights["bias"], atol=1e-5)


def test_decoding_the_first_images_alone_gives_the_same():
    model = build_mae(**MICRO)
    params, inputs = init_params(model, 0), inputs_of(model, 4)
    noise = np.random.default_rng(1).random((4, 16))
    options = dict(mask_noise=noise, stochastic=Stochastic(positions=jnp.array([5, 2, 7, 1])), rngs=RNGS)
    whole = model.apply({"params": params}, *inputs, **options)
    part = model.apply({"params": params}, *inputs, num_decoded=2, **options)
    assert part.pred.shape == (2, 16, 112)
    np.testing.assert_allclose(part.pred, whole.pred[:2], atol=1e-5)
    np.testing.assert_array_equal(part.mask, whole.mask)


def test_the_decoders_balance_counts_where_it_is_asked_for():
    values = []
    for counted in (False, True):
        model = build_mae(**MICRO, decoder_balance=counted)
        params, inputs = init_params(model, 0), inputs_of(model)
        out = model.apply({"params": params}, *inputs, mask_noise=np.random.default_rng(1).random((3, 16)))
        values.append((float(out.balance_loss), float(out.encoded.balance_loss)))
    assert values[0][0] == values[0][1] == values[1][1] < values[1][0]


def test_modules_can_be_tabulated_captured_and_rematerialised():
    model = build_mae(**MICRO)
    params, inputs = init_params(model, 0), inputs_of(model)
    noise = np.random.default_rng(1).random((3, 16))
    table = nn.tabulate(model, {"params": jax.random.key(0)}, depth=4, console_kwargs={"width": 400})(*inputs, mask_noise=noise)
    for name in ("encoder/block_00/attention", "encoder/block_00/moe/experts", "decoder/block_00/moe/router"):
        assert name in table, name
    out, state = model.apply(
        {"params": params}, *inputs, mask_noise=noise, capture_intermediates=True, mutable=["intermediates"]
    )
    block = state["intermediates"]["encoder"]["block_00"]
    np.testing.assert_array_equal(block["__call__"][0].x, out.encoded.layer_tokens[0])
    np.testing.assert_array_equal(block["moe"]["router"]["__call__"][0].gates.reshape(3, 9, 3), out.encoded.gates[0])
    assert block["attention"]["__call__"][0].shape == (3, 9, 16)

    def loss(model, params):
        return jnp.sum(model.apply({"params": params}, *inputs, mask_noise=noise).pred ** 2)

    plain = jax.jit(jax.grad(lambda p: loss(model, p)))(params)
    again = jax.jit(jax.grad(lambda p: loss(nn.remat(MAE)(model.config), p)))(params)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 16)), jnp.float32)
    block = nn.remat(Block)(model.config, 16, 4, 2, 3, 8)
    assert block.apply(block.init(jax.random.key(0), x), x).x.shape == x.shape


@pytest.mark.long
def test_bfloat16_computes_near_float32_and_keeps_parameters_and_gates_in_float32():
    params = init_params(build_mae(**MICRO), 0)
    models = [build_mae(**MICRO, dtype=dtype) for dtype in ("float32", "bfloat16")]
    inputs, noise = inputs_of(models[0]), np.random.default_rng(0).random((3, 16))
    full, half = (encode(model.config, params["encoder"], *inputs) for model in models)
    assert half.layer_tokens[0].dtype == jnp.bfloat16 and half.tokens.dtype == jnp.float32
    assert all(gates.dtype == jnp.float32 for gates in half.gates)
    error = np.abs(np.asarray(full.tokens - half.tokens))
    assert 0 < np.median(error) < 0.02
    value = lambda p, model: jnp.sum(model.apply({"params": p}, *inputs, mask_noise=noise).pred ** 2)
    full, half = (jax.tree.leaves(jax.grad(value)(params, model)) for model in models)
    assert {leaf.dtype for leaf in half} == {jnp.dtype("float32")}
    assert np.median([np.linalg.norm(a - b) / (np.linalg.norm(a) + 1e-6) for a, b in zip(full, half)]) < 0.03


def test_missing_metadata_can_be_a_learned_token():
    model, plain = build_mae(**MICRO, missing_metadata="learned"), build_mae(**MICRO)
    params = init_params(model, 0)
    assert count_params(params) == count_params(init_params(plain, 0)) + 4 * model.config.width
    images, week, hour, lat, lon = inputs_of(model, 2)
    lat = np.zeros_like(lat)

    def tokens(**changes):
        return np.asarray(encode(model.config, {**params["encoder"], **changes}, images, week, hour, lat, lon).tokens)

    moved = np.array(params["encoder"]["missing_metadata"])
    moved[:, 2] += 1  # latitude, which is missing
    assert np.abs(tokens(missing_metadata=moved) - tokens()).max() > 1e-3
    moved = np.array(params["encoder"]["missing_metadata"])
    moved[:, [0, 1, 3]] += 1
    np.testing.assert_array_equal(tokens(missing_metadata=moved), tokens())
    lon = np.tile(np.float32([0, 1]), (len(lon), 1))  # longitude 0 is there, though its sine is 0
    np.testing.assert_array_equal(tokens(missing_metadata=moved), tokens())


def test_custom_sizes_and_top_k():
    config = dict(size="custom", width=24, depth=4, stage_experts=(6, 3), top_k=3, num_heads=3, num_groups=1)
    config |= dict(expert_width_first=10, expert_width_last=6, decoder_width=12, img_size=8)
    parsed = ModelConfig.from_dict(config)
    assert [parsed.num_experts(i) for i in range(4)] == [6, 6, 3, 3]
    assert [parsed.expert_width(i) for i in range(4)] == [10, 8, 7, 6]
    encoder = build_encoder(**config)
    params = init_params(build_mae(**config), 0)["encoder"]
    out = encode(encoder.config, params, *inputs_of(encoder))
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
        (dict(dispatch="fast"), "dispatch"),
        (dict(missing_metadata="none"), "missing_metadata = 'none'"),
    ],
)
def test_bad_architectures_name_the_key(change, named):
    with pytest.raises(ValueError, match=named):
        ModelConfig.from_dict({"size": "S", **change})


def test_wrong_image_sizes_and_wrong_parameters_are_named():
    encoder = build_encoder(**MICRO)
    params = init_params(build_mae(**MICRO), 0)["encoder"]
    images, *metadata = inputs_of(encoder)
    with pytest.raises(ValueError, match=r"16, 16, 7.*got \(3, 12, 16, 7\)"):
        encode(encoder.config, params, images[:, :12], *metadata)
    params["block_00"]["attention"]["q_proj"]["bias"] = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match=r"parameter block_00/attention/q_proj/bias has shape \(3,\).*needs \(16,\)"):
        encode(encoder.config, params, images, *metadata)


def test_the_router_z_loss_is_that_of_encoder_and_decoder():
    model = build_mae(**MICRO)
    params, inputs = init_params(model, 0), inputs_of(model)
    noise = np.random.default_rng(1).random((3, 16))
    out, state = model.apply(
        {"params": params}, *inputs, mask_noise=noise, capture_intermediates=True, mutable=["intermediates"]
    )
    parts = {}
    for part in ("encoder", "decoder"):
        logits = state["intermediates"][part]["block_00"]["moe"]["router"]["__call__"][0].clean_logits
        parts[part] = np.mean(np.log(np.exp(np.asarray(logits)).sum(axis=1)) ** 2)
    assert float(out.encoded.router_z_loss) == pytest.approx(parts["encoder"], rel=1e-4)
    assert float(out.router_z_loss) == pytest.approx(sum(parts.values()), rel=1e-4)


def test_reconstructions_of_normalised_patches_are_put_back_by_their_valid_pixels(encoder):
    """As training normalises them: what pixels without data hold must not matter."""
    image = np.random.default_rng(0).standard_normal((1, 8, 8, 7)).astype(np.float32)
    valid = np.ones((1, 8, 8), bool)
    valid[0, :1, :4] = False
    batch = {"image": image, **{name: np.zeros((1, 2), np.float32) for name in FIELDS}}
    other = np.where(valid[..., None], image, -50.0).astype(np.float32)
    one, two = (
        reconstruct(MAE(encoder.config), encoder.params, batch | {"image": pixels}, 0, True, valid).reconstruction
        for pixels in (image, other)
    )
    np.testing.assert_allclose(one, two, atol=1e-4)
    assert np.abs(one).max() < 20
