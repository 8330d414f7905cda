"""`Coordinate`: the site of one coordinate of a learned prior.

The joint log density of all coordinates is one factor beside these sites, so a coordinate's own log
density is 0. On its own it has no density and cannot be drawn.
"""

from __future__ import annotations

import copy
from typing import Any

import jax.numpy as jnp
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


class Coordinate(StableDistribution):
    """One coordinate of an `EnergyDistribution`, with log density 0.

    Args:
        prior: the joint distribution.
        index: position of the coordinate.
    """

    arg_constraints: dict[str, Any] = {}
    pytree_data_fields = ("prior",)
    pytree_aux_fields = ("index",)

    def __init__(self, prior: EnergyDistribution, index: int) -> None:
        self.prior, self.index = prior, index
        super().__init__(prior.batch_shape, ())

    @property
    def name(self) -> str:
        """Name of the coordinate."""
        return self.prior.names[self.index]

    @property
    def support(self) -> constraints.Constraint:
        """The coordinate's support; the unconstrained coordinate is standardised."""
        loc, scale = self.prior.location_and_scale
        loc, scale = loc[..., self.index], scale[..., self.index]
        return StandardizedReal(loc, scale, self.prior.coordinate_supports.select([self.index]))

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
        return jnp.zeros(jnp.broadcast_shapes(jnp.shape(value), self.batch_shape))


@promote_batch_shape.register
def _(coordinate: Coordinate) -> Coordinate:
    """Turn the axis along which `scan` stacks a coordinate into a batch axis."""
    new = copy.copy(coordinate)
    new.prior = promote_batch_shape(coordinate.prior)
    return with_batch_shape(new, new.prior.batch_shape)
