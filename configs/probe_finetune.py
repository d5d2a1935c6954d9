"""Fine-tuning beside the linear probe, and the label-efficiency curve, on the embedded synthetic patches.

    python probe.py --config configs/probe_finetune.py --config.checkpoint=runs/demo

The last three blocks learn, with the learning rate falling by 0.75 a block; a fifth of the training patches decides when to
stop. The random weights are tuned in the same way.
"""

from geomoe.probing import default_probe_config


def get_config():
    config = default_probe_config()
    config.data.name = "synthetic_landsat"
    config.data.train_split = "train[:768]"
    config.data.test_split = "test[:384]"
    config.seeds = (0,)
    config.probes = ("linear", "finetune")
    config.baselines = ("random weights",)
    config.finetune.blocks = 3
    config.finetune.epochs = 10
    config.label_fractions = (0.05, 0.1, 0.5, 1.0)
    return config
