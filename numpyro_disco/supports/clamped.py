"""Supports that carry a scale, and supports with coordinates held fixed.

NumPyro's samplers move in the unconstrained space that a support names. A learned prior knows the
location and scale of its coordinates, so its supports map standardised coordinates to the user's
units: samplers start at the scale of the data and need not learn it. A clamped support maps the
free coordinates alone, so a sampler moves in as many dimensions as there are unknowns.

Three spaces follow each other: standardised u, unconstrained y = loc + scale * u, and the user's
x = T(y), T one bijection for each coordinate.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to, constraints, transforms

from numpyro_disco._typing import Array
from numpyro_disco.supports.coordinates import CoordinateSupports, all_equal


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
