"""Band jitter of 0.3: another gain and offset of each band in each crop.

    python -m geomoe.cli.recipes configs/recipes/jitter.py --minutes 10

Two crops of an image have the same colours; jitter takes that easy answer to the contrast away.
"""

from geomoe.training import recommended_config


def get_config():
    config = recommended_config()
    config.data.name = "bigearthnet_landsat/19"
    config.data.train_split = "train[:90%]"
    config.data.val_split = "train[90%:]"
    config.data.statistics = "published"
    config.data.mix = ("synthetic_landsat=0.5",)
    config.data.band_jitter = 0.3
    return config
