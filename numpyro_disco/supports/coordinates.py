"""The supports of D coordinates, and the bijection T from unconstrained space onto them.

T acts on each coordinate by itself. Coordinates of one kind, such as all intervals, are mapped in
one call with arrays of bounds, so the size of a compiled program does not grow with D.

A coordinate may also be discrete, with an exact mass on each of a few whole numbers. In place of an
unconstrained value it has a code, 0.0, 1.0, ..., which T shifts to its lowest level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to, constraints, transforms

from numpyro_disco._checks import name_index
from numpyro_disco._levels import MAX_LEVELS
from numpyro_disco._typing import Array

Key = tuple[Any, ...]
"""The type of a constraint, followed by its numbers."""
LARGEST_LEVEL = 2**24
"""Largest whole number such that it and its neighbours are exact in single precision."""


class _Group(NamedTuple):
    """Coordinates whose supports have one type."""

    support: constraints.Constraint
    """Their common support, or one whose numbers are arrays with an entry for each coordinate."""
    indices: np.ndarray
    """Indices of the coordinates, shape (n,)."""


class CoordinateSupports:
    """The support of each of D coordinates, and the maps from the real line onto them.

    Supports are known when a program is compiled. Two objects are equal if the types and numbers of
    their constraints are.

    Args:
        supports: D NumPyro constraints on one number, as `check_supports` returns them.

    Attributes:
        supports: the constraints.
        real: true if every coordinate may be any real number, so that T is the identity.
        num_levels: levels of each discrete coordinate, 0 for continuous ones, D whole numbers.
        discrete: boolean array (D,), true for discrete coordinates.

    Example:
        >>> import jax.numpy as jnp
        >>> supports = CoordinateSupports((constraints.real, constraints.positive))
        >>> supports.constrain(jnp.zeros((5, 2))).shape
        (5, 2)
    """

    def __init__(self, supports: tuple[constraints.Constraint, ...]) -> None:
        self.supports = supports
        # A table with many missing entries has a support for each, but few distinct ones.
        distinct = {id(support): support for support in supports}
        keys = {name: (type(s), *map(float, jax.tree.leaves(s))) for name, s in distinct.items()}
        self._keys: tuple[Key, ...] = tuple(keys[id(support)] for support in supports)
        self._groups = _group_by_type(supports, self._keys)
        order = [index for group in self._groups for index in group.indices]
        self._order = np.argsort(np.asarray(order, np.int32)).astype(np.int32)
        self.real = {key[0] for key in self._keys} <= {type(constraints.real)}
        levels = {name: num_levels(support) for name, support in distinct.items()}
        self.num_levels = tuple(levels[id(support)] for support in supports)
        self.discrete = np.asarray(self.num_levels, int) > 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CoordinateSupports) and self._keys == other._keys

    def __hash__(self) -> int:
        return hash(self._keys)

    def select(self, indices: Iterable[int]) -> CoordinateSupports:
        """The supports of some coordinates, in the order of `indices`."""
        return CoordinateSupports(tuple(self.supports[index] for index in indices))

    @property
    def plain(self) -> tuple[constraints.Constraint, ...]:
        """The supports, without maps towards normality that keep them as they are."""
        return tuple(getattr(support, "plain", support) for support in self.supports)

    # One program outside of compiled code, instead of one for each operation.
    @partial(jax.jit, static_argnums=(0, 1), inline=True)
    def _map_groups(self, function: Callable, *arrays: Any) -> Array:
        """Apply `function(support, columns, ...)` to the columns of each group; shape (..., D)."""
        # The numbers of a group are arrays in double precision, which would promote the result;
        # they take the precision of the columns, as Python numbers do.
        dtype = jnp.result_type(arrays[0], float)
        parts = [
            function(
                jax.tree.map(lambda n: n if np.ndim(n) == 0 else n.astype(dtype), group.support),
                *(array[..., group.indices] for array in arrays),
            )
            for group in self._groups
        ]
        return jnp.concatenate(parts, axis=-1)[..., self._order]

    def constrain(self, y: Any) -> Array:
        """T(y): unconstrained values in the user's units, shape (..., D)."""
        return jnp.asarray(y) if self.real else self._map_groups(_constrain, y)

    def unconstrain(self, x: Any) -> Array:
        """The inverse of T, shape (..., D); not finite outside the supports and on their bounds."""
        if self.real:
            return jnp.asarray(x)
        return self._map_groups(_unconstrain, x)

    def log_dets(self, y: Any, x: Any) -> Array:
        """Log |dx / dy| of each coordinate, shape (..., D); 0 for discrete ones."""
        if self.real:
            return jnp.zeros_like(y)
        return self._map_groups(_log_dets, y, x)

    def inside(self, x: Any) -> Array:
        """Boolean array (..., D), true for coordinates that are finite and in their supports."""
        x = jnp.asarray(x)
        finite = jnp.isfinite(x)
        return finite if self.real else finite & self._map_groups(_inside, x)


