"""Variance and covariance (VICReg) in place of the contrast.

    python -m geomoe.cli.recipes configs/recipes/variance.py --minutes 10

Two crops of a place agree, with no other places as negatives.
"""

from geomoe.training import recommended_config


def get_config():
    config = recommended_config()
    config.data.name = "bigearthnet_landsat/19"
    config.data.train_split = "train[:90%]"
    config.data.val_split = "train[90%:]"
    config.data.statistics = "published"
    config.data.mix = ("synthetic_landsat=0.5",)
    config.loss.contrast_weight = 0.0
    config.loss.variance_weight = 0.2
    return config
