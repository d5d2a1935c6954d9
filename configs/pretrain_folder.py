"""Pretraining on your own patches: any dataset prepared by `geomoe.cli.prepare`, one tenth of it held out.

    python -m geomoe.cli.prepare --dataset landsat_folder/mine --source DIR --data_dir data
    python train.py --config configs/pretrain_folder.py --workdir runs/mine

The recipe of the demo, at size S, with the band statistics of the data itself. `--config.data.name=...` takes any prepared
dataset, `--config.train.num_steps=...` sets the length, `--config.train.batch_size=...` must be at most the held-out tenth.
"""

from geomoe.training import default_config


def get_config(size: str = "S"):
    config = default_config()
    config.model.size = size
    config.model.dropout = 0.0
    config.data.name = "landsat_folder/mine"
    config.data.train_split = "train[:90%]"
    config.data.val_split = "train[90%:]"
    config.data.statistics = "computed"
    config.data.fit = "random_crop"
    config.data.flips = True
    config.data.turns = True
    config.data.cache = True
    config.train.batch_size = 32
    config.train.num_steps = 1000
    config.optimizer.lr = 5e-4
    config.loss.normalise_targets = True
    config.loss.contrast_weight = 10.0
    config.log.eval_every_steps = 250
    config.checkpoint.every_steps = 250
    return config
