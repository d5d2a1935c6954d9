"""Ridge regression against scikit-learn."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score, root_mean_squared_error

from geomoe.probing import fit_ridge, load_probe, regression_metrics, ridge_probe


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


@pytest.mark.parametrize("offset, scale", [(5_300_000.0, 1.0), (1.6e9, 900.0)])
def test_targets_far_from_0_keep_their_digits(offset, scale, tmp_path):
    """A northing in metres within a patch, and seconds since 1970 within an hour; also of a saved model."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 8)).astype(np.float32)
    y = offset + scale * (x @ rng.standard_normal(8) + 0.1 * rng.standard_normal(60))
    result = ridge_probe((x[:40], y[:40]), (x[40:], y[40:]), alpha=1.0, standardise=False, resamples=0)
    expected = Ridge(alpha=1.0).fit(x[:40].astype(float), y[:40]).predict(x[40:].astype(float))
    np.testing.assert_allclose(result.predictions[:, 0] - offset, expected - offset, atol=1e-4 * scale)
    assert result.metrics["rmse"] == pytest.approx(root_mean_squared_error(y[40:], expected), rel=1e-3)
    result.model.save(tmp_path / "ridge.npz")
    np.testing.assert_array_equal(load_probe(tmp_path / "ridge.npz").predict(x[40:]), result.predictions)


def test_a_target_that_is_the_same_in_all_test_rows_has_no_r2_and_the_others_have():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 8))
    y = x @ rng.standard_normal((8, 3)) + 0.1 * rng.standard_normal((60, 3))
    y[40:, 2] = 0.1  # of which the mean over these rows is not quite 0.1
    result = ridge_probe((x[:40], y[:40]), (x[40:], y[40:]), alpha=1.0, resamples=20)
    assert result.metrics["r2"] == pytest.approx(r2_score(y[40:, :2], result.predictions[:, :2]))
    assert result.intervals["r2"][0] < result.metrics["r2"] < result.intervals["r2"][1]
    y[40:] = 0.1
    assert np.isnan(ridge_probe((x[:40], y[:40]), (x[40:], y[40:]), alpha=1.0, resamples=0).metrics["r2"])


def test_splits_and_options_without_a_meaning_are_named():
    x, y = np.random.default_rng(0).standard_normal((30, 3)), np.arange(30.0)
    for train, test, options, message in (
        ((x, y), (x[:0], y[:0]), {}, "test is empty"),
        ((x[:0], y[:0]), (x, y), {}, "train is empty"),
        ((x[:1], y[:1]), (x, y), {}, "none of 1 training rows can be held out to choose on; give val"),
        ((x, y), (x, [*y[:-1], None]), {}, "test targets are missing"),
        ((x, y), (x, y), dict(alpha=[]), r"alpha = \[\] must be positive, one number or several"),
        ((x, y), (x, y), dict(alpha=(1.0, -2.0)), r"alpha = \(1.0, -2.0\) must be positive"),
        ((x, y), (x, y), dict(resamples=-1), "resamples = -1 must be a whole number, 0 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            ridge_probe(train, test, **options)
    with pytest.raises(ValueError, match="features are empty"):
        fit_ridge(x[:0], y[:0])


def test_targets_of_another_width_are_not_stretched():
    x, y = np.ones((30, 3)), np.arange(60.0).reshape(30, 2)
    with pytest.raises(ValueError, match="differ in width"):
        ridge_probe((x, y), (x, y[:, 0]))
    with pytest.raises(ValueError, match=r"targets \(30, 1\) and predictions \(30, 2\) differ in shape"):
        regression_metrics(y[:, 0], y)


def test_features_far_from_0_keep_their_digits():
    """A northing in metres, of which float32 keeps halves of a metre, beside other features."""
    rng = np.random.default_rng(0)
    northing = 5.3e6 + rng.uniform(0, 100, 200)
    x = np.column_stack([rng.standard_normal((200, 6)), northing])
    y = x[:, 0] + 0.05 * (northing - 5.3e6) + 0.005 * rng.standard_normal(200)
    mean, std = x[:150].mean(axis=0), x[:150].std(axis=0)
    model = Ridge(alpha=0.01).fit((x[:150] - mean) / std, y[:150])
    expected = model.predict((x[150:] - mean) / std)
    result = ridge_probe((x[:150], y[:150]), (x[150:], y[150:]), alpha=0.01, resamples=0)
    np.testing.assert_allclose(result.predictions[:, 0], expected, atol=1e-6)
    assert result.metrics["rmse"] == pytest.approx(root_mean_squared_error(y[150:], expected), rel=1e-4)


def test_features_and_targets_that_do_not_fit_are_named():
    x = np.random.default_rng(0).standard_normal((6, 4))
    for features, targets in ((x, x[:5, 0]), (x[:, 0], x[:, 0]), (x, x[:, :, None])):
        with pytest.raises(ValueError, match=r"features must be \(N, D\) and targets \(N,\) or \(N, K\), got"):
            fit_ridge(features, targets)
