"""What pretraining asks of the model: one file an objective, pure functions, all weighed by the `loss` section of the config.

Painting hidden patches is always there (`geomoe.models.reconstruction_losses`); the others are off in the published recipe.
"""

from geomoe.training.losses.data2vec import data2vec_loss, data2vec_targets, moving_average
from geomoe.training.losses.info_nce import info_nce
from geomoe.training.losses.metadata import metadata_loss
from geomoe.training.losses.spectral_indices import INDICES, index_statistics, spectral_indices
from geomoe.training.losses.vicreg import vicreg

__all__ = [
    "INDICES",
    "index_statistics",
    "info_nce",
    "data2vec_loss",
    "data2vec_targets",
    "moving_average",
    "metadata_loss",
    "spectral_indices",
    "vicreg",
]
