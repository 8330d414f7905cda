"""Warnings about columns that can be learned, but perhaps not as the user expects."""

from __future__ import annotations

import warnings

import numpy as np

from numpyro_disco._levels import MAX_LEVELS
from numpyro_disco.tables.columns import Whole
from numpyro_disco.training.table import Table

SPIKE = 20
"""`fit` warns of a value with so many rows, and so many times the rows of the next value."""


def warn_of_spikes(table: Table) -> None:
    """Warn of continuous columns in which one value is far more common than any other."""
    for name, support, column in zip(table.names, table.supports, table.values.T, strict=True):
        if support.is_discrete:
            continue
        values, counts = np.unique(column[~np.isnan(column)], return_counts=True)
        *_, second, most = np.sort(np.append(0, counts))
        if most >= SPIKE and most > SPIKE * second:
            warnings.warn(
                f"{most} rows of `data` have the value {values[counts.argmax()]:g} in {name!r}, "
                f"more than {SPIKE} times as many as any other value: the prior will have a very "
                "narrow mode there, in which samplers move slowly. If the value is a code (below "
                "the limit of detection, not applicable), drop these rows or set it to NaN.",
                stacklevel=4,
            )


def warn_of_wide(table: Table, smoothed: bool) -> None:
    """Warn of whole numbers that get a density instead of a mass.

    Args:
        table: the rows.
        smoothed: as for `read_table`; whole numbers are then taken as real ones on purpose.
    """
    columns = zip(table.names, table.columns, table.num_levels, table.supports, strict=True)
    wide = [
        name
        for name, column, count, support in columns
        if isinstance(column, Whole) and not count and (support.is_discrete or not smoothed)
    ]
    if wide:
        warnings.warn(
            f"The whole numbers of {wide} in `data` have more than {MAX_LEVELS} levels, or no "
            "bounds, so they have a density, not a mass: those from near zero on are spread evenly "
            "over the unit interval around each, others are taken as real numbers. Round draws to "
            "get whole numbers back.",
            stacklevel=4,
        )
