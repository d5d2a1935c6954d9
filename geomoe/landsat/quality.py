"""Quality bands of Landsat products: what their bits say of a pixel."""

from collections.abc import Sequence

import numpy as np

from geomoe.landsat.units import unmasked

QUALITY_CLASSES = ("fill", "dilated_cloud", "cirrus", "cloud", "shadow", "snow")
_CLOUDY = ("dilated_cloud", "cirrus", "cloud", "shadow")
# Class -> first bit, number of bits, the number that says yes: a flag, or a confidence of which 3 is high.
_LAYOUTS = {
    # Collection 2 (USGS LSDS-1619).
    "QA_PIXEL": {name: (bit, 1, 1) for bit, name in enumerate(QUALITY_CLASSES)},
    # Collection 1, Landsat 8 (USGS LSDS-1873).
    "BQA_C1": {"fill": (0, 1, 1), "cloud": (4, 1, 1), "shadow": (7, 2, 3), "snow": (9, 2, 3), "cirrus": (11, 2, 3)},
    # Collection 1 surface reflectance as ESPA delivered it (USGS LSDS-1368).
    "PIXEL_QA": {"fill": (0, 1, 1), "shadow": (3, 1, 1), "snow": (4, 1, 1), "cloud": (5, 1, 1), "cirrus": (8, 2, 3)},
    # HLS version 2 (LP DAAC user guide); its "adjacent to cloud" stands for the dilated cloud.
    "FMASK": {"cirrus": (0, 1, 1), "cloud": (1, 1, 1), "dilated_cloud": (2, 1, 1), "shadow": (3, 1, 1), "snow": (4, 1, 1)},
    # Landsat 8 before the collections.
    "BQA": {"fill": (0, 1, 1), "snow": (10, 2, 3), "cirrus": (12, 2, 3), "cloud": (14, 2, 3)},
}


def is_flagged(qa: np.ndarray, kind: str, classes: Sequence[str]) -> np.ndarray:
    """Find the pixels that a quality band says to be of some classes: uint16 -> bool of the same shape.

    What is masked, or NaN where the bits are held as floats, is of the class "fill".

    Args:
        kind: "QA_PIXEL" (Collection 2), "BQA_C1" (Collection 1), "PIXEL_QA" (its surface reflectance by ESPA), "BQA" (before
            the collections) or "FMASK" (HLS).
        classes: of `QUALITY_CLASSES`.

    Raises:
        ValueError: an unknown kind, a class that bands of the kind do not tell, or one class in place of a sequence.

    >>> is_flagged(np.array([0, 1 << 3, 1 << 5]), "QA_PIXEL", ("cloud", "snow")).tolist()
    [False, True, True]
    """
    if isinstance(classes, str):
        raise ValueError(f"classes = {classes!r} must be a sequence of classes, as ({classes!r},)")
    layout = _layout(kind)
    qa = unmasked(qa, fill_bits(kind))
    if qa.dtype.kind == "f":
        qa = np.nan_to_num(qa, nan=fill_bits(kind))
    qa = qa.astype(np.uint16)
    flagged = np.zeros(qa.shape, bool)
    for name in classes:
        if name not in layout:
            raise ValueError(f"{name!r} is no class that a quality band {kind} tells; it tells {', '.join(layout)}")
        first, bits, yes = layout[name]
        flagged |= (qa >> first) & ((1 << bits) - 1) == yes
    return flagged


def fill_bits(kind: str) -> int:
    """The bits of a pixel without data in a quality band, `kind` as for `is_flagged`; 0, no class, where it has none for it.

    >>> fill_bits("QA_PIXEL"), fill_bits("FMASK")
    (1, 0)
    """
    first, _, yes = _layout(kind).get("fill", (0, 1, 0))
    return yes << first


def is_cloud(qa: np.ndarray, kind: str) -> np.ndarray:
    """Find clouds and, where the band tells them, cirrus and shadows; arguments as for `is_flagged`.

    Of "BQA" clouds alone: before the collections, cirrus was said of far too much.
    """
    return is_flagged(qa, kind, ["cloud"] if kind == "BQA" else [name for name in _CLOUDY if name in _layout(kind)])


def _layout(kind: str) -> dict[str, tuple[int, int, int]]:
    if kind not in _LAYOUTS:
        raise ValueError(f"kind = {kind!r} is not one of {', '.join(_LAYOUTS)}")
    return _LAYOUTS[kind]
