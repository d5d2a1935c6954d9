"""Nine tenths of each batch synthetic, where the multi-objective recipe here has half.

    python -m geomoe.cli.recipes configs/recipes/mostly_synthetic.py --minutes 60

In an hour each of the few real places is then seen as often as in ten minutes of the multi-objective recipe.
"""

from geomoe.training.presets import multi_objective_on_few_patches


def get_config():
    config = multi_objective_on_few_patches()
    config.data.mix = (("synthetic_landsat", 0.9),)
    return config
