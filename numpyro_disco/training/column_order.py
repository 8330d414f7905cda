"""The order in which an autoregressive density draws the columns."""

from __future__ import annotations

import numpy as np

MAX_ROWS = 3000
"""Most rows that are read, a third of which judge."""
NUM_TREES = 50
"""Trees of each regression."""
TINY = 1e-9
"""Variance that every column has at least, so that functions of others come last."""
MAX_COLUMNS = 50
"""Most columns that are regressed by trees; of more, linear functions are judged, for speed."""


def column_order(rows: np.ndarray, last: tuple[int, ...] = ()) -> tuple[int, ...]:
    """Columns that the others determine least come first.

    The conditional of a column that is nearly a function of others is then that narrow function,
    and not its inverse, which may have several branches.

    Args:
        rows: rows in which each column is standardised, shape (N, D).
        last: indices of columns that come after all others, so that their conditional given these
            can be drawn exactly.

    Returns:
        The columns by what a function of the other columns leaves of each, largest first: boosted
        trees, or with many columns a linear function.
    """
    by_size = _by_what_is_left(rows)
    return tuple(sorted(by_size, key=lambda place: place in last))


def _by_what_is_left(rows: np.ndarray) -> tuple[int, ...]:
    """The columns, those of which the others determine least first."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    if rows.shape[1] == 1:
        return (0,)
    if rows.shape[1] > MAX_COLUMNS:
        return _by_size(_linear_remainders(rows))
    rows = rows[:MAX_ROWS]
    cut = 2 * len(rows) // 3
    left = np.empty(rows.shape[1])
    for place, column in enumerate(rows.T):
        others = np.delete(rows, place, axis=1)
        trees = HistGradientBoostingRegressor(max_iter=NUM_TREES, random_state=0)
        found = trees.fit(others[:cut], column[:cut]).predict(others[cut:])
        left[place] = np.mean((column[cut:] - found) ** 2)
    return _by_size(left)


def _linear_remainders(rows: np.ndarray) -> np.ndarray:
    """Variance of each column that no linear function of the others explains, shape (D,)."""
    covariance = np.cov(rows, rowvar=False, dtype=np.float64)
    return 1 / np.diagonal(np.linalg.inv(covariance + TINY * np.eye(len(covariance))))


def _by_size(left: np.ndarray) -> tuple[int, ...]:
    """The columns, those of which most is left first."""
    return tuple(int(place) for place in np.argsort(-left, kind="stable"))
