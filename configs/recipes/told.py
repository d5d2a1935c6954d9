"""Place and time told to the first crop, each dropped for half of the places.

    python -m geomoe.cli.recipes configs/recipes/told.py --minutes 10

Whether an encoder that is told place and time makes more of them than a probe that reads them beside the embedding; what is
missing is a learned token.
"""

from geomoe.training import recommended_config


def get_config():
    config = recommended_config()
    config.data.name = "bigearthnet_landsat/19"
    config.data.train_split = "train[:90%]"
    config.data.val_split = "train[90%:]"
    config.data.statistics = "published"
    config.data.mix = ("synthetic_landsat=0.5",)
    config.data.metadata_dropout = 0.5
    config.model.missing_metadata = "learned"
    return config
