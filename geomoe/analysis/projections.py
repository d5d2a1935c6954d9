"""Embeddings in two dimensions, to look at."""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from geomoe.probing.metrics import check_finite, check_unmasked

METHODS = ("pca", "tsne")


def project(features: np.ndarray, method: str = "tsne", seed: int = 0) -> np.ndarray:
    """Project standardised features to two dimensions, by scikit-learn: (N, D) -> (N, 2).

    Args:
        features: N of at least 3, D of at least 2.
        method: "pca", or "tsne" (van der Maaten and Hinton 2008; perplexity 30, less for few rows, started from PCA).

    Raises:
        ValueError: an unknown method, fewer than 3 rows or 2 features, or features that are masked or NaN.
    """
    if method not in METHODS:
        raise ValueError(f"method = {method!r} is not one of {', '.join(METHODS)}")
    check_unmasked("features", features)
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < 3 or features.shape[1] < 2:
        raise ValueError(f"features must be (N, D) with at least 3 rows and 2 features, got {features.shape}")
    check_finite("features", features)
    if not np.ptp(features, axis=0).any():
        return np.zeros((len(features), 2))  # all in one point
    std = features.std(axis=0)
    features = (features - features.mean(axis=0)) / np.where(std > 0, std, 1)
    if method == "pca":
        return PCA(2, random_state=seed).fit_transform(features)
    reduced = PCA(min(50, *features.shape), random_state=seed).fit_transform(features)
    return TSNE(2, perplexity=min(30, (len(features) - 1) / 3), init="pca", random_state=seed).fit_transform(reduced)
