"""Pretraining on real Landsat imagery of four sensors and five continents, weighed by source: the recipe of geomoe-s.

    python -m geomoe.cli.corpus --prepare ../shared --data_dir data
    python train.py --config configs/corpus_real.py --workdir runs/corpus
    python -m geomoe.cli.corpus --data_dir data --checkpoints runs/corpus

`geomoe/data/corpus.py` says which images there are and which are held out; the validation losses are of Alberta's south. It
is the multi-objective recipe (docs/recipes.md) with targets that say what is in a patch besides its normalised pixels: the
level and contrast of each band, and its edges. VICReg compares two crops of a place, of which one is given half of its
metadata, which the mean token has to hold; half of the places are given any metadata in place of their own, which it cannot
guess from the pixels. `--config configs/corpus_real.py:XXS` takes another size. docs/model_card.md has the
time and the results.
"""

from geomoe.data.corpus import BATCH, SAMPLE, training_mix
from geomoe.training.presets import multi_objective_config


def get_config(size: str = "S"):
    config = multi_objective_config(size)
    config.data.update(name=SAMPLE, train_split="train", mix=training_mix(), cache=True)
    config.data.update(val_name="landsat_scene/alberta_south", val_split="train")
    config.data.update(crop_sides=(22, 41), coastal_dropout=0.3, band_jitter=0.1, metadata_dropout=0.5)
    config.data.random_metadata = 0.5
    config.train.update(batch_size=BATCH, num_steps=600)
    config.loss.update(info_nce_weight=0.0, vicreg_weight=1.0, metadata_weight=30.0, metadata_given_share=1.0)
    config.loss.update(patch_statistics_weight=10.0, oriented_gradients_weight=300.0, balance_weight=60.0)
    return config
