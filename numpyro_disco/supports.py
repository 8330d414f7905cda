"""Supports that carry a scale, and supports with coordinates held fixed.

NumPyro's samplers move in the unconstrained space that a support names. A learned prior knows the
location and scale of its coordinates, so its supports map standardised coordinates to the user's
units: samplers start at the scale of the data and need not learn it. A clamped support maps the
free coordinates alone, so a sampler moves in as many dimensions as there are unknowns.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to, constraints, transforms

from numpyro_disco._typing import Array


class StandardizedReal(constraints.Constraint):
    """The real line, whose unconstrained coordinate is (x - loc) / scale."""

    def __init__(self, loc: Array, scale: Array) -> None:
        self.loc, self.scale = loc, scale

    def __call__(self, x: Any) -> Any:
        """Whether x is finite."""
        return (x == x) & (jnp.abs(x) != jnp.inf)

    def feasible_like(self, prototype: Any) -> Array:
        """The location, in the shape of `prototype`."""
        return jnp.broadcast_to(self.loc, jnp.shape(prototype))

    def eq(self, other: object, static: bool = False) -> Any:
        """Whether `other` is the same set with the same coordinate."""
        if not isinstance(other, StandardizedReal):
            return False
        return _all_equal(self, other, ("loc", "scale"), static)

    def tree_flatten(self) -> tuple[Any, Any]:
        """Location and scale are leaves."""
        return (self.loc, self.scale), (("loc", "scale"), {})


class StandardizedVector(constraints.Constraint):
    """Vectors of D numbers of which some are held at given values.

    The unconstrained vector holds (x - loc) / scale of the free coordinates only.
    """

    event_dim = 1

    def __init__(
        self, loc: Array, scale: Array, values: Array | None, observed: tuple[bool, ...]
    ) -> None:
        self.loc, self.scale, self.values, self.observed = loc, scale, values, observed

    def __call__(self, x: Any) -> Any:
        """Whether x is finite and holds the given values."""
        inside = (x == x) & (jnp.abs(x) != jnp.inf)
        if self.values is not None:
            inside = inside & (~np.asarray(self.observed) | (x == self.values))
        return inside.all(-1)

    def feasible_like(self, prototype: Any) -> Array:
        """The location with the given values, in the shape of `prototype`."""
        centre = self.loc
        if self.values is not None:
            centre = jnp.where(np.asarray(self.observed), self.values, self.loc)
        return jnp.broadcast_to(centre, jnp.shape(prototype))

    def eq(self, other: object, static: bool = False) -> Any:
        """Whether `other` is the same set with the same coordinate."""
        if not isinstance(other, StandardizedVector) or self.observed != other.observed:
            return False
        return _all_equal(self, other, ("loc", "scale", "values"), static)

    def tree_flatten(self) -> tuple[Any, Any]:
        """Location, scale and values are leaves; which are held is not."""
        names = ("loc", "scale", "values")
        return tuple(getattr(self, n) for n in names), (names, {"observed": self.observed})


class ClampedAffineTransform(transforms.Transform):
    """u of the free coordinates to x = loc + scale * u there, and the held values elsewhere.

    The Jacobian is that of the free coordinates, a constant.
    """

    domain = constraints.real_vector

    def __init__(
        self, loc: Array, scale: Array, values: Array | None, observed: tuple[bool, ...]
    ) -> None:
        self.loc, self.scale, self.values, self.observed = loc, scale, values, observed

    @property
    def codomain(self) -> constraints.Constraint:
        """The vectors with these values held."""
        return StandardizedVector(self.loc, self.scale, self.values, self.observed)

    @property
    def _free(self) -> np.ndarray:
        return np.flatnonzero(~np.asarray(self.observed))

    def __call__(self, x: Any) -> Array:
        """From the free unconstrained coordinates to whole vectors."""
        free = self._free
        moved = self.loc[..., free] + self.scale[..., free] * x
        if self.values is None:
            return moved
        shape = jnp.broadcast_shapes(moved.shape[:-1], self.values.shape[:-1])
        whole = jnp.broadcast_to(self.values, (*shape, len(self.observed)))
        return whole.astype(moved.dtype).at[..., free].set(moved)

    def _inverse(self, y: Any) -> Array:
        free = self._free
        return (y[..., free] - self.loc[..., free]) / self.scale[..., free]

    def log_abs_det_jacobian(self, x: Any, y: Any, intermediates: Any = None) -> Array:
        """Sum of log scale over the free coordinates."""
        log_det = jnp.log(self.scale[..., self._free]).sum(-1)
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

    def eq(self, other: object, static: bool = False) -> Any:
        """Whether `other` is the same map."""
        if not isinstance(other, ClampedAffineTransform) or self.observed != other.observed:
            return False
        return _all_equal(self, other, ("loc", "scale", "values"), static)

    def tree_flatten(self) -> tuple[Any, Any]:
        """Location, scale and values are leaves; which are held is not."""
        names = ("loc", "scale", "values")
        return tuple(getattr(self, n) for n in names), (names, {"observed": self.observed})


def _all_equal(one: Any, other: Any, fields: tuple[str, ...], static: bool) -> Any:
    pairs = [(getattr(one, field), getattr(other, field)) for field in fields]
    if any((a is None) != (b is None) for a, b in pairs):
        return False
    pairs = [pair for pair in pairs if pair[0] is not None]
    if static:
        return all(np.array_equal(a, b) for a, b in pairs)
    return jnp.array([jnp.array_equal(a, b) for a, b in pairs]).all()


@biject_to.register(StandardizedReal)
def _(constraint: StandardizedReal) -> transforms.Transform:
    return transforms.AffineTransform(constraint.loc, constraint.scale)


@biject_to.register(StandardizedVector)
def _(constraint: StandardizedVector) -> transforms.Transform:
    return ClampedAffineTransform(
        constraint.loc, constraint.scale, constraint.values, constraint.observed
    )
