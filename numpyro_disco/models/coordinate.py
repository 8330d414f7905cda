"""The sites of a learned prior: `Coordinate` and `ArrayVariable`.

The joint log density of all coordinates is one factor beside these sites, so the log density of
each is 0. On its own it has no density and cannot be drawn.
"""

from __future__ import annotations

import copy
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from numpyro_disco._numpyro import (
    StableDistribution,
    promote_batch_shape,
    validate_sample,
    with_batch_shape,
)
from numpyro_disco._typing import Array, ArrayLike
from numpyro_disco.energy.distribution import EnergyDistribution
from numpyro_disco.supports.clamped import StandardizedReal
from numpyro_disco.supports.variables import StandardizedVariable


class PriorPart(StableDistribution):
    """Some coordinates of an `EnergyDistribution` as one site, with log density 0."""

    arg_constraints: dict[str, Any] = {}
    pytree_data_fields = ("prior",)

    prior: EnergyDistribution
    """The joint distribution."""
    name: str
    """Name of the part, without the prefix of its site."""
    indices: np.ndarray
    """Positions of its coordinates in the vector."""

    def pack(self, value: Array) -> Array:
        """Coordinates of a value, batch axes first, shape (..., d)."""
        raise NotImplementedError

    def unpack(self, coordinates: Array) -> Array:
        """Value at coordinates (..., d), the inverse of `pack`."""
        raise NotImplementedError

    def log_det(self, coordinates: Array) -> Array:
        """Log |d value / d coordinates|, shape (..., d) to (...)."""
        raise NotImplementedError

    def sample(self, key: Array | None, sample_shape: tuple[int, ...] = ()) -> Array:
        """Raise `NotImplementedError`, with what to do instead."""
        raise NotImplementedError(
            f"Coordinate {self.name!r} of an `EnergyDistribution` cannot be drawn on its own: only "
            "all coordinates together have a density. Run MCMC, SVI or TemperedSMC on the model; "
            "or, to simulate forward, draw `x = prior.sample(rng_key, (n,))` first and hand the "
            "model its coordinates, `Predictive(model, site_values(name, prior, x))`."
        )

    @validate_sample
    def log_prob(self, value: ArrayLike) -> Array:
        """Zeros; the density is in the joint factor."""
        shape = jnp.shape(value)
        return jnp.zeros(
            jnp.broadcast_shapes(shape[: len(shape) - self.event_dim], self.batch_shape)
        )


class Coordinate(PriorPart):
    """One coordinate of an `EnergyDistribution`, with log density 0.

    Args:
        prior: the joint distribution.
        index: position of the coordinate.
    """

    pytree_aux_fields = ("index",)

    def __init__(self, prior: EnergyDistribution, index: int) -> None:
        self.prior, self.index = prior, index
        super().__init__(prior.batch_shape, ())

    @property
    def name(self) -> str:  # type: ignore[override]
        """Name of the coordinate."""
        return self.prior.names[self.index]

    @property
    def indices(self) -> np.ndarray:  # type: ignore[override]
        """Its position, shape (1,)."""
        return np.array([self.index])

    @property
    def support(self) -> constraints.Constraint:
        """The coordinate's support; the unconstrained coordinate is standardised."""
        loc, scale = self.prior.location_and_scale
        loc, scale = loc[..., self.index], scale[..., self.index]
        return StandardizedReal(loc, scale, self.prior.coordinate_supports.select([self.index]))

    def pack(self, value: Array) -> Array:
        """The coordinate with a last axis of one."""
        return jnp.asarray(value)[..., None]

    def unpack(self, coordinates: Array) -> Array:
        """The coordinate without its last axis."""
        return coordinates[..., 0]

    def log_det(self, coordinates: Array) -> Array:
        """Zeros: a coordinate is its own value."""
        return jnp.zeros(coordinates.shape[:-1], coordinates.dtype)


class ArrayVariable(PriorPart):
    """A whole variable of an `EnergyDistribution`, with log density 0.

    Args:
        prior: the joint distribution, over variables.
        name: name of a variable, of which no element is clamped.
    """

    pytree_aux_fields = ("name",)

    def __init__(self, prior: EnergyDistribution, name: str) -> None:
        self.prior, self.name = prior, name
        super().__init__(prior.batch_shape, self._variable.shape)

    @property
    def _variable(self) -> Any:
        assert self.prior.variables is not None
        return self.prior.variables[self.name]

    @property
    def indices(self) -> np.ndarray:  # type: ignore[override]
        """Positions of its coordinates, shape (d,)."""
        assert self.prior.variables is not None
        return self.prior.variables.indices[self.name]

    @property
    def support(self) -> constraints.Constraint:
        """The variable's support; its unconstrained coordinates are standardised."""
        loc, scale = self.prior.location_and_scale
        base = self.prior.coordinate_supports.select(self.indices)
        return StandardizedVariable(
            loc[..., self.indices], scale[..., self.indices], self._variable, base
        )

    def pack(self, value: Array) -> Array:
        """Coordinates of the variable, (..., *shape) to (..., d)."""
        return self._variable.unconstrain(jnp.asarray(value))

    def unpack(self, coordinates: Array) -> Array:
        """The variable at its coordinates, (..., d) to (..., *shape)."""
        return self._variable.constrain(coordinates)

    def log_det(self, coordinates: Array) -> Array:
        """Log determinant of the map of a joint support; zeros for any other."""
        return self._variable.log_det(coordinates)


@promote_batch_shape.register
def _(part: PriorPart) -> PriorPart:
    """Turn the axis along which `scan` stacks a part into a batch axis."""
    new = copy.copy(part)
    new.prior = promote_batch_shape(part.prior)
    return with_batch_shape(new, new.prior.batch_shape)
