"""Both crops reconstructed.

    python -m geomoe.cli.recipes configs/recipes/both_views_decoded.py --minutes 10

Whether reconstructing the second crop is worth its time.
"""

from geomoe.training.presets import multi_objective_on_few_patches


def get_config():
    config = multi_objective_on_few_patches()
    config.loss.decoded_views = 2
    return config
