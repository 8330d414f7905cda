"""Checks of arguments at the door, in one voice.

Every message names the argument, what was expected, what came, and the remedy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np


def check_positive(value: Any, argument: str) -> float:
    """Return `value` as a float; it must be finite and greater than zero."""
    try:
        if isinstance(value, bool | np.bool_ | str):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"Expected a positive number for `{argument}`; got {value!r}.") from None
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"Expected a positive, finite number for `{argument}`; got {value!r}.")
    return number


def check_count(value: Any, argument: str, minimum: int = 1) -> int:
    """Return `value` as an int; it must be a whole number of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < minimum:
        raise ValueError(
            f"Expected a whole number of at least {minimum} for `{argument}`; got {value!r}."
        )
    return int(value)


def check_fraction(value: Any, argument: str) -> float:
    """Return `value` as a float strictly between 0 and 1."""
    number = check_positive(value, argument)
    if number >= 1:
        raise ValueError(f"Expected a number between 0 and 1 for `{argument}`; got {value!r}.")
    return number


def check_share(value: Any, argument: str) -> float:
    """Return `value` as a float of at least 0 and less than 1/2."""
    number = 0.0 if value == 0 else check_fraction(value, argument)
    if number >= 0.5:
        raise ValueError(f"Expected a share of less than 1/2 for `{argument}`; got {value!r}.")
    return number


