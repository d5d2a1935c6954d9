"""Probes on the embedded synthetic patches, multi-label: which of ten covers are present.

    python probe.py --config configs/probe_synthetic.py --config.checkpoint=runs/demo

Each of three seeds draws half of 1,536 training patches and other random weights; `synthetic_landsat/dominant` (prepare it
first) is the multi-class form.
"""

from geomoe.probing import default_probe_config


def get_config():
    config = default_probe_config()
    config.data.name = "synthetic_landsat"
    config.data.train_split = "train[:1536]"
    config.data.test_split = "test[:768]"
    config.data.train_fraction = 0.5
    return config
