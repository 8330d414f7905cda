"""The order in which an autoregressive density draws the columns."""

from __future__ import annotations

import numpy as np

MAX_ROWS = 3000
"""Most rows that are read, a third of which judge."""
NUM_TREES = 50
"""Trees of each regression."""


def column_order(rows: np.ndarray) -> tuple[int, ...]:
    """Columns that the others determine least come first.

    The conditional of a column that is nearly a function of others is then that narrow function,
    and not its inverse, which may have several branches.

    Args:
        rows: rows in which each column is standardised, shape (N, D).

    Returns:
        The columns by what boosted trees of the other columns leave of each, largest first.
    """
    from sklearn.ensemble import HistGradientBoostingRegressor

    if rows.shape[1] == 1:
        return (0,)
    rows = rows[:MAX_ROWS]
    cut = 2 * len(rows) // 3
    left = np.empty(rows.shape[1])
    for place, column in enumerate(rows.T):
        others = np.delete(rows, place, axis=1)
        trees = HistGradientBoostingRegressor(max_iter=NUM_TREES, random_state=0)
        found = trees.fit(others[:cut], column[:cut]).predict(others[cut:])
        left[place] = np.mean((column[cut:] - found) ** 2)
    return tuple(int(place) for place in np.argsort(-left, kind="stable"))
