"""Cross-validation: rows are scored by what was fitted without them."""

import dataclasses

import numpy as np
import pytest
from probing_helpers import problem

from geomoe.probing import cross_validate, group_folds, knn_probe, linear_probe, random_folds, spatial_folds
from geomoe.probing.evaluation import held_out_scores


def test_cross_validation_scores_every_row_by_others():
    x, y = problem(5, 200, 10, 3, False)
    result = cross_validate(x, y, task="multiclass", count=4, seed=1, resamples=0)
    assert result.scores.shape == (200, 3) and result.settings["folds"] == 4
    noise = np.random.default_rng(0).standard_normal((200, 150))
    assert cross_validate(noise, y, task="multiclass", C=100.0, resamples=0).metrics["accuracy"] < 0.6
    neighbour = cross_validate(x, y, task="multiclass", probe=knn_probe, k=1, resamples=0)
    assert neighbour.metrics["accuracy"] < 1  # a row is not its own neighbour


def test_no_row_is_scored_by_a_fit_that_it_is_in():
    rows = np.arange(30)
    labels = np.eye(3, dtype=int)[rows % 3]
    parts = random_folds(30, 4)
    seen = []

    def fit(train, test):
        assert not set(train[0]) & set(test[0]) and set(train[0]) | set(test[0]) == set(rows)
        np.testing.assert_array_equal(train[1], labels[train[0]])
        seen.extend(test[0])
        return np.stack([np.eye(3)[test[0] % 3] * test[0][:, None], np.ones((len(test[0]), 3))])

    scores = held_out_scores(rows, labels, parts, fit)
    assert sorted(seen) == list(rows) and scores.shape == (2, 30, 3)
    np.testing.assert_array_equal(scores[0], labels * rows[:, None])


def test_the_seed_and_the_options_reach_the_probe():
    x, y = problem(5, 120, 10, 3, False)
    one, same, other = (
        cross_validate(x, y, task="multiclass", probe=knn_probe, k=3, metric="cosine", count=3, seed=seed, resamples=0)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one.scores, same.scores)
    assert not np.array_equal(one.scores, other.scores)
    assert one.settings["k"] == 3 and one.settings["metric"] == "cosine" and one.settings["seed"] == 0
    with pytest.raises(ValueError, match="folds = 121"):
        cross_validate(x, y, task="multiclass", count=121)


def test_folds_of_any_kind_are_taken_and_named():
    """Labels that tell a place by its neighbour: folds at random find it, those of blocks do not."""
    rng = np.random.default_rng(0)
    place = rng.integers(0, 40, 240)
    labels = rng.integers(0, 2, 40)[place]
    x = rng.standard_normal((40, 6))[place] + 0.01 * rng.standard_normal((240, 6))
    latitude, longitude = 40.0 + place + 0.01 * rng.random(240), 5 + 0.01 * rng.random(240)
    options = dict(task="multiclass", probe=knn_probe, k=1, resamples=0)
    folds = spatial_folds(latitude, longitude, 4, 2, block_km=60)
    near, far = cross_validate(x, labels, count=4, **options), cross_validate(x, labels, folds=folds, **options)
    assert near.metrics["accuracy"] == 1 and far.metrics["accuracy"] < 0.75
    assert near.settings["splits"] == "stratified" and near.settings["folds"] == 4
    assert {key: far.settings[key] for key in ("splits", "block_km", "folds", "seed")} == {
        "splits": "spatial",
        "block_km": 60,
        "folds": 4,
        "seed": 2,
    }
    with pytest.raises(ValueError, match="seed = 1 would be ignored"):
        cross_validate(x, labels, folds=folds, seed=1, **options)
    with pytest.raises(ValueError, match="rows of fold 0 go from . to 2.., and there are 30 rows.* of other rows"):
        cross_validate(x[:30], labels[:30], folds=folds, **options)


