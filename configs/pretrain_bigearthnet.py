"""The published recipe on BigEarthNet-L: size S (`:XS` and `:XXS` for the smaller ones).

    python -m geomoe.cli.prepare --dataset bigearthnet_landsat --source DIR --data_dir data
    python train.py --config configs/pretrain_bigearthnet.py --workdir runs/ben_S
    python train.py --config configs/pretrain_bigearthnet.py:XS --workdir runs/ben_XS

AdamW 3e-4, weight decay 0.05, clip 1.0, 5 % warm-up, cosine to 0, batch 128, 500 epochs, mask ratio 0.75: 1,053,000 steps on
the 269,695 training patches. Published result of the recipe: BigEarthNet-L mean-pooled micro mAP 0.731 for S (see
configs/probe_bigearthnet.py). We have not run it in full: no accelerator was at hand.
"""

from geomoe.training import default_config


def get_config(size: str = "S"):
    config = default_config()
    config.model.size = size
    config.data.name = "bigearthnet_landsat/19"
    config.data.statistics = "published"
    config.log.every_steps = 100
    config.log.eval_every_steps = 5000
    config.checkpoint.every_steps = 5000
    return config
