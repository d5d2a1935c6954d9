"""Images as RGB composites, to look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from geomoe import landsat
from geomoe.models.reconstruction import Reconstruction

TRUE_COLOUR = (3, 2, 1)  # red, green, blue
FALSE_COLOUR = (4, 3, 2)  # near infrared, red, green: vegetation shows red


def composite(images: np.ndarray, statistics: Mapping[str, Any], bands: tuple[int, int, int] = TRUE_COLOUR) -> np.ndarray:
    """Normalised images to RGB composites: (N, S, S, C) -> (N, S, S, 3) in [0, 1].

    Reflectance 0 to 0.3 (true colour) or 0 to 0.5 (with near infrared) fills the range, the same for every image, with a
    gamma of 1.6 for the dark of land and water.
    """
    dn = images[..., list(bands)] * np.take(statistics["std"], bands) + np.take(statistics["mean"], bands)
    top = 0.5 if 4 in bands else 0.3
    reflectance = np.where(dn <= 0.5, 0.0, dn * landsat.REFLECTANCE_SCALE + landsat.REFLECTANCE_OFFSET)
    return np.clip(reflectance / top, 0, 1) ** (1 / 1.6)


def side_by_side(
    result: Reconstruction, statistics: Mapping[str, Any], bands: tuple[int, int, int] = TRUE_COLOUR
) -> np.ndarray:
    """Original, masked and reconstruction next to each other: (N, S, 3 * S + 4, 3) in [0, 1]."""
    original = composite(result.original, statistics, bands)
    masked = np.where(result.mask[..., None] > 0, 0.5, original)
    gap = np.ones((*original.shape[:2], 2, 3))
    return np.concatenate([original, gap, masked, gap, composite(result.reconstruction, statistics, bands)], axis=2).astype(
        np.float32
    )
