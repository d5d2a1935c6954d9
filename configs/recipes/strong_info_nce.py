"""Ten times the InfoNCE.

    python -m geomoe.cli.recipes configs/recipes/strong_info_nce.py --minutes 10

Beside a reconstruction error summed over 112 values a patch, a weight of 1 is light.
"""

from geomoe.training.presets import multi_objective_on_few_patches


def get_config():
    config = multi_objective_on_few_patches()
    config.loss.info_nce_weight = 10.0
    return config
