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

from typing import Any, Self

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import numpy as np
from jax.scipy.special import logsumexp
from numpyro.distributions import Distribution, constraints
from numpyro.distributions.util import validate_sample

from numpyro_disco._typing import Array, ArrayLike

LOG_2_PI = float(np.log(2 * np.pi))


def _floating(x: Any) -> Array:
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.result_type(float))


def _outer(a: Array, b: Array) -> Array:
    return a[..., :, None] * b[..., None, :]


def _padded_cholesky(covariance: Array, kept: Array) -> Array:
    """Cholesky factor of `covariance` on the kept coordinates, identity on the others.

    The identity block adds log det 0 and, with zero residuals there, no quadratic term: shapes
    stay fixed while the density is that of the kept coordinates alone.
    """
    keep = kept.astype(covariance.dtype)
    eye = jnp.eye(covariance.shape[-1], dtype=covariance.dtype)
    return jnp.linalg.cholesky(covariance * _outer(keep, keep) + eye * (1 - keep)[..., None, :])


def _whitener(cholesky: Array) -> Array:
    """Inverse of a triangular factor: a product in place of a solve for every point."""
    eye = jnp.broadcast_to(jnp.eye(cholesky.shape[-1], dtype=cholesky.dtype), cholesky.shape)
    return jsl.solve_triangular(cholesky, eye, lower=True)


def _gaussian_log_prob(x: Array, mean: Array, whitener: Array, kept: Array) -> Array:
    """Log N of the kept coordinates of x; `whitener` is padded with the identity elsewhere."""
    return _whiten(x, mean, whitener, kept)[0]


def _whiten(x: Array, mean: Array, whitener: Array, kept: Array) -> tuple[Array, Array]:
    """The log density, and the white residual that it is a function of."""
    residual = jnp.where(kept, x - mean, 0.0)
    white = (whitener @ residual[..., None])[..., 0]
    log_det = jnp.log(jnp.diagonal(whitener, axis1=-2, axis2=-1)).sum(-1)
    log_prob = log_det - 0.5 * (white**2).sum(-1) - 0.5 * LOG_2_PI * kept.sum(-1)
    return log_prob, white


def _condition_gaussian(
    mean: Array, covariance: Array, values: Array, observed: Array
) -> tuple[Array, Array, Array]:
    """Mean and covariance of N(mean, covariance) given some coordinates, and their log density.

    With o the observed and f the free block: mean_f + S_fo S_oo^-1 (values_o - mean_o) and
    S_ff - S_fo S_oo^-1 S_of. Observed coordinates come back with their values and zero covariance.
    """
    seen, free = observed.astype(covariance.dtype), (~observed).astype(covariance.dtype)
    whitener = _whitener(_padded_cholesky(covariance, observed))
    residual = jnp.where(observed, values - mean, 0.0)
    half = whitener @ (covariance * _outer(seen, free))
    white = whitener @ residual[..., None]
    shift = (jnp.swapaxes(half, -1, -2) @ white)[..., 0]
    conditional_mean = jnp.where(observed, values, mean + shift)
    conditional_covariance = covariance * _outer(free, free) - jnp.swapaxes(half, -1, -2) @ half
    log_density = _gaussian_log_prob(values, mean, whitener, observed)
    return conditional_mean, conditional_covariance, log_density


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
    def _free(self) -> Array:
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
        values = _floating(values)
        dimension = self.event_shape[0]
        if values.ndim == 0 or values.shape[-1] != dimension:
            raise ValueError(
                f"Expected a last axis of {dimension} for `values`; got shape {values.shape}."
            )
        seen = ~jnp.isnan(values) if observed is None else jnp.asarray(observed, bool)
        already = jnp.zeros_like(seen) if self.observed is None else self.observed
        return jnp.where(seen, values, 0.0), seen & ~already, seen | already


