"""Without InfoNCE.

    python -m geomoe.cli.recipes configs/recipes/no_info_nce.py --minutes 10

What InfoNCE is worth; metadata are still predicted.
"""

from geomoe.training.presets import multi_objective_on_few_patches


def get_config():
    config = multi_objective_on_few_patches()
    config.loss.info_nce_weight = 0.0
    return config
