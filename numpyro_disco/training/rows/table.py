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

from numpyro_disco._checks import check_names
from numpyro_disco._levels import real_columns
from numpyro_disco._statistics import selected
from numpyro_disco.supports.coordinates import check_supports, num_levels
from numpyro_disco.tables.columns import Boolean, Categories, Column, Real, Whole
from numpyro_disco.tables.kinds import default_support
from numpyro_disco.tables.reading import Rows, read_rows
from numpyro_disco.training.rows.dependence import (
    describe_dependences,
    find_dependences,
    is_whole,
    precision,
    standardized,
)
from numpyro_disco.training.rows.faults import CONSTANT, INFINITE, NO_ENTRY, check_columns
from numpyro_disco.training.rows.row_weights import aligned, separate_weights, with_mean_one

MARGIN = 1e4
"""Factor by which the spread of a column keeps clear of the ends of the range of numbers."""
COARSE = 0.1
"""Largest rounding of a value, relative to the resolution of the objective."""


class Table(NamedTuple):
    """Rows to learn from, in the user's units."""

    values: np.ndarray
    """Shape (N, D), double precision; NaN where an entry is missing."""
    names: tuple[str, ...]
    """Names of the D columns."""
    supports: tuple[constraints.Constraint, ...]
    """Support of each column, discrete ones included. Those with at most 64 levels have an exact
    mass; more whole numbers are spread over unit intervals."""
    columns: tuple[Column, ...] = ()
    """Meaning of the numbers of each column."""
    weights: np.ndarray | None = None
    """Positive weights of the rows with mean one, shape (N,); None if all are equal."""

    @property
    def incomplete(self) -> np.ndarray:
        """True for rows with missing entries, shape (N,)."""
        return np.isnan(self.values).any(axis=1)

    @property
    def num_levels(self) -> tuple[int, ...]:
        """Number of levels of each discrete column, 0 for the others."""
        return tuple(map(num_levels, self.supports))

    @property
    def real(self) -> np.ndarray:
        """Indices of the columns that are not discrete."""
        return real_columns(self.num_levels)


def read_table(
    data: Any,
    names: Sequence[str] | None,
    supports: Mapping[str, constraints.Constraint] | None,
    weights: Any = None,
    *,
    smoothed: bool = False,
    fills: bool = False,
) -> Table:
    """Parse training data; rows of weight zero are left out.

    Args:
        data: anything with rows, see `tables.reading`.
        names: names of the columns, in the order wanted; by default those that `data` carries.
        supports: from names to constraints; for other columns see `tables.kinds.default_support`.
        weights: weights of the rows, or the name of the column that holds them.
        smoothed: True if the objective smooths every column, so that many rows may share a value.
        fills: True if missing entries will be filled, so that rows need not be complete. Rows that
            miss all entries are left out.

    Raises:
        ValueError: wrong shapes, names or weights, columns that cannot be learned as they are,
            infinite values, too few complete rows, constant columns, or columns that are linear
            functions of each other.
    """
    rows, row_weights = separate_weights(read_rows(data), aligned(weights, data), names)
    if fills:
        rows, row_weights = _without_empty_rows(rows, row_weights)
    dimension = len(rows.columns)
    if names is not None and rows.names is not None:
        rows = _reordered(rows, check_names(names, dimension))
    checked_names = check_names(names if names is not None else rows.names, dimension)
    given = check_supports(supports, checked_names)
    values = rows.values
    _check_number_of_rows(values, values)
    check_columns(rows, checked_names, supports or {}, _faults(values), smoothed)
    check_finite(values, checked_names)
    complete = values[~np.isnan(values).any(axis=1)]
    _check_seen(values, checked_names)
    if not fills:
        _check_number_of_rows(values, complete)
    constant = constant_columns(values if fills else complete)
    columns = tuple(column for column in rows.columns if isinstance(column, Column))
    if constant.any():
        raise ValueError(
            "Expected columns that vary in `data`; "
            f"{[checked_names[i] for i in np.flatnonzero(constant)]} are constant. Drop them: a "
            "constant has no density."
        )
    found = [
        support if name in (supports or {}) else default_support(column, one, discrete=not smoothed)
        for name, support, column, one in zip(checked_names, given, columns, values.T, strict=True)
    ]
    _check_levels(checked_names, columns, found)
    declared = [
        _as_declared(column, support) if name in (supports or {}) else column
        for name, support, column in zip(checked_names, given, columns, strict=True)
    ]
    row_weights = with_mean_one(row_weights)
    table = Table(values, checked_names, tuple(found), tuple(declared), row_weights)
    check_dependence(complete, table)
    return table


