"""Without the contrast.

    python -m geomoe.cli.recipes configs/recipes/no_contrast.py --minutes 10

What the contrast is worth; place and time are still told.
"""

from geomoe.training.presets import multi_objective_on_few_patches


def get_config():
    config = multi_objective_on_few_patches()
    config.loss.info_nce_weight = 0.0
    return config
