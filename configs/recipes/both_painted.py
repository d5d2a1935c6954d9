"""Both crops painted.

    python -m geomoe.cli.recipes configs/recipes/both_painted.py --minutes 10

Whether painting the second crop is worth its time.
"""

from geomoe.experiments import recommended_on_few_patches


def get_config():
    config = recommended_on_few_patches()
    config.loss.painted_views = 2
    return config
