"""Spectral indices as further targets.

    python -m geomoe.cli.recipes configs/recipes/indices.py --minutes 10

The mean token tells mean and deviation of NDVI, NDWI and NBR.
"""

from geomoe.training import recommended_config


def get_config():
    config = recommended_config()
    config.data.name = "bigearthnet_landsat/19"
    config.data.train_split = "train[:90%]"
    config.data.val_split = "train[90%:]"
    config.data.statistics = "published"
    config.loss.indices_weight = 10.0
    return config
