"""Supports as JSON: a constraint's kind by name, and its numbers."""

from __future__ import annotations

from typing import Any

import jax
from numpyro.distributions import constraints

from numpyro_disco.supports.sinh_arcsinh import SinhArcsinhReal

WITHOUT_BOUNDS = (
    "real",
    "positive",
    "nonnegative",
    "softplus_positive",
    "unit_interval",
    "boolean",
)
"""NumPyro's constraints on one number that have no parameters, by name."""
WITH_BOUNDS = (
    "interval",
    "open_interval",
    "greater_than",
    "greater_than_eq",
    "less_than",
    "less_than_eq",
    "integer_interval",
)
"""NumPyro's constraints on one number that have bounds, by name."""


def encode_support(support: constraints.Constraint) -> dict[str, Any]:
    """Kind and numbers of a constraint, as JSON.

    Args:
        support: one of NumPyro's constraints on one number, or a `SinhArcsinhReal`.

    Raises:
        ValueError: any other constraint.
    """
    for kind in WITHOUT_BOUNDS:
        if type(support) is type(getattr(constraints, kind)):
            return {"kind": kind}
    for kind in WITH_BOUNDS:
        if type(support) is getattr(constraints, kind):
            return {"kind": kind, "bounds": _numbers(support)}
    if isinstance(support, SinhArcsinhReal):
        return {"kind": "sinh_arcsinh", "map": _numbers(support)}
    raise ValueError(
        f"Expected one of NumPyro's own constraints on one number as a support, "
        f"{WITHOUT_BOUNDS + WITH_BOUNDS}; got {support!r}, which cannot be saved as data. Replace "
        "it with one of these."
    )


def decode_support(code: dict[str, Any]) -> constraints.Constraint:
    """The constraint of which `encode_support` made `code`.

    Raises:
        ValueError: an unknown kind.
    """
    kind = code["kind"]
    if kind in WITHOUT_BOUNDS:
        return getattr(constraints, kind)
    if kind in WITH_BOUNDS:
        return getattr(constraints, kind)(*map(float, code["bounds"]))
    if kind == "sinh_arcsinh":
        return SinhArcsinhReal(*map(float, code["map"]))
    raise ValueError(f"there is no support {kind!r}")


def _numbers(support: constraints.Constraint) -> list[float]:
    return [float(number) for number in jax.tree.leaves(support)]
