"""The multi-objective recipe: reconstruction, a light InfoNCE, spectral indices and metadata from the pixels.

    python -m geomoe.cli.recipes configs/recipes/multi_objective.py --minutes 10

See `geomoe.training.multi_objective_config`. There are few real patches here, so half of each batch is synthetic. Every recipe
beside this one and `published` tries one idea in it.
"""

from geomoe.training.presets import multi_objective_on_few_patches


def get_config():
    return multi_objective_on_few_patches()
