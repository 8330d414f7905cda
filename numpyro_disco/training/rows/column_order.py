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
"""Most columns for regressions by trees; with more they are linear, for speed."""

ResidualVariance = Callable[[int, list[int]], float]
"""From a column and some others to the variance that these leave unexplained."""


def column_order(rows: np.ndarray, last: tuple[int, ...] = ()) -> tuple[int, ...]:
    """An order in which columns that the others determine come last.

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
        The columns in order. Residual variances are those of boosted trees, or with many columns of
        linear functions.
    """
    dimension = rows.shape[1]
    residual_variance = (
        _variance_after_trees(rows) if dimension <= MAX_COLUMNS else _variance_after_lines(rows)
    )
    remaining, backwards = list(range(dimension)), []
    for group in (last, set(remaining) - set(last)):
        # Fewer inputs explain less, so the variance left by more of them is a lower bound.
        bounds = dict.fromkeys(sorted(group), 0.0)
        while bounds:
            column = _least(bounds, remaining, residual_variance)
            del bounds[column]
            remaining.remove(column)
            backwards.append(column)
    return tuple(reversed(backwards))


def _least(
    bounds: dict[int, float], remaining: list[int], residual_variance: ResidualVariance
) -> int:
    """The column with the least variance given the others that remain.

    Args:
        bounds: lower bounds of the residual variances by column, which are raised to those found.
        remaining: columns that have no place in the order yet.
        residual_variance: computes a residual variance.
    """
    known: set[int] = set()
    while (column := min(bounds, key=bounds.__getitem__)) not in known:
        others = [place for place in remaining if place != column]
        bounds[column] = max(bounds[column], residual_variance(column, others))
        known.add(column)
    return column


def _variance_after_trees(rows: np.ndarray) -> ResidualVariance:
    """Residual variances of boosted trees."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    rows = rows[:MAX_ROWS]
    cut = 2 * len(rows) // 3

    def residual_variance(column: int, others: list[int]) -> float:
        if not others:
            return 1.0
        trees = HistGradientBoostingRegressor(max_iter=NUM_TREES, random_state=0)
        trees.fit(rows[:cut, others], rows[:cut, column])
        return float(np.mean((trees.predict(rows[cut:, others]) - rows[cut:, column]) ** 2))

    return residual_variance


def _variance_after_lines(rows: np.ndarray) -> ResidualVariance:
    """Residual variances of linear functions."""
    covariance = np.cov(rows, rowvar=False, dtype=np.float64)
    covariance += TINY * np.eye(len(covariance))

    def residual_variance(column: int, others: list[int]) -> float:
        shared = covariance[others, column]
        return float(
            covariance[column, column]
            - shared @ np.linalg.solve(covariance[np.ix_(others, others)], shared)
        )

    return residual_variance
