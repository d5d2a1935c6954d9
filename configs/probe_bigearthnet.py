"""Landsat-Bench probes on BigEarthNet-L: one-vs-rest logistic regression and kNN on frozen features.

    python probe.py --config configs/probe_bigearthnet.py --config.checkpoint=runs/ben_S

Published for MoE-MAE-S, mean-pooled: micro mAP 0.731, macro mAP 0.557, micro F1 0.614. For a prepared folder without a test
split (the 200-patch sample, say), cross-validate: `--config.data.test_split= --config.data.name=...`.
"""

from geomoe.probing import default_probe_config


def get_config():
    config = default_probe_config()
    config.protocol = "landsat_bench"
    config.data.nodata = "published"  # as the figures above
    config.data.name = "bigearthnet_landsat/19"
    return config
