"""Which rows a probe is fitted on."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

from geomoe.probing import group_folds, random_folds, spatial_folds, stratified_folds
from geomoe.probing.splits import holdout, labelled_subset, subset, validation_rows


def labels_of(count, classes, seed=0):
    return np.eye(classes, dtype=int)[np.random.default_rng(seed).integers(0, classes, count)]


def rows_scored(folds):
    """The test rows of each fold, which must be all rows, each once, and fitted on others."""
    tests = [fold.test for fold in folds]
    rows = sum(map(len, tests))
    np.testing.assert_array_equal(np.sort(np.concatenate(tests)), np.arange(rows))
    assert all(not set(fold.train) & set(fold.test) for fold in folds)
    return tests


def test_folds_at_random_and_by_class():
    labels = labels_of(101, 3)
    parts = rows_scored(folds := stratified_folds(labels, 5, 0))
    assert all(len(fold.train) + len(fold.test) == 101 for fold in folds)
    assert folds.settings == {"splits": "stratified", "folds": 5, "seed": 0} and len(folds) == 5
    per_class = np.stack([labels[part].sum(axis=0) for part in parts])
    assert (per_class.max(axis=0) - per_class.min(axis=0) <= 1).all()
    again, other = rows_scored(stratified_folds(labels.argmax(axis=1), 5, 0)), rows_scored(stratified_folds(labels, 5, 1))
    assert all(np.array_equal(a, b) for a, b in zip(parts, again))
    assert not all(np.array_equal(a, b) for a, b in zip(parts, other))
    parts, other = rows_scored(random_folds(101, 4, 0)), rows_scored(random_folds(101, 4, 1))
    assert {len(part) for part in parts} == {25, 26} and not np.array_equal(parts[0], other[0])
    for draw in (lambda count: stratified_folds(labels, count), lambda count: random_folds(101, count)):
        for count in (1, 102):
            with pytest.raises(ValueError, match=f"folds = {count} must be between 2 and the 101 rows"):
                draw(count)


def test_rare_labels_of_several_a_row_are_spread_over_the_folds():
    rng = np.random.default_rng(0)
    labels = (rng.random((200, 6)) < [0.5, 0.3, 0.1, 0.05, 0.04, 0.3]).astype(int)
    labels[:20] = 0  # without any
    parts = rows_scored(stratified_folds(labels, 4, 0))
    assert all(48 <= len(part) <= 52 for part in parts)
    per_class = np.stack([labels[part].sum(axis=0) for part in parts])
    assert (per_class.max(axis=0) - per_class.min(axis=0) <= 2).all()
    at_random = np.stack([labels[part].sum(axis=0) for part in rows_scored(random_folds(200, 4, 0))])
    assert (at_random.max(axis=0) - at_random.min(axis=0)).max() > 4
    assert not np.array_equal(parts[0], rows_scored(stratified_folds(labels, 4, 1))[0])


def great_circle(latitude, longitude):
    """Distances in km between all pairs, by angles between unit vectors, apart from the code under test."""
    lat, lon = np.radians(latitude), np.radians(longitude)
    v = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
    return 2 * 6371.0088 * np.arcsin(np.minimum(np.linalg.norm(v[:, None] - v[None], axis=2) / 2, 1))


@pytest.mark.parametrize(
    "centre", [(48.0, 11.0), (0.0, 180.0), (-65.0, -179.5), (86.9, 0.0)], ids=["here", "antimeridian", "both", "pole"]
)
def test_spatial_folds_keep_blocks_together_and_the_buffer_free(centre):
    rng = np.random.default_rng(0)
    latitude = np.clip(centre[0] + rng.uniform(-3, 3, 400), -90, 90)
    longitude = centre[1] + rng.uniform(-3, 3, 400) / max(np.cos(np.radians(centre[0])), 0.05)
    longitude = (longitude + 180) % 360 - 180
    distance = great_circle(latitude, longitude)
    folds = spatial_folds(latitude, longitude, 4, 0, block_km=60, buffer_km=25)
    tests = rows_scored(folds)
    assert max(map(len, tests)) - min(map(len, tests)) < 60
    left_out = 0
    for train, test in folds:
        rest = np.setdiff1d(np.arange(400), test)
        np.testing.assert_array_equal(train, rest[distance[np.ix_(rest, test)].min(axis=1) >= 25])
        left_out += len(rest) - len(train)
    assert left_out > 0
    # Blocks of 60 km are about square: most of what is within 5 km is in one's own fold, and none of one is 3 blocks wide.
    fold_of = np.empty(400, int)
    for i, test in enumerate(tests):
        fold_of[test] = i
    near = (distance < 5) & ~np.eye(400, dtype=bool)
    assert near.sum() > 20 and (fold_of[:, None] == fold_of[None])[near].mean() > 0.75
    plain, other = (rows_scored(spatial_folds(latitude, longitude, 4, seed, block_km=60)) for seed in (0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(plain, tests)) and not np.array_equal(plain[0], other[0])
    settings = dict(folds.settings)
    assert settings.pop("blocks") > 50
    assert settings == {"splits": "spatial", "block_km": 60, "buffer_km": 25, "folds": 4, "seed": 0}


def test_neighbours_across_180_degrees_are_in_one_fold():
    """Pairs 20 m apart, on both sides: torn only where the edge of two bands of blocks lies between them, which is nowhere."""
    latitude = np.repeat(np.linspace(-70, 70, 60), 2)
    longitude = np.tile([179.9999, -179.9999], 60)
    for seed in range(20):
        folds = spatial_folds(latitude, longitude, 3, seed, block_km=80)
        fold_of = np.empty(120, int)
        for i, fold in enumerate(folds):
            fold_of[fold.test] = i
        np.testing.assert_array_equal(fold_of[::2], fold_of[1::2])
    same = [spatial_folds(latitude, lon, 3, 0, block_km=80) for lon in (longitude, longitude % 360)]
    assert all(np.array_equal(a.test, b.test) for a, b in zip(*same))


def test_a_block_has_the_side_that_it_says_at_every_latitude():
    """Along a parallel and a meridian a new block begins about every 100 km: the number of blocks is that of its length."""
    for latitude in (0.0, 60.0, -80.0):
        around = 2 * np.pi * 6371.0088 * np.cos(np.radians(latitude))
        longitude = np.linspace(-180, 180, 4000)
        blocks = spatial_folds(np.full(4000, latitude), longitude, 2, 0, block_km=100).settings["blocks"]
        assert blocks == pytest.approx(around / 100, rel=0.15, abs=1)
    meridian = spatial_folds(np.linspace(-60, 60, 4000), np.zeros(4000), 2, 0, block_km=100).settings["blocks"]
    assert meridian == pytest.approx(6371.0088 * np.radians(120) / 100, abs=2)


def test_spatial_folds_without_room_are_refused():
    latitude, longitude = np.linspace(40, 41, 30), np.full(30, 5.0)
    for arguments, options, message in (
        ((np.where(np.arange(30) < 3, np.nan, latitude), longitude), {}, "3 of 30 rows have no location"),
        ((latitude + 60, longitude), {}, "30 of 30 rows have no latitude within 90"),
        ((latitude, longitude[:5]), {}, r"must be \(N,\) both"),
        ((latitude, longitude), dict(block_km=2000), "makes [12] blocks of these rows, fewer than the 5 folds"),
        ((latitude, longitude), dict(block_km=0), "block_km = 0 must be above 0"),
        ((latitude, longitude), dict(block_km=10, buffer_km=500), "leaves no row to fit on"),
    ):
        with pytest.raises(ValueError, match=message):
            spatial_folds(*arguments, **options)


def test_groups_are_never_torn():
    groups = np.array(["a", "b", "c", "d", "e"])[np.random.default_rng(0).integers(0, 5, 80)]
    tests = rows_scored(folds := group_folds(groups, 3, 0))
    assert sum(len(set(groups[test])) for test in tests) == 5 and folds.settings["groups"] == 5
    assert folds.settings["splits"] == "group"
    np.testing.assert_array_equal(rows_scored(group_folds(list(groups), 3, 0))[0], tests[0])
    with pytest.raises(ValueError, match="folds = 6 must be between 2 and the 5 groups"):
        group_folds(groups, 6)
    for lacking in (["a", "b", ""], [0.0, float("nan"), 1.0], ["a", None, "b"]):
        with pytest.raises(ValueError, match="1 of 3 rows have no group"):
            group_folds(lacking, 2)


def test_scikit_learn_takes_folds():
    x = np.random.default_rng(0).standard_normal((60, 3))
    y = (x[:, 0] > 0).astype(int)
    scores = cross_val_score(LogisticRegression(), x, y, cv=spatial_folds(10 * x[:, 1], 10 * x[:, 2], 3, block_km=300))
    assert len(scores) == 3 and scores.min() > 0.7


def test_a_holdout_is_a_share_drawn_by_the_seed():
    rows, rest = holdout(50, 3)
    assert len(rest) == 10
    np.testing.assert_array_equal(np.sort(np.concatenate([rows, rest])), np.arange(50))
    assert set(rest) != set(holdout(50, 4)[1])


def test_validation_rows_are_those_of_the_split_or_a_fifth():
    x = np.arange(20.0)[:, None]
    y, val = labels_of(20, 2), (100 + np.arange(4.0)[:, None], labels_of(4, 2, 1))
    fit, chosen, joined = validation_rows((x, y), val, 0)
    assert fit[0] is x and chosen is val
    np.testing.assert_array_equal(joined[0][:, 0], [*range(20), 100, 101, 102, 103])
    fit, chosen, joined = validation_rows((x, y), None, 0)
    assert len(chosen[0]) == 4 and not set(fit[0][:, 0]) & set(chosen[0][:, 0])
    assert joined[0] is x and joined[1] is y
    np.testing.assert_array_equal(y[fit[0][:, 0].astype(int)], fit[1])
    assert set(chosen[0][:, 0]) != set(validation_rows((x, y), None, 1)[1][0][:, 0])


def test_subsets_grow_and_differ_by_seed():
    assert len(subset(40, 0.25, 0)) == 10 and len(subset(40, 0.001, 0)) == 1 and len(subset(40, 1.0, 0)) == 40
    assert set(subset(40, 0.25, 0)) < set(subset(40, 0.5, 0))
    assert set(subset(40, 0.25, 0)) != set(subset(40, 0.25, 1))


@pytest.mark.parametrize("sizes", [[{"fraction": f} for f in (0.02, 0.1, 0.5, 1.0)], [{"per_class": n} for n in (1, 3, 9)]])
def test_labelled_subsets_are_nested_and_have_every_class(sizes):
    labels = labels_of(200, 5)
    before = set()
    for size in sizes:
        rows = labelled_subset(labels, 0, **size)
        assert len(set(rows)) == len(rows) and before < set(rows) and labels[rows].any(axis=0).all()
        if "per_class" in size:
            assert (labels[rows].sum(axis=0) == size["per_class"]).all()
        else:
            assert len(rows) == max(round(200 * size["fraction"]), 5)
        before = set(rows)
    assert before == set(range(200)) or set(labelled_subset(labels, 1, **sizes[-1])) != before
    assert set(labelled_subset(labels, 1, **sizes[1])) != set(labelled_subset(labels, 0, **sizes[1]))


def test_groups_of_several_values_and_labels_that_are_none():
    pairs = [(i // 6, "a" if i % 2 else "b") for i in range(36)]
    for groups in (pairs, np.array([(i // 6, i % 2) for i in range(36)])):
        for train, test in group_folds(groups, 3):
            assert not {tuple(groups[i]) for i in train} & {tuple(groups[i]) for i in test}
        assert len(group_folds(groups, 12)) == 12
    with pytest.raises(ValueError, match=r"labels must be class indices \(N,\), or \(N, K\) of 0 and 1, got \(36, 1\)"):
        stratified_folds(np.arange(36)[:, None] % 3, 3)
    with pytest.raises(ValueError, match="labels must be class indices"):
        stratified_folds(np.array([[1.0, np.nan]] * 36), 3)
    with pytest.raises(ValueError, match="labels are missing"):
        stratified_folds(np.array([1.0, np.nan] * 18), 3)


def test_groups_are_rows_of_a_table_and_of_mixed_types():
    frame = pd.DataFrame({"path": np.arange(60) // 12, "row": np.arange(60) // 6 % 2, "name": np.tile(["a", "b"], 30)})
    for columns, count in ((["path", "row"], 10), (["path", "name"], 10), (["path"], 5)):
        rows = list(frame[columns].itertuples(index=False, name=None))
        folds = group_folds(frame[columns], 3)
        assert folds.settings["groups"] == len(set(rows)) == count
        for train, test in folds:
            assert not {rows[i] for i in train} & {rows[i] for i in test} and len(train) + len(test) == 60
    mixed = np.array([1, "a", 2, "b", 1, "a"], object)
    for train, test in (folds := group_folds(mixed, 2)):
        assert not set(mixed[train]) & set(mixed[test])
    assert folds.settings["groups"] == 4
    for lacking in (
        [(np.nan, 1), (1, 2), (2, 2)],
        [("", 1), (1, 2), (2, 2)],
        pd.DataFrame({"a": [1, None, 3], "b": [1, 2, 3]}),
    ):
        with pytest.raises(ValueError, match="1 of 3 rows have no group"):
            group_folds(lacking, 2)
    for draw in (random_folds, lambda rows, count, seed: group_folds(np.arange(rows), count, seed)):
        with pytest.raises(ValueError, match="seed = -1 must be a whole number"):
            draw(10, 2, seed=-1)


def test_groups_may_be_arrays_of_one_number():
    groups = [1, 1, 2, 2, 3, 3]
    expected = [fold.test.tolist() for fold in group_folds(groups, 3)]
    for form in ([np.array(group) for group in groups], list(np.array(groups))):
        assert [fold.test.tolist() for fold in group_folds(form, 3)] == expected
