"""Poolings by hand, and the short form of the command line."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

from geomoe.models import ModelConfig, TokenOutput
from geomoe.models.pooling import POOLINGS, check_pool, parse_pool, pool_name, pool_tokens, pool_width

CONFIG = ModelConfig.from_dict(dict(size="tiny", depth=6, stage_experts=(3, 4, 5)))


@pytest.fixture(scope="module")
def output():
    rng = np.random.default_rng(0)
    layers = [jnp.asarray(rng.standard_normal((2, 9, 16)), jnp.float32) for _ in range(6)]
    return TokenOutput(layers[-1], layers[-1], jnp.float32(0), [], layers, jnp.float32(0), [])


METADATA = [np.full((2, 2), i, np.float32) for i in range(4)]


def test_each_pooling_by_hand(output):
    layers = [np.asarray(x) for x in output.layer_tokens]
    tokens = layers[-1]
    mean = tokens.mean(axis=1)
    expected = {
        "mean": mean,
        "unit_mean": 4 * mean / np.linalg.norm(mean, axis=1, keepdims=True),  # D is 16
        "patch_mean": tokens[:, 5:].mean(axis=1),
        "patch_std": tokens[:, 5:].std(axis=1),
        "cls": tokens[:, 4],
        "metadata_tokens": tokens[:, :4].mean(axis=1),
        "stages": np.concatenate([layers[i].mean(axis=1) for i in (1, 3, 5)], axis=1),
        "layer_mean": np.mean([x.mean(axis=1) for x in layers], axis=0),
        "metadata": np.repeat(np.arange(4.0), 2)[None].repeat(2, axis=0),
    }
    assert expected.keys() == POOLINGS.keys()
    for pool, values in expected.items():
        np.testing.assert_allclose(pool_tokens(output, METADATA, CONFIG, pool), values, atol=1e-5, err_msg=pool)
        assert pool_width(CONFIG, pool) == values.shape[1]
    both = pool_tokens(output, METADATA, CONFIG, ("metadata", "cls"))
    np.testing.assert_allclose(both, np.concatenate([expected["metadata"], expected["cls"]], axis=1), atol=1e-6)
    assert pool_width(CONFIG, ("metadata", "cls")) == 24
    np.testing.assert_array_equal(pool_tokens(output, METADATA, CONFIG, "tokens"), tokens)


@pytest.mark.parametrize(
    "pool, message",
    [
        ("median", "'median' is not one of"),
        (("mean", "mean"), "twice"),
        (("mean", "tokens"), "joins with no other"),
        ("mean+cls", r"give several poolings as a tuple, \('mean', 'cls'\)"),
        ((), "names no pooling"),
    ],
)
def test_pools_that_make_no_sense_are_named(pool, message):
    with pytest.raises(ValueError, match=message):
        check_pool(pool)


@given(st.lists(st.sampled_from(sorted(POOLINGS)), min_size=1, unique=True))
def test_the_short_form_goes_there_and_back(names):
    pool = parse_pool("+".join(names))
    assert parse_pool(" + ".join(names)) == pool
    assert check_pool(pool) == tuple(names) and parse_pool(pool_name(pool)) == pool


@given(st.text(max_size=20))
def test_any_text_is_a_pool_or_a_clear_error(text):
    try:
        assert pool_width(CONFIG, parse_pool(text)) > 0
    except ValueError as error:
        assert "pool = " in str(error)
