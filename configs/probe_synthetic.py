"""Probes on the embedded synthetic patches."""

from geomoe.probing import default_probe_config


def get_config():
    config = default_probe_config()
    config.data.name = "synthetic_landsat"
    config.data.train_fraction = 0.5
    return config
