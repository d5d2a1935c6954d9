"""Which experts the tokens of images go to.

Axes: N images, T tokens (4 metadata, CLS, P patches), P = side * side, E experts of a layer, L layers.
"""

import dataclasses

import numpy as np

from geomoe.models.config import NUM_PREFIX_TOKENS, ModelConfig


@dataclasses.dataclass(frozen=True)
class Routing:
    """The gates of some images."""

    gates: list[np.ndarray]  # L arrays (N, T, E): weights of the experts, 0 where not chosen, and of tokens without data
    config: ModelConfig

    @property
    def usage(self) -> list[np.ndarray]:
        """For each layer (E,): share of the token assignments of each expert, summing to 1; even is 1 / E."""
        return [(g > 0).sum(axis=(0, 1)) / (g > 0).sum() for g in self.gates]

    def top1(self, layer: int) -> np.ndarray:
        """(N, side, side) int: the expert with the largest gate on the patch grid, in one layer; -1 without data."""
        g = self._on_grid(layer)
        return np.where(g.any(axis=-1), g.argmax(axis=-1), -1)

    def entropy(self, layer: int) -> np.ndarray:
        """(N, side, side): entropy of the gates of each patch in nats, 0 where one expert has all; NaN without data."""
        g = self._on_grid(layer)
        return np.where(g.any(axis=-1), -(g * np.log(np.maximum(g, 1e-12))).sum(axis=-1), np.nan)

    def _on_grid(self, layer: int) -> np.ndarray:
        side = self.config.img_size // self.config.patch_size
        return self.gates[layer][:, NUM_PREFIX_TOKENS:].reshape(-1, side, side, self.gates[layer].shape[-1])
