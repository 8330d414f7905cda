"""Reference densities: normalised, sampleable, with closed-form conditionals.

Every energy of this package carries a reference q. It is what makes the energy a density, where
tempering starts, and what is drawn when coordinates are clamped. A reference must therefore be
normalised, easy to draw, and known given *any* subset of its coordinates. Gaussians and mixtures
of Gaussians are all three.

Conditioning keeps the shape: the conditional of a reference over D coordinates is again a
reference over D coordinates, in which the observed ones are held at their values and the density
is taken over the free ones. Which coordinates are observed is an array, not a Python list, so one
compiled program serves every pattern of observation.
"""

from __future__ import annotations

from typing import Self

import jax.numpy as jnp
from numpyro.distributions import Distribution, constraints

from numpyro_disco._gaussians import floating
from numpyro_disco._typing import Array, ArrayLike


class Reference(Distribution):
    """A normalised, sampleable density over D coordinates, known given any of them.

    The two kinds are `GaussianReference` and `MixtureReference`; both are NumPyro distributions.

    Attributes:
        observed: None, or a boolean array (..., D), true for coordinates that are held fixed.
            `log_prob` is then a density over the other coordinates alone.
    """

    observed: Array | None

    @property
    def support(self) -> constraints.Constraint:
        """All of real D-space; held coordinates are the user's to keep in place."""
        return constraints.real_vector

    @property
    def free(self) -> Array:
        if self.observed is None:
            return jnp.ones(self.event_shape, bool)
        return ~self.observed

    def condition(self, values: ArrayLike, observed: ArrayLike | None = None) -> Self:
        """The conditional given some coordinates, exactly, as a reference of the same kind.

        Args:
            values: array (..., D); leading axes become batch axes of the result. Entries of free
                coordinates are ignored.
            observed: boolean array (..., D), true where `values` counts. By default, wherever
                `values` is not NaN. It may be traced: shapes do not depend on it.

        Returns:
            A reference over the same D coordinates, observed ones held at their values.
        """
        return self._condition(values, observed)[0]

    def marginal_log_prob(self, values: ArrayLike, observed: ArrayLike | None = None) -> Array:
        """Log density of the observed coordinates alone, the free ones integrated out.

        Args:
            values: array (..., D), as for `condition`.
            observed: boolean array (..., D), as for `condition`.

        Returns:
            Array of shape (...).
        """
        return self._condition(values, observed)[1]

    def _condition(self, values: ArrayLike, observed: ArrayLike | None) -> tuple[Self, Array]:
        raise NotImplementedError

    def describe(self, value: ArrayLike) -> tuple[Array, Array]:
        """Log density at a point, and where the point lies in the reference's own terms.

        Args:
            value: array (..., D).

        Returns:
            Array (...), and array (..., L): the white residual, averaged over components by the
            probability that the point is theirs, and for a mixture these probabilities.
        """
        raise NotImplementedError

    def temper(self, inverse_temperature: ArrayLike) -> Self:
        """A reference that bounds q^b up to a constant, b the inverse temperature.

        Each component's covariance is divided by b. For a Gaussian this *is* q^b, normalised.
        For a mixture it is a mixture of the tempered components, which bounds q^b from above up
        to a constant, all that a starting density needs.
        """
        raise NotImplementedError

    def affine(self, matrix: ArrayLike, shift: ArrayLike) -> Self:
        """The density of matrix @ x + shift, x drawn from this one.

        Args:
            matrix: regular array (D, D).
            shift: array (D,).

        Returns:
            A reference of the same kind, over all coordinates.
        """
        raise NotImplementedError

    def smoothed(self, noise_scale: float) -> Self:
        """The density of x + noise_scale * e, e standard normal.

        Args:
            noise_scale: standard deviation of what is added to every coordinate.

        Returns:
            A reference of the same kind, over all coordinates.
        """
        raise NotImplementedError

    def _newly_observed(
        self, values: ArrayLike, observed: ArrayLike | None
    ) -> tuple[Array, Array, Array]:
        """Clean values, which coordinates they newly hold, and which are held altogether."""
        values = floating(values)
        dimension = self.event_shape[0]
        if values.ndim == 0 or values.shape[-1] != dimension:
            raise ValueError(
                f"Expected a last axis of {dimension} for `values`; got shape {values.shape}."
            )
        seen = ~jnp.isnan(values) if observed is None else jnp.asarray(observed, bool)
        already = jnp.zeros_like(seen) if self.observed is None else self.observed
        return jnp.where(seen, values, 0.0), seen & ~already, seen | already
