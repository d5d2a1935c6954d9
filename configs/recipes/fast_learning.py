"""Five times the learning rate.

    python -m geomoe.cli.recipes configs/recipes/fast_learning.py --minutes 10

Short runs could bear it.
"""

from geomoe.training.presets import multi_objective_on_few_patches


def get_config():
    config = multi_objective_on_few_patches()
    config.optimizer.lr = 1.5e-3
    return config
