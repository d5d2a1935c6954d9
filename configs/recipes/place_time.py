"""Place and time told from the pixels.

    python -m geomoe.cli.recipes configs/recipes/place_time.py --minutes 10

The mean token tells week, hour, latitude and longitude, which the encoder is not told.
"""

from geomoe.training import recommended_config


def get_config():
    config = recommended_config()
    config.data.name = "bigearthnet_landsat/19"
    config.data.train_split = "train[:90%]"
    config.data.val_split = "train[90%:]"
    config.data.statistics = "published"
    config.loss.place_time_weight = 1.0
    return config
