"""A mixture of Gaussians as a reference."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from numpyro.distributions import Distribution

from numpyro_disco._gaussians import (
    LOG_2_PI,
    check_held,
    check_mean,
    condition_gaussian,
    factorize,
    floating,
    moved,
    whiten,
)
from numpyro_disco._numpyro import validate_sample
from numpyro_disco._typing import Array, ArrayLike
from numpyro_disco.references.base import Reference


class MixtureReference(Reference):
    """Mixture of K multivariate Gaussians, with every conditional in closed form.

    The density is sum_k weights_k N(x; means_k, covariances_k). Given some coordinates, it is the
    mixture of the conditionals of its components, with weights in proportion to
    weights_k N(observed part; component k).

    Args:
        weights: positive array (..., K); divided by its sum.
        means: array (..., K, D), the user's units.
        covariances: symmetric positive definite arrays (..., K, D, D).
        observed: None, or a boolean array (..., D): coordinates held at `means`.
        validate_args: NumPyro's switch for checks of values.

    Raises:
        ValueError: shapes that do not fit, weights that are negative or all zero, or a covariance
            that is not positive definite.

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
        if not isinstance(weights, jax.core.Tracer):
            concrete = np.asarray(weights)
            if not (
                np.isfinite(concrete).all() and (concrete >= 0).all() and concrete.any(-1).all()
            ):
                raise ValueError(f"Expected non-negative, finite `weights`; got {concrete}.")
        self._setup(jnp.log(weights), means, covariances, observed, validate_args)

    def _setup(
        self,
        log_weights: Array,
        means: ArrayLike,
        covariances: ArrayLike,
        observed: ArrayLike | None,
        validate_args: bool | None,
    ) -> None:
        means, covariances = floating(means), floating(covariances)
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
        self.observed = check_held(observed, dimension)
        check_mean(means, "means")
        self.means = means
        self.log_weights = jax.nn.log_softmax(log_weights, axis=-1)
        self.covariances, self.scale_trils, self.whiteners = factorize(
            covariances, self._free_of(dimension), "covariances", given_by_user=observed is None
        )
        batch_shape = jnp.broadcast_shapes(
            log_weights.shape[:-1], means.shape[:-2], self.scale_trils.shape[:-3]
        )
        Distribution.__init__(self, batch_shape, (dimension,), validate_args=validate_args)

    def _free_of(self, dimension: int) -> Array:
        """Free coordinates with an axis for the components: (..., 1, D)."""
        if self.observed is None:
            return jnp.ones((1, dimension), bool)
        return ~self.observed[..., None, :]

    @classmethod
    def from_log_weights(
        cls, log_weights: Array, means: Array, covariances: Array, observed: Array | None
    ) -> MixtureReference:
        self = cls.__new__(cls)
        self._setup(log_weights, means, covariances, observed, None)
        return self

    @property
    def weights(self) -> Array:
        """Weights of the components, shape (..., K), summing to one."""
        return jnp.exp(self.log_weights)

    @property
    def mean(self) -> Array:
        """Mean of each coordinate, shape (..., D)."""
        mean = (self.weights[..., None] * self.means).sum(-2)
        return jnp.broadcast_to(mean, self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Array:
        """Variance of each coordinate, shape (..., D); zero where held."""
        within = jnp.diagonal(self.covariances, axis1=-2, axis2=-1)
        spread = (self.means - self.mean[..., None, :]) ** 2
        variance = (self.weights[..., None] * (within + spread)).sum(-2) * self.free
        return jnp.broadcast_to(variance, self.batch_shape + self.event_shape)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Independent draws, shape sample_shape + batch_shape + (D,)."""
        component_key, noise_key = jax.random.split(key)
        shape = self.shape(sample_shape)
        # One uniform number a draw, not one for each component of each draw.
        cumulative = jnp.cumsum(self.weights, axis=-1)
        uniform = jax.random.uniform(component_key, (*shape[:-1], 1), cumulative.dtype)
        component = (cumulative[..., :-1] < uniform * cumulative[..., -1:]).sum(-1)

        def of_component(array: Array, event_ndim: int) -> Array:
            if array.ndim == 1 + event_ndim:
                return array[component]
            events = array.shape[-1 - event_ndim :]
            index = component[(..., *(None,) * (1 + event_ndim))]
            array = jnp.broadcast_to(array, (*shape[:-1], *events))
            return jnp.take_along_axis(array, index, axis=-1 - event_ndim).squeeze(-1 - event_ndim)

        mean, factor = of_component(self.means, 1), of_component(self.scale_trils, 2)
        noise = jax.random.normal(noise_key, shape, self.means.dtype)
        noise = jnp.where(self.free, noise, 0.0)
        return mean + (factor @ noise[..., None])[..., 0]

    @validate_sample
    def log_prob(self, value: ArrayLike) -> Array:
        """Log density of the free coordinates, shape value.shape[:-1]."""
        return self.describe(value)[0]

    def describe(self, value: ArrayLike) -> tuple[Array, Array]:
        """Log density, and mean white residual and components' probabilities, (..., D + K)."""
        parts, white = whiten(
            jnp.asarray(value)[..., None, :],
            self.means,
            self.whiteners,
            self._free_of(self.event_shape[0]),
        )
        log_prob = logsumexp(self.log_weights + parts, axis=-1)
        share = jnp.exp(self.log_weights + parts - log_prob[..., None])
        local = (share[..., None] * white).sum(-2)
        return log_prob, jnp.concatenate([local, share], axis=-1)

    def _condition(
        self, values: ArrayLike, observed: ArrayLike | None
    ) -> tuple[MixtureReference, Array]:
        values, new, held = self._newly_observed(values, observed)
        means, covariances, log_density = condition_gaussian(
            self.means, self.covariances, values[..., None, :], new[..., None, :]
        )
        joint = self.log_weights + log_density
        conditional = MixtureReference.from_log_weights(joint, means, covariances, held)
        return conditional, logsumexp(joint, axis=-1)

    def affine(self, matrix: ArrayLike, shift: ArrayLike) -> MixtureReference:
        """The mixture of the components, each mapped alike."""
        means, covariances = moved(self.means, self.covariances, matrix, shift)
        return MixtureReference(np.exp(np.asarray(self.log_weights)), means, covariances)

    def smoothed(self, noise_scale: float) -> MixtureReference:
        """The mixture of the components, each with noise_scale^2 more variance."""
        covariances = self.covariances + noise_scale**2 * np.eye(self.event_shape[0])
        return MixtureReference(np.exp(np.asarray(self.log_weights)), self.means, covariances)

    def temper(self, inverse_temperature: ArrayLike) -> MixtureReference:
        """A mixture of the components' normalised b-th powers, which bounds q^b up to a constant.

        The weight of a component is the mass of its own b-th power:
        weights_k^b * integral of N(x; means_k, covariances_k)^b dx.
        """
        b = jnp.asarray(inverse_temperature, self.means.dtype)
        log_det = 2 * jnp.log(jnp.diagonal(self.scale_trils, axis1=-2, axis2=-1)).sum(-1)
        num_free = self._free_of(self.event_shape[0]).sum(-1)
        log_mass = 0.5 * (1 - b) * (log_det + num_free * LOG_2_PI) - 0.5 * num_free * jnp.log(b)
        return MixtureReference.from_log_weights(
            b * self.log_weights + log_mass, self.means, self.covariances / b, self.observed
        )
