"""Painting and spectral indices, without the contrast and without telling place and time from the pixels.

    python -m geomoe.cli.recipes configs/recipes/indices_alone.py --minutes 60

What two objectives that can learn few places by heart make of a long run.
"""

from geomoe.training.presets import multi_objective_on_few_patches


def get_config():
    config = multi_objective_on_few_patches()
    config.loss.info_nce_weight = 0.0
    config.loss.metadata_weight = 0.0
    return config
