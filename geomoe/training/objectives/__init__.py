"""What pretraining asks of the model: one file an objective, pure functions, all weighed by the `loss` section of the config.

Painting hidden patches is always there (`geomoe.models.reconstruction_losses`); the others are off in the published recipe.
"""

from geomoe.training.objectives.contrast import info_nce
from geomoe.training.objectives.indices import INDICES, index_statistics, spectral_indices
from geomoe.training.objectives.latent import latent_loss, latent_targets, moving_average
from geomoe.training.objectives.place_time import place_time_loss
from geomoe.training.objectives.variance import variance_covariance

__all__ = [
    "INDICES",
    "index_statistics",
    "info_nce",
    "latent_loss",
    "latent_targets",
    "moving_average",
    "place_time_loss",
    "spectral_indices",
    "variance_covariance",
]
