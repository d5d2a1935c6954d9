"""Pretraining on real Landsat imagery of four sensors and five continents, weighed by source: the recipe of geomoe-s.

    python -m geomoe.cli.corpus --prepare ../shared --data_dir data
    python train.py --config configs/corpus_real.py --workdir runs/corpus
    python -m geomoe.cli.corpus --data_dir data --checkpoints runs/corpus

`geomoe/data/corpus.py` says which images there are and which are held out; the validation losses are of Alberta's south. It
is the multi-objective recipe (docs/recipes.md), but the encoder is given half of the metadata of one of two crops and its
mean token has to hold what it was given, while InfoNCE compares a projection that may leave it out. `--config
configs/corpus_real.py:XXS` takes another size. docs/model_card.md has the time and the results.
"""

from geomoe.data.corpus import BATCH, SAMPLE, training_mix
from geomoe.training.presets import multi_objective_config


def get_config(size: str = "S"):
    config = multi_objective_config(size)
    config.data.update(name=SAMPLE, train_split="train", mix=training_mix(), cache=True)
    config.data.update(val_name="landsat_scene/alberta_south", val_split="train")
    config.data.update(crop_sides=(22, 41), coastal_dropout=0.3, band_jitter=0.1, metadata_dropout=0.5)
    config.train.update(batch_size=BATCH, num_steps=600 if size == "S" else 700)  # more loses on the images held out
    config.loss.update(info_nce_dim=64, metadata_given_share=1.0)
    return config
