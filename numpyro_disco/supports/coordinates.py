"""Supports that carry a scale, and supports with coordinates held fixed.

NumPyro's samplers move in the unconstrained space that a support names. A learned prior knows the
location and scale of its coordinates, so its supports map standardised coordinates to the user's
units: samplers start at the scale of the data and need not learn it. A clamped support maps the
free coordinates alone, so a sampler moves in as many dimensions as there are unknowns.

Three spaces follow each other: standardised u, unconstrained y = loc + scale * u, and the user's
x = T(y), T one bijection for each coordinate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to, constraints

from numpyro_disco._checks import name_index
from numpyro_disco._typing import Array


class CoordinateSupports:
    """The set that each of D coordinates lives in, and the maps from the real line onto them.

    All of it is known when a program is compiled: equal if kinds and bounds are.

    Args:
        supports: D scalar NumPyro constraints, as `check_supports` returns them.
    """

    def __init__(self, supports: tuple[constraints.Constraint, ...]) -> None:
        self.supports = supports
        # A table has a support for each of its holes, and few that differ.
        different = {id(support): support for support in supports}
        keys = {place: (type(s), *map(float, jax.tree.leaves(s))) for place, s in different.items()}
        self._key = tuple(keys[id(s)] for s in supports)
        places: dict[type, list[int]] = {}
        for place, support in enumerate(supports):
            places.setdefault(type(support), []).append(place)
        # Coordinates of one kind are mapped together, however many there are: one constraint whose
        # numbers are arrays, unless all are the same.
        self._groups = []
        for group in places.values():
            together = supports[group[0]]
            if len({self._key[place] for place in group}) > 1:
                numbers = np.asarray([self._key[place][1:] for place in group]).T
                together = jax.tree.unflatten(jax.tree.structure(together), list(numbers))
            self._groups.append((together, np.asarray(group)))
        placed = [place for group in places.values() for place in group]
        self._order = np.argsort(np.asarray(placed, int))
        self.real = places.keys() <= {type(constraints.real)}
        """Whether every coordinate is any real number."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CoordinateSupports) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def select(self, places: Iterable[int]) -> CoordinateSupports:
        """The supports of some coordinates, in the order of `places`."""
        return CoordinateSupports(tuple(self.supports[place] for place in places))

    def _each(self, function: Callable, *arrays: Any) -> Array:
        """`function(support, columns, ...)` for the columns of each kind, put side by side."""
        # Numbers that are arrays have the precision of what they meet, as single ones do.
        dtype = jnp.result_type(arrays[0], float)
        parts = [
            function(
                jax.tree.map(lambda n: n if np.ndim(n) == 0 else n.astype(dtype), kind),
                *(a[..., group] for a in arrays),
            )
            for kind, group in self._groups
        ]
        return jnp.concatenate(parts, axis=-1)[..., self._order]

    def constrain(self, y: Any) -> Array:
        """T: unconstrained to the user's units, shape (..., D)."""
        return jnp.asarray(y) if self.real else self._each(lambda s, y: biject_to(s)(y), y)

    def unconstrain(self, x: Any) -> Array:
        """The inverse of T; not finite outside of the supports and on their bounds."""
        return jnp.asarray(x) if self.real else self._each(lambda s, x: biject_to(s).inv(x), x)

    def log_dets(self, y: Any, x: Any) -> Array:
        """Log |dx / dy| of each coordinate, shape (..., D)."""
        if self.real:
            return jnp.zeros_like(y)
        return self._each(lambda s, y, x: biject_to(s).log_abs_det_jacobian(y, x), y, x)

    def inside(self, x: Any) -> Array:
        """Which coordinates are finite and in their supports, shape (..., D)."""
        x = jnp.asarray(x)
        finite = jnp.isfinite(x)
        return finite if self.real else finite & self._each(lambda s, x: s(x), x)


def check_supports(
    supports: Mapping[str, constraints.Constraint] | None, names: tuple[str, ...]
) -> tuple[constraints.Constraint, ...]:
    """One constraint for each coordinate, real where nothing is given; discrete ones as they are.

    Args:
        supports: from names to scalar NumPyro constraints.
        names: of all coordinates.
    """
    if supports is not None and not isinstance(supports, Mapping):
        raise ValueError(
            "Expected a mapping from names to NumPyro constraints for `supports`; got "
            f"{type(supports).__name__}."
        )
    found: list[constraints.Constraint] = [constraints.real] * len(names)
    for name, support in (supports or {}).items():
        place = name_index(name, names, "supports")
        if not isinstance(support, constraints.Constraint) or support.event_dim != 0:
            raise ValueError(
                f"Expected a constraint on one number for {name!r} in `supports`, such as "
                f"`numpyro.distributions.constraints.positive`; got {support!r}."
            )
        if not support.is_discrete:
            try:
                biject_to(support)
            except NotImplementedError:
                raise ValueError(
                    f"Expected a constraint that NumPyro can map the real line onto for {name!r} "
                    f"in `supports`; got {support!r}. Register one with `biject_to`."
                ) from None
        found[place] = support
    return tuple(found)


def all_equal(one: Any, other: Any, fields: tuple[str, ...], static: bool) -> Any:
    """Whether two objects have the same arrays, or None, in these fields."""
    pairs = [(getattr(one, field), getattr(other, field)) for field in fields]
    if any((a is None) != (b is None) for a, b in pairs):
        return False
    pairs = [pair for pair in pairs if pair[0] is not None]
    if static:
        return all(np.array_equal(a, b) for a, b in pairs)
    return jnp.array([jnp.array_equal(a, b) for a, b in pairs]).all()
