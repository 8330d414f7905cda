"""`MixtureReference`: a mixture of multivariate Gaussians."""

from __future__ import annotations

from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from numpyro_disco._checks import is_traced
from numpyro_disco._compiling import as_one_program
from numpyro_disco._gaussians import (
    LOG_2_PI,
    affine_gaussian,
    check_finite,
    check_observed,
    condition_gaussian,
    factorize,
    floating,
    log_diagonal,
    whiten,
)
from numpyro_disco._numpyro import validate_sample
from numpyro_disco._typing import Array, ArrayLike
from numpyro_disco.references.base import Components, Reference, free_coordinates


class MixtureBase(Reference):
    """Base of mixtures of K components, each Gaussian in the coordinates that are not discrete."""

    log_weights: Array
    means: Array
    covariances: Array
    scale_trils: Array
    whiteners: Array

    def _set_components(
        self,
        log_weights: Array,
        means: ArrayLike,
        covariances: ArrayLike,
        *,
        discrete: np.ndarray | None = None,
        observed: ArrayLike | None,
        validate_args: bool | None = None,
    ) -> None:
        """Check and store the components, and construct the distribution.

        Args:
            log_weights: unnormalised, array (..., K).
            means: array (..., K, D).
            covariances: arrays (..., K, D, D).
            discrete: boolean array (D,), true for coordinates that are not Gaussian, whose means
                and covariances are ignored; none by default.
            observed: None, or a boolean array (..., D) of coordinates held at `means`.
            validate_args: NumPyro's switch for checks of values.
        """
        means, covariances = floating(means), floating(covariances)
        check_shapes(log_weights, means, covariances)
        check_finite(means, "means")
        dimension = means.shape[-1]
        self.observed = check_observed(observed, dimension)
        free = free_coordinates(self.observed, dimension)
        if discrete is not None:
            free = free & ~discrete
            if observed is None:
                means = jnp.where(discrete, 0.0, means)
                covariances = jnp.where(discrete[:, None] | discrete, 0.0, covariances)
        self.log_weights = jax.nn.log_softmax(log_weights, axis=-1)
        self.means = means
        self.covariances, self.scale_trils, self.whiteners = factorize(
            covariances, free[..., None, :], "covariances", symmetric=observed is None
        )
        batch_shape = jnp.broadcast_shapes(
            log_weights.shape[:-1], means.shape[:-2], self.scale_trils.shape[:-3]
        )
        super().__init__(batch_shape, (dimension,), validate_args=validate_args)

    @property
    def weights(self) -> Array:
        """Weights of the components, shape (..., K), summing to one."""
        return jnp.exp(self.log_weights)

    @property
    def mean(self) -> Array:
        """Mean of each coordinate, shape (..., D); for discrete ones that of the code."""
        mean = (self.weights[..., None] * self._centres()[0]).sum(-2)
        return jnp.broadcast_to(mean, self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Array:
        """Variance of each coordinate, shape (..., D); zero where observed."""
        centres, within = self._centres()
        spread = (centres - self.mean[..., None, :]) ** 2
        variance = (self.weights[..., None] * (within + spread)).sum(-2) * self.free
        return jnp.broadcast_to(variance, self.batch_shape + self.event_shape)

    def _centres(self) -> tuple[Array, Array]:
        """Mean and variance of each coordinate in each component, (..., K, D)."""
        return self.means, jnp.diagonal(self.covariances, axis1=-2, axis2=-1)

    @property
    def _gaussian(self) -> Array:
        """True for free coordinates that are not discrete, shape (..., D)."""
        return self.free & ~self.discrete if self.discrete.any() else self.free

    @validate_sample
    def log_prob(self, value: ArrayLike) -> Array:
        """Log density of the free coordinates, shape value.shape[:-1]; -inf for no level."""
        return self.describe(value)[0]

    def _random_numbers(
        self, component_key: Array, noise_key: Array, shape: tuple[int, ...]
    ) -> tuple[Array, Array]:
        """Uniform numbers (..., 1) and standard normal ones (..., D) for draws of some shape.

        They are programs of their own, which mixtures of all sizes share.
        """
        uniform = jax.random.uniform(component_key, (*shape[:-1], 1), self.log_weights.dtype)
        return uniform, jax.random.normal(noise_key, shape, self.means.dtype)

    def _gaussians_at(self, component: Array, noise: Array) -> Array:
        """A draw from the Gaussian of each component (...), discrete coordinates at their means."""
        mean = pick(self.means, component, event_ndim=1)
        factor = pick(self.scale_trils, component, event_ndim=2)
        noise = jnp.where(self._gaussian, noise, 0.0)
        return mean + (factor @ noise[..., None])[..., 0]

    def _log_mass_of_power(self, b: Array) -> Array:
        """Log of the integral of N(x; means_k, covariances_k)^b for each component, (..., K)."""
        log_det = 2 * log_diagonal(self.scale_trils).sum(-1)
        count = self._gaussian[..., None, :].sum(-1)
        return 0.5 * (1 - b) * (log_det + count * LOG_2_PI) - 0.5 * count * jnp.log(b)

    def affine(self, matrix: ArrayLike, shift: ArrayLike) -> Self:
        """The mixture of the mapped components."""
        return self._with(*affine_gaussian(self.means, self.covariances, matrix, shift))

    def smoothed(self, noise_scale: float) -> Self:
        """The mixture of the components, whose Gaussians have covariance + noise_scale^2 I."""
        noise = noise_scale**2 * np.eye(self.event_shape[0])
        return self._with(self.means, self.covariances + noise)

    def _with(self, means: ArrayLike, covariances: ArrayLike) -> Any:
        """The mixture with other means and covariances, all coordinates free."""
        raise NotImplementedError


class MixtureReference(MixtureBase):
    """Mixture of K multivariate Gaussians, with every conditional in closed form.

    The density is sum_k weights_k N(x; means_k, covariances_k). Given some coordinates, it is the
    mixture of the conditionals of its components, with weights proportional to
    weights_k N(observed coordinates; component k).

    Args:
        weights: non-negative array (..., K); divided by its sum.
        means: array (..., K, D), in the user's units.
        covariances: symmetric positive definite arrays (..., K, D, D).
        observed: None, or a boolean array (..., D) of coordinates held at `means`. `condition`
            sets it.
        validate_args: NumPyro's switch for checks of values.

    Raises:
        ValueError: The shapes do not match, weights are negative or all zero, or a covariance is
            not symmetric and positive definite.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> q = MixtureReference(jnp.ones(2), jnp.array([[0.0], [3.0]]), jnp.ones((2, 1, 1)))
        >>> q.sample(jax.random.key(0), (5,)).shape
        (5, 1)
    """

    arg_constraints: dict[str, Any] = {}
    pytree_data_fields = (
        "log_weights",
        "means",
        "covariances",
        "scale_trils",
        "whiteners",
        "observed",
    )

    def __init__(
        self,
        weights: ArrayLike,
        means: ArrayLike,
        covariances: ArrayLike,
        *,
        observed: ArrayLike | None = None,
        validate_args: bool | None = None,
    ) -> None:
        weights = floating(weights)
        check_weights(weights)
        self._set_components(
            jnp.log(weights), means, covariances, observed=observed, validate_args=validate_args
        )

    @classmethod
    def from_log_weights(
        cls,
        log_weights: Array,
        means: ArrayLike,
        covariances: ArrayLike,
        observed: ArrayLike | None = None,
    ) -> MixtureReference:
        """A mixture with unnormalised log weights, whose exponentials may underflow.

        Args:
            log_weights: array (..., K).
            means: array (..., K, D).
            covariances: arrays (..., K, D, D).
            observed: None, or a boolean array (..., D) of coordinates held at `means`.
        """
        self = cls.__new__(cls)
        self._set_components(log_weights, means, covariances, observed=observed)
        return self

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Independent draws, shape sample_shape + batch_shape + (D,)."""
        component_key, noise_key = jax.random.split(key)
        return self._place(
            *self._random_numbers(component_key, noise_key, self.shape(sample_shape))
        )

    @as_one_program
    def _place(self, uniform: Array, noise: Array) -> Array:
        """Draws from uniform numbers (..., 1) and standard normal ones (..., D)."""
        return self._gaussians_at(components_at(uniform, self.weights), noise)

    @as_one_program
    def describe(self, value: ArrayLike) -> tuple[Array, Array]:
        """Log density, mean white residual, and probabilities of the components.

        Args:
            value: array (..., D).

        Returns:
            Arrays of shapes (...) and (..., D + K).
        """
        free = self.free[..., None, :]
        log_densities, white = whiten(
            jnp.asarray(value)[..., None, :], self.means, self.whiteners, free
        )
        log_prob = logsumexp(self.log_weights + log_densities, axis=-1)
        probabilities = jnp.exp(self.log_weights + log_densities - log_prob[..., None])
        residual = (probabilities[..., None] * white).sum(-2)
        return log_prob, jnp.concatenate([residual, probabilities], axis=-1)

    def components(self) -> Components:
        """The K components."""
        return Components(self.log_weights, self.means, self.covariances, self.whiteners)

    def _condition(
        self, values: ArrayLike, observed: ArrayLike | None
    ) -> tuple[MixtureReference, Array]:
        values, new, held = self._new_observations(values, observed)
        means, covariances, log_densities = condition_gaussian(
            self.means, self.covariances, values[..., None, :], new[..., None, :]
        )
        joint = self.log_weights + log_densities
        conditional = MixtureReference.from_log_weights(joint, means, covariances, held)
        return conditional, _log_sum(joint)

    def _with(self, means: ArrayLike, covariances: ArrayLike) -> MixtureReference:
        return MixtureReference.from_log_weights(self.log_weights, means, covariances)

    def temper(self, inverse_temperature: ArrayLike) -> MixtureReference:
        """A mixture of the b-th powers of the components, which bounds q^b up to a constant.

        The weight of each component is the mass of its power,
        weights_k^b * integral of N(x; means_k, covariances_k)^b dx.
        """
        b = jnp.asarray(inverse_temperature, self.means.dtype)
        return MixtureReference.from_log_weights(
            b * self.log_weights + self._log_mass_of_power(b),
            self.means,
            self.covariances / b,
            self.observed,
        )


@as_one_program
def _log_sum(log_weights: Array) -> Array:
    """Log of the sum of exponentials over the last axis."""
    return logsumexp(log_weights, axis=-1)


def check_weights(weights: Array) -> None:
    """Refuse weights that are negative, not finite or all zero; traced ones are accepted."""
    if is_traced(weights):
        return
    concrete = np.asarray(weights)
    if not (np.isfinite(concrete).all() and (concrete >= 0).all() and concrete.any(-1).all()):
        raise ValueError(
            f"Expected non-negative, finite numbers, not all zero, for `weights`; got {concrete}."
        )


def check_shapes(log_weights: Array, means: Array, covariances: Array) -> None:
    """Refuse parameters of a mixture whose shapes do not match."""
    if means.ndim < 2:
        raise ValueError(f"Expected shape (..., K, D) for `means`; got {means.shape}.")
    num_components, dimension = means.shape[-2:]
    if log_weights.shape[-1:] != (num_components,):
        raise ValueError(
            f"Expected shape (..., {num_components}) for `weights`, one for each row of "
            f"`means`; got {log_weights.shape}."
        )
    if covariances.shape[-3:] != (num_components, dimension, dimension):
        raise ValueError(
            f"Expected shape (..., {num_components}, {dimension}, {dimension}) for "
            f"`covariances`, to match `means` of shape {means.shape}; got {covariances.shape}."
        )


def components_at(uniform: Array, weights: Array) -> Array:
    """The component that each draw comes from, by one uniform number for each.

    `jax.random.categorical` would take a number for each component and draw.

    Args:
        uniform: numbers in [0, 1), shape (..., 1).
        weights: weights that sum to one, shape (..., K), whose leading axes broadcast.

    Returns:
        Whole numbers from 0 to K - 1, shape (...).
    """
    cumulative = jnp.cumsum(weights, axis=-1)
    return (cumulative[..., :-1] < uniform * cumulative[..., -1:]).sum(-1)


def pick(parameters: Array, component: Array, event_ndim: int) -> Array:
    """The parameters of the component that each draw came from.

    Args:
        parameters: array (..., K, *event), whose leading axes broadcast with those of the draws.
        component: indices in 0, ..., K - 1, one for each draw.
        event_ndim: number of axes of `event`.

    Returns:
        Array of shape (*component.shape, *event).
    """
    if parameters.ndim == 1 + event_ndim:
        return parameters[component]
    axis = -1 - event_ndim
    parameters = jnp.broadcast_to(parameters, (*component.shape, *parameters.shape[axis:]))
    index = component[(..., *(None,) * (1 + event_ndim))]
    return jnp.take_along_axis(parameters, index, axis=axis).squeeze(axis)
