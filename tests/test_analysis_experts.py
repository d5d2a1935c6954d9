"""What single experts do to tokens and embeddings."""

import numpy as np
import pytest
from conftest import DATA

import geomoe
from geomoe.analysis import ablation_effects, contribution_norms
from geomoe.data import preprocess, synthetic


@pytest.fixture(scope="module")
def encoder():
    return geomoe.load(DATA / "reference_tiny_random.pth")  # 8 x 8 pixels


@pytest.fixture(scope="module")
def scenes():
    """Six synthetic patches, and lat, lon and time of each."""
    patches = [synthetic.scene(0, "test", i) for i in range(6)]
    columns = {"lat": "latitude", "lon": "longitude", "time": "time"}
    return np.stack([patch.image for patch in patches]), {
        name: np.array([getattr(patch, column) for patch in patches]) for name, column in columns.items()
    }


def test_contributions_add_up_and_unused_experts_have_no_effect(encoder, scenes):
    images, location = scenes
    z, _ = encoder.prepare(images, preprocess.InputSpec(resize_mode="centre_crop"))
    batch = {"image": z, **geomoe.metadata.encode(**location)._asdict()}
    gates = encoder.routing(images, **location, resize_mode="centre_crop").gates
    for layer in (0, 2):
        norms = contribution_norms(encoder, batch, layer)
        assert ((norms > 0) == (gates[layer] > 0)).all()
    effects = ablation_effects(encoder, batch, 2)  # the last layer: each token feels its own experts alone
    chosen = gates[2][:, 5:].transpose(2, 0, 1).reshape(effects.shape) > 0
    assert ((effects > 0) == chosen).all()
    with pytest.raises(ValueError, match="layer 9"):
        contribution_norms(encoder, batch, 9)
