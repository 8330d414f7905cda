"""One variable of any shape as a vector of coordinates."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to, constraints

from numpyro_disco._typing import Array

JOINT_SUPPORTS: dict[str, constraints.Constraint] = {
    "simplex": constraints.simplex,
    "ordered_vector": constraints.ordered_vector,
    "positive_ordered_vector": constraints.positive_ordered_vector,
    "corr_cholesky": constraints.corr_cholesky,
    "corr_matrix": constraints.corr_matrix,
    "lower_cholesky": constraints.lower_cholesky,
    "softplus_lower_cholesky": constraints.softplus_lower_cholesky,
    "scaled_unit_lower_cholesky": constraints.scaled_unit_lower_cholesky,
    "positive_definite": constraints.positive_definite,
    "l1_ball": constraints.l1_ball,
    "zero_sum(1)": constraints.zero_sum(1),
    "zero_sum(2)": constraints.zero_sum(2),
}
"""NumPyro's supports that couple the elements of an array, by name."""
TOLERANCE = 1e-3
"""Largest difference, relative to the largest element, between a value and its image under the
bijection and back. Values outside of the support differ by more, or are NaN."""


@dataclasses.dataclass(frozen=True)
class Variable:
    """An array of numbers, such as one site of a NumPyro model.

    Attributes:
        name: its name.
        shape: its shape; () for one number.
        joint_support: name of the NumPyro constraint that couples its elements, such as "simplex";
            None if each element has a support of its own.
    """

    name: str
    shape: tuple[int, ...] = ()
    joint_support: str | None = None

    @property
    def constraint(self) -> constraints.Constraint | None:
        """The constraint that couples its elements, or None."""
        return None if self.joint_support is None else JOINT_SUPPORTS[self.joint_support]

    @cached_property
    def coordinate_shape(self) -> tuple[int, ...]:
        """Shape of its coordinates before they are flattened."""
        if self.constraint is None:
            return self.shape
        return tuple(biject_to(self.constraint).inverse_shape(self.shape))

    @property
    def size(self) -> int:
        """Number of its coordinates."""
        return int(np.prod(self.coordinate_shape, dtype=int))

    @cached_property
    def elements(self) -> tuple[str, ...]:
        """Names of its elements, "b[0]", "b[1]", ... or "L[1,0]", in the order of the array."""
        return _element_names(self.name, self.shape)

    @cached_property
    def coordinates(self) -> tuple[str, ...]:
        """Names of its coordinates: those of its elements, unless a support couples these."""
        if self.joint_support is None:
            return self.elements
        return _element_names(f"{self.name}.unconstrained", self.coordinate_shape)

    def constrain(self, coordinates: Array) -> Array:
        """The variable at its coordinates, shape (..., size) to (..., *shape)."""
        u = coordinates.reshape(*coordinates.shape[:-1], *self.coordinate_shape)
        return u if self.constraint is None else biject_to(self.constraint)(u)

    def unconstrain(self, value: Array) -> Array:
        """The coordinates of the variable, shape (..., *shape) to (..., size)."""
        leading = value.shape[: value.ndim - len(self.shape)]
        u = value if self.constraint is None else biject_to(self.constraint).inv(value)
        return u.reshape(*leading, self.size)

    def log_det(self, coordinates: Array) -> Array:
        """Log |d value / d coordinates|, shape (..., size) to (...); 0 without a joint support."""
        leading = coordinates.shape[:-1]
        if self.constraint is None:
            return jnp.zeros(leading, coordinates.dtype)
        u = coordinates.reshape(*leading, *self.coordinate_shape)
        transform = biject_to(self.constraint)
        log_det = transform.log_abs_det_jacobian(u, transform(u))
        return log_det.sum(tuple(range(len(leading), log_det.ndim)))

    def inside(self, value: Array) -> Array:
        """True where the joint support holds the value up to rounding, (..., *shape) to (...)."""
        axes = tuple(range(value.ndim - len(self.shape), value.ndim))
        if self.constraint is None:
            return jnp.isfinite(value).all(axes)
        # NumPyro's own checks allow for less rounding than single precision has.
        image = self.constrain(self.unconstrain(value))
        largest = jnp.maximum(1.0, jnp.abs(value).max(axes, keepdims=True))
        return (jnp.abs(image - value) <= TOLERANCE * largest).all(axes)


def joint_support(support: constraints.Constraint) -> str | None:
    """The name of a support that couples the elements of an array, or None for any other."""
    for name, known in JOINT_SUPPORTS.items():
        if type(support) is type(known) and support == known:
            return name
    return None


def double_precision_coordinates(
    variable: Variable, value: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (..., size) of concrete values (..., *shape), and where these are inside.

    On the bound of a joint support, such as at a share of zero, coordinates are infinite and the
    value counts as outside.
    """
    with jax.enable_x64(True):
        x = jnp.asarray(np.asarray(value, np.float64))
        coordinates, inside = np.asarray(variable.unconstrain(x)), np.asarray(variable.inside(x))
    return coordinates, inside & np.isfinite(coordinates).all(-1)


def _element_names(name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    if not shape:
        return (name,)
    return tuple(f"{name}[{','.join(map(str, index))}]" for index in np.ndindex(shape))
