"""The columns that an objective is to learn first, given all others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from numpyro_disco._checks import name_index
from numpyro_disco.tables.variables import Variables


class Focus(NamedTuple):
    """The columns whose conditional given all others is in focus."""

    names: tuple[str, ...]
    """The names that the user gave: of columns or of variables."""
    places: tuple[int, ...] = ()
    """Indices of the columns, in increasing order; empty until the columns are known."""


def check_focus(value: Any, argument: str) -> Focus:
    """Names of columns or variables as a `Focus`; a `ValueError` unless they are names."""
    if isinstance(value, Focus):
        return value
    names = (value,) if isinstance(value, str) else value
    sound = isinstance(names, Sequence) and all(isinstance(n, str) and n for n in names)
    if not sound or not names or len(set(names)) < len(names):
        raise ValueError(
            f"Expected a name or distinct names of columns or variables for `{argument}`; got "
            f'{value!r}. For example: `{argument}="theta"`.'
        )
    return Focus(tuple(names))


def focus_on(
    names: tuple[str, ...], columns: tuple[str, ...], variables: Variables | None
) -> Focus:
    """The columns that names stand for.

    Args:
        names: names of columns or of variables.
        columns: names of all D columns.
        variables: the variables that the columns form, or None.

    Returns:
        A `Focus` with places.

    Raises:
        ValueError: a name that is neither a column's nor a variable's, an element of a variable
            whose support couples it to others, or names of all columns.
    """
    places: set[int] = set()
    for name in names:
        if variables is not None and name in variables.shapes:
            places.update(map(int, variables.indices[name]))
            continue
        if variables is not None:
            variables.check_element(name, "focus")
        places.add(name_index(name, columns, "focus"))
    if len(places) == len(columns):
        raise ValueError(
            f"Expected a `focus` that leaves some of the columns {columns} out, to be given; got "
            f"{names}. Leave `focus` out to learn the joint density alone."
        )
    return Focus(names, tuple(sorted(places)))
