"""Datasets: from GeoTIFFs to batches. Importing this imports TensorFlow."""

from geomoe.data import tensorflow_setup  # noqa: F401, I001  (first, so that TensorFlow leaves accelerators alone)
from geomoe.data.builders import BUILDERS
from geomoe.data.pipeline import (
    Augment,
    DatasetNotPreparedError,
    Statistics,
    builder,
    compute_statistics,
    load,
    num_examples,
    published_statistics,
)

__all__ = [
    "BUILDERS",
    "Augment",
    "DatasetNotPreparedError",
    "Statistics",
    "builder",
    "compute_statistics",
    "load",
    "num_examples",
    "published_statistics",
]
