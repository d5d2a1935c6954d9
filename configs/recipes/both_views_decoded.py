"""Both crops painted.

    python -m geomoe.cli.recipes configs/recipes/both_painted.py --minutes 10

Whether painting the second crop is worth its time.
"""

from geomoe.training.presets import multi_objective_on_few_patches


def get_config():
    config = multi_objective_on_few_patches()
    config.loss.decoded_views = 2
    return config
