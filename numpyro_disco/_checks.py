"""Checks of the arguments of public functions.

Each check returns the argument in the form that the package uses, or raises a `ValueError` that
says what was expected, for which argument, what came, and the remedy where it is not obvious:
"Expected X for `NAME`; got Y. Remedy."
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import jax
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
    """Return a distinct name for each of `dimension` coordinates; "0", "1", ... by default."""
    if names is None:
        return tuple(str(i) for i in range(dimension))
    if isinstance(names, str):
        raise ValueError(
            f"Expected a sequence of {dimension} names for `names`; got the single string "
            f"{names!r}. Put it in a list: `[{names!r}]`."
        )
    names = tuple(names)
    for name in names:
        if not isinstance(name, str) or not name:
            raise ValueError(f"Expected non-empty strings for `names`; got {name!r}. Rename it.")
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


def unused_name(name: str, names: Collection[str]) -> str:
    """`name`, with as many underscores after it as it takes not to be one of `names`."""
    while name in names:
        name += "_"
    return name


def name_index(name: Any, names: Sequence[str], argument: str) -> int:
    """Return the index of coordinate `name` in `names`."""
    if name not in names:
        raise ValueError(
            f"`{argument}` names {name!r}, which is not a coordinate of this distribution; "
            f"its names are {tuple(names)}."
        )
    return list(names).index(name)


def known_constant(value: Any) -> Any:
    """`value`, or the array that it stands for if it is a constant of the program being traced.

    `jnp.array([1.0])` is such a constant: traced, although its numbers are known.
    """
    if not is_traced(value):
        return value
    # Tracers of other kinds, and perhaps of other versions of JAX, have no such method.
    constant = getattr(value, "get_const", lambda: None)()
    return value if constant is None or is_traced(constant) else constant


def is_traced(*trees: Any) -> bool:
    """True if a leaf of some tree is traced, so that its numbers are not known yet."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))
