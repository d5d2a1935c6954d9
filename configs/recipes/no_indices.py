"""Without spectral indices as targets.

    python -m geomoe.cli.recipes configs/recipes/no_indices.py --minutes 10

What telling mean and deviation of NDVI, NDWI and NBR from the mean token is worth.
"""

from geomoe.training import recommended_config


def get_config():
    config = recommended_config()
    config.data.name = "bigearthnet_landsat/19"
    config.data.train_split = "train[:90%]"
    config.data.val_split = "train[90%:]"
    config.data.statistics = "published"
    config.data.mix = ("synthetic_landsat=0.5",)
    config.loss.indices_weight = 0.0
    return config
