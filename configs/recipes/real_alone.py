"""Real patches alone.

    python -m geomoe.cli.recipes configs/recipes/real_alone.py --minutes 10

Whether synthetic patches, z-scored by their own statistics, add to few real ones.
"""

from geomoe.training.presets import few_patches, multi_objective_config


def get_config():
    return few_patches(multi_objective_config())
