"""Crops of 40 pixels alone: the recommended recipe without resized crops.

    python -m geomoe.cli.recipes configs/recipes/whole_crops.py --minutes 10

What crops of many sizes cost and bring.
"""

from geomoe.experiments import recommended_on_few_patches


def get_config():
    config = recommended_on_few_patches()
    config.data.fit = "random_crop"
    config.data.crop_sides = ()
    return config
