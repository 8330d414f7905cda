"""A reference over unconstrained coordinates, in the user's units."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from numpyro.distributions import Distribution, constraints

from numpyro_disco._typing import Array, ArrayLike
from numpyro_disco.references.base import Reference
from numpyro_disco.supports.coordinates import CoordinateSupports


class ConstrainedReference(Distribution):
    """The density of x = T(y), y drawn from a reference: normalised, sampleable, conditionable.

    Args:
        reference: over the unconstrained y, perhaps conditioned.
        supports: those of x, and T.
        values: for coordinates that the reference holds, their values in the user's units, shape
            (..., D); None if it holds none.
    """

    arg_constraints: dict[str, Any] = {}
    pytree_data_fields = ("reference", "values")
    pytree_aux_fields = ("supports",)

    def __init__(
        self, reference: Reference, supports: CoordinateSupports, values: Array | None = None
    ) -> None:
        self.reference, self.supports, self.values = reference, supports, values
        super().__init__(reference.batch_shape, reference.event_shape)

    @property
    def support(self) -> constraints.Constraint:
        """All of real D-space; the supports of coordinates are the user's to see to."""
        return constraints.real_vector

    def condition(self, values: ArrayLike, observed: ArrayLike | None = None) -> Distribution:
        """The conditional given some coordinates, exactly.

        Args:
            values: array (..., D) in the user's units; entries of free coordinates are ignored.
            observed: boolean array (..., D), true where `values` counts; by default where it is
                not NaN.
        """
        values = jnp.asarray(values)
        seen = ~jnp.isnan(values) if observed is None else jnp.asarray(observed, bool)
        if self.values is not None:
            held = ~self.reference.free
            values, seen = jnp.where(held, self.values, values), seen | held
        return conditional_reference(self.reference, self.supports, values, seen)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Independent draws, shape sample_shape + batch_shape + (D,)."""
        x = self.supports.constrain(self.reference.sample(key, sample_shape))
        return x if self.values is None else jnp.where(self.reference.free, x, self.values)

    def log_prob(self, value: ArrayLike) -> Array:
        """Log density of the free coordinates, shape (..., D) to (...)."""
        value = jnp.asarray(value)
        y = self.supports.unconstrain(value)
        log_dets = self.supports.log_dets(y, value)
        if self.values is not None:
            # What is held has no density: its place in unconstrained space is the reference's.
            free = self.reference.free
            y = jnp.where(free, y, self.reference.mean)
            log_dets = jnp.where(free, log_dets, 0.0)
        return self.reference.log_prob(y) - log_dets.sum(-1)


def unconstrained_values(supports: CoordinateSupports, values: Array, observed: ArrayLike) -> Array:
    """Observed values in unconstrained space, zero where free, shape (..., D)."""
    if supports.real:
        return jnp.where(observed, values, 0.0)
    # Whatever stands where nothing is observed must not reach a logarithm.
    anywhere = supports.constrain(jnp.zeros_like(values))
    return jnp.where(observed, supports.unconstrain(jnp.where(observed, values, anywhere)), 0.0)


def conditional_reference(
    reference: Reference, supports: CoordinateSupports, values: Array, observed: ArrayLike
) -> Distribution:
    """The reference given some coordinates in the user's units, over the user's units."""
    given = reference.condition(unconstrained_values(supports, values, observed), observed)
    return given if supports.real else ConstrainedReference(given, supports, values)
