"""Crops of 40 pixels alone: the multi-objective recipe without resized crops.

    python -m geomoe.cli.recipes configs/recipes/whole_crops.py --minutes 10

What crops of many sizes cost and bring.
"""

from geomoe.training.presets import multi_objective_on_few_patches


def get_config():
    config = multi_objective_on_few_patches()
    config.data.resize_mode = "random_crop"
    config.data.crop_sides = ()
    return config
