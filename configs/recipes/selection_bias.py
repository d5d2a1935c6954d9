"""Balance without a loss: a bias on the selection of experts, and noise that falls to 0.

    python -m geomoe.cli.recipes configs/recipes/selection_bias.py --minutes 10

Routers as of DeepSeek-V3, with a z-loss, in place of the balance losses.
"""

from geomoe.training.presets import multi_objective_on_few_patches


def get_config():
    config = multi_objective_on_few_patches()
    config.model.selection_bias = True
    config.loss.balance_weight = 0.0
    config.loss.router_z_weight = 0.001
    config.train.router_noise_end = 0.0
    return config
