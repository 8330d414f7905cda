"""The support of a variable of any shape, with a location and scale in unconstrained space.

    value = V(T(loc + scale * u)),

with T the map onto the supports of single coordinates and V the map from coordinates onto the
variable, which does more than reshape them if a support couples its elements, as a simplex does.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from numpyro.distributions import biject_to, constraints, transforms

from numpyro_disco._typing import Array
from numpyro_disco.supports.coordinates import CoordinateSupports
from numpyro_disco.supports.fields import Fields
from numpyro_disco.tables.variable import Variable


class _Variable(Fields):
    """The fields that the support and the map onto it share."""

    array_fields = ("loc", "scale")
    static_fields = ("variable", "base")

    def __init__(
        self, loc: Array, scale: Array, variable: Variable, base: CoordinateSupports
    ) -> None:
        self.loc, self.scale, self.variable, self.base = loc, scale, variable, base


class StandardizedVariable(_Variable, constraints.Constraint):
    """A variable of any shape, whose unconstrained coordinates are standardised one by one.

    Args:
        loc: location of its d coordinates in unconstrained space, shape (..., d).
        scale: positive scales in unconstrained space, shape (..., d).
        variable: the variable, which defines V.
        base: supports of its d coordinates, which define T.

    Example:
        >>> import jax.numpy as jnp
        >>> base = CoordinateSupports((constraints.real,) * 2)
        >>> support = StandardizedVariable(
        ...     jnp.zeros(2), jnp.ones(2), Variable("p", (3,), "simplex"), base
        ... )
        >>> biject_to(support)(jnp.zeros(2)).shape
        (3,)
    """

    def __repr__(self) -> str:
        shape, kind = self.variable.shape, self.variable.joint_support
        return f"StandardizedVariable({kind or self.base.supports[0]!r} of shape {shape})"

    @property
    def event_dim(self) -> int:  # type: ignore[override]
        """Number of axes of the variable."""
        return len(self.variable.shape)

    @property
    def plain(self) -> Any:
        """The support without location and scale: one constraint, or one for each element."""
        return self.variable.constraint or self.base.plain

    def __call__(self, x: Any) -> Any:
        """True where x is finite and in the support."""
        x = jnp.asarray(x)
        if self.variable.joint_support is not None:
            return self.variable.inside(x)
        return self.base.inside(self.variable.unconstrain(x)).all(-1)

    def feasible_like(self, prototype: Any) -> Array:
        """The value at the location, in the shape of `prototype`."""
        centre = self.variable.constrain(self.base.constrain(jnp.asarray(self.loc)))
        return jnp.broadcast_to(centre, jnp.shape(prototype))


class VariableTransform(_Variable, transforms.Transform):
    """The map from u to a variable, V(T(loc + scale * u)).

    The arguments are those of `StandardizedVariable`.
    """

    domain = constraints.real_vector

    @property
    def codomain(self) -> constraints.Constraint:
        """The support of the variable."""
        return StandardizedVariable(self.loc, self.scale, self.variable, self.base)

    def __call__(self, x: Any) -> Array:
        """Map unconstrained coordinates to the variable, (..., d) to (..., *shape)."""
        return self.variable.constrain(self.base.constrain(self.loc + self.scale * x))

    def _inverse(self, y: Any) -> Array:
        y = self.base.unconstrain(self.variable.unconstrain(jnp.asarray(y)))
        return (y - self.loc) / self.scale

    def log_abs_det_jacobian(self, x: Any, y: Any, intermediates: Any = None) -> Array:
        """Log determinants of the scale, of T and of V, shape (..., d) to (...)."""
        unconstrained = self.loc + self.scale * x
        coordinates = self.base.constrain(unconstrained)
        log_dets = jnp.log(self.scale) + self.base.log_dets(unconstrained, coordinates)
        return log_dets.sum(-1) + self.variable.log_det(coordinates)

    def forward_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the variable: (..., d) to (..., *shape)."""
        if shape[-1:] != (self.variable.size,):
            raise ValueError(
                f"Expected a last axis of {self.variable.size}, one entry for each coordinate of "
                f"{self.variable.name!r}; got shape {shape}."
            )
        return (*shape[:-1], *self.variable.shape)

    def inverse_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the coordinates: (..., *shape) to (..., d)."""
        leading = len(shape) - len(self.variable.shape)
        if leading < 0 or tuple(shape[leading:]) != self.variable.shape:
            raise ValueError(
                f"Expected last axes {self.variable.shape} for {self.variable.name!r}; got shape "
                f"{shape}."
            )
        return (*shape[:leading], self.variable.size)


@biject_to.register(StandardizedVariable)
def _(constraint: StandardizedVariable) -> transforms.Transform:
    return VariableTransform(constraint.loc, constraint.scale, constraint.variable, constraint.base)
