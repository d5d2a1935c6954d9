"""Images as RGB composites, to look at."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from geomoe import landsat
from geomoe.models.reconstruction import Reconstruction


class Colours(NamedTuple):
    """Three bands to look at as red, green and blue, and the reflectance that is full brightness."""

    red: str
    green: str
    blue: str
    brightest: float


TRUE_COLOUR = Colours("SR_B4", "SR_B3", "SR_B2", 0.3)
FALSE_COLOUR = Colours("SR_B5", "SR_B4", "SR_B3", 0.5)  # near infrared, red, green: vegetation shows red


def composite(images: np.ndarray, statistics: Mapping[str, Any], colours: Colours = TRUE_COLOUR) -> np.ndarray:
    """Render images, z-scored by `statistics` of Collection 2 digital numbers: (N, S, S, C) -> (N, S, S, 3) in [0, 1].

    Reflectance from 0 to that of full brightness fills the range, the same for every image, with a gamma of 1.6 for the dark
    of land and water. What has no data is black.
    """
    bands = [landsat.BANDS.index(band) for band in colours[:3]]
    dn = landsat.Statistics.of(statistics).select(bands).unnormalize(np.asarray(images)[..., bands])
    reflectance = np.nan_to_num(landsat.dn_to_reflectance(np.where(dn <= 0.5, landsat.NODATA, dn)))
    return np.clip(reflectance / colours.brightest, 0, 1) ** (1 / 1.6)


def side_by_side(result: Reconstruction, statistics: Mapping[str, Any], colours: Colours = TRUE_COLOUR) -> np.ndarray:
    """Render original, masked and reconstruction next to each other: (N, S, 3 * S + 4, 3) in [0, 1] float32."""
    original = composite(result.original, statistics, colours)
    masked = np.where(result.mask[..., None] > 0, 0.5, original)
    gap = np.ones((*original.shape[:2], 2, 3))
    reconstruction = composite(result.reconstruction, statistics, colours)
    return np.concatenate([original, gap, masked, gap, reconstruction], axis=2).astype(np.float32)
