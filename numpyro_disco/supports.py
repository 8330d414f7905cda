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
from numpyro.distributions import biject_to, constraints, transforms

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


class StandardizedReal(constraints.Constraint):
    """One coordinate: x = T(loc + scale * u) of an unconstrained, standardised u."""

    def __init__(self, loc: Array, scale: Array, base: CoordinateSupports | None = None) -> None:
        self.loc, self.scale = loc, scale
        self.base = CoordinateSupports((constraints.real,)) if base is None else base

    def __repr__(self) -> str:
        return f"StandardizedReal({self.base.supports[0]!r})"

    def __call__(self, x: Any) -> Any:
        """Whether x is finite and in the support."""
        return self.base.inside(jnp.asarray(x)[..., None])[..., 0]

    def feasible_like(self, prototype: Any) -> Array:
        """The location, in the shape of `prototype`."""
        centre = self.base.constrain(jnp.asarray(self.loc)[..., None])[..., 0]
        return jnp.broadcast_to(centre, jnp.shape(prototype))

    def eq(self, other: object, static: bool = False) -> Any:
        """Whether `other` is the same set with the same coordinate."""
        if not isinstance(other, StandardizedReal) or self.base != other.base:
            return False
        return all_equal(self, other, ("loc", "scale"), static)

    def tree_flatten(self) -> tuple[Any, Any]:
        """Location and scale are leaves."""
        return (self.loc, self.scale), (("loc", "scale"), {"base": self.base})


class _Clamped:
    """What the clamped subspace and the map onto it are made of."""

    def __init__(
        self,
        loc: Array,
        scale: Array,
        values: Array | None,
        observed: tuple[bool, ...],
        base: CoordinateSupports | None = None,
    ) -> None:
        self.loc, self.scale, self.values, self.observed = loc, scale, values, observed
        self.base = (
            CoordinateSupports((constraints.real,) * len(observed)) if base is None else base
        )

    def eq(self, other: object, static: bool = False) -> Any:
        """Whether `other` is the same set with the same coordinate, or the same map."""
        if not isinstance(other, _Clamped) or type(other) is not type(self):
            return False
        if (self.observed, self.base) != (other.observed, other.base):
            return False
        return all_equal(self, other, ("loc", "scale", "values"), static)

    def tree_flatten(self) -> tuple[Any, Any]:
        """Location, scale and values are leaves; which are held, and their sets, are not."""
        names = ("loc", "scale", "values")
        static = {"observed": self.observed, "base": self.base}
        return tuple(getattr(self, n) for n in names), (names, static)


class StandardizedVector(_Clamped, constraints.Constraint):
    """Vectors of D numbers of which some are held at given values.

    The unconstrained vector holds u of the free coordinates only, x = T(loc + scale * u).
    """

    event_dim = 1

    def __repr__(self) -> str:
        held = np.flatnonzero(self.observed).tolist()
        return f"StandardizedVector({self.base.supports!r}, held: {held})"

    def __call__(self, x: Any) -> Any:
        """Whether x is finite, in the supports, and holds the given values."""
        inside = self.base.inside(x)
        if self.values is not None:
            inside = inside & (~np.asarray(self.observed) | (x == self.values))
        return inside.all(-1)

    def feasible_like(self, prototype: Any) -> Array:
        """The location with the given values, in the shape of `prototype`."""
        centre = self.base.constrain(self.loc)
        if self.values is not None:
            centre = jnp.where(np.asarray(self.observed), self.values, centre)
        return jnp.broadcast_to(centre, jnp.shape(prototype))


class ClampedTransform(_Clamped, transforms.Transform):
    """u of the free coordinates to x = T(loc + scale * u) there, and the held values elsewhere.

    The Jacobian is that of the free coordinates.
    """

    domain = constraints.real_vector

    @property
    def codomain(self) -> constraints.Constraint:
        """The vectors with these values held."""
        return StandardizedVector(self.loc, self.scale, self.values, self.observed, self.base)

    @property
    def _free(self) -> np.ndarray:
        return np.flatnonzero(~np.asarray(self.observed))

    @property
    def _free_base(self) -> CoordinateSupports:
        return self.base.select(self._free) if any(self.observed) else self.base

    def _unconstrained(self, x: Any) -> Array:
        free = self._free
        return self.loc[..., free] + self.scale[..., free] * x

    def __call__(self, x: Any) -> Array:
        """From the free unconstrained coordinates to whole vectors."""
        free = self._free
        self.forward_shape(jnp.shape(x))
        moved = self._free_base.constrain(self._unconstrained(x))
        if self.values is None:
            return moved
        shape = jnp.broadcast_shapes(moved.shape[:-1], self.values.shape[:-1])
        whole = jnp.broadcast_to(self.values, (*shape, len(self.observed)))
        return whole.astype(moved.dtype).at[..., free].set(moved)

    def _inverse(self, y: Any) -> Array:
        free = self._free
        y = self._free_base.unconstrain(y[..., free])
        return (y - self.loc[..., free]) / self.scale[..., free]

    def log_abs_det_jacobian(self, x: Any, y: Any, intermediates: Any = None) -> Array:
        """Sum over the free coordinates of log scale and of T's own."""
        free = self._free
        log_det = jnp.log(self.scale[..., free]).sum(-1)
        if not self.base.real:
            unconstrained = self._unconstrained(x)
            log_dets = self._free_base.log_dets(unconstrained, y[..., free])
            log_det = log_det + log_dets.sum(-1)
        return jnp.broadcast_to(log_det, jnp.shape(y)[:-1])

    def forward_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(..., free) to (..., D)."""
        if shape[-1:] != (len(self._free),):
            raise ValueError(f"Expected {len(self._free)} free coordinates; got shape {shape}.")
        return (*shape[:-1], len(self.observed))

    def inverse_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(..., D) to (..., free)."""
        if shape[-1:] != (len(self.observed),):
            raise ValueError(f"Expected {len(self.observed)} coordinates; got shape {shape}.")
        return (*shape[:-1], len(self._free))


def all_equal(one: Any, other: Any, fields: tuple[str, ...], static: bool) -> Any:
    """Whether two objects have the same arrays, or None, in these fields."""
    pairs = [(getattr(one, field), getattr(other, field)) for field in fields]
    if any((a is None) != (b is None) for a, b in pairs):
        return False
    pairs = [pair for pair in pairs if pair[0] is not None]
    if static:
        return all(np.array_equal(a, b) for a, b in pairs)
    return jnp.array([jnp.array_equal(a, b) for a, b in pairs]).all()


@biject_to.register(StandardizedReal)
def _(constraint: StandardizedReal) -> transforms.Transform:
    standardize = transforms.AffineTransform(constraint.loc, constraint.scale)
    if constraint.base.real:
        return standardize
    return transforms.ComposeTransform([standardize, biject_to(constraint.base.supports[0])])


@biject_to.register(StandardizedVector)
def _(constraint: StandardizedVector) -> transforms.Transform:
    return ClampedTransform(
        constraint.loc, constraint.scale, constraint.values, constraint.observed, constraint.base
    )
