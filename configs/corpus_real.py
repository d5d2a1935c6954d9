"""Pretraining on real Landsat imagery of four sensors and five continents, weighed by source.

    python -m geomoe.cli.corpus --prepare ../shared --data_dir data
    python train.py --config configs/corpus_real.py --workdir runs/corpus
    python -m geomoe.cli.corpus --data_dir data --checkpoints runs/corpus

`geomoe/data/corpus.py` says which images there are and which are held out. `--config configs/corpus_real.py:XXS` takes another
size.
"""

from geomoe.data.corpus import BATCH, SAMPLE, training_mix
from geomoe.training.presets import multi_objective_config


def get_config(size: str = "S"):
    config = multi_objective_config(size)
    config.data.update(name=SAMPLE, mix=training_mix(), cache=True)
    config.data.update(train_split="train", val_name="landsat_scene/alberta_south", val_split="train")
    config.data.update(crop_sides=(22, 41), coastal_dropout=0.3, band_jitter=0.1)
    config.train.batch_size = BATCH
    return config
