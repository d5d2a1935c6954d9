"""Datasets: from GeoTIFFs to batches. What reads records imports TensorFlow, on first use."""

from etils import epy as _epy

with _epy.lazy_api_imports(globals()):
    from geomoe.data.augment import Augment as Augment
    from geomoe.data.builders import BUILDERS as BUILDERS
    from geomoe.data.pipeline import DatasetNotPreparedError as DatasetNotPreparedError
    from geomoe.data.pipeline import LoadOptions as LoadOptions
    from geomoe.data.pipeline import builder as builder
    from geomoe.data.pipeline import compute_statistics as compute_statistics
    from geomoe.data.pipeline import load as load
    from geomoe.data.pipeline import num_examples as num_examples
