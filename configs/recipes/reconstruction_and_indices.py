"""Reconstruction and spectral indices, without InfoNCE and without predicting metadata.

    python -m geomoe.cli.recipes configs/recipes/reconstruction_and_indices.py --minutes 60

What two objectives that cannot memorise few places make of a long run.
"""

from geomoe.training.presets import multi_objective_on_few_patches


def get_config():
    config = multi_objective_on_few_patches()
    config.loss.info_nce_weight = 0.0
    config.loss.metadata_weight = 0.0
    return config
