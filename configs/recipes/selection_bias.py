"""Balance without a loss: a bias on the selection of experts, and noise that falls to 0.

    python -m geomoe.cli.recipes configs/recipes/selection_bias.py --minutes 10

Routers as of DeepSeek-V3, with a z-loss, in place of the balance losses.
"""

from geomoe.training import recommended_config


def get_config():
    config = recommended_config()
    config.data.name = "bigearthnet_landsat/19"
    config.data.train_split = "train[:90%]"
    config.data.val_split = "train[90%:]"
    config.data.statistics = "published"
    config.data.mix = ("synthetic_landsat=0.5",)
    config.model.selection_bias = True
    config.loss.balance_weight = 0.0
    config.loss.router_z_weight = 0.001
    config.train.router_noise_end = 0.0
    return config
