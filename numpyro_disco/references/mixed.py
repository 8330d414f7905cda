"""`MixedReference`: a mixture over continuous and discrete coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from numpyro_disco._checks import is_traced
from numpyro_disco._compiling import as_one_program
from numpyro_disco._gaussians import (
    condition_gaussian,
    floating,
    whiten,
)
from numpyro_disco._typing import Array, ArrayLike
from numpyro_disco.references.base import Components
from numpyro_disco.references.categorical import categorical_log_probs, draw_codes, tempered
from numpyro_disco.references.mixture import MixtureBase, check_weights, components_at, pick


class MixedReference(MixtureBase):
    r"""Mixture with a Gaussian and independent categorical parts in each component.

    .. math::
        q(x, c) = \sum_k w_k \, N(x; \mu_k, \Sigma_k) \prod_j \mathrm{Cat}(c_j; \pi_{kj})

    with x the continuous and c the discrete coordinates of a point, w_k the `weights`, and
    log pi_kj the rows of `log_probabilities`. It is a density with respect to lengths in x and
    counts in c. Discrete coordinates hold codes: 0.0, 1.0, ..., one for each level. Given any
    coordinates of either kind, it is again a mixture of this form, exactly.

    Args:
        weights: non-negative array (..., K); divided by its sum.
        means: array (..., K, D). Entries of discrete coordinates are ignored.
        covariances: symmetric positive definite arrays (..., K, D, D). Rows and columns of discrete
            coordinates are ignored.
        log_probabilities: logs of the probabilities of levels, array (..., K, D, L) with L the
            largest number of levels; normalised over the levels. Rows of continuous coordinates,
            and entries past the last level of a coordinate, are -inf.
        num_levels: levels of each of the D coordinates, 0 for continuous ones. By default those
            up to the last one that has a positive probability in some component.
        observed: None, or a boolean array (..., D) of coordinates held at `means`. `condition`
            sets it.
        validate_args: NumPyro's switch for checks of values.

    Raises:
        ValueError: The shapes do not match, weights are negative or all zero, a covariance is not
            symmetric and positive definite, or a discrete coordinate has no level in some
            component.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> log_probabilities = jnp.log(jnp.array([[[0.0, 0.0], [0.9, 0.1]]]))
        >>> q = MixedReference(jnp.ones(1), jnp.zeros((1, 2)), jnp.eye(2)[None], log_probabilities)
        >>> q.num_levels
        (0, 2)
        >>> q.condition(jnp.array([0.5, jnp.nan])).sample(jax.random.key(0), (5,)).shape
        (5, 2)
    """

    arg_constraints: dict[str, Any] = {}
    pytree_data_fields = (
        "log_weights",
        "means",
        "covariances",
        "scale_trils",
        "whiteners",
        "log_probabilities",
        "observed",
    )
    pytree_aux_fields = ("_num_levels",)

    def __init__(
        self,
        weights: ArrayLike,
        means: ArrayLike,
        covariances: ArrayLike,
        log_probabilities: ArrayLike,
        *,
        num_levels: Sequence[int] | None = None,
        observed: ArrayLike | None = None,
        validate_args: bool | None = None,
    ) -> None:
        weights, log_probabilities = floating(weights), floating(log_probabilities)
        check_weights(weights)
        num_levels = _check_levels(log_probabilities, jnp.shape(means), num_levels)
        levels = np.arange(log_probabilities.shape[-1]) < np.asarray(num_levels)[:, None]
        log_probabilities = jnp.where(levels, log_probabilities, -jnp.inf)
        log_probabilities, _ = tempered(log_probabilities, jnp.ones((), log_probabilities.dtype))
        self._num_levels, self.log_probabilities = num_levels, log_probabilities
        self._set_components(
            jnp.log(weights),
            means,
            covariances,
            discrete=self.discrete,
            observed=observed,
            validate_args=validate_args,
        )

    @classmethod
    def from_log_weights(
        cls,
        log_weights: Array,
        means: ArrayLike,
        covariances: ArrayLike,
        log_probabilities: Array,
        num_levels: tuple[int, ...],
        observed: ArrayLike | None = None,
    ) -> MixedReference:
        """A mixture with unnormalised log weights, whose exponentials may underflow.

        Args:
            log_weights: array (..., K).
            means: array (..., K, D).
            covariances: arrays (..., K, D, D).
            log_probabilities: normalised, array (..., K, D, L); -inf for what is no level.
            num_levels: levels of each coordinate.
            observed: None, or a boolean array (..., D) of coordinates held at `means`.
        """
        self = cls.__new__(cls)
        self._num_levels, self.log_probabilities = num_levels, log_probabilities
        self._set_components(
            log_weights, means, covariances, discrete=self.discrete, observed=observed
        )
        return self

    @property
    def num_levels(self) -> tuple[int, ...]:
        """Levels of each discrete coordinate, 0 for continuous ones, D numbers."""
        return self._num_levels

    def _centres(self) -> tuple[Array, Array]:
        """Mean and variance of each coordinate in each component, codes included, (..., K, D)."""
        probabilities = jnp.exp(self.log_probabilities)
        codes = jnp.arange(probabilities.shape[-1], dtype=probabilities.dtype)
        mean_code, mean_square = probabilities @ codes, probabilities @ codes**2
        drawn = (self.discrete & self.free)[..., None, :]
        diagonal = jnp.diagonal(self.covariances, axis1=-2, axis2=-1)
        return (
            jnp.where(drawn, mean_code, self.means),
            jnp.where(drawn, mean_square - mean_code**2, diagonal),
        )

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Independent draws, shape sample_shape + batch_shape + (D,)."""
        component_key, noise_key, level_key = jax.random.split(key, 3)
        shape, dtype = self.shape(sample_shape), self.means.dtype
        uniform, noise = self._random_numbers(component_key, noise_key, shape)
        num_discrete = int(self.discrete.sum())
        return self._place(
            uniform, noise, jax.random.uniform(level_key, (*shape[:-1], num_discrete), dtype)
        )

    @as_one_program
    def _place(self, uniform: Array, noise: Array, level_uniform: Array) -> Array:
        """Draws from uniform numbers (..., 1), normal ones (..., D), and one for each code."""
        component = components_at(uniform, self.weights)
        x = self._gaussians_at(component, noise)
        places = np.flatnonzero(self.discrete)
        probabilities = jnp.exp(self.log_probabilities[..., places, :])
        codes = draw_codes(level_uniform, pick(probabilities, component, event_ndim=2))
        drawn = jnp.where(self.free[..., places], codes, x[..., places])
        return x.at[..., places].set(drawn)

    @as_one_program
    def describe(self, value: ArrayLike) -> tuple[Array, Array]:
        """Log density, mean white residual, and probabilities of the components.

        Args:
            value: array (..., D).

        Returns:
            Arrays of shapes (...) and (..., D + K); the residual of discrete coordinates is 0.
        """
        value = floating(value)
        log_densities, white = whiten(
            value[..., None, :],
            self.means,
            self.whiteners,
            self._gaussian[..., None, :],
        )
        joint = self.log_weights + log_densities
        joint += categorical_log_probs(value, self.log_probabilities, self.num_levels, self.free)
        log_prob = _log_sum(joint)
        # A point of density zero belongs to no component.
        finite = jnp.where(log_prob > -jnp.inf, log_prob, 0.0)
        probabilities = jnp.exp(joint - finite[..., None])
        residual = (probabilities[..., None] * white).sum(-2)
        return log_prob, jnp.concatenate([residual, probabilities], axis=-1)

    def components(self) -> Components:
        """The K components; discrete coordinates have unit variance, correlated with nothing."""
        inert = jnp.diag(self.discrete.astype(self.covariances.dtype))
        return Components(
            self.log_weights,
            self.means,
            self.covariances + inert,
            self.whiteners,
            self.log_probabilities,
        )

    def _condition(
        self, values: ArrayLike, observed: ArrayLike | None
    ) -> tuple[MixedReference, Array]:
        values, new, held = self._new_observations(values, observed)
        means, covariances, log_densities = condition_gaussian(
            self.means,
            self.covariances,
            values[..., None, :],
            (new & ~self.discrete)[..., None, :],
        )
        means = jnp.where((new & self.discrete)[..., None, :], values[..., None, :], means)
        joint = self.log_weights + log_densities
        joint += categorical_log_probs(values, self.log_probabilities, self.num_levels, new)
        conditional = MixedReference.from_log_weights(
            joint, means, covariances, self.log_probabilities, self.num_levels, held
        )
        return conditional, _log_sum(joint)

    def affine(self, matrix: ArrayLike, shift: ArrayLike) -> Self:
        """The mixture of the mapped components; discrete coordinates are left as they are.

        Args:
            matrix: invertible array (D, D). Rows and columns of discrete coordinates are ignored.
            shift: array (D,). Entries of discrete coordinates are ignored.
        """
        matrix = np.where(self.discrete[:, None] | self.discrete, np.diag(self.discrete), matrix)
        return super().affine(matrix, np.where(self.discrete, 0.0, shift))

    def _with(self, means: ArrayLike, covariances: ArrayLike) -> MixedReference:
        return MixedReference.from_log_weights(
            self.log_weights, means, covariances, self.log_probabilities, self.num_levels
        )

    def temper(self, inverse_temperature: ArrayLike) -> MixedReference:
        """A mixture of the b-th powers of the components, which bounds q^b up to a constant.

        The weight of each component is the mass of its power, weights_k^b times the integral of
        N(x; means_k, covariances_k)^b and the sums of the b-th powers of the probabilities of
        levels.
        """
        b = jnp.asarray(inverse_temperature, self.means.dtype)
        log_probabilities, log_masses = tempered(self.log_probabilities, b)
        log_mass = jnp.where(self.free[..., None, :], log_masses, 0.0).sum(-1)
        return MixedReference.from_log_weights(
            b * self.log_weights + self._log_mass_of_power(b) + log_mass,
            self.means,
            self.covariances / b,
            log_probabilities,
            self.num_levels,
            self.observed,
        )


