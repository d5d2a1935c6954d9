"""Both crops painted.

    python -m geomoe.cli.recipes configs/recipes/both_painted.py --minutes 10

Whether painting the second crop is worth its time.
"""

from geomoe.training import recommended_config


def get_config():
    config = recommended_config()
    config.data.name = "bigearthnet_landsat/19"
    config.data.train_split = "train[:90%]"
    config.data.val_split = "train[90%:]"
    config.data.statistics = "published"
    config.data.mix = ("synthetic_landsat=0.5",)
    config.loss.painted_views = 2
    return config
