"""The only import of TensorFlow: a reader of data here, kept from the accelerators."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

try:
    import tensorflow as tf
    import tensorflow_datasets as tfds
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"prepared datasets and training need {error.name}: pip install 'geomoe[train]'") from error

tf.config.set_visible_devices([], "GPU")
tf.config.set_visible_devices([], "TPU")

__all__ = ["tf", "tfds"]
