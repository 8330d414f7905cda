"""Columns that are linear functions of others, which have no joint density.

Columns may depend on each other in any number: shares of a whole sum to one, a total is the sum of
its parts. A dependence is one up to rounding, either of the values or of the precision that is
computed in: deviations that this precision cannot hold cannot be learned. Columns that are nearly
dependent otherwise have a density, if a narrow one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SLACK = 8.0
"""Rounding that counts as a dependence, in multiples of that of the columns themselves."""
LEAST_ERROR = 1e-10
"""Error of a dependence that always counts as rounding, in standard deviations of the column."""
LARGEST_ERROR = 1e-2
"""Error above which no dependence is looked for, in standard deviations of the column."""
NEGLIGIBLE = 1e-6
"""Contribution to a dependence that is left out of its description, in standard deviations."""


class Dependence(NamedTuple):
    """One column as a linear function of earlier ones, x_j = a + sum_k b_k x_k."""

    column: int
    """Index of the column, j."""
    constant: float
    """The constant a."""
    slopes: dict[int, float]
    """The coefficients b_k by the index of the column."""


def precision(rows: np.ndarray) -> np.ndarray:
    """Relative rounding of each column: that of single precision where values came from it.

    Args:
        rows: array (N, D) in double precision; entries may be NaN.

    Returns:
        Array of shape (D,).
    """
    with np.errstate(over="ignore", invalid="ignore"):
        single = rows.astype(np.float32)
        representable = ((single == rows) | np.isnan(rows)).all(axis=0)
    # Whole numbers are exact, and their last bit is seldom set.
    last_bit = (single.view(np.uint32) & 1).mean(axis=0)
    eps = np.where(representable & (last_bit > 0.1), np.finfo(np.float32).eps, 0.0)
    return np.maximum(eps, np.finfo(np.float64).eps)


def standardized(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows with mean 0 and standard deviation 1, whatever the scale of the columns.

    Args:
        rows: finite numbers (N, D) between 1e-300 and 1e300 or zero; no column is constant.

    Returns:
        The standardised rows, the means (D,) and the standard deviations (D,).
    """
    # Squares of numbers at either end of double precision would overflow or vanish.
    size = np.maximum(np.abs(rows).max(axis=0), np.finfo(np.float64).tiny)
    relative = rows / size
    mean, deviation = relative.mean(axis=0), relative.std(axis=0)
    return (relative - mean) / deviation, mean * size, deviation * size


def find_dependences(
    rows: np.ndarray, rounding: np.ndarray, resolution: float = 0.0
) -> list[Dependence]:
    """Find columns that are linear functions of earlier ones, up to rounding.

    Args:
        rows: complete rows (N, D), none of whose columns is constant.
        rounding: relative rounding of each column, shape (D,), as `precision` returns.
        resolution: relative rounding of the precision that standardised rows are computed in.

    Returns:
        One `Dependence` for each such column.
    """
    z, mean, deviation = standardized(rows)
    largest = np.abs(z).max(axis=0)
    # Values are rounded in units of their own, and computed with once they are standardised.
    of_values = SLACK * rounding * np.maximum(np.abs(mean / deviation), largest)
    size = np.maximum(of_values, resolution * largest)
    # The diagonal of R is the part of each column that is not explained by those before it.
    unexplained = np.abs(np.diagonal(np.linalg.qr(z, mode="r"))) / np.sqrt(len(z))
    kept: list[int] = []
    found = []
    for column, error in enumerate(unexplained):
        if error < LARGEST_ERROR and kept:
            slopes = np.linalg.lstsq(z[:, kept], z[:, column], rcond=None)[0]
            error = np.sqrt(np.mean((z[:, column] - z[:, kept] @ slopes) ** 2))
            allowed = np.sqrt(size[column] ** 2 + ((slopes * size[kept]) ** 2).sum())
            if error <= max(allowed, LEAST_ERROR):
                found.append(_in_units(column, kept, slopes, mean, deviation))
                continue
        kept.append(column)
    return found


def describe_dependences(
    dependences: list[Dependence], names: tuple[str, ...], scales: np.ndarray
) -> str:
    """The equations of some dependences, such as "'c' = 1.00 'a' + 1.00 'b'".

    Args:
        dependences: the dependences.
        names: names of the D columns.
        scales: standard deviations of the columns, shape (D,).
    """
    return "; ".join(_equation(dependence, names, scales) for dependence in dependences)


def is_whole(dependence: Dependence) -> bool:
    """True if three or more columns sum to a constant, as shares of a whole do."""
    slopes = list(dependence.slopes.values())
    return len(slopes) > 1 and np.allclose(slopes, -1.0, rtol=1e-4)


def _in_units(
    column: int, kept: list[int], slopes: np.ndarray, mean: np.ndarray, deviation: np.ndarray
) -> Dependence:
    """A dependence of standardised columns in the units of the columns."""
    in_units = {
        other: float(slope * (deviation[column] / deviation[other]))
        for other, slope in zip(kept, slopes, strict=True)
        if abs(slope) > NEGLIGIBLE
    }
    constant = mean[column] - sum(slope * mean[other] for other, slope in in_units.items())
    return Dependence(column, float(constant), in_units)


def _equation(dependence: Dependence, names: tuple[str, ...], scales: np.ndarray) -> str:
    """One dependence as an equation, with a constant unless it is rounding."""
    terms = [(slope, f" {names[other]!r}") for other, slope in dependence.slopes.items()]
    if abs(dependence.constant) > NEGLIGIBLE * scales[dependence.column]:
        terms.insert(0, (dependence.constant, ""))
    text = " ".join(f"{'-' if c < 0 else '+'} {_number(abs(c))}{name}" for c, name in terms)
    text = text.removeprefix("+ ") if text.startswith("+") else text.replace("- ", "-", 1)
    return f"{names[dependence.column]!r} = {text}"


def _number(value: float) -> str:
    return f"{value:.2f}" if 0.01 <= value < 1000 else f"{value:.3g}"
