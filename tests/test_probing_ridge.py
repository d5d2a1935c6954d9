"""Ridge regression against scikit-learn."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score, root_mean_squared_error

from geomoe.probing import fit_ridge, regression_metrics, ridge_probe


def test_ridge_is_scikit_learns():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 10)) + 5
    y = x @ rng.standard_normal((10, 2)) + rng.standard_normal((300, 2))
    model = Ridge(alpha=3.0).fit(x, y)
    np.testing.assert_allclose(fit_ridge(x, y, alpha=3.0)[0].coef, model.coef_.T, rtol=1e-4)
    result = ridge_probe((x[:200], y[:200]), (x[200:], y[200:]), resamples=50)
    assert result.metrics["r2"] == pytest.approx(r2_score(y[200:], result.predictions))
    both = [root_mean_squared_error(y[200:, i], result.predictions[:, i]) ** 2 for i in range(2)]
    assert result.metrics["rmse"] == pytest.approx(np.mean(both) ** 0.5)
    assert result.intervals["r2"][0] < result.metrics["r2"] < result.intervals["r2"][1]
    with pytest.raises(ValueError, match="NaN"):
        ridge_probe((x, y * np.nan), (x, y))


def test_alpha_is_the_best_on_validation_rows_alone():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((90, 40)).astype(np.float32)
    y = x @ rng.standard_normal(40) + 6 * rng.standard_normal(90)
    train, val, test = ((x[s], y[s]) for s in (slice(50), slice(50, 70), slice(70, None)))
    grid = [1e-3, 1.0, 30.0, 1000.0]
    scaled = [(z - train[0].mean(axis=0)) / train[0].std(axis=0) for z in (train[0], val[0])]
    scores = [r2_score(val[1], Ridge(alpha=a).fit(scaled[0], train[1]).predict(scaled[1])) for a in grid]
    result = ridge_probe(train, test, val=val, alpha=grid, resamples=0)
    assert result.settings["alpha"] == grid[int(np.argmax(scores))] != grid[int(np.argmin(scores))]
    joined = np.concatenate([train[0], val[0]]), np.concatenate([train[1], val[1]])
    again = ridge_probe(joined, test, alpha=result.settings["alpha"], resamples=0)
    np.testing.assert_array_equal(result.predictions, again.predictions)


def test_a_target_that_is_the_same_in_all_validation_rows_chooses_no_alpha():
    """A rare cover, 0 nearly everywhere, has no R2 there; the others choose as they would alone."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 16))
    y = np.concatenate([x @ rng.standard_normal((16, 2)) + 0.1 * rng.standard_normal((300, 2)), np.zeros((300, 1))], axis=1)
    y[[3, 250], 2] = 0.4
    train, val, test = ((x[s], y[s]) for s in (slice(150), slice(150, 200), slice(200, None)))
    rare = ridge_probe(train, test, val=val, resamples=0)
    alone = ridge_probe(*((z[0], z[1][:, :2]) for z in (train, test)), val=(val[0], val[1][:, :2]), resamples=0)
    assert rare.settings["alpha"] == alone.settings["alpha"] < 1
    np.testing.assert_allclose(rare.predictions[:, :2], alone.predictions, atol=1e-4)
    with pytest.raises(ValueError, match="targets of the 1 validation rows are all the same, so that no alpha"):
        ridge_probe(train, test, val=(x[:1], y[:1]), resamples=0)


def test_targets_of_another_width_are_not_stretched():
    x, y = np.ones((30, 3)), np.arange(60.0).reshape(30, 2)
    with pytest.raises(ValueError, match="differ in width"):
        ridge_probe((x, y), (x, y[:, 0]))
    with pytest.raises(ValueError, match=r"targets \(30, 1\) and predictions \(30, 2\) differ in shape"):
        regression_metrics(y[:, 0], y)
