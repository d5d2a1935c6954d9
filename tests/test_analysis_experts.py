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
    with pytest.raises(ValueError, match="layer 9"):
        contribution_norms(encoder, batch, 9)


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