@as_one_program
def _log_sum(log_terms: Array) -> Array:
    """Log of the sum along the last axis, with gradient 0 where all terms are 0."""
    possible = (log_terms > -jnp.inf).any(-1)
    safe = jnp.where(possible[..., None], log_terms, 0.0)
    return jnp.where(possible, logsumexp(safe, axis=-1), -jnp.inf)


def _check_levels(
    log_probabilities: Array, shape: tuple[int, ...], num_levels: Sequence[int] | None
) -> tuple[int, ...]:
    """Check `log_probabilities` against `means` of some shape, and return `num_levels`."""
    if log_probabilities.ndim < 3 or log_probabilities.shape[-3:-1] != tuple(shape[-2:]):
        raise ValueError(
            f"Expected shape (..., {', '.join(map(str, shape[-2:]))}, levels) for "
            f"`log_probabilities`, to match `means` of shape {shape}; got "
            f"{log_probabilities.shape}."
        )
    *_, num_components, dimension, most = log_probabilities.shape
    if is_traced(log_probabilities):
        if num_levels is None:
            raise ValueError(
                "Expected `num_levels`, the levels of each coordinate, beside traced "
                "`log_probabilities`; got none."
            )
        return tuple(int(count) for count in num_levels)
    table = np.asarray(log_probabilities).reshape(-1, dimension, most)
    if num_levels is None:
        positive = (table > -np.inf).any(axis=0)
        num_levels = (positive * np.arange(1, most + 1)).max(axis=1, initial=0)
    counts = tuple(int(count) for count in num_levels)
    if len(counts) != dimension or not all(0 <= count <= most for count in counts):
        raise ValueError(
            f"Expected {dimension} numbers from 0 to {most} for `num_levels`, one for each "
            f"coordinate; got {counts}."
        )
    levels = np.arange(most) < np.asarray(counts)[:, None]
    none = (np.asarray(counts) > 0) & ~(levels & (table > -np.inf)).any(axis=2)
    if np.isnan(table).any() or (table == np.inf).any() or none.any():
        raise ValueError(
            "Expected logs of probabilities for `log_probabilities`, with a positive probability "
            "for some level of each discrete coordinate in each component; got "
            f"{np.asarray(log_probabilities)}."
        )
    return counts
