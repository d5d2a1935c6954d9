"""Label efficiency."""

import numpy as np
import pytest
from probing_helpers import problem

from geomoe.probing import knn_probe, label_efficiency, linear_probe


def test_label_efficiency_rises_and_keeps_every_class():
    x, y = problem(6, 700, 16, 6, False)
    points = label_efficiency((x[:400], y[:400]), (x[400:], y[400:]), task="multiclass", fractions=(0.02, 1.0), seeds=(0, 1))
    assert points[0].rows >= 6 and points[1].rows == 400
    assert points[1].mean["accuracy"] > points[0].mean["accuracy"] + 0.1
    assert points[0].std["accuracy"] > 0 == points[1].std["accuracy"]
    each = label_efficiency((x, y), (x, y), task="multiclass", per_class=(3,), seeds=(0,), probe=knn_probe, k=5)
    assert each[0].rows == 18
    with pytest.raises(ValueError, match="fractions"):
        label_efficiency((x, y), (x, y), task="multiclass", fractions=(2.0,))


def test_points_are_means_over_probes_on_nested_subsets():
    x, y = problem(6, 300, 8, 4, False)
    fitted = []

    def probe(train, test, **options):
        fitted.append({row.tobytes() for row in train[0]})
        assert options["C"] == 0.5 and len(test[0]) == 100
        return linear_probe(train, test, **options)

    train, test = (x[:200], y[:200]), (x[200:], y[200:])
    options = dict(task="multiclass", fractions=(0.1, 0.4), seeds=(0, 1), C=0.5)
    points = label_efficiency(train, test, probe=probe, **options)
    assert [len(rows) for rows in fitted] == [20, 20, 80, 80] and [p.rows for p in points] == [20, 80]
    assert fitted[0] < fitted[2] and fitted[1] < fitted[3] and fitted[0] != fitted[1]
    singles = [label_efficiency(train, test, **{**options, "seeds": (seed,)}) for seed in (0, 1)]
    for i, point in enumerate(points):
        values = [single[i].mean["accuracy"] for single in singles]
        assert point.mean["accuracy"] == pytest.approx(np.mean(values))
        assert point.std["accuracy"] == pytest.approx(np.std(values, ddof=1))


def test_a_size_or_a_seed_may_stand_alone_or_in_an_array():
    x, y = problem(6, 60, 4, 2, False)
    sizes = lambda **options: [
        (p.size, p.rows) for p in label_efficiency((x, y), (x, y), task="multiclass", **{"seeds": 3, "max_iter": 5, **options})
    ]
    assert sizes(fractions=0.5) == [(0.5, 30)] and sizes(per_class=3) == [(3, 6)]
    assert sizes(per_class=np.array([1, 2]), seeds=np.arange(2)) == [(1, 2), (2, 4)]


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(seeds=()), r"seeds = \(\) names no seed"),
        (dict(seeds=(0, -1)), "seeds = -1"),
        (dict(per_class=(0.5,)), "per_class = 0.5 must be a whole number, 1 or more"),
        (dict(per_class=(2.5,)), "per_class = 2.5"),
        (dict(per_class=0), "per_class = 0"),
        (dict(fractions=()), r"fractions = \(\) must be"),
        (dict(fractions=(0.5, np.nan)), "fractions = .* more than 0 and at most 1"),
    ],
)
def test_sizes_and_seeds_without_a_meaning_are_named(options, message):
    x, y = problem(6, 60, 4, 2, False)
    with pytest.raises(ValueError, match=message):
        label_efficiency((x, y), (x, y), task="multiclass", **options)


def test_a_protocol_asks_for_no_more_neighbours_than_there_are_rows():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((100, 4)), np.arange(100) % 2
    options = dict(task="multiclass", fractions=(0.02, 1.0), seeds=(0,), probe=knn_probe)
    few, all_rows = label_efficiency((x, y), (x, y), protocol="landsat_bench", **options)
    assert few.rows == 2 and few.mean == label_efficiency((x, y), (x, y), k=2, **options)[0].mean
    assert all_rows.mean == label_efficiency((x, y), (x, y), k=5, **options)[1].mean
