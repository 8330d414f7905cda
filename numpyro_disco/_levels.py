"""The levels of discrete coordinates.

A discrete coordinate with K_j levels holds its level as a code, one of 0.0, 1.0, ..., K_j - 1. The
K_j of all coordinates together, 0 for continuous ones, are static and called `num_levels`.
"""

from __future__ import annotations

import numpy as np

MAX_LEVELS = 64
"""Most levels of a discrete coordinate; wider ranges of whole numbers have no exact mass."""


def level_places(num_levels: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Coordinate and code of each level of each discrete coordinate, shape (F,) each.

    Args:
        num_levels: levels of each of the D coordinates, 0 for continuous ones.

    Returns:
        Two arrays of F = sum(num_levels) whole numbers, coordinate by coordinate.

    Example:
        >>> [places.tolist() for places in level_places((0, 2, 3))]
        [[1, 1, 2, 2, 2], [0, 1, 0, 1, 2]]
    """
    counts = np.asarray(num_levels, int)
    coordinate = np.repeat(np.arange(len(counts)), counts)
    return coordinate, np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
