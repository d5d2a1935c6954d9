"""Metadata given to the first crop, each field dropped for half of the places.

    python -m geomoe.cli.recipes configs/recipes/given_metadata.py --minutes 10

Whether an encoder that is given metadata makes more of them than a probe that reads them beside the embedding; what is
missing is a learned token.
"""

from geomoe.training.presets import multi_objective_on_few_patches


def get_config():
    config = multi_objective_on_few_patches()
    config.data.metadata_dropout = 0.5
    config.model.missing_metadata = "learned"
    return config
