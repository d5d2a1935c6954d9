"""Without predicting metadata from the pixels.

    python -m geomoe.cli.recipes configs/recipes/no_metadata_prediction.py --minutes 10

What that head is worth.
"""

from geomoe.training.presets import multi_objective_on_few_patches


def get_config():
    config = multi_objective_on_few_patches()
    config.loss.metadata_weight = 0.0
    return config
