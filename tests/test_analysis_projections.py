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


def test_the_unit_of_a_dimension_does_not_matter():
    x = np.random.default_rng(0).standard_normal((30, 4))
    np.testing.assert_allclose(analysis.project(x, "pca"), analysis.project(x * [1, 1, 1, 1000], "pca"), atol=1e-6)


def test_what_cannot_be_projected_is_named_and_one_point_is_one_point():
    x = np.random.default_rng(0).standard_normal((40, 5))
    for method in ("pca", "tsne"):
        np.testing.assert_array_equal(analysis.project(np.full((40, 5), 3.0), method), 0)
        with pytest.raises(ValueError, match="features are masked in 40 of 40 rows"):
            analysis.project(np.ma.masked_less(x, 10), method)
        with pytest.raises(ValueError, match="features hold NaN or infinite values in 1 of 40 rows"):
            analysis.project(np.where(np.arange(40)[:, None] == 3, np.nan, x), method)
        with pytest.raises(ValueError, match=r"3 rows and 2 features, got \(40, 1\)"):
            analysis.project(x[:, :1], method)
