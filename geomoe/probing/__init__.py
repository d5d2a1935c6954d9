"""Probes on frozen features, fine-tuning, and the baselines that they are compared with.

Names load on first use: reading a configuration loads no probe.
"""

from etils import epy

with epy.lazy_api_imports(globals()):
    from geomoe.probing.change import change_distance, change_features, change_probe
    from geomoe.probing.config import PROTOCOLS, default_probe_config
    from geomoe.probing.evaluation import EfficiencyPoint, cross_validate, label_efficiency
    from geomoe.probing.features import (
        Features,
        GaussianConvFeatures,
        RandomConvFeatures,
        band_statistics,
        embed_split,
        load_images,
    )
    from geomoe.probing.finetuning import FineTuneOptions, finetune
    from geomoe.probing.knn import knn_probe, nearest
    from geomoe.probing.linear import C_GRID, LinearOptions, fit_logistic, fit_ridge, linear_probe, ridge_probe
    from geomoe.probing.linear_model import LinearModel, load_probe
    from geomoe.probing.metrics import bootstrap, classification_metrics, main_metric, regression_metrics
    from geomoe.probing.probe_result import ProbeResult
    from geomoe.probing.results import ResultKey, Results
    from geomoe.probing.splits import Fold, Folds, group_folds, random_folds, spatial_folds, stratified_folds

__all__ = [
    "PROTOCOLS",
    "Features",
    "GaussianConvFeatures",
    "RandomConvFeatures",
    "band_statistics",
    "default_probe_config",
    "embed_split",
    "load_images",
]
__all__ += ["C_GRID", "LinearModel", "LinearOptions", "fit_logistic", "fit_ridge", "linear_probe", "load_probe", "ridge_probe"]
__all__ += ["FineTuneOptions", "change_distance", "change_features", "change_probe", "finetune", "knn_probe", "nearest"]
__all__ += ["EfficiencyPoint", "ProbeResult", "ResultKey", "Results", "cross_validate", "label_efficiency"]
__all__ += ["Fold", "Folds", "group_folds", "random_folds", "spatial_folds", "stratified_folds"]
__all__ += ["bootstrap", "classification_metrics", "main_metric", "regression_metrics"]
