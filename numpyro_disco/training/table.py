"""`Table`: training data, parsed and checked once.

`read_table` turns what a user gives to `fit` into a float64 matrix with names and supports, and
raises on anything that has no density. Later steps rely on these checks and do not repeat them.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from numpyro_disco._checks import check_names, columns_of
from numpyro_disco.supports.coordinates import check_supports
from numpyro_disco.training.row_weights import aligned, separate_weights, with_mean_one

MAX_TIED_SHARE = 0.1
"""Share of rows that may have one and the same value in a continuous column."""
SPIKE = 20
"""`fit` warns of a value with so many rows, and so many times the rows of the next value."""
COARSE = 0.1
"""Largest rounding of a value, relative to the resolution of the objective."""


class Table(NamedTuple):
    """Rows to learn from, in the user's units."""

    values: np.ndarray
    """Shape (N, D), double precision; NaN where an entry is missing."""
    names: tuple[str, ...]
    """Names of the D columns."""
    supports: tuple[constraints.Constraint, ...]
    """Support of each column, discrete ones included."""
    weights: np.ndarray | None = None
    """Positive weights of the rows with mean one, shape (N,); None if all are equal."""

    @property
    def incomplete(self) -> np.ndarray:
        """True for rows with missing entries, shape (N,)."""
        return np.isnan(self.values).any(axis=1)


def read_table(
    data: Any,
    names: Sequence[str] | None,
    supports: Mapping[str, constraints.Constraint] | None,
    weights: Any = None,
) -> Table:
    """Parse training data; rows of weight zero are left out.

    Args:
        data: array (N, D), a DataFrame, or a mapping from names to columns; NaN where missing.
        names: names of the columns, in the order wanted; by default those that `data` carries.
        supports: from names to constraints; columns without one may hold any real number.
        weights: weights of the rows, or the name of the column that holds them.

    Raises:
        ValueError: wrong shapes, names or weights, infinite values, too few complete rows, constant
            columns, or copies of columns.
    """
    values, found = columns_of(data)
    values, found, row_weights = separate_weights(values, found, aligned(weights, data), names)
    if row_weights is not None:
        values, row_weights = values[row_weights > 0], row_weights[row_weights > 0]
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(
            f"Expected rows of shape (N, D) for `data`; got shape {values.shape}. For a single "
            "column use `data[:, None]`."
        )
    dimension = values.shape[1]
    if names is not None and found is not None:
        values = _reordered(values, check_names(names, dimension), found)
    checked_names = check_names(names if names is not None else found, dimension)
    check_finite(values, checked_names)
    complete = values[~np.isnan(values).any(axis=1)]
    _check_number_of_rows(values, complete)
    constant = constant_columns(complete)
    if constant.any():
        raise ValueError(
            "Expected columns that vary in `data`; "
            f"{[checked_names[i] for i in np.flatnonzero(constant)]} are constant. Drop them: a "
            "constant has no density."
        )
    check_copies(complete, checked_names)
    checked_supports = check_supports(supports, checked_names)
    return Table(values, checked_names, checked_supports, with_mean_one(row_weights))


def _reordered(values: np.ndarray, names: Sequence[str], found: Sequence[str]) -> np.ndarray:
    """Columns in the order of `names`; names that are all new rename the columns instead."""
    if set(names) == set(found):
        return values[:, [list(found).index(name) for name in names]]
    shared = sorted(set(names) & set(found))
    if shared:
        raise ValueError(
            f"Expected `names` to be those of the columns of `data` in some order, or all new; got "
            f"{tuple(names)} for columns {tuple(found)}, which share {shared}. Rename the columns."
        )
    return values


def check_finite(values: np.ndarray, names: tuple[str, ...]) -> None:
    """Refuse rows (N, D) that hold infinity."""
    infinite = np.isinf(values)
    if infinite.any():
        columns = [names[i] for i in np.flatnonzero(infinite.any(axis=0))]
        raise ValueError(
            f"Expected finite numbers in `data`, or NaN where one is missing; "
            f"{int(infinite.any(axis=1).sum())} of {len(values)} rows hold infinity, in the "
            f"columns {columns}. Drop those rows, or mark missing entries with NaN."
        )


