"""Columns that cannot be learned as they are: all of them are named in one error."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpyro.distributions import constraints

from numpyro_disco.tables.columns import Column, Dates, Real, Whole
from numpyro_disco.tables.kinds import default_support
from numpyro_disco.tables.reading import Rows

MAX_TIED_SHARE = 0.1
"""Share of rows that may have one and the same value in a continuous column."""
NO_ENTRY, INFINITE, CONSTANT = "has no entry", "holds infinity", "is constant"
"""Faults of columns of any kind."""


def check_columns(
    rows: Rows,
    names: tuple[str, ...],
    supports: Mapping[str, constraints.Constraint],
    others: tuple[str, ...],
    smoothed: bool,
) -> None:
    """Refuse all columns that cannot be learned as they are, in one error with one remedy.

    These are columns of something else than numbers, categories and dates, and real columns in
    which many rows share one value. Columns with other faults are named beside them. If these are
    of one kind only, they are left to the error of that kind.

    Args:
        rows: the rows.
        names: names of their columns.
        supports: what the user declared.
        others: another fault of each column, or nothing: `NO_ENTRY`, `INFINITE` or `CONSTANT`.
        smoothed: as for `read_table`.
    """
    faults, dropped, declared, apart = [], [], [], []
    columns = zip(names, rows.columns, rows.values.T, others, strict=True)
    for name, column, values, fault in columns:
        if isinstance(column, str):
            faults.append(f"{name!r} holds {column}")
            dropped.append(name)
            continue
        tie = None if fault or smoothed or name in supports else _tie(column, values)
        if tie is None:
            continue
        _check_repeated_rows(rows)
        faults.append(f"{name!r} {tie}")
        seen = values[~np.isnan(values)]
        if (seen == np.round(seen)).all():
            ends = f"{seen.min():.0f}, {seen.max():.0f}"
            declared.append(f"{name!r}: constraints.integer_interval({ends})")
        else:
            apart.append(name)
    other_kinds = set(filter(None, others))
    if not faults and len(other_kinds) < 2:
        return
    for name, column, fault in zip(names, rows.columns, others, strict=True):
        if fault and not isinstance(column, str):
            faults.append(f"{name!r} {fault}")
            if fault != INFINITE:
                dropped.append(name)
    finite = ".replace([np.inf, -np.inf], np.nan)" * (INFINITE in other_kinds)
    drop = [*dropped, *apart]
    remedies = [
        f"leave out what has no density, `data.drop(columns={dropped})`" * bool(dropped),
        f"declare whole numbers, `supports={{{', '.join(declared)}}}`" * bool(declared),
        f"model {apart} outside of the prior" * bool(apart),
        f"mark infinity as missing, `data{finite}`" * bool(finite),
    ]
    given = ", ".join(
        [(f"data.drop(columns={drop})" if drop else "data") + finite]
        + [f"supports={{{', '.join(declared)}}}"] * bool(declared)
    )
    raise ValueError(
        f"Expected numbers, categories and dates with a density in `data`; {'; '.join(faults)}. "
        f"Remedy: {'; '.join(filter(None, remedies))}. In one call: `fit(rng_key, {given})`."
        + " With `noise_scale`, many rows may share a value."
        * bool(declared or apart)
    )


def _tie(column: Column, values: np.ndarray) -> str | None:
    """Description of a value that many rows of a continuous column share, or None."""
    seen = values[~np.isnan(values)]
    continuous = isinstance(column, Real | Whole | Dates)
    if not len(seen) or not continuous or default_support(column, values) != constraints.real:
        return None
    distinct, counts = np.unique(seen, return_counts=True)
    share = counts.max() / len(seen)
    if share <= MAX_TIED_SHARE or len(distinct) == 1:
        return None
    return (
        f"has the value {distinct[counts.argmax()]:g} in {share:.0%} of the rows, and "
        f"{len(distinct)} distinct values"
    )


def _check_repeated_rows(rows: Rows) -> None:
    """Refuse rows of which many are one and the same; ties of columns are a sign of them only."""
    if sum(isinstance(column, Real) for column in rows.columns) < 2:
        return
    distinct, counts = np.unique(rows.values, axis=0, return_counts=True)
    share = counts.max() / len(rows.values)
    if share > MAX_TIED_SHARE and len(distinct) > 1:
        raise ValueError(
            f"Expected rows of `data` that differ; {share:.0%} of them are one and the same, and "
            f"{len(distinct):,} of {len(rows.values):,} are distinct. Draws of a sampler repeat "
            "where a chain does not move: look at its acceptance and at R-hat, then leave out "
            "chains that are stuck, or run the sampler again, for longer or with another "
            "parametrisation. Give rows of a table that occur often once, with their number in "
            "`weights`."
        )
