"""Probes on frozen features."""

from geomoe.probing.embed import Features, band_statistics, embed_split
from geomoe.probing.metrics import classification_metrics
from geomoe.probing.protocols import ProbeResult, knn_probe, linear_probe
from geomoe.probing.run import default_probe_config

__all__ = [
    "Features",
    "ProbeResult",
    "band_statistics",
    "classification_metrics",
    "default_probe_config",
    "embed_split",
    "knn_probe",
    "linear_probe",
]
