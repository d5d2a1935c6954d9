"""What experts contribute, and what is lost without one."""

import jax
import numpy as np
import pytest

from geomoe import metadata
from geomoe.analysis import ablation_effects, contribution_norms
from geomoe.pretrained import PretrainedEncoder


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    fields = metadata.encode(rng.uniform(-60, 60, 6), rng.uniform(-180, 180, 6), np.full(6, np.datetime64("2020-05-05", "s")))
    return {"image": rng.standard_normal((6, 8, 8, 7)).astype(np.float32), **fields._asdict()}


@pytest.fixture(scope="module")
def gates(encoder, batch):
    return [np.asarray(g) for g in encoder.apply_tokens(*batch.values()).gates]


def test_contributions_are_gated(encoder, batch, gates):
    for layer in (0, 2):
        norms = contribution_norms(encoder, batch, layer)
        assert norms.shape == gates[layer].shape and ((norms > 0) == (gates[layer] > 0)).all()
    for layer in (9, 1.0):
        with pytest.raises(ValueError, match=f"layer {layer} is not one of"):
            contribution_norms(encoder, batch, layer)
    with pytest.raises(ValueError, match="the batch has no week, hour, lat, lon"):
        contribution_norms(encoder, {"image": batch["image"]}, 0)


def test_a_contribution_is_in_proportion_to_its_gate(encoder, batch, gates):
    """Another bias of the first router changes gates, but not what its experts make of a token."""
    params = jax.tree.map(np.array, encoder.params)
    params["encoder"]["block_00"]["moe"]["router"]["clean"]["bias"] += np.array([0.5, 0.0, -0.5], np.float32)
    other = PretrainedEncoder(encoder.config, params, encoder.statistics, "another router")
    moved = np.asarray(other.apply_tokens(*batch.values()).gates[0])
    both = (gates[0] > 0) & (moved > 0)
    assert both.any() and np.abs(moved - gates[0])[both].min() > 1e-3
    each = [contribution_norms(e, batch, 0)[both] / g[both] for e, g in ((encoder, gates[0]), (other, moved))]
    np.testing.assert_allclose(*each, rtol=1e-4)


def test_an_ablation_moves_the_tokens_of_its_expert_alone(encoder, batch, gates):
    effects = ablation_effects(encoder, batch, 2)  # the last layer: each token feels its own experts alone
    chosen = gates[2][:, 5:].transpose(2, 0, 1).reshape(effects.shape) > 0
    assert chosen.any() and not chosen.all()
    np.testing.assert_array_equal(effects > 0, chosen)
    params = jax.tree.map(np.array, encoder.params)
    params["encoder"]["block_02"]["moe"]["router"]["clean"]["bias"][1] -= 1e9
    other = PretrainedEncoder(encoder.config, params, encoder.statistics, "without an expert")
    tokens, moved = (np.asarray(e.apply_tokens(*batch.values()).tokens) for e in (encoder, other))
    distances = np.sqrt(((moved - tokens)[:, 5:] ** 2).sum(axis=2))
    mean_norm = np.sqrt((tokens**2).sum(axis=2)).mean()
    np.testing.assert_allclose(effects[1], (distances / mean_norm).reshape(effects[1].shape), rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="layer -1"):
        ablation_effects(encoder, batch, -1)


def test_pixels_without_data_move_nothing(encoder, batch):
    valid = np.ones((6, 8, 8), bool)
    valid[:, :4, :5] = False  # one patch, and a column of another
    found = []
    for value in (0.0, 30.0):
        image = np.where(valid[..., None], batch["image"], value).astype(np.float32)
        spoilt = {**batch, "image": image, "valid": valid}
        found.append((contribution_norms(encoder, spoilt, 2), ablation_effects(encoder, spoilt, 2)))
    for a, b in zip(*found):
        np.testing.assert_allclose(a, b, atol=1e-4)
    norms, effects = found[0]
    assert not norms[:, 5].any() and norms[:, 6].any() and not effects[:, :, 0, 0].any() and effects[:, :, 0, 1].any()
    tokens = encoder.apply_tokens(*(batch[name] for name in ("image", *metadata.FIELDS)), valid=valid)
    mean_norm = np.linalg.norm(np.asarray(tokens.tokens), axis=2)[np.asarray(tokens.present)].mean()
    params = jax.tree.map(np.array, encoder.params)
    params["encoder"]["block_02"]["moe"]["router"]["clean"]["bias"][1] -= 1e9
    other = PretrainedEncoder(encoder.config, params, encoder.statistics, "without an expert")
    moved = other.apply_tokens(*(batch[name] for name in ("image", *metadata.FIELDS)), valid=valid).tokens
    distances = np.linalg.norm(np.asarray(moved - tokens.tokens), axis=2)[:, 6]
    np.testing.assert_allclose(effects[1][:, 0, 1], distances / mean_norm, rtol=1e-3, atol=1e-6)
