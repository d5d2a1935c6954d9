"""The published recipe, on few patches: pixel error, no augmentation, dropout, metadata always given.

    python -m geomoe.cli.recipes configs/recipes/published.py --minutes 10

The other recipes are measured against it. The batch is theirs, 64 places.
"""

from geomoe.training import default_config
from geomoe.training.presets import few_patches


def get_config():
    return few_patches(default_config())
