"""The published recipe, on few patches: pixel error, no augmentation, dropout, metadata always told.

    python -m geomoe.cli.recipes configs/recipes/published.py --minutes 10

The other recipes are measured against it. The batch is theirs, 64 places.
"""

from geomoe.training import default_config


def get_config():
    config = default_config()
    config.data.name = "bigearthnet_landsat/19"
    config.data.train_split = "train[:90%]"
    config.data.val_split = "train[90%:]"
    config.train.batch_size = 64
    return config
