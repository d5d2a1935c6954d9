"""The choice among recipes and pools by nested folds."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from geomoe.experiments.scoring import Protocol
from geomoe.probing.crossval import held_out_scores
from geomoe.probing.linear import fit_logistic
from geomoe.probing.splits import Rows, folds


class NestedChoice(NamedTuple):
    """Score of a choice.

    Attributes:
        micro_mAP, macro_mAP: of the rows of all folds, means over the seeds.
        counts: how often each candidate was chosen, the most frequent first.
    """

    micro_mAP: float
    macro_mAP: float
    counts: dict[str, int]


def nested_choice(
    candidates: Mapping[str, np.ndarray],
    labels: np.ndarray,
    protocol: Protocol = Protocol(),  # noqa: B008  (frozen)
) -> NestedChoice:
    """Score the choosing among features, not the best of them.

    In each fold the candidate and its C are those with the highest micro mAP in cross-validation within the other folds; the
    fold is then scored by them: the rows that a choice is scored on have no part in it.

    Args:
        candidates: name -> (N, D).
        labels: (N, K) 0/1.
        protocol: of the folds, C and scores; the inner folds are one less.
    """
    counts: collections.Counter[str] = collections.Counter()
    total = np.zeros(2)
    for seed in protocol.seeds:

        def fit(train: Rows, test: Rows, seed: int = seed) -> np.ndarray:
            (rows, y), (test_rows, _) = train, test
            inner = folds(y, protocol.folds - 1, seed)
            best, name, strength = -np.inf, "", 0.0
            for candidate, features in candidates.items():
                path = held_out_scores(features[rows], y, inner, protocol.path)
                for C, scores in zip(protocol.strengths, path):
                    micro = protocol.micro_macro(y, scores)[0]
                    if micro > best:
                        best, name, strength = micro, candidate, C
            counts[name] += 1
            features = candidates[name]
            model = fit_logistic(features[rows], y, task="multilabel", C=strength, standardise=True)[0]
            return model.probabilities(features[test_rows])

        parts = folds(labels, protocol.folds, seed)
        total += protocol.micro_macro(labels, held_out_scores(np.arange(len(labels)), labels, parts, fit))
    micro, macro = total / len(protocol.seeds)
    return NestedChoice(float(micro), float(macro), dict(counts.most_common()))
