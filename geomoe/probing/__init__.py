"""Probes on frozen features, fine-tuning, and the baselines that they are held against."""

from geomoe.probing.baselines import RandomConvFeatures, band_statistics
from geomoe.probing.change import change_distance, change_features, change_probe
from geomoe.probing.features import Features, embed_split, load_images
from geomoe.probing.finetune import finetune
from geomoe.probing.knn import nearest
from geomoe.probing.linear import C_GRID, LinearModel, fit_logistic, fit_ridge, load_probe
from geomoe.probing.metrics import bootstrap, classification_metrics, regression_metrics
from geomoe.probing.protocols import (
    PROTOCOLS,
    ProbeResult,
    cross_validate,
    knn_probe,
    label_efficiency,
    linear_probe,
    ridge_probe,
)
from geomoe.probing.results import Results
from geomoe.probing.run import default_probe_config

__all__ = [
    "C_GRID",
    "PROTOCOLS",
    "Features",
    "LinearModel",
    "ProbeResult",
    "RandomConvFeatures",
    "Results",
    "band_statistics",
    "bootstrap",
    "change_distance",
    "change_features",
    "change_probe",
    "classification_metrics",
    "cross_validate",
    "default_probe_config",
    "embed_split",
    "finetune",
    "fit_logistic",
    "fit_ridge",
    "knn_probe",
    "label_efficiency",
    "linear_probe",
    "load_images",
    "load_probe",
    "nearest",
    "regression_metrics",
    "ridge_probe",
]