def _moved(
    mean: ArrayLike, covariance: ArrayLike, matrix: ArrayLike, shift: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance after an affine map, in double precision and symmetric."""
    mean, covariance, matrix, shift = (
        np.asarray(array, np.float64) for array in (mean, covariance, matrix, shift)
    )
    covariance = matrix @ covariance @ matrix.T
    return mean @ matrix.T + shift, 0.5 * (covariance + np.swapaxes(covariance, -1, -2))


def _check_mean(mean: Array, argument: str) -> None:
    if not isinstance(mean, jax.core.Tracer) and not np.isfinite(np.asarray(mean)).all():
        raise ValueError(f"Expected finite numbers for `{argument}`; got {mean}.")


def _held(observed: ArrayLike | None, dimension: int) -> Array | None:
    """Which coordinates are held, as a boolean array (..., D), or None."""
    if observed is None:
        return None
    held = jnp.asarray(observed, bool)
    if held.shape[-1:] != (dimension,):
        raise ValueError(f"Expected shape (..., {dimension}) for `observed`; got {held.shape}.")
    return held


def _factorize(
    covariance: Array, free: Array, argument: str, *, given_by_user: bool
) -> tuple[Array, Array, Array]:
    """Covariance of the free coordinates, its padded Cholesky factor, and the factor's inverse."""
    # A conditional's covariance is not held to symmetry: its rounding is not the user's doing.
    if given_by_user:
        _check_symmetric(covariance, argument)
    keep = free.astype(covariance.dtype)
    covariance = covariance * _outer(keep, keep)
    cholesky = _padded_cholesky(covariance, free)
    _check_covariance(cholesky, argument)
    return covariance, cholesky, _whitener(cholesky)


def _check_symmetric(covariance: Array, argument: str) -> None:
    if isinstance(covariance, jax.core.Tracer):
        return
    matrix = np.asarray(covariance)
    gap = np.abs(matrix - np.swapaxes(matrix, -1, -2)).max(initial=0.0)
    if gap > 1e-4 * np.abs(matrix).max(initial=0.0):
        raise ValueError(
            f"Expected a symmetric matrix for `{argument}`; it differs from its transpose by "
            f"{gap:.3g}. Use (matrix + matrix.T) / 2 if that is rounding."
        )


def _check_covariance(cholesky: Array, argument: str) -> None:
    if not isinstance(cholesky, jax.core.Tracer) and not np.isfinite(np.asarray(cholesky)).all():
        raise ValueError(
            f"Expected a symmetric positive definite matrix for `{argument}`; its Cholesky factor "
            "is not finite. Add a small multiple of the identity."
        )


class GaussianReference(Reference):
    """Multivariate Gaussian N(mean, covariance), with every conditional in closed form.

    Args:
        mean: array (..., D), the user's units.
        covariance: symmetric positive definite array (..., D, D).
        observed: None, or a boolean array (..., D): coordinates held at `mean`, whose rows and
            columns of `covariance` are ignored. `condition` fills it.
        validate_args: NumPyro's switch for checks of values.

    Raises:
        ValueError: shapes that do not fit, or a covariance that is not positive definite.

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
        mean, covariance = _floating(mean), _floating(covariance)
        if mean.ndim < 1 or mean.shape[-1] == 0:
            raise ValueError(f"Expected shape (..., D) for `mean`; got {mean.shape}.")
        dimension = mean.shape[-1]
        if covariance.shape[-2:] != (dimension, dimension):
            raise ValueError(
                f"Expected shape (..., {dimension}, {dimension}) for `covariance`, to match `mean` "
                f"of shape {mean.shape}; got {covariance.shape}."
            )
        self.observed = _held(observed, dimension)
        free = jnp.ones(dimension, bool) if self.observed is None else ~self.observed
        _check_mean(mean, "mean")
        self.mean_ = mean
        self.covariance, self.scale_tril, self.whitener = _factorize(
            covariance, free, "covariance", given_by_user=observed is None
        )
        batch_shape = jnp.broadcast_shapes(mean.shape[:-1], self.scale_tril.shape[:-2])
        super().__init__(batch_shape, (dimension,), validate_args=validate_args)

    @property
    def mean(self) -> Array:
        """Mean of each coordinate, shape (..., D)."""
        return jnp.broadcast_to(self.mean_, self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Array:
        """Variance of each coordinate, shape (..., D); zero where held."""
        variance = jnp.diagonal(self.covariance, axis1=-2, axis2=-1) * self._free
        return jnp.broadcast_to(variance, self.batch_shape + self.event_shape)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Independent draws, shape sample_shape + batch_shape + (D,)."""
        noise = jax.random.normal(key, self.shape(sample_shape), self.mean_.dtype)
        noise = jnp.where(self._free, noise, 0.0)
        return self.mean_ + (self.scale_tril @ noise[..., None])[..., 0]

    @validate_sample
    def log_prob(self, value: ArrayLike) -> Array:
        """Log density of the free coordinates, shape value.shape[:-1]."""
        return self.describe(value)[0]

    def describe(self, value: ArrayLike) -> tuple[Array, Array]:
        """Log density and white residual, shapes (...) and (..., D)."""
        return _whiten(jnp.asarray(value), self.mean_, self.whitener, self._free)

    def _condition(
        self, values: ArrayLike, observed: ArrayLike | None
    ) -> tuple[GaussianReference, Array]:
        values, new, held = self._newly_observed(values, observed)
        mean, covariance, log_density = _condition_gaussian(
            self.mean_, self.covariance, values, new
        )
        return GaussianReference(mean, covariance, observed=held), log_density

    def affine(self, matrix: ArrayLike, shift: ArrayLike) -> GaussianReference:
        """N(matrix @ mean + shift, matrix @ covariance @ matrix.T)."""
        mean, covariance = _moved(self.mean_, self.covariance, matrix, shift)
        return GaussianReference(mean, covariance)

    def smoothed(self, noise_scale: float) -> GaussianReference:
        """A Gaussian with noise_scale^2 more variance in every direction."""
        more = noise_scale**2 * np.eye(self.event_shape[0])
        return GaussianReference(self.mean_, self.covariance + more)

    def temper(self, inverse_temperature: ArrayLike) -> GaussianReference:
        """The normalised b-th power of this Gaussian: covariance / b."""
        return GaussianReference(
            self.mean_, self.covariance / inverse_temperature, observed=self.observed
        )


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
        weights = _floating(weights)
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
        means, covariances = _floating(means), _floating(covariances)
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
        self.observed = _held(observed, dimension)
        _check_mean(means, "means")
        self.means = means
        self.log_weights = jax.nn.log_softmax(log_weights, axis=-1)
        self.covariances, self.scale_trils, self.whiteners = _factorize(
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
    def _from_log_weights(
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
        variance = (self.weights[..., None] * (within + spread)).sum(-2) * self._free
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
        noise = jnp.where(self._free, noise, 0.0)
        return mean + (factor @ noise[..., None])[..., 0]

    @validate_sample
    def log_prob(self, value: ArrayLike) -> Array:
        """Log density of the free coordinates, shape value.shape[:-1]."""
        return self.describe(value)[0]

    def describe(self, value: ArrayLike) -> tuple[Array, Array]:
        """Log density, and mean white residual and components' probabilities, (..., D + K)."""
        parts, white = _whiten(
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
        means, covariances, log_density = _condition_gaussian(
            self.means, self.covariances, values[..., None, :], new[..., None, :]
        )
        joint = self.log_weights + log_density
        conditional = MixtureReference._from_log_weights(joint, means, covariances, held)
        return conditional, logsumexp(joint, axis=-1)

    def affine(self, matrix: ArrayLike, shift: ArrayLike) -> MixtureReference:
        """The mixture of the components, each mapped alike."""
        means, covariances = _moved(self.means, self.covariances, matrix, shift)
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
        return MixtureReference._from_log_weights(
            b * self.log_weights + log_mass, self.means, self.covariances / b, self.observed
        )
