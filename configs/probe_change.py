"""Change detection on synthetic pairs: the same place at two times, half of them with one cover replaced by another.

    python probe.py --config configs/probe_change.py --config.checkpoint=runs/demo

Season and light differ within every pair, so that the difference of two images alone is no change. Half of the pairs fit the
threshold (on the cosine distance) and the linear probe (on the differences of the embeddings), the other half scores them.
"""

from geomoe.probing import default_probe_config


def get_config():
    config = default_probe_config()
    config.data.name = "synthetic_pairs"
    config.data.pairs = 1024
    return config
