"""Which rows a probe is fitted on."""

import numpy as np
import pytest

from geomoe.probing.splits import folds, holdout, labelled_subset, subset, validation_rows


def labels_of(count, classes, seed=0):
    return np.eye(classes, dtype=int)[np.random.default_rng(seed).integers(0, classes, count)]


def test_folds_are_disjoint_stratified_and_drawn_by_the_seed():
    labels = labels_of(101, 3)
    parts = folds(labels, 5, 0)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(101))
    per_class = np.stack([labels[part].sum(axis=0) for part in parts])
    assert (per_class.max(axis=0) - per_class.min(axis=0) <= 1).all()
    again, other = folds(labels.argmax(axis=1), 5, 0), folds(labels, 5, 1)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again))
    assert not all(np.array_equal(a, b) for a, b in zip(parts, other))
    several = (np.random.default_rng(0).random((101, 4)) < 0.5).astype(int)
    parts, other = folds(several, 4, 0), folds(several, 4, 1)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(101))
    assert {len(part) for part in parts} == {25, 26} and not np.array_equal(parts[0], other[0])
    with pytest.raises(ValueError, match="folds = 1"):
        folds(labels, 1, 0)


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
