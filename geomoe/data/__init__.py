"""Datasets: from GeoTIFFs to batches. What reads records imports TensorFlow, on first use."""

from etils import epy as _epy

with _epy.lazy_api_imports(globals()):
    from geomoe.data.augment import Augment as Augment
    from geomoe.data.builders import BUILDERS as BUILDERS
    from geomoe.data.pipeline import (
        DamagedDatasetError as DamagedDatasetError,
        DatasetNotPreparedError as DatasetNotPreparedError,
        LoadOptions as LoadOptions,
        builder as builder,
        compute_statistics as compute_statistics,
        fingerprint as fingerprint,
        load as load,
        num_examples as num_examples,
        shared_examples as shared_examples,
    )