def check_flag(value: Any, argument: str) -> bool:
    """Return `value` as a bool; it must be one."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"Expected True or False for `{argument}`; got {value!r}.")
    return bool(value)


def check_key(rng_key: Any) -> jax.Array:
    """Return `rng_key` as one typed key; legacy `PRNGKey` arrays are taken too."""
    if isinstance(rng_key, int | np.integer) or not hasattr(rng_key, "dtype"):
        raise ValueError(
            f"Expected a random key for `rng_key`; got {rng_key!r}. Make one with "
            "`jax.random.key(0)`."
        )
    if not jax.dtypes.issubdtype(rng_key.dtype, jax.dtypes.prng_key):
        try:
            rng_key = jax.random.wrap_key_data(rng_key)
        except TypeError:
            raise ValueError(
                f"Expected a random key for `rng_key`; got an array of {rng_key.dtype} of shape "
                f"{rng_key.shape}. Make one with `jax.random.key(0)`."
            ) from None
    if rng_key.shape != ():
        raise ValueError(
            f"Expected one random key for `rng_key`; got an array of keys of shape {rng_key.shape}."
        )
    return rng_key


def check_names(names: Sequence[str] | None, dimension: int) -> tuple[str, ...]:
    """Return one distinct, readable name for each of `dimension` coordinates.

    A slash is refused because ArviZ 1.x stores draws in a tree whose paths are written with
    slashes, and could not hold such a site.
    """
    if names is None:
        return tuple(str(i) for i in range(dimension))
    if isinstance(names, str):
        raise ValueError(
            f"Expected a sequence of {dimension} names for `names`; got the single string "
            f"{names!r}."
        )
    names = tuple(names)
    for name in names:
        if not isinstance(name, str) or not name or "/" in name:
            raise ValueError(
                f"Expected non-empty strings without '/' for `names`; got {name!r}. Rename it."
            )
    if len(names) != dimension:
        raise ValueError(
            f"Expected {dimension} `names`, one for each coordinate; got {len(names)}: {names}."
        )
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates:
        raise ValueError(
            f"Expected distinct `names`; {duplicates} come more than once. Rename the columns."
        )
    return names


def name_index(name: Any, names: Sequence[str], argument: str) -> int:
    """Return the place of coordinate `name` in `names`."""
    if name not in names:
        raise ValueError(
            f"`{argument}` names {name!r}, which is not a coordinate of this distribution; "
            f"its names are {tuple(names)}."
        )
    return list(names).index(name)


def columns_of(data: Any, argument: str = "data") -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Return `data` as a float64 matrix, with the names that it carries (or None).

    `data` is an array of shape (N, D), a DataFrame (anything with `columns` and `to_numpy`), or a
    mapping from column names to sequences of length N.
    """
    names: tuple[str, ...] | None = None
    if isinstance(data, Mapping):
        if len({str(name) for name in data}) < len(data):
            raise ValueError(
                f"Expected distinct names in `{argument}`; got {list(data)}. Rename the columns."
            )
        columns = {str(name): np.asarray(column) for name, column in data.items()}
        lengths = {name: column.shape for name, column in columns.items()}
        if len(set(lengths.values())) != 1 or any(len(shape) != 1 for shape in lengths.values()):
            raise ValueError(
                f"Expected columns of one length in `{argument}`; got the shapes {lengths}."
            )
        names, table = tuple(columns), np.stack(list(columns.values()), axis=1)
    elif hasattr(data, "columns") and hasattr(data, "to_numpy"):
        names, table = tuple(str(name) for name in data.columns), data.to_numpy()
    else:
        table = np.asarray(data)
    try:
        table = np.asarray(table, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(
            f"Expected numbers in `{argument}`; got an array of {table.dtype}. Encode or drop the "
            "columns that are not numeric."
        ) from None
    return table, names


def rows_of(data: Any, names: Sequence[str] | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return training rows as a float64 matrix (N, D) and the names of its columns.

    Rows with holes, NaN, are left in; all else is checked, of the complete rows.
    """
    table, found = columns_of(data)
    if table.ndim != 2 or table.shape[1] == 0:
        raise ValueError(
            f"Expected rows of shape (N, D) for `data`; got shape {table.shape}. For a single "
            "column use `data[:, None]`."
        )
    dimension = table.shape[1]
    if names is not None and found is not None:
        table = _in_order(table, check_names(names, dimension), found)
    names = check_names(names if names is not None else found, dimension)
    infinite = np.isinf(table)
    if infinite.any():
        columns = [names[i] for i in np.flatnonzero(infinite.any(axis=0))]
        raise ValueError(
            f"Expected finite numbers in `data`, or NaN where one is missing; "
            f"{int(infinite.any(axis=1).sum())} of {len(table)} rows hold infinity, in the columns "
            f"{columns}. Drop those rows, or mark what is missing with NaN."
        )
    complete = table[~np.isnan(table).any(axis=1)]
    minimum = max(10, dimension + 2)
    if len(complete) < minimum:
        holes = len(table) - len(complete)
        raise ValueError(
            f"Expected at least {minimum} complete rows in `data` to learn a density of "
            f"{dimension} coordinates; got {len(complete)}"
            + (f", and {holes} with holes." if holes else ".")
        )
    check_columns(complete, names)
    return table, names


def check_columns(table: np.ndarray, names: tuple[str, ...]) -> None:
    """Refuse constant columns, and copies of others."""
    num_rows = len(table)
    spread, size = table.std(axis=0), np.abs(table).max(axis=0)
    constant = spread <= 1e-12 * np.maximum(size, np.finfo(np.float64).tiny)
    if constant.any():
        raise ValueError(
            f"Expected columns that vary in `data`; {[names[i] for i in np.flatnonzero(constant)]} "
            "are constant. Drop them: a constant has no density."
        )
    standardized = (table - table.mean(axis=0)) / spread
    correlation = np.abs(standardized.T @ standardized) / num_rows
    twins = np.argwhere(np.triu(correlation > 1 - 1e-10, k=1))
    if len(twins):
        pairs = [(names[i], names[j]) for i, j in twins]
        raise ValueError(
            f"Expected columns that say different things in `data`; {pairs} are copies of each "
            "other up to shift and scale. Keep one of each pair: together they have no density."
        )


def _in_order(table: np.ndarray, names: Sequence[str], found: Sequence[str]) -> np.ndarray:
    """The columns in the order of `names`; names that share nothing with the data's rename them."""
    if set(names) == set(found):
        return table[:, [list(found).index(name) for name in names]]
    shared = sorted(set(names) & set(found))
    if shared:
        raise ValueError(
            f"Expected `names` to be those of the columns of `data` in some order, or all new; got "
            f"{tuple(names)} for columns {tuple(found)}, which share {shared}. Rename the columns."
        )
    return table
