"""Landsat-Bench probes on EuroSAT-L: logistic regression and kNN on frozen features, ten classes.

    python -m geomoe.cli.prepare --dataset eurosat_landsat --source DIR --data_dir data
    python probe.py --config configs/probe_eurosat.py --config.checkpoint=runs/ben_S

Patches of about 22 x 22 pixels are resized to the model's size. Published for MoE-MAE-S, mean-pooled: accuracy 0.743, without
metadata, which geomoe gives the model (the files are georeferenced). The z-score is that of the checkpoint.
"""

from geomoe.probing import default_probe_config


def get_config():
    config = default_probe_config()
    config.protocol = "landsat_bench"
    config.data.nodata = "published"  # as the figures above
    config.data.name = "eurosat_landsat"
    config.data.resize_mode = "resize"
    return config
