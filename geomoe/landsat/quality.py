"""Quality bands: which pixels are clouds."""

from __future__ import annotations

import numpy as np


def is_cloud(qa: np.ndarray, kind: str) -> np.ndarray:
    """Find clouds (and, in Collection 2, their shadows) in a quality band.

    Args:
        qa: uint16 bit field.
        kind: "QA_PIXEL" of Collection 2 (bits 1 dilated cloud, 2 cirrus, 3 cloud, 4 shadow; USGS LSDS-1619), or "BQA" from
            before the collections (bits 14 and 15: cloud confidence, 3 is high).

    Returns:
        bool, of the shape of `qa`.

    Raises:
        ValueError: `kind` is neither.
    """
    qa = np.asarray(qa, np.uint16)
    if kind == "QA_PIXEL":
        return (qa & 0b11110) != 0
    if kind == "BQA":
        return (qa >> 14) == 3
    raise ValueError(f"kind = {kind!r} is not 'QA_PIXEL' or 'BQA'")
