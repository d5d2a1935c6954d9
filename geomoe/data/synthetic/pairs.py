"""Pairs of views of a scene, with or without a change of cover in between."""

from __future__ import annotations

from typing import Any

import numpy as np

from geomoe.data.synthetic.scenes import SPLIT_IDS, scene
from geomoe.data.synthetic.spectra import CLASSES


def change_pairs(seed: int, count: int, start: int = 0) -> dict[str, np.ndarray]:
    """Render scenes twice, one to two years apart, half of them with one cover replaced in between: for change detection.

    Season, sun, haze and noise differ between the two views of every scene; which of them change does not depend on any of it.

    Args:
        seed, start, count: scenes `start` to `start + count` of the endless list of this seed.

    Returns:
        before, after (N, 44, 44, 7) uint16 digital numbers; lat, lon (N,) degrees; time_before, time_after (N,) datetime64[s];
        changed (N,) bool: whether a cover of at least a fifth of the scene was replaced.
    """
    columns: dict[str, list[Any]] = {
        name: [] for name in ("before", "after", "lat", "lon", "time_before", "time_after", "changed")
    }
    for index in range(start, start + count):
        rng = np.random.default_rng([seed, SPLIT_IDS["pairs"], index, 2])
        first = scene(seed, "pairs", index)
        later = first.time + np.timedelta64(int(rng.integers(365, 731)), "D") + np.timedelta64(int(rng.integers(-60, 60)), "m")
        changed = bool(rng.random() < 0.5)
        replace = None
        if changed:
            share = np.bincount(first.cover.reshape(-1), minlength=len(CLASSES)) / first.cover.size
            old = int(rng.choice(np.flatnonzero(share >= 0.2)))
            new = int(rng.choice([i for i in range(len(CLASSES)) if share[i] == 0]))
            replace = (CLASSES[old], CLASSES[new])
        second = scene(seed, "pairs", index, time=later, replace_cover=replace)
        values = (first.image, second.image, first.latitude, first.longitude, first.time, later, changed)
        for column, value in zip(columns.values(), values):
            column.append(value)
    return {name: np.array(column) for name, column in columns.items()}
