"""Crops of 40 pixels alone: the recommended recipe without resized crops.

    python -m geomoe.cli.recipes configs/recipes/whole_crops.py --minutes 10

What crops of many sizes cost and bring.
"""

from geomoe.training import recommended_config


def get_config():
    config = recommended_config()
    config.data.name = "bigearthnet_landsat/19"
    config.data.train_split = "train[:90%]"
    config.data.val_split = "train[90%:]"
    config.data.statistics = "published"
    config.data.mix = ("synthetic_landsat=0.5",)
    config.data.fit = "random_crop"
    config.data.crop_sides = ()
    return config
