"""Real patches alone.

    python -m geomoe.cli.recipes configs/recipes/real_alone.py --minutes 10

Whether made patches, z-scored by their own statistics, add to few real ones.
"""

from geomoe.training import recommended_config


def get_config():
    config = recommended_config()
    config.data.name = "bigearthnet_landsat/19"
    config.data.train_split = "train[:90%]"
    config.data.val_split = "train[90%:]"
    config.data.statistics = "published"
    return config
