"""The kind of a column that is learned from, read off its dtype and its entries."""

from __future__ import annotations

import numpy as np
from numpyro.distributions import constraints

from numpyro_disco._levels import MAX_LEVELS
from numpyro_disco.tables.columns import (
    MICROSECONDS,
    Boolean,
    Categories,
    Column,
    Dates,
    Real,
    Whole,
)
from numpyro_disco.tables.raw import EPOCH, Raw

NEAR_ZERO = 10
"""Whole numbers from 0 on whose largest is as many times the smallest plus one are counts."""


def column_of(raw: Raw) -> Column | str:
    """The column that entries to learn from make, or why there is none.

    Args:
        raw: entries of one column, shape (N,).

    Returns:
        A `Column`; or what the column holds instead, which completes "'name' holds ...".
    """
    if raw.kind == "real":
        return Real(raw.dtype)
    if raw.kind == "whole":
        return Whole(raw.dtype)
    if raw.kind == "boolean":
        return Boolean(raw.dtype)
    if raw.kind == "date":
        return _dates(raw)
    if raw.kind == "level":
        return _categories(raw)
    return raw.dtype


def _dates(raw: Raw) -> Dates:
    seen = raw.values[~np.isnan(raw.values)]
    first = EPOCH + np.timedelta64(int(seen.min()) if len(seen) else 0, "us")
    # Times of day are midnight throughout in many columns of dates.
    unit = "D" if (seen % MICROSECONDS == 0).all() and raw.time_zone is None else raw.unit
    return Dates(str(first.astype("datetime64[D]")), unit, raw.time_zone, raw.dtype)


def _categories(raw: Raw) -> Categories | str:
    seen = raw.values[~np.isnan(raw.values)]
    num_levels, num_seen = len(raw.levels), len(np.unique(seen))
    if raw.dtype == "String" and num_seen == len(seen) > 2:
        return "a text of its own in each row"
    if num_levels > MAX_LEVELS:
        what = "texts" if raw.dtype == "String" else "levels"
        return f"{num_levels:,} distinct {what}, more than {MAX_LEVELS}"
    if not num_levels:
        return "no entries"
    return Categories(raw.levels, raw.ordered, raw.dtype)


def default_support(
    column: Column, values: np.ndarray, *, discrete: bool = True
) -> constraints.Constraint:
    """The support of a column for which the user gives none.

    Categories, booleans, and whole numbers in a range of at most `MAX_LEVELS` have an exact mass.
    Other whole numbers are learned like real numbers: spread over unit intervals if they are counts
    from near zero to far beyond it.

    Args:
        column: the column.
        values: its numbers, NaN where missing, shape (N,).
        discrete: False for objectives that smooth whole numbers.
    """
    if isinstance(column, Boolean):
        return constraints.integer_interval(0, 1)
    if isinstance(column, Categories):
        return constraints.integer_interval(0, len(column.levels) - 1)
    seen = values[~np.isnan(values)]
    if not isinstance(column, Whole) or not discrete or not len(seen):
        return constraints.real
    low, high = int(seen.min()), int(seen.max())
    if high - low < MAX_LEVELS:
        return constraints.integer_interval(low, high)
    if low >= 0 and high >= NEAR_ZERO * (low + 1):
        return constraints.nonnegative_integer
    return constraints.real


def default_column(support: constraints.Constraint) -> Column:
    """The column of a coordinate of which only the support is known."""
    if isinstance(support, type(constraints.boolean)):
        return Boolean()
    return Whole() if support.is_discrete else Real()
