"""geomoe: a metadata-aware mixture-of-experts masked autoencoder for Landsat patches, in JAX.

    import geomoe
    encoder = geomoe.load("runs/demo")
    z = encoder.embed(images, lat=lat, lon=lon, time=time)

Submodules load on first use; only `geomoe.data` imports TensorFlow.
"""

from etils import epy

from geomoe.version import __version__

with epy.lazy_api_imports(globals()):
    from geomoe import analysis, data, embeddings, export, landsat, metadata, models, probing, training, weights
    from geomoe.pretrained import PretrainedEncoder, load

__all__ = [
    "PretrainedEncoder",
    "__version__",
    "analysis",
    "data",
    "embeddings",
    "export",
    "landsat",
    "load",
    "metadata",
    "models",
    "probing",
    "training",
    "weights",
]
