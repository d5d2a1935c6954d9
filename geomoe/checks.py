"""Checks of options that functions of several layers take."""

from typing import Any

import numpy as np


def check_count(name: str, value: Any, least: int = 0) -> None:
    """Raise ValueError for an option that is not a whole number, or is below the least that has a meaning."""
    if not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} = {value} must be a whole number, {least} or more")
