"""Which experts the tokens of images go to.

Axes: N images, T tokens (4 metadata, CLS, P patches), P = side * side, E experts of a layer, L layers.
"""

import dataclasses

import numpy as np

from geomoe.models.config import NUM_PREFIX_TOKENS, ModelConfig


@dataclasses.dataclass(frozen=True)
class Routing:
    """The gates of some images.

    Attributes:
        gates: a list of L arrays (N, T, E): weights of the experts, 0 where not chosen.
        config: the architecture.
    """

    gates: list[np.ndarray]
    config: ModelConfig

    @property
    def usage(self) -> list[np.ndarray]:
        """For each layer (E,): share of the token assignments of each expert, summing to 1; even is 1 / E."""
        return [(g > 0).mean(axis=(0, 1)) / self.config.top_k for g in self.gates]

    def top1(self, layer: int) -> np.ndarray:
        """(N, side, side) int: the expert with the largest gate on the patch grid, in one layer."""
        side = self.config.img_size // self.config.patch_size
        return self.gates[layer][:, NUM_PREFIX_TOKENS:].argmax(axis=-1).reshape(-1, side, side)

    def entropy(self, layer: int) -> np.ndarray:
        """(N, side, side): entropy of the gates of each patch in nats, 0 where one expert has all."""
        side = self.config.img_size // self.config.patch_size
        g = self.gates[layer][:, NUM_PREFIX_TOKENS:]
        return -(g * np.log(np.maximum(g, 1e-12))).sum(axis=-1).reshape(-1, side, side)