def _check_levels(
    names: tuple[str, ...], columns: tuple[Column, ...], supports: list[constraints.Constraint]
) -> None:
    """Refuse discrete supports that do not fit the levels of categories and booleans."""
    for name, column, support in zip(names, columns, supports, strict=True):
        count = len(column.levels) if isinstance(column, Categories) else 2
        known = isinstance(column, Categories | Boolean)
        if known and support.is_discrete and num_levels(support) != count:
            raise ValueError(
                f"Expected a support of the {count} levels of {name!r} in `supports`; got "
                f"{support!r}. Leave it out: the levels are read off `data`. For levels that no "
                "row has, give the column as a `pandas.Categorical` that knows them."
            )


def _as_declared(column: Column, support: constraints.Constraint) -> Column:
    """A column of numbers, whole or real as its declared support says."""
    if not isinstance(column, Real | Whole):
        return column
    return Whole(column.dtype) if support.is_discrete else Real(column.dtype)


def _reordered(rows: Rows, names: tuple[str, ...]) -> Rows:
    """Columns in the order of `names`; names that are all new rename the columns instead."""
    found = rows.names or ()
    if set(names) == set(found):
        order = [found.index(name) for name in names]
        return Rows(rows.values[:, order], names, tuple(rows.columns[place] for place in order))
    shared = sorted(set(names) & set(found))
    if shared:
        raise ValueError(
            f"Expected `names` to be those of the columns of `data` in some order, or all new; got "
            f"{tuple(names)} for columns {tuple(found)}, which share {shared}. Rename the columns."
        )
    return rows._replace(names=names)


def _faults(values: np.ndarray) -> tuple[str, ...]:
    """A fault of the entries of each column, or nothing."""
    faults = []
    for column in values.T:
        seen = column[~np.isnan(column)]
        if not len(seen):
            faults.append(NO_ENTRY)
        elif np.isinf(seen).any():
            faults.append(INFINITE)
        else:
            faults.append(CONSTANT * bool(constant_columns(seen[:, None])[0]))
    return tuple(faults)


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


def _without_empty_rows(
    rows: Rows, row_weights: np.ndarray | None
) -> tuple[Rows, np.ndarray | None]:
    """Leave out rows that miss all entries, and say so."""
    empty = np.isnan(rows.values).all(axis=1)
    if not empty.any():
        return rows, row_weights
    warnings.warn(
        f"{int(empty.sum())} of {len(empty)} rows of `data` miss all entries and are left out.",
        stacklevel=5,
    )
    return rows._replace(values=rows.values[~empty]), selected(row_weights, ~empty)