def _check_number_of_rows(values: np.ndarray, complete: np.ndarray) -> None:
    dimension = values.shape[1]
    minimum = max(10, dimension + 2)
    if len(complete) < minimum:
        incomplete = len(values) - len(complete)
        raise ValueError(
            f"Expected at least {minimum} complete rows in `data` to learn a density of "
            f"{dimension} coordinates; got {len(complete)}"
            + (f", and {incomplete} with missing entries." if incomplete else ".")
        )


def constant_columns(rows: np.ndarray) -> np.ndarray:
    """True for columns that vary by no more than rounding in double precision, shape (D,)."""
    spread, size = rows.std(axis=0), np.abs(rows).max(axis=0)
    return spread <= 1e-12 * np.maximum(size, np.finfo(np.float64).tiny)


def check_copies(rows: np.ndarray, names: tuple[str, ...]) -> None:
    """Refuse pairs of columns that are linear functions of each other."""
    standardized = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    correlation = np.abs(standardized.T @ standardized) / len(rows)
    copies = np.argwhere(np.triu(correlation > 1 - 1e-10, k=1))
    if len(copies):
        pairs = [(names[i], names[j]) for i, j in copies]
        raise ValueError(
            f"Expected linearly independent columns in `data`; {pairs} are copies of each other up "
            "to shift and scale. Keep one of each pair: together they have no density."
        )


def check_ties(table: Table) -> None:
    """Refuse continuous columns in which many rows share one value, and warn of rarer spikes."""
    for name, support, column in zip(table.names, table.supports, table.values.T, strict=True):
        if support.is_discrete:
            continue
        values, counts = np.unique(column[~np.isnan(column)], return_counts=True)
        share = counts.max() / counts.sum()
        if share > MAX_TIED_SHARE:
            raise ValueError(
                f"Expected columns of `data` with a density; {share:.0%} of the rows have the "
                f"value {values[counts.argmax()]:g} in {name!r}, which has {len(values)} distinct "
                f"values. {_tie_remedy(name, values)}; or give `noise_scale`, which smooths every "
                "column."
            )
        *_, second, most = np.sort(np.append(0, counts))
        if most >= SPIKE and most > SPIKE * second:
            warnings.warn(
                f"{most} rows of `data` have the value {values[counts.argmax()]:g} in {name!r}, "
                f"more than {SPIKE} times as many as any other value: the prior will have a very "
                "narrow mode there, in which samplers move slowly. If the value is a code (below "
                "the limit of detection, not applicable), drop these rows or set it to NaN.",
                stacklevel=4,
            )


def _tie_remedy(name: str, values: np.ndarray) -> str:
    if (values == np.round(values)).all():
        return (
            "Declare that it holds whole numbers, "
            f"`supports={{{name!r}: constraints.integer_interval({values[0]:.0f}, "
            f"{values[-1]:.0f})}}`"
        )
    return "Model it outside of the prior"


def rounding(rows: np.ndarray) -> np.ndarray:
    """Spacing of floating-point numbers at each column's largest value, in standard deviations.

    Args:
        rows: array (N, D); entries may be NaN.

    Returns:
        Array of shape (D,), for the precision that JAX computes in.
    """
    eps = float(jnp.finfo(jnp.result_type(float)).eps)
    return eps * np.nanmax(np.abs(rows), axis=0) / np.nanstd(rows, axis=0)


def check_rounding(table: Table, resolution: float) -> None:
    """Refuse columns whose values rounding moves by as much as the objective resolves.

    The energy takes points in the user's units, in the precision that JAX computes in.
    """
    spacing = rounding(table.values)
    coarse = spacing > COARSE * resolution
    if coarse.any():
        raise ValueError(
            f"Expected columns of `data` that {jnp.result_type(float)} can resolve; "
            f"{[table.names[i] for i in np.flatnonzero(coarse)]} lie so far from zero that "
            f"rounding is {spacing.max():.2g} of their standard deviation. Subtract an origin from "
            "them, or use double precision: `numpyro.enable_x64()`."
        )
