"""geomoe's own recipe: painting, a light contrast, indices, place and time told from the pixels.

    python -m geomoe.cli.recipes configs/recipes/recommended.py --minutes 10

See `geomoe.training.recommended_config`. There are few real patches here, so half of each batch is synthetic. Every recipe
beside this one and `published` changes one thing in it.
"""

from geomoe.training import recommended_config


def get_config():
    config = recommended_config()
    config.data.name = "bigearthnet_landsat/19"
    config.data.train_split = "train[:90%]"
    config.data.val_split = "train[90%:]"
    config.data.statistics = "published"
    config.data.mix = ("synthetic_landsat=0.5",)
    return config