def _check_seen(values: np.ndarray, names: tuple[str, ...]) -> None:
    """Refuse columns that are never observed."""
    never = np.isnan(values).all(axis=0)
    if never.any():
        raise ValueError(
            f"Expected columns of `data` with some entries; "
            f"{[names[i] for i in np.flatnonzero(never)]} have none. Drop them."
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
    """True for columns that vary by no more than rounding in double precision, shape (D,).

    Missing entries, NaN, do not count; every column has others.
    """
    size = np.maximum(np.nanmax(np.abs(rows), axis=0), np.finfo(np.float64).tiny)
    return np.nanstd(rows / size, axis=0) <= 1e-12


def check_dependence(rows: np.ndarray, table: Table) -> None:
    """Refuse real columns that are linear functions of each other.

    Discrete columns may be functions of each other: combinations of their levels have a mass.

    Args:
        rows: complete rows (N, D), in the user's units or in unconstrained space.
        table: the names and supports of their columns, and the rows in the user's units.

    Raises:
        ValueError: Two columns are nearly copies of each other, or a column is a linear function of
            several others up to its rounding, or to that of the precision that JAX computes in.
    """
    if len(rows) <= rows.shape[1]:
        return
    # A column may be constant among complete rows and vary among the others.
    varying = table.real[~constant_columns(rows[:, table.real])]
    if not len(varying):
        return
    rows, names = rows[:, varying], tuple(table.names[i] for i in varying)
    rounding = precision(table.values[~table.incomplete][:, varying])
    z, _, scales = standardized(rows)
    copies = np.argwhere(np.triu(np.abs(z.T @ z) / len(z) > 1 - 1e-10, k=1))
    if len(copies):
        pairs = [(names[i], names[j]) for i, j in copies]
        raise ValueError(
            f"Expected linearly independent columns in `data`; {pairs} are copies of each other up "
            "to shift and scale. Keep one of each pair: together they have no density."
        )
    resolution = float(jnp.finfo(jnp.result_type(float)).eps)
    if found := find_dependences(rows, rounding, resolution):
        remedy = "Leave out one column of each equation"
        if any(is_whole(dependence) for dependence in found):
            remedy += ", or give shares of a whole as one variable on the simplex"
        raise ValueError(
            "Expected linearly independent columns in `data`; got "
            f"{describe_dependences(found, names, scales)}. {remedy}: together they have no "
            "density."
        )


def rounding(rows: np.ndarray) -> np.ndarray:
    """Spacing of floating-point numbers at each column's largest value, in standard deviations.

    Args:
        rows: array (N, D); entries may be NaN.

    Returns:
        Array of shape (D,), for the precision that JAX computes in.
    """
    eps = float(jnp.finfo(jnp.result_type(float)).eps)
    # Squares of numbers near the ends of the range would overflow or vanish.
    return eps / np.nanstd(rows / np.nanmax(np.abs(rows), axis=0), axis=0)


def check_range(table: Table) -> None:
    """Refuse columns whose values or spread the precision that JAX computes in cannot hold."""
    dtype = jnp.result_type(float)
    info = jnp.finfo(dtype)
    for name, support, column in zip(table.names, table.supports, table.values.T, strict=True):
        size = np.abs(column[np.isfinite(column) & (column != 0)])
        # A real number may come as near to zero as it likes, within its spread.
        is_real = isinstance(support, type(constraints.real))
        smallest = size.max() * np.std(column[np.isfinite(column)] / size.max())
        smallest = smallest / MARGIN if is_real else size.min()
        if size.max() * MARGIN > info.max or smallest < info.tiny:
            raise ValueError(
                f"Expected columns of `data` within the range of {dtype}; {name!r} holds numbers "
                f"from {size.min():.2g} to {size.max():.2g} in size. Give it in another unit, or "
                "use double precision: `numpyro.enable_x64()`."
            )


def check_rounding(table: Table, resolution: float) -> None:
    """Refuse columns whose values rounding moves by as much as the objective resolves.

    The energy takes points in the user's units, in the precision that JAX computes in.
    """
    spacing = np.where(table.num_levels, 0.0, rounding(table.values))
    coarse = spacing > COARSE * resolution
    if coarse.any():
        raise ValueError(
            f"Expected columns of `data` that {jnp.result_type(float)} can resolve; "
            f"{[table.names[i] for i in np.flatnonzero(coarse)]} lie so far from zero that "
            f"rounding is {spacing.max():.2g} of their standard deviation. Subtract an origin from "
            "them, or use double precision: `numpyro.enable_x64()`."
        )
