"""The levels of discrete coordinates.

A discrete coordinate with K_j levels holds its level as a code, one of 0.0, 1.0, ..., K_j - 1. The
K_j of all coordinates together, 0 for continuous ones, are static and called `num_levels`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from numpyro_disco._statistics import selected

Levels: TypeAlias = Sequence[int] | np.ndarray
"""Levels of each of D coordinates or columns, 0 for continuous ones."""
MAX_LEVELS = 64
"""Most levels of a discrete coordinate; wider ranges of whole numbers have no exact mass."""
ADDED_COUNT = 0.5
"""Rows that are added to each level before shares are taken, so that none is zero."""


def level_places(num_levels: Levels) -> tuple[np.ndarray, np.ndarray]:
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


def real_columns(num_levels: Levels) -> np.ndarray:
    """Indices of the columns without levels."""
    return np.flatnonzero(np.equal(num_levels, 0))


def with_indicators(rows: np.ndarray, num_levels: Levels) -> np.ndarray:
    """The real columns of rows, followed by indicators of the levels of the discrete ones.

    Args:
        rows: shape (N, D); discrete columns hold codes.
        num_levels: levels of each of the D columns, 0 for real ones.

    Returns:
        Array (N, R + F) in double precision: R real columns, and a zero or one for each level in
        the order of `level_places`.
    """
    rows = np.asarray(rows, np.float64)
    column, level = level_places(num_levels)
    return np.concatenate([rows[:, real_columns(num_levels)], rows[:, column] == level], axis=1)


def level_shares(
    rows: np.ndarray, num_levels: Levels, row_weights: np.ndarray | None = None
) -> np.ndarray:
    """Share of each level of each discrete column, with `ADDED_COUNT`.

    Args:
        rows: shape (N, D); discrete columns hold codes, or NaN where an entry is missing.
        num_levels: levels of each of the D columns, 0 for real ones.
        row_weights: positive weights of the rows with mean one, shape (N,); ones by default.

    Returns:
        Array (C, L) for C discrete columns of at most L levels, zero beyond the levels of each.
    """
    counts = np.asarray(num_levels, int)
    shares = np.zeros((np.count_nonzero(counts), counts.max(initial=0)))
    for share, place in zip(shares, np.flatnonzero(counts), strict=True):
        seen = ~np.isnan(rows[:, place])
        codes, count = rows[seen, place].astype(int), counts[place]
        share[:count] = np.bincount(codes, selected(row_weights, seen), count) + ADDED_COUNT
    return shares / shares.sum(1, keepdims=True)
