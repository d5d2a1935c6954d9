"""Three times the learning rate.

    python -m geomoe.cli.recipes configs/recipes/fast_learning.py --minutes 10

Short runs could bear it.
"""

from geomoe.training import recommended_config


def get_config():
    config = recommended_config()
    config.data.name = "bigearthnet_landsat/19"
    config.data.train_split = "train[:90%]"
    config.data.val_split = "train[90%:]"
    config.data.statistics = "published"
    config.data.mix = ("synthetic_landsat=0.5",)
    config.optimizer.lr = 1.5e-3
    return config
