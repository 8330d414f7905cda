"""The support of arrays such as images, whose elements may be held at given values."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from numpyro.distributions import biject_to, constraints, transforms

from numpyro_disco._typing import Array
from numpyro_disco.supports.clamped import StandardizedVector


class StandardizedArray(constraints.Constraint):
    """Arrays whose elements, in order, are a vector of D numbers in a `StandardizedVector`.

    The unconstrained coordinates are those of the vector, one for each free element.

    Args:
        vector: the support of the vector.
        shape: shape of an array, of D elements.

    Example:
        >>> import jax.numpy as jnp
        >>> vector = StandardizedVector(jnp.zeros(6), jnp.eye(6), None, (False,) * 6)
        >>> biject_to(StandardizedArray(vector, (2, 3)))(jnp.zeros(6)).shape
        (2, 3)
    """

    def __init__(self, vector: StandardizedVector, shape: tuple[int, ...]) -> None:
        self.vector, self.shape = vector, shape

    def __repr__(self) -> str:
        return f"StandardizedArray({self.vector!r}, shape={self.shape})"

    @property
    def event_dim(self) -> int:  # type: ignore[override]
        """Number of axes of an array."""
        return len(self.shape)

    @property
    def plain(self) -> tuple[constraints.Constraint, ...]:
        """The support of each element, without location and scale."""
        return self.vector.plain

    def _flat(self, x: Any) -> Array:
        x = jnp.asarray(x)
        return x.reshape(*x.shape[: x.ndim - len(self.shape)], -1)

    def __call__(self, x: Any) -> Any:
        """True where x is finite, in the supports, and equal to the fixed values."""
        return self.vector(self._flat(x))

    def feasible_like(self, prototype: Any) -> Array:
        """The location with the fixed values, in the shape of `prototype`."""
        return self.vector.feasible_like(self._flat(prototype)).reshape(jnp.shape(prototype))

    def eq(self, other: object, static: bool = False) -> Any:
        """True if `other` has the same shape and the same vectors."""
        if not isinstance(other, StandardizedArray) or self.shape != other.shape:
            return False
        return self.vector.eq(other.vector, static)

    def tree_flatten(self) -> tuple[Any, Any]:
        """The support of the vector is the leaf; the shape is static."""
        return (self.vector,), (("vector",), {"shape": self.shape})


@biject_to.register(StandardizedArray)
def _(constraint: StandardizedArray) -> transforms.Transform:
    vector = constraint.vector
    reshape = transforms.ReshapeTransform(constraint.shape, (len(vector.observed),))
    return transforms.ComposeTransform([biject_to(vector), reshape])
