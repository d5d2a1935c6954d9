"""Which experts tokens go to, by hand."""

import numpy as np
import pytest

from geomoe.models import ModelConfig
from geomoe.models.routing import Routing

CONFIG = ModelConfig.from_dict(dict(size="tiny", img_size=8))  # four patches after five tokens


@pytest.fixture
def routing():
    gates = np.zeros((1, 9, 4))
    gates[0, :5, [0, 1]] = 0.5
    gates[0, 5], gates[0, 6], gates[0, 7], gates[0, 8] = (
        [0.5, 0.5, 0, 0],
        [0, 0.25, 0.75, 0],
        [0, 0, 0.5, 0.5],
        [0.9, 0, 0, 0.1],
    )
    return Routing([gates], CONFIG)


def test_usage_is_the_share_of_the_assignments(routing):
    np.testing.assert_allclose(routing.usage[0], np.array([7, 7, 2, 2]) / 18)


def test_the_first_expert_of_each_patch(routing):
    np.testing.assert_array_equal(routing.top1(0), [[[0, 2], [2, 0]]])


def test_entropy_is_in_nats(routing):
    entropy = lambda *p: -sum(q * np.log(q) for q in p)
    expected = [[np.log(2), entropy(0.25, 0.75)], [np.log(2), entropy(0.9, 0.1)]]
    np.testing.assert_allclose(routing.entropy(0)[0], expected, rtol=1e-6)


def test_patches_without_data_go_to_no_expert(routing):
    gates = [np.array(layer) for layer in routing.gates]
    gates[0][0, -1] = 0
    lacking = Routing(gates, routing.config)
    expected = routing.top1(0).copy()
    expected[0, -1, -1] = -1
    np.testing.assert_array_equal(lacking.top1(0), expected)
    assert np.isnan(lacking.entropy(0)[0, -1, -1]) and np.isnan(lacking.entropy(0)).sum() == 1
    assert lacking.usage[0].sum() == pytest.approx(1)
