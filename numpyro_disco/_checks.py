"""Checks of the arguments of public functions.

Each check returns the argument in the form that the package uses, or raises a `ValueError` that
says what was expected, for which argument, what came, and the remedy where it is not obvious:
"Expected X for `NAME`; got Y. Remedy."
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def check_positive(value: Any, argument: str) -> float:
    """Return `value` as a float. It must be a finite, positive number."""
    try:
        if isinstance(value, bool | np.bool_ | str):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"Expected a positive number for `{argument}`; got {value!r}.") from None
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"Expected a positive, finite number for `{argument}`; got {value!r}.")
    return number


def check_non_negative(value: Any, argument: str) -> float:
    """Return `value` as a float; it must be finite and at least zero."""
    if not isinstance(value, bool) and np.ndim(value) == 0 and value == 0:
        return 0.0
    return check_positive(value, argument)


def check_count(value: Any, argument: str, minimum: int = 1) -> int:
    """Return `value` as an int. It must be an integer of at least `minimum`; 2.0 is refused."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < minimum:
        raise ValueError(
            f"Expected a whole number of at least {minimum} for `{argument}`; got {value!r}."
        )
    return int(value)


def check_fraction(value: Any, argument: str) -> float:
    """Return `value` as a float. It must lie strictly between 0 and 1."""
    number = check_positive(value, argument)
    if number >= 1:
        raise ValueError(
            f"Expected a number strictly between 0 and 1 for `{argument}`; got {value!r}."
        )
    return number


def check_share(value: Any, argument: str) -> float:
    """Return `value` as a float. It must be at least 0 and less than 1/2."""
    number = 0.0 if value == 0 else check_fraction(value, argument)
    if number >= 0.5:
        raise ValueError(f"Expected a share below 1/2 for `{argument}`; got {value!r}.")
    return number


def check_flag(value: Any, argument: str) -> bool:
    """Return `value` as a bool. It must be True or False; 0 and 1 are refused."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"Expected True or False for `{argument}`; got {value!r}.")
    return bool(value)


def check_key(rng_key: Any) -> jax.Array:
    """Return `rng_key` as a single typed key. Legacy `jax.random.PRNGKey` arrays are accepted."""
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
                f"Expected a random key for `rng_key`; got an array with dtype {rng_key.dtype} and "
                f"shape {rng_key.shape}. Make one with `jax.random.key(0)`."
            ) from None
    if rng_key.shape != ():
        raise ValueError(
            "Expected one random key for `rng_key`; got an array of keys of shape "
            f"{rng_key.shape}. Pass one of them, such as `rng_key[0]`."
        )
    return rng_key


def check_names(names: Sequence[str] | None, dimension: int) -> tuple[str, ...]:
    """Return a distinct name for each of `dimension` coordinates; "0", "1", ... by default.

    Slashes are refused: ArviZ 1.x stores draws in a tree, and a path in the tree is written with
    slashes.
    """
    if names is None:
        return tuple(str(i) for i in range(dimension))
    if isinstance(names, str):
        raise ValueError(
            f"Expected a sequence of {dimension} names for `names`; got the single string "
            f"{names!r}. Put it in a list: `[{names!r}]`."
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
    """Return the index of coordinate `name` in `names`."""
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


def observed_values(
    observed: Any, names: Sequence[str], argument: str = "observed"
) -> tuple[Any, Any]:
    """Return values (..., D), zero where free, and a boolean array (..., D), true where observed.

    `observed` is a mapping from names to numbers or arrays of one batch shape, or an array or a
    DataFrame whose last axis has one entry for each name. NaN means free. Values may be traced;
    a traced entry of a mapping is taken as observed.
    """
    dimension = len(names)
    if hasattr(observed, "columns") and hasattr(observed, "to_numpy"):
        observed = {str(name): observed[name].to_numpy() for name in observed.columns}
    if isinstance(observed, Mapping):
        places = {name: name_index(name, names, argument) for name in observed}
        given = {places[name]: _numbers(value, argument) for name, value in observed.items()}
        try:
            shape = np.broadcast_shapes(*(value.shape for value in given.values()))
        except ValueError:
            shapes = {name: given[place].shape for name, place in places.items()}
            raise ValueError(
                f"Expected entries of one batch shape in `{argument}`; got the shapes {shapes}."
            ) from None
        traced = {p for p, column in given.items() if isinstance(column, jax.core.Tracer)}
        free = np.full(shape, np.nan)
        columns = [given.get(place, free) for place in range(dimension)]
        table: Any = (jnp if traced else np).stack(
            [(jnp if traced else np).broadcast_to(column, shape) for column in columns], axis=-1
        )
        seen = [
            np.full(shape, True) if place in traced else np.broadcast_to(~np.isnan(column), shape)
            for place, column in enumerate(columns)
        ]
        mask: Any = np.stack(seen, axis=-1)
    else:
        table = _numbers(observed, argument)
        mask = ~jnp.isnan(table) if isinstance(table, jax.core.Tracer) else ~np.isnan(table)
    if table.ndim == 0 or table.shape[-1] != dimension:
        raise ValueError(
            f"Expected a last axis of {dimension} for `{argument}`, one entry for each of "
            f"{tuple(names)}; got shape {table.shape}."
        )
    if not isinstance(table, jax.core.Tracer):
        if np.isinf(table).any():
            raise ValueError(
                f"Expected finite numbers, or NaN for what is free, in `{argument}`; got infinity."
            )
        return np.where(mask, table, 0.0), mask
    return jnp.where(mask, table, 0.0), mask


def row_labels(table: Any) -> tuple[str, ...] | None:
    """The labels of a DataFrame's rows, if `table` is one."""
    if hasattr(table, "columns") and hasattr(table, "index"):
        return tuple(str(label) for label in table.index)
    return None


def _numbers(value: Any, argument: str) -> Any:
    """`value` as an array: traced arrays as they are, anything else as float64."""
    if isinstance(value, jax.core.Tracer):
        return value
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"Expected numbers in `{argument}`; got {value!r}.") from None
