"""VICReg in place of InfoNCE.

    python -m geomoe.cli.recipes configs/recipes/vicreg.py --minutes 10

Two crops of a place agree, with no other places as negatives.
"""

from geomoe.training.presets import multi_objective_on_few_patches


def get_config():
    config = multi_objective_on_few_patches()
    config.loss.info_nce_weight = 0.0
    config.loss.vicreg_weight = 0.2
    return config
