"""Warnings about columns that can be learned, but perhaps not as the user expects."""

from __future__ import annotations

import warnings

import numpy as np

from numpyro_disco._levels import MAX_LEVELS
from numpyro_disco._statistics import effective_number
from numpyro_disco.tables.columns import Whole
from numpyro_disco.training.rows.determined import find_determined
from numpyro_disco.training.rows.row_weights import FEW_PER_COLUMN
from numpyro_disco.training.rows.table import Table, constant_columns

SPIKE_ROWS, SPIKE = 20, 5
"""`fit` warns of values with so many rows, and so many times the rows of the next value."""
MAX_SPIKES = 3
"""Most values of one column that are named as far more common than the others."""


def warn_of_spikes(table: Table) -> None:
    """Warn of continuous columns in which one to three values are far more common than others."""
    for name, support, column in zip(table.names, table.supports, table.values.T, strict=True):
        if support.is_discrete:
            continue
        seen = column[~np.isnan(column)]
        values, counts = np.unique(seen, return_counts=True)
        order = np.argsort(-counts)
        num_spikes = _num_spikes(counts[order])
        if num_spikes:
            spikes = ", ".join(
                f"the value {values[place]:g} in {counts[place]} rows "
                f"({counts[place] / len(seen):.2%})"
                for place in order[:num_spikes]
            )
            it, each = ("it", "the value") if num_spikes == 1 else ("them", "each value")
            warnings.warn(
                f"{name!r} in `data` has {spikes}, more than {SPIKE} times as many as any other "
                f"value: the prior will have a very narrow mode at {it}, which is hard to learn "
                f"and in which samplers move slowly. If {each} is a code (below the limit of "
                "detection, not applicable), drop these rows or set it to NaN. If it is a "
                "measurement (no rain), learn a boolean column that says where it occurs, and "
                "the numbers from the other rows alone.",
                stacklevel=4,
            )


def _num_spikes(counts: np.ndarray) -> int:
    """Number of values far more common than the next one, at most three; `counts` fall."""
    counts = np.append(counts, 0)
    for place in range(min(MAX_SPIKES, len(counts) - 1)):
        if counts[place] >= SPIKE_ROWS and counts[place] > SPIKE * counts[place + 1]:
            return place + 1
    return 0


def warn_of_determined(table: Table) -> None:
    """Warn of real columns that a few others determine, exactly or nearly.

    It is no error, because no finite number of rows shows that a function is exact.
    """
    rows = table.values[~table.incomplete]
    if not len(rows):
        return
    varying = np.flatnonzero(~constant_columns(rows))
    targets = np.flatnonzero(np.isin(varying, table.real))
    found = find_determined(rows[:, varying], targets)
    if found:
        names = [table.names[place] for place in varying]
        listed = "; ".join(
            f"{names[one.column]!r} by {', '.join(repr(names[k]) for k in one.inputs)} (up to "
            f"{100 * one.left:.2g} % of what no linear function of the other columns explains)"
            for one in found
        )
        columns = [names[one.column] for one in found]
        warnings.warn(
            f"Columns of `data` are determined by others, exactly or nearly: {listed}. They have "
            "no joint density with these, or a very thin one. Leave "
            f"{columns} out, and compute them from draws of the others. If they are not exact "
            "functions, `objective=disco.Likelihood()` may learn the density better.",
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


def warn_of_few_effective_rows(table: Table) -> None:
    """Warn of weights of which a few are much larger than all others."""
    num_rows, dimension = table.values.shape
    effective = effective_number(table.weights, num_rows)
    if table.weights is not None and effective < FEW_PER_COLUMN * dimension:
        warnings.warn(
            f"`weights` make {num_rows} rows of `data` worth {effective:.3g} equally weighted "
            f"ones, which are few for {dimension} columns: most of the weight is on a few rows. "
            "Bring more rows, or limit the largest weights.",
            stacklevel=4,
        )


def warn_of_incomplete_rows(table: Table, *, sampled: bool) -> None:
    """Warn of rows with missing entries, which are left out; `sampled` rows stand for others."""
    num_incomplete = int(table.incomplete.sum())
    if num_incomplete:
        found = f"{num_incomplete} of {len(table.values)} rows of"
        warnings.warn(
            f"{found} a sample of `data` have missing entries; all such rows are left out."
            if sampled
            else f"{found} `data` have missing entries and are left out. To learn from them as "
            "well, leave out `missing='complete'`.",
            stacklevel=3,
        )