def num_levels(support: constraints.Constraint) -> int:
    """Number of levels of a discrete support with an exact mass, and 0 for any other support.

    Args:
        support: NumPyro's `boolean`, or `integer_interval` with at most 64 levels, has levels.

    Example:
        >>> num_levels(constraints.boolean), num_levels(constraints.integer_interval(2, 5))
        (2, 4)
        >>> num_levels(constraints.nonnegative_integer)
        0
    """
    if isinstance(support, type(constraints.boolean)):
        return 2
    if not isinstance(support, constraints.integer_interval):
        return 0
    lower, upper = float(support.lower_bound), float(support.upper_bound)
    whole = lower % 1 == upper % 1 == 0 and max(abs(lower), abs(upper)) <= LARGEST_LEVEL
    return int(upper - lower) + 1 if whole and 0 <= upper - lower < MAX_LEVELS else 0


def _bijection(support: constraints.Constraint) -> transforms.Transform:
    """The map from unconstrained values, or codes of levels, onto a support."""
    if isinstance(support, constraints.integer_interval):
        return transforms.AffineTransform(support.lower_bound, 1.0)
    if support.is_discrete:
        return transforms.IdentityTransform()
    return biject_to(support)


def _constrain(support: constraints.Constraint, y: Array) -> Array:
    return _bijection(support)(y)


def _unconstrain(support: constraints.Constraint, x: Array) -> Array:
    return _bijection(support).inv(x)


def _log_dets(support: constraints.Constraint, y: Array, x: Array) -> Array:
    return _bijection(support).log_abs_det_jacobian(y, x)


def _inside(support: constraints.Constraint, x: Array) -> Array:
    return support(x)


def check_supports(
    supports: Mapping[str, constraints.Constraint] | None, names: tuple[str, ...]
) -> tuple[constraints.Constraint, ...]:
    """Return one constraint for each coordinate, the real line where none is given.

    Args:
        supports: NumPyro constraints on one number, by name; discrete ones are returned as they
            are, however many levels they have.
        names: names of all coordinates.

    Raises:
        ValueError: A name is unknown, or NumPyro cannot map the real line onto a support.
    """
    if supports is not None and not isinstance(supports, Mapping):
        raise ValueError(
            "Expected a mapping from names to NumPyro constraints for `supports`; got "
            f"{type(supports).__name__}."
        )
    found: list[constraints.Constraint] = [constraints.real] * len(names)
    for name, support in (supports or {}).items():
        index = name_index(name, names, "supports")
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
        found[index] = support
    return tuple(found)


def _group_by_type(
    supports: tuple[constraints.Constraint, ...], keys: tuple[Key, ...]
) -> list[_Group]:
    """Group coordinates by the type of their support, in order of first appearance."""
    indices_by_type: dict[type, list[int]] = {}
    for index, support in enumerate(supports):
        indices_by_type.setdefault(type(support), []).append(index)
    groups = []
    for indices in indices_by_type.values():
        support = supports[indices[0]]
        if len({keys[index] for index in indices}) > 1:
            numbers = np.asarray([keys[index][1:] for index in indices]).T
            support = jax.tree.unflatten(jax.tree.structure(support), list(numbers))
        # Of one type whether or not double precision is on, as JAX keeps constants of a program.
        groups.append(_Group(support, np.asarray(indices, np.int32)))
    return groups
