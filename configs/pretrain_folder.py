"""Pretraining on your own patches: any dataset prepared by `geomoe.cli.prepare`, one tenth of it held out.

    python -m geomoe.cli.prepare --dataset landsat_folder/mine --source DIR --data_dir data
    python train.py --config configs/pretrain_folder.py --workdir runs/mine

The multi-objective recipe (docs/recipes.md), size S, with the band statistics of the data itself.
`--config.data.name=...` takes any prepared dataset, `--config.train.num_steps=...` sets the length: some 60 steps a minute on
2 cores.
"""

from geomoe.training.presets import multi_objective_config


def get_config(size: str = "S"):
    config = multi_objective_config(size)
    config.data.name = "landsat_folder/mine"
    config.data.train_split = "train[:90%]"
    config.data.val_split = "train[90%:]"
    return config
