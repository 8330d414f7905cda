"""`Reference`: the interface that every reference density implements."""

from __future__ import annotations

from typing import NamedTuple, Self

import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from numpyro_disco._gaussians import floating
from numpyro_disco._numpyro import StableDistribution
from numpyro_disco._typing import Array, ArrayLike


class Components(NamedTuple):
    """The components that a reference is a mixture of."""

    log_weights: Array
    """Log weights that sum to one, shape (..., K)."""
    means: Array
    """Shape (..., K, D)."""
    covariances: Array
    """Zero where a coordinate is observed, shape (..., K, D, D)."""
    whiteners: Array
    """Inverse Cholesky factors, the identity where a coordinate is observed, (..., K, D, D)."""
    log_probabilities: Array | None = None
    """Log probabilities of the levels of discrete coordinates, -inf for what is no level, shape
    (..., K, D, L); None if all coordinates are continuous."""


def host_draws(rng: np.random.Generator, components: Components, num_draws: int) -> np.ndarray:
    """Independent draws of a mixture, made on the host, in double precision.

    Args:
        rng: source of random numbers.
        components: the components, without leading axes, all coordinates free.
        num_draws: number of draws.

    Returns:
        Array (num_draws, D).
    """
    log_weights, means, whiteners = (
        np.asarray(leaf, np.float64)
        for leaf in (components.log_weights, components.means, components.whiteners)
    )
    weights = np.exp(log_weights)
    counts = rng.multinomial(num_draws, weights / weights.sum())
    noise = rng.standard_normal((num_draws, means.shape[1]))
    factors = np.linalg.inv(whiteners)
    ends = np.cumsum(counts)
    parts = [
        mean + noise[end - count : end] @ factor.T
        for mean, factor, end, count in zip(means, factors, ends, counts, strict=True)
    ]
    draws = np.concatenate(parts)
    if components.log_probabilities is not None:
        table = np.exp(np.asarray(components.log_probabilities, np.float64))
        _fill_codes(rng, draws, table, np.repeat(np.arange(len(counts)), counts))
    return draws[rng.permutation(num_draws)]


def _fill_codes(
    rng: np.random.Generator, draws: np.ndarray, table: np.ndarray, component: np.ndarray
) -> None:
    """Replace the discrete coordinates of draws (n, D) by codes drawn from a table (K, D, L)."""
    cumulative = np.cumsum(table, axis=-1)
    for place in np.flatnonzero(table.any(axis=(0, 2))):
        steps = cumulative[component, place]
        uniform = (1 - rng.random(len(draws))) * steps[:, -1]
        draws[:, place] = (steps[:, :-1] < uniform[:, None]).sum(axis=1)


class Reference(StableDistribution):
    """A normalised density over D coordinates that can be sampled and conditioned exactly.

    The implementations are `GaussianReference`, `MixtureReference` and `MixedReference`. All are
    NumPyro distributions with event shape (D,).

    Attributes:
        observed: None, or a boolean array (..., D), true for coordinates held at fixed values.
            `log_prob` is the density of the other coordinates alone.
    """

    observed: Array | None

    @property
    def num_levels(self) -> tuple[int, ...]:
        """Levels of each discrete coordinate, 0 for continuous ones, D numbers."""
        return (0,) * self.event_shape[0]

    @property
    def discrete(self) -> np.ndarray:
        """Boolean array (D,), true for discrete coordinates, which hold codes of levels."""
        return np.asarray(self.num_levels) > 0

    @property
    def support(self) -> constraints.Constraint:
        """Real vectors. Values of observed coordinates are not checked."""
        return constraints.real_vector

    @property
    def free(self) -> Array:
        """Boolean array (..., D), true for coordinates that are not observed."""
        return free_coordinates(self.observed, self.event_shape[0])

    def condition(self, values: ArrayLike, observed: ArrayLike | None = None) -> Self:
        """Condition on some coordinates, exactly.

        Args:
            values: array (..., D) in the user's units. Entries of free coordinates are ignored,
                as are new values of coordinates that are observed already. Leading axes become
                batch axes of the result.
            observed: boolean array (..., D), true for the entries of `values` to condition on. By
                default, the entries that are not NaN. It may be traced: shapes do not depend on it.

        Returns:
            A reference of the same kind over the same D coordinates, with the observed ones held at
            their values.

        Raises:
            ValueError: The last axis of `values` is not D.
        """
        return self._condition(values, observed)[0]

    def marginal_log_prob(self, values: ArrayLike, observed: ArrayLike | None = None) -> Array:
        """Log density of the observed coordinates, with the free ones integrated out, exactly.

        Args:
            values: array (..., D), as for `condition`.
            observed: boolean array (..., D), as for `condition`.

        Returns:
            Array of shape (...).
        """
        return self._condition(values, observed)[1]

    def _condition(self, values: ArrayLike, observed: ArrayLike | None) -> tuple[Self, Array]:
        """Return the conditional and the log density of the observed values."""
        raise NotImplementedError

    def components(self) -> Components:
        """The components of which this density is a mixture; a single Gaussian has K = 1."""
        raise NotImplementedError

    def describe(self, value: ArrayLike) -> tuple[Array, Array]:
        """Log density at a point, and features that locate the point relative to the reference.

        A network takes the features as inputs.

        Args:
            value: array (..., D).

        Returns:
            The log density (...), and features (..., L): the white residual L^-1 (value - mean),
            averaged over components by the probability that the point belongs to each, followed
            for a mixture by these probabilities.
        """
        raise NotImplementedError

    def temper(self, inverse_temperature: ArrayLike) -> Self:
        """A normalised density that bounds q^b from above up to a constant.

        Each component's covariance is divided by b, the inverse temperature. For a Gaussian the
        result is exactly q^b, normalised. For a mixture it is a mixture of the tempered components,
        which bounds q^b up to a constant factor; this suffices for a density to start tempering
        from.

        Args:
            inverse_temperature: b, positive.

        Returns:
            A reference of the same kind, with the same coordinates observed.
        """
        raise NotImplementedError

    def affine(self, matrix: ArrayLike, shift: ArrayLike) -> Self:
        """The density of matrix @ x + shift, for x drawn from this reference.

        Args:
            matrix: invertible array (D, D).
            shift: array (D,).

        Returns:
            A reference of the same kind, with all coordinates free.
        """
        raise NotImplementedError

    def smoothed(self, noise_scale: float) -> Self:
        """The density of x + noise_scale * e, for e standard normal.

        Args:
            noise_scale: standard deviation of the noise added to every coordinate.

        Returns:
            A reference of the same kind, with all coordinates free.
        """
        raise NotImplementedError

    def _new_observations(
        self, values: ArrayLike, observed: ArrayLike | None
    ) -> tuple[Array, Array, Array]:
        """Parse the arguments of `condition`.

        Returns:
            Values with zeros in place of missing entries, which coordinates are observed for the
            first time, and which are observed altogether.
        """
        values = floating(values)
        dimension = self.event_shape[0]
        if values.ndim == 0 or values.shape[-1] != dimension:
            raise ValueError(
                f"Expected a last axis of {dimension} for `values`; got shape {values.shape}."
            )
        seen = ~jnp.isnan(values) if observed is None else jnp.asarray(observed, bool)
        already = ~self.free
        return jnp.where(seen, values, 0.0), seen & ~already, seen | already


def free_coordinates(observed: Array | None, dimension: int) -> Array:
    """Boolean array, true for coordinates that are not observed."""
    return jnp.ones(dimension, bool) if observed is None else ~observed
