"""Without spectral indices as targets.

    python -m geomoe.cli.recipes configs/recipes/no_spectral_indices.py --minutes 10

What predicting mean and standard deviation of NDVI, NDWI and NBR from the mean token is worth.
"""

from geomoe.training.presets import multi_objective_on_few_patches


def get_config():
    config = multi_objective_on_few_patches()
    config.loss.spectral_indices_weight = 0.0
    return config
