"""Painting and spectral indices, without the contrast and without telling place and time from the pixels.

    python -m geomoe.cli.recipes configs/recipes/indices_alone.py --minutes 60

What two objectives that can learn few places by heart make of a long run.
"""

from geomoe.experiments import recommended_on_few_patches


def get_config():
    config = recommended_on_few_patches()
    config.loss.contrast_weight = 0.0
    config.loss.place_time_weight = 0.0
    return config
