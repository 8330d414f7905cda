"""The order in which an autoregressive density draws the columns."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

MAX_ROWS = 3000
"""Most rows that are read, a third of which judge."""
NUM_TREES = 50
"""Trees of each regression."""
TINY = 1e-9
"""Variance that every column has at least, so that functions of others come last."""
MAX_COLUMNS = 50
"""Most columns that are regressed by trees; of more, linear functions are judged, for speed."""

LeftOf = Callable[[int, list[int]], float]
"""Variance of a column that a function of some others does not explain."""


def column_order(rows: np.ndarray, last: tuple[int, ...] = ()) -> tuple[int, ...]:
    """Columns that those before them determine most come last.

    The conditional of a column that is nearly a function of others is then that narrow function,
    and not its inverse, which may have several branches. The order is found from its end: of all
    columns, the one that the others determine most comes last; of those that are left, the one that
    the others among them determine most comes before it, and so on. Functions of functions thus
    come after what they are functions of.

    Args:
        rows: rows in which each column is standardised, shape (N, D).
        last: indices of columns that come after all others, so that their conditional given these
            can be drawn exactly.

    Returns:
        The columns in order. What a function leaves of a column is judged by boosted trees, or with
        many columns by a linear function.
    """
    dimension = rows.shape[1]
    left_of = _left_by_trees(rows) if dimension <= MAX_COLUMNS else _left_by_lines(rows)
    remaining, backwards = list(range(dimension)), []
    for group in (last, set(remaining) - set(last)):
        # Fewer inputs leave more of a column, so what more of them left is a lower bound.
        bounds = dict.fromkeys(sorted(group), 0.0)
        while bounds:
            column = _least(bounds, remaining, left_of)
            del bounds[column]
            remaining.remove(column)
            backwards.append(column)
    return tuple(reversed(backwards))


def _least(bounds: dict[int, float], remaining: list[int], left_of: LeftOf) -> int:
    """The column of which the others that remain leave least; `bounds` rise to what was found."""
    known: set[int] = set()
    while (column := min(bounds, key=bounds.__getitem__)) not in known:
        others = [place for place in remaining if place != column]
        bounds[column] = max(bounds[column], left_of(column, others))
        known.add(column)
    return column


def _left_by_trees(rows: np.ndarray) -> LeftOf:
    """What boosted trees leave of a column."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    rows = rows[:MAX_ROWS]
    cut = 2 * len(rows) // 3

    def left_of(column: int, others: list[int]) -> float:
        if not others:
            return 1.0
        trees = HistGradientBoostingRegressor(max_iter=NUM_TREES, random_state=0)
        trees.fit(rows[:cut, others], rows[:cut, column])
        return float(np.mean((trees.predict(rows[cut:, others]) - rows[cut:, column]) ** 2))

    return left_of


def _left_by_lines(rows: np.ndarray) -> LeftOf:
    """What a linear function leaves of a column."""
    covariance = np.cov(rows, rowvar=False, dtype=np.float64)
    covariance += TINY * np.eye(len(covariance))

    def left_of(column: int, others: list[int]) -> float:
        shared = covariance[others, column]
        return float(
            covariance[column, column]
            - shared @ np.linalg.solve(covariance[np.ix_(others, others)], shared)
        )

    return left_of