@pytest.mark.parametrize("kind", ["spatial", "group"])
def test_rows_to_choose_C_on_are_whole_blocks_or_groups(kind):
    """Of a fold's training rows about a fifth, no place on both sides, and no row of the test fold."""
    rng = np.random.default_rng(0)
    place = rng.integers(0, 40, 240)
    x = np.concatenate([np.arange(240.0)[:, None], rng.standard_normal((240, 3))], axis=1)
    labels = rng.integers(0, 2, 240)
    latitude, longitude = -60 + 3.0 * place + 0.01 * rng.random(240), 5 + 0.01 * rng.random(240)
    folds = spatial_folds(latitude, longitude, 4, 2, block_km=60) if kind == "spatial" else group_folds(place, 4, 2)
    seen = []

    def probe(train, test, *, draw, **options):
        rows, scored = train[0][:, 0].astype(int), test[0][:, 0].astype(int)
        fitted, chosen = (rows[part] for part in draw(len(rows), 0))
        assert not set(fitted) & set(chosen) and set(fitted) | set(chosen) == set(rows) == set(range(240)) - set(scored)
        assert not set(place[fitted]) & set(place[chosen])
        seen.append(len(chosen) / len(rows))
        return linear_probe(train, test, draw=draw, **options)

    result = cross_validate(x, labels, task="multiclass", folds=folds, probe=probe, C=(0.1, 1.0), resamples=0)
    assert len(seen) == 4 and all(0.12 < share < 0.28 for share in seen) and result.scores.shape == (240, 2)
    with pytest.raises(ValueError, match=r"of one (block|group), so that none can be held out to choose C on; give C"):
        folds.holdout(np.flatnonzero(place == 3))


def test_the_buffer_holds_between_the_rows_that_C_is_chosen_on_and_those_fitted():
    """A line of places 10 km apart, blocks of 60 km: two places on each side of a held-out block are left out."""
    latitude = np.repeat(np.arange(80) * 10 / 111.195, 3)
    folds = spatial_folds(latitude, np.zeros(240), 3, 0, block_km=60, buffer_km=25)
    for train, _ in folds:
        fitted, chosen = (train[part] for part in folds.holdout(train))
        apart = np.abs(latitude[fitted][:, None] - latitude[chosen]) * 111.195
        assert apart.min() > 25 and 0 < len(fitted) < len(train) - len(chosen)


def test_a_sweep_within_blocks_does_not_leak():
    """Labels that tell a place by its neighbour alone: on rows drawn at random the probe looks perfect."""
    rng = np.random.default_rng(0)
    place = np.repeat(np.arange(100), 4)
    labels = rng.integers(0, 2, 100)[place]
    x = 3 * rng.standard_normal((100, 100))[place] + 0.01 * rng.standard_normal((400, 100))
    latitude, longitude = 1.5 * place - 75, np.full(400, 5.0)
    folds = spatial_folds(latitude, longitude, 5, 0, block_km=60)
    chosen = {}
    for name, part in (("blocks", folds), ("any rows", dataclasses.replace(folds, holdout=None))):
        options = dict(task="multiclass", folds=part, C=(1e-4, 1.0), resamples=0)
        chosen[name] = cross_validate(x, labels, **options).settings
    assert np.mean(chosen["any rows"]["val_score"]) > np.mean(chosen["blocks"]["val_score"]) + 0.2


def test_folds_of_scikit_learn_are_taken():
    from sklearn.model_selection import KFold, StratifiedKFold

    x, y = problem(3, 60, 4, 3, False)
    pairs = list(KFold(3).split(x))
    masks = [tuple(np.isin(np.arange(60), rows) for rows in pair) for pair in pairs]
    own = cross_validate(x, y, task="multiclass", folds=KFold(3), resamples=0)
    for train, test in pairs:
        alone = linear_probe((x[train], y[train]), (x[test], y[test]), task="multiclass", resamples=0)
        np.testing.assert_allclose(own.scores[test], alone.scores, atol=1e-6)
    for folds in (pairs, masks):
        np.testing.assert_array_equal(cross_validate(x, y, task="multiclass", folds=folds, resamples=0).scores, own.scores)
    assert cross_validate(x, y, task="multiclass", folds=StratifiedKFold(3), resamples=0).settings["folds"] == 3
    for wrong, message in (
        (3, "folds must be"),
        (pairs[:2], "the folds must test every row once.*: they test row 40 of 60 0 times"),
    ):
        with pytest.raises(ValueError, match=message):
            cross_validate(x, y, task="multiclass", folds=wrong)


