"""Projections."""

import numpy as np
import pytest

from geomoe import analysis


def test_projections_keep_groups_apart():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((60, 10)) + 20 * np.repeat(np.eye(10)[:2], 30, axis=0)
    for method in ("pca", "tsne"):
        flat = analysis.project(features, method)
        a, b = flat[:30], flat[30:]
        assert flat.shape == (60, 2)
        apart, wide = np.linalg.norm(a.mean(axis=0) - b.mean(axis=0)), max(a.std(axis=0).max(), b.std(axis=0).max())
        assert apart > 2 * wide, method
    with pytest.raises(ValueError, match="method = 'umap'"):
        analysis.project(features, "umap")
    with pytest.raises(ValueError, match="at least 3 rows"):
        analysis.project(features[:2])
