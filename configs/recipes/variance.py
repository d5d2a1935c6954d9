"""Variance and covariance (VICReg) in place of the contrast.

    python -m geomoe.cli.recipes configs/recipes/variance.py --minutes 10

Two crops of a place agree, with no other places as negatives.
"""

from geomoe.experiments import recommended_on_few_patches


def get_config():
    config = recommended_on_few_patches()
    config.loss.contrast_weight = 0.0
    config.loss.variance_weight = 0.2
    return config
