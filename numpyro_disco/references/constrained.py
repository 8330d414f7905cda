"""`ConstrainedReference`: a reference for coordinates with bounds, in the user's units.

A reference is a density over unconstrained y. The user's x = T(y), with T one bijection for each
coordinate, has log density log q(y) - log |det dT/dy|.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from numpyro.distributions import Distribution, constraints

from numpyro_disco._numpyro import StableDistribution
from numpyro_disco._typing import Array, ArrayLike
from numpyro_disco.references.base import Reference
from numpyro_disco.supports.coordinates import CoordinateSupports


class ConstrainedReference(StableDistribution):
    """The normalised density of x = T(y), for y drawn from a reference; conditioned exactly.

    Args:
        reference: density of the unconstrained y, possibly conditioned.
        supports: supports of x, which define T.
        values: values of the observed coordinates in the user's units, shape (..., D); None if
            the reference observes none.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from numpyro.distributions import constraints
        >>> from numpyro_disco import GaussianReference
        >>> supports = CoordinateSupports((constraints.real, constraints.positive))
        >>> q = ConstrainedReference(GaussianReference(jnp.zeros(2), jnp.eye(2)), supports)
        >>> q.condition(jnp.array([jnp.nan, 2.0])).sample(jax.random.key(0), (5,)).shape
        (5, 2)
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
        """Real vectors. The supports of the coordinates are not checked here."""
        return constraints.real_vector

    def condition(self, values: ArrayLike, observed: ArrayLike | None = None) -> Distribution:
        """Condition on some coordinates, exactly.

        Args:
            values: array (..., D) in the user's units. Entries of free coordinates are ignored,
                as are new values of coordinates that are observed already.
            observed: boolean array (..., D), true for the entries of `values` to condition on; by
                default, the entries that are not NaN.

        Returns:
            The conditional over the same D coordinates.
        """
        values = jnp.asarray(values)
        seen = ~jnp.isnan(values) if observed is None else jnp.asarray(observed, bool)
        if self.values is not None:
            held = ~self.reference.free
            values, seen = jnp.where(held, self.values, values), seen | held
        return conditional_reference(self.reference, self.supports, values, seen)

    def marginal_log_prob(self, values: ArrayLike, observed: ArrayLike | None = None) -> Array:
        """Log density of some coordinates, with the other free ones integrated out, exactly.

        Args:
            values: array (..., D) in the user's units.
            observed: boolean array (..., D), true for the coordinates whose density is wanted; by
                default, those that are not NaN.

        Returns:
            Array of shape (...).
        """
        values = jnp.asarray(values)
        seen = ~jnp.isnan(values) if observed is None else jnp.asarray(observed, bool)
        y = unconstrained_values(self.supports, values, seen)
        log_dets = self.supports.log_dets(y, self.supports.constrain(y))
        log_dets = jnp.where(seen & self.reference.free, log_dets, 0.0).sum(-1)
        return self.reference.marginal_log_prob(y, seen) - log_dets

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Independent draws, shape sample_shape + batch_shape + (D,)."""
        x = self.supports.constrain(self.reference.sample(key, sample_shape))
        return x if self.values is None else jnp.where(self.reference.free, x, self.values)

    def log_prob(self, value: ArrayLike) -> Array:
        """Log density of the free coordinates, shape value.shape[:-1]."""
        value = jnp.asarray(value)
        y = self.supports.unconstrain(value)
        log_dets = self.supports.log_dets(y, value)
        if self.values is not None:
            # Observed coordinates have no density. Any finite y will do for them: the reference
            # ignores it, and a value outside the support would otherwise give NaN.
            free = self.reference.free
            y = jnp.where(free, y, self.reference.mean)
            log_dets = jnp.where(free, log_dets, 0.0)
        return self.reference.log_prob(y) - log_dets.sum(-1)


def unconstrained_values(supports: CoordinateSupports, values: Array, observed: ArrayLike) -> Array:
    """Observed values in unconstrained space, and zeros in place of the free ones.

    Args:
        supports: supports of the coordinates.
        values: array (..., D) in the user's units; entries of free coordinates are ignored.
        observed: boolean array (..., D).

    Returns:
        Array (..., D).
    """
    if supports.real:
        return jnp.where(observed, values, 0.0)
    # A value inside the support replaces the ignored entries, which may be NaN or outside of it:
    # the derivative of `where` would otherwise be NaN.
    inside = supports.constrain(jnp.zeros_like(values))
    return jnp.where(observed, supports.unconstrain(jnp.where(observed, values, inside)), 0.0)


def conditional_reference(
    reference: Reference, supports: CoordinateSupports, values: Array, observed: ArrayLike
) -> Distribution:
    """The reference conditioned on values in the user's units, as a density in these units.

    Args:
        reference: density of unconstrained coordinates.
        supports: supports of the coordinates.
        values: array (..., D) in the user's units; entries of free coordinates are ignored.
        observed: boolean array (..., D).

    Returns:
        A `Reference` if all supports are the real line, else a `ConstrainedReference`.
    """
    given = reference.condition(unconstrained_values(supports, values, observed), observed)
    return given if supports.real else ConstrainedReference(given, supports, values)
