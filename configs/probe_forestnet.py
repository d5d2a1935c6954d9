"""Probes on m-forestnet (GEO-Bench): drivers of deforestation in Indonesia, twelve classes, Landsat 8.

    python -m geomoe.cli.prepare --dataset landsat_folder/forestnet --source IMAGES --labels labels.csv --data_dir data
    python probe.py --config configs/probe_forestnet.py --config.checkpoint=geomoe-s

The images are GeoTIFFs below one folder; `labels.csv` gives each its label and its split, as docs/your_data.md says.
"""

from geomoe.probing import default_probe_config


def get_config():
    config = default_probe_config()
    config.data.name = "landsat_folder/forestnet"
    config.data.train_split = "train"
    config.data.test_split = "test"
    return config
