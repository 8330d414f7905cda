"""What more than one part says about chance."""

from __future__ import annotations

import numpy as np


def standard_error(values: np.ndarray) -> float:
    """Of the mean of independent values (n,); infinite of a single one, which says nothing of it.

    Example:
        >>> standard_error(np.array([1.0, 3.0]))
        1.0
    """
    if len(values) < 2:
        return float("inf")
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))
