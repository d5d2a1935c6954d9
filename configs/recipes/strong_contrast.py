"""Ten times the contrast.

    python -m geomoe.cli.recipes configs/recipes/strong_contrast.py --minutes 10

Beside a painting error summed over 112 values a patch, a weight of 1 is light.
"""

from geomoe.training import recommended_config


def get_config():
    config = recommended_config()
    config.data.name = "bigearthnet_landsat/19"
    config.data.train_split = "train[:90%]"
    config.data.val_split = "train[90%:]"
    config.data.statistics = "published"
    config.data.mix = ("synthetic_landsat=0.5",)
    config.loss.contrast_weight = 10.0
    return config
