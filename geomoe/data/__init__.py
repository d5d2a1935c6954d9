"""Datasets: from GeoTIFFs to batches. What reads records imports TensorFlow, on first use."""

from etils import epy as _epy

with _epy.lazy_api_imports(globals()):
    from geomoe.data.augment import Augment
    from geomoe.data.builders import BUILDERS
    from geomoe.data.pipeline import DatasetNotPreparedError, LoadOptions, builder, compute_statistics, load, num_examples

__all__ = [
    "BUILDERS",
    "Augment",
    "DatasetNotPreparedError",
    "LoadOptions",
    "builder",
    "compute_statistics",
    "load",
    "num_examples",
]