def test_what_is_no_fold_is_named():
    x, y = problem(3, 60, 4, 3, False)
    even = np.arange(60) % 2 == 0
    zeros_and_ones, rows = even.astype(int), np.flatnonzero(even)
    right, other = (rows, rows + 1), (~even, even)
    expected = cross_validate(x, y, task="multiclass", folds=[(even, ~even), other], resamples=0)
    same = cross_validate(x, y, task="multiclass", folds=[right, other], resamples=0)
    np.testing.assert_array_equal(same.scores, expected.scores)
    for train, test, message in (
        (zeros_and_ones, ~even, r"training rows of fold 1 have row 0 30 times; .* mask.astype\(bool\)"),
        (np.arange(60), ~even, "30 rows, row 1 the first, are training and test rows both in fold 1"),
        ([*rows, 60], ~even, "training rows of fold 1 go from 0 to 60, and there are 60 rows"),
        ([-1, *rows], ~even, "training rows of fold 1 go from -1 to 58"),
        (rows.astype(float), ~even, "training rows of fold 1 must be indices, or a mask that is bool, got float64"),
        (rows, (rows + 1).astype(float), "test rows of fold 1 must be indices"),
        ([], ~even, "training rows of fold 1 must be indices .*, one at least"),
        (rows[:, None], ~even, "training rows of fold 1 must be indices"),
        (even[:50], ~even, r"a mask of fold 1 is \(50,\), and there are 60 rows"),
        (rows, rows[:3] + 1, "the folds must test every row once.*: they test row 7 of 60 0 times"),
    ):
        with pytest.raises(ValueError, match=message):
            cross_validate(x, y, task="multiclass", folds=[other, (train, test)], resamples=0)


def test_splitters_that_cannot_serve_say_what_does():
    from sklearn.model_selection import GroupKFold, RepeatedKFold, ShuffleSplit

    x, y = problem(3, 60, 4, 3, False)
    once = "the folds must test every row once"
    named = "group_folds.*'groups' parameter"
    for splitter, message in ((GroupKFold(3), named), (ShuffleSplit(3), once), (RepeatedKFold(n_splits=3), once)):
        with pytest.raises(ValueError, match=message):
            cross_validate(x, y, task="multiclass", folds=splitter)


def test_a_stratified_splitter_takes_labels_in_columns():
    from sklearn.model_selection import StratifiedKFold

    x, y = problem(3, 60, 4, 3, False)
    options = dict(task="multiclass", folds=StratifiedKFold(3), resamples=0)
    flat, columns = (cross_validate(x, labels, **options) for labels in (y, np.eye(3, dtype=int)[y]))
    np.testing.assert_array_equal(columns.scores, flat.scores)


@pytest.mark.parametrize("C", [(0.1, 1.0, 10.0, 100.0), "sweep"])
def test_the_C_of_each_fold_is_said(C):
    x, y = problem(5, 120, 10, 3, False)
    folds = group_folds(np.arange(120) // 4, 3)
    settings = cross_validate(x, y, task="multiclass", folds=folds, C=C, resamples=0).settings
    alone = []
    for train, test in folds:
        draw = lambda count, seed, train=train: folds.holdout(train)
        fit = linear_probe((x[train], y[train]), (x[test], y[test]), task="multiclass", C=C, draw=draw, resamples=0)
        alone.append(fit.settings)
    for key in ("C", "val", "val_score"):
        assert settings[key] == [each[key] for each in alone]
    assert len(set(settings["C"])) > 1 and settings["train"] == settings["test"] == 120
    assert cross_validate(x, y, task="multiclass", folds=folds, C=0.5, resamples=0).settings["C"] == 0.5
