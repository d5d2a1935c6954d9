"""data2vec beside the reconstruction: a teacher, the averaged encoder of the past, sees the whole image.

    python -m geomoe.cli.recipes configs/recipes/data2vec.py --minutes 10

The teacher keeps 0.98 of itself a step, less than published runs of many thousand steps take, since these have hundreds.
"""

from geomoe.training.presets import multi_objective_on_few_patches


def get_config():
    config = multi_objective_on_few_patches()
    config.loss.data2vec_weight = 20.0
    config.loss.teacher_momentum = 0.98
    return config
