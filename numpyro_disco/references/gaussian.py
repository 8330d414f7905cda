"""`GaussianReference`: one multivariate Gaussian."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco._compiling import as_one_program
from numpyro_disco._gaussians import (
    affine_gaussian,
    check_finite,
    check_observed,
    condition_gaussian,
    factorize,
    floating,
    whiten,
)
from numpyro_disco._numpyro import validate_sample
from numpyro_disco._typing import Array, ArrayLike
from numpyro_disco.references.base import Components, Reference, free_coordinates


class GaussianReference(Reference):
    """Multivariate Gaussian N(mean, covariance), with every conditional in closed form.

    Args:
        mean: array (..., D), in the user's units.
        covariance: symmetric positive definite array (..., D, D).
        observed: None, or a boolean array (..., D) of coordinates held at `mean`. Their rows and
            columns of `covariance` are ignored. `condition` sets it.
        validate_args: NumPyro's switch for checks of values.

    Raises:
        ValueError: The shapes do not match, the mean is not finite, or the covariance is not
            symmetric and positive definite.

    Example:
        >>> import jax.numpy as jnp
        >>> q = GaussianReference(jnp.zeros(3), jnp.eye(3))
        >>> q.condition(jnp.array([0.5, jnp.nan, jnp.nan])).log_prob(jnp.zeros(3)).shape
        ()
    """

    arg_constraints: dict[str, Any] = {}
    pytree_data_fields = ("mean_", "covariance", "scale_tril", "whitener", "observed")

    def __init__(
        self,
        mean: ArrayLike,
        covariance: ArrayLike,
        *,
        observed: ArrayLike | None = None,
        validate_args: bool | None = None,
    ) -> None:
        mean, covariance = floating(mean), floating(covariance)
        if mean.ndim < 1 or mean.shape[-1] == 0:
            raise ValueError(f"Expected shape (..., D) for `mean`; got {mean.shape}.")
        dimension = mean.shape[-1]
        if covariance.shape[-2:] != (dimension, dimension):
            raise ValueError(
                f"Expected shape (..., {dimension}, {dimension}) for `covariance`, to match `mean` "
                f"of shape {mean.shape}; got {covariance.shape}."
            )
        check_finite(mean, "mean")
        self.observed = check_observed(observed, dimension)
        self.mean_ = mean
        self.covariance, self.scale_tril, self.whitener = factorize(
            covariance,
            free_coordinates(self.observed, dimension),
            "covariance",
            symmetric=observed is None,
        )
        batch_shape = jnp.broadcast_shapes(mean.shape[:-1], self.scale_tril.shape[:-2])
        super().__init__(batch_shape, (dimension,), validate_args=validate_args)

    @property
    def mean(self) -> Array:
        """Mean of each coordinate, shape (..., D)."""
        return jnp.broadcast_to(self.mean_, self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Array:
        """Variance of each coordinate, shape (..., D); zero where observed."""
        variance = jnp.diagonal(self.covariance, axis1=-2, axis2=-1) * self.free
        return jnp.broadcast_to(variance, self.batch_shape + self.event_shape)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Independent draws, shape sample_shape + batch_shape + (D,)."""
        noise = jax.random.normal(key, self.shape(sample_shape), self.mean_.dtype)
        noise = jnp.where(self.free, noise, 0.0)
        return self.mean_ + (self.scale_tril @ noise[..., None])[..., 0]

    @validate_sample
    def log_prob(self, value: ArrayLike) -> Array:
        """Log density of the free coordinates, shape value.shape[:-1]."""
        return self.describe(value)[0]

    @as_one_program
    def describe(self, value: ArrayLike) -> tuple[Array, Array]:
        """Log density (...) and white residual (..., D)."""
        return whiten(jnp.asarray(value), self.mean_, self.whitener, self.free)

    def components(self) -> Components:
        """One component of weight 1."""
        # The shapes of the arrays count axes along which `vmap` has stacked them, too.
        batch = jnp.broadcast_shapes(self.mean_.shape[:-1], self.covariance.shape[:-2])
        return Components(
            jnp.zeros((*batch, 1), self.mean_.dtype),
            self.mean_[..., None, :],
            self.covariance[..., None, :, :],
            self.whitener[..., None, :, :],
        )

    def _condition(
        self, values: ArrayLike, observed: ArrayLike | None
    ) -> tuple[GaussianReference, Array]:
        values, new, held = self._new_observations(values, observed)
        mean, covariance, log_density = condition_gaussian(self.mean_, self.covariance, values, new)
        return GaussianReference(mean, covariance, observed=held), log_density

    def affine(self, matrix: ArrayLike, shift: ArrayLike) -> GaussianReference:
        """N(matrix @ mean + shift, matrix @ covariance @ matrix.T)."""
        mean, covariance = affine_gaussian(self.mean_, self.covariance, matrix, shift)
        return GaussianReference(mean, covariance)

    def smoothed(self, noise_scale: float) -> GaussianReference:
        """N(mean, covariance + noise_scale^2 I)."""
        noise = noise_scale**2 * np.eye(self.event_shape[0])
        return GaussianReference(self.mean_, self.covariance + noise)

    def temper(self, inverse_temperature: ArrayLike) -> GaussianReference:
        """N(mean, covariance / b), which is exactly the b-th power of this density, normalised."""
        return GaussianReference(
            self.mean_, self.covariance / inverse_temperature, observed=self.observed
        )
