"""Band jitter of 0.3: another gain and offset of each band in each crop.

    python -m geomoe.cli.recipes configs/recipes/jitter.py --minutes 10

Two crops of an image have the same colours; jitter takes that easy answer to InfoNCE away.
"""

from geomoe.training.presets import multi_objective_on_few_patches


def get_config():
    config = multi_objective_on_few_patches()
    config.data.band_jitter = 0.3
    return config
