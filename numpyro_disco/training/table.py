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
from numpyro_disco.training.dependence import (
    describe_dependences,
    find_dependences,
    is_whole,
    precision,
    standardized,
)

MAX_TIED_SHARE = 0.1
"""Share of rows that may have one and the same value in a continuous column."""
SPIKE = 20
"""`fit` warns of a value with so many rows, and so many times the rows of the next value."""
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
    """Support of each column, discrete ones included."""

    @property
    def incomplete(self) -> np.ndarray:
        """True for rows with missing entries, shape (N,)."""
        return np.isnan(self.values).any(axis=1)


def read_table(
    data: Any,
    names: Sequence[str] | None,
    supports: Mapping[str, constraints.Constraint] | None,
) -> Table:
    """Parse training data.

    Args:
        data: array (N, D), a DataFrame, or a mapping from names to columns; NaN where missing.
        names: names of the columns, in the order wanted; by default those that `data` carries.
        supports: from names to constraints; columns without one may hold any real number.

    Raises:
        ValueError: wrong shapes or names, infinite values, too few complete rows, constant columns,
            or columns that are linear functions of each other.
    """
    values, found = columns_of(data)
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
    check_dependence(complete, checked_names, precision(complete))
    return Table(values, checked_names, check_supports(supports, checked_names))


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
    size = np.maximum(np.abs(rows).max(axis=0), np.finfo(np.float64).tiny)
    return (rows / size).std(axis=0) <= 1e-12


def check_dependence(rows: np.ndarray, names: tuple[str, ...], rounding: np.ndarray) -> None:
    """Refuse columns that are linear functions of each other.

    Args:
        rows: complete rows (N, D), none of whose columns is constant.
        names: names of the D columns.
        rounding: relative rounding of each column, shape (D,), as `precision` returns.

    Raises:
        ValueError: Two columns are nearly copies of each other, or a column is a linear function of
            several others up to rounding.
    """
    z, _, scales = standardized(rows)
    copies = np.argwhere(np.triu(np.abs(z.T @ z) / len(z) > 1 - 1e-10, k=1))
    if len(copies):
        pairs = [(names[i], names[j]) for i, j in copies]
        raise ValueError(
            f"Expected linearly independent columns in `data`; {pairs} are copies of each other up "
            "to shift and scale. Keep one of each pair: together they have no density."
        )
    if found := find_dependences(rows, rounding):
        remedy = "Leave out one column of each equation"
        if any(is_whole(dependence) for dependence in found):
            remedy += ", or give shares of a whole as one variable on the simplex"
        raise ValueError(
            "Expected linearly independent columns in `data`; got "
            f"{describe_dependences(found, names, scales)}. {remedy}: together they have no "
            "density."
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
    spacing = rounding(table.values)
    coarse = spacing > COARSE * resolution
    if coarse.any():
        raise ValueError(
            f"Expected columns of `data` that {jnp.result_type(float)} can resolve; "
            f"{[table.names[i] for i in np.flatnonzero(coarse)]} lie so far from zero that "
            f"rounding is {spacing.max():.2g} of their standard deviation. Subtract an origin from "
            "them, or use double precision: `numpyro.enable_x64()`."
        )
