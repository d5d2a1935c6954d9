"""The nested choice is scored on rows without a part in it."""

import numpy as np

from geomoe.experiments import Protocol, comparison as module, cross_validated, nested_choice, scoring

SHORT = Protocol(strengths=(0.1, 1.0), folds=4, seeds=(0, 3))


def noise_and_labels():
    rng = np.random.default_rng(1)
    labels = (rng.random((60, 3)) < 0.4).astype(int)
    return {f"noise {i}": rng.standard_normal((60, 4)) for i in range(6)}, labels


def test_chance_scores_nothing_and_features_that_tell_are_chosen():
    noise, labels = noise_and_labels()
    choice = nested_choice(noise, labels)
    best = max(cross_validated(z, labels)[0] for z in noise.values())
    assert choice.micro_mAP < best and sum(choice.counts.values()) == 15
    telling = {**noise, "telling": labels + 0.3 * np.random.default_rng(2).standard_normal((60, 3))}
    choice = nested_choice(telling, labels)
    assert choice.counts == {"telling": 15} and choice.micro_mAP > 0.95 and choice.macro_mAP > 0.95


def test_no_fit_before_a_fold_is_scored_sees_its_rows(monkeypatch):
    noise, labels = noise_and_labels()
    number = np.arange(60.0)[:, None]
    candidates = {name: np.concatenate([number, noise[name]], axis=1) for name in list(noise)[:2]}
    inner, outer = [], []
    fit = scoring.fit_logistic

    def record(rows):
        def fit_and_record(features, y, **options):
            index = features[:, 0].astype(int)
            np.testing.assert_array_equal(y, labels[index])
            rows.append(set(index))
            return fit(features, y, **options)

        return fit_and_record

    def record_outer(features, y, **options):
        inner_rows = set().union(*inner)
        inner.clear()
        models = record(outer)(features, y, **options)
        assert inner_rows == outer[-1]  # the choice was made among these rows, and by all of them
        return models

    monkeypatch.setattr(scoring, "fit_logistic", record(inner))
    monkeypatch.setattr(module, "fit_logistic", record_outer)
    nested_choice(candidates, labels, SHORT)
    assert len(outer) == 8 and all(len(rows) == 45 for rows in outer)
    for folds in (outer[:4], outer[4:]):  # each row is left out once for each seed
        assert sorted(row for rows in folds for row in set(range(60)) - rows) == list(range(60))
    assert {frozenset(rows) for rows in outer[:4]} != {frozenset(rows) for rows in outer[4:]}
