"""Initialisation: written in the modules, drawn on the host or by JAX."""

import jax
import numpy as np
from conftest import MICRO, batch_of

from geomoe.metadata import FIELDS
from geomoe.models import build_mae
from geomoe.models.layers import Initializer, Linear, fan_in_uniform, recorded_initializers
from geomoe.training import init_params


def test_initializers_have_their_distributions():
    rng = np.random.default_rng(0)
    for init, std in ((fan_in_uniform(16), 0.25 / 3**0.5), (Initializer("normal", 0.02), 0.02)):
        for values in (init.on_host(rng, (200, 100)), init(jax.random.key(0), (200, 100))):
            assert values.dtype == np.float32
            np.testing.assert_allclose(np.std(values), std, rtol=0.02)
            assert abs(np.mean(values)) < 0.02 * std * 3
    assert abs(fan_in_uniform(16).on_host(rng, (1000,))).max() <= 0.25
    np.testing.assert_array_equal(Initializer("constant", 1.0).on_host(rng, (3,)), np.ones(3))


def test_init_params_follows_the_modules_own_initialisers():
    model = build_mae(**MICRO, share_projections=False, width=48, num_heads=4, missing_metadata="learned", selection_bias=True)
    batch = batch_of(model, 2)
    ours = init_params(model, 0)
    inputs = [batch[name] for name in ("image", *FIELDS)]
    theirs = model.init({"params": jax.random.key(0), "mask": jax.random.key(1)}, *inputs)["params"]
    assert jax.tree.map(np.shape, ours) == jax.tree.map(np.shape, theirs)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        if a.size >= 200:  # enough draws to compare spreads
            np.testing.assert_allclose(a.std(), np.std(b), rtol=0.2, err_msg=str(path))
        if np.ptp(b) == 0:
            np.testing.assert_array_equal(a, b, err_msg=str(path))
    again, other = init_params(model, 0), init_params(model, 1)
    assert jax.tree.all(jax.tree.map(np.array_equal, ours, again))
    assert not np.array_equal(ours["encoder"]["pos_embed"], other["encoder"]["pos_embed"])


def test_what_is_recorded_is_what_is_declared_meanwhile():
    x = np.ones((2, 3), np.float32)
    with recorded_initializers() as record:
        Linear(3, 4).init(jax.random.key(0), x)
    Linear(5, 4).init(jax.random.key(0), np.ones((2, 5), np.float32))
    assert record == {("kernel",): fan_in_uniform(3), ("bias",): fan_in_uniform(3)}
