"""Gaussian densities with padded coordinates: the linear algebra that references share."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import numpy as np

from numpyro_disco._typing import Array, ArrayLike

LOG_2_PI = float(np.log(2 * np.pi))


def floating(x: Any) -> Array:
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.result_type(float))


def outer(a: Array, b: Array) -> Array:
    return a[..., :, None] * b[..., None, :]


def padded_cholesky(covariance: Array, kept: Array) -> Array:
    """Cholesky factor of `covariance` on the kept coordinates, identity on the others.

    The identity block adds log det 0 and, with zero residuals there, no quadratic term: shapes
    stay fixed while the density is that of the kept coordinates alone.
    """
    keep = kept.astype(covariance.dtype)
    eye = jnp.eye(covariance.shape[-1], dtype=covariance.dtype)
    return jnp.linalg.cholesky(covariance * outer(keep, keep) + eye * (1 - keep)[..., None, :])


def inverse_factor(cholesky: Array) -> Array:
    """Inverse of a triangular factor: a product in place of a solve for every point."""
    eye = jnp.broadcast_to(jnp.eye(cholesky.shape[-1], dtype=cholesky.dtype), cholesky.shape)
    return jsl.solve_triangular(cholesky, eye, lower=True)


def gaussian_log_prob(x: Array, mean: Array, whitener: Array, kept: Array) -> Array:
    """Log N of the kept coordinates of x; `whitener` is padded with the identity elsewhere."""
    return whiten(x, mean, whitener, kept)[0]


def whiten(x: Array, mean: Array, whitener: Array, kept: Array) -> tuple[Array, Array]:
    """The log density, and the white residual that it is a function of."""
    residual = jnp.where(kept, x - mean, 0.0)
    white = (whitener @ residual[..., None])[..., 0]
    log_det = jnp.log(jnp.diagonal(whitener, axis1=-2, axis2=-1)).sum(-1)
    log_prob = log_det - 0.5 * (white**2).sum(-1) - 0.5 * LOG_2_PI * kept.sum(-1)
    return log_prob, white


def condition_gaussian(
    mean: Array, covariance: Array, values: Array, observed: Array
) -> tuple[Array, Array, Array]:
    """Mean and covariance of N(mean, covariance) given some coordinates, and their log density.

    With o the observed and f the free block: mean_f + S_fo S_oo^-1 (values_o - mean_o) and
    S_ff - S_fo S_oo^-1 S_of. Observed coordinates come back with their values and zero covariance.
    """
    seen, free = observed.astype(covariance.dtype), (~observed).astype(covariance.dtype)
    whitener = inverse_factor(padded_cholesky(covariance, observed))
    residual = jnp.where(observed, values - mean, 0.0)
    half = whitener @ (covariance * outer(seen, free))
    white = whitener @ residual[..., None]
    shift = (jnp.swapaxes(half, -1, -2) @ white)[..., 0]
    conditional_mean = jnp.where(observed, values, mean + shift)
    conditional_covariance = covariance * outer(free, free) - jnp.swapaxes(half, -1, -2) @ half
    log_density = gaussian_log_prob(values, mean, whitener, observed)
    return conditional_mean, conditional_covariance, log_density


def moved(
    mean: ArrayLike, covariance: ArrayLike, matrix: ArrayLike, shift: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance after an affine map, in double precision and symmetric."""
    mean, covariance, matrix, shift = (
        np.asarray(array, np.float64) for array in (mean, covariance, matrix, shift)
    )
    covariance = matrix @ covariance @ matrix.T
    return mean @ matrix.T + shift, 0.5 * (covariance + np.swapaxes(covariance, -1, -2))


def check_mean(mean: Array, argument: str) -> None:
    if not isinstance(mean, jax.core.Tracer) and not np.isfinite(np.asarray(mean)).all():
        raise ValueError(f"Expected finite numbers for `{argument}`; got {mean}.")


def check_held(observed: ArrayLike | None, dimension: int) -> Array | None:
    """Which coordinates are held, as a boolean array (..., D), or None."""
    if observed is None:
        return None
    held = jnp.asarray(observed, bool)
    if held.shape[-1:] != (dimension,):
        raise ValueError(f"Expected shape (..., {dimension}) for `observed`; got {held.shape}.")
    return held


def factorize(
    covariance: Array, free: Array, argument: str, *, given_by_user: bool
) -> tuple[Array, Array, Array]:
    """Covariance of the free coordinates, its padded Cholesky factor, and the factor's inverse."""
    # A conditional's covariance is not held to symmetry: its rounding is not the user's doing.
    if given_by_user:
        check_symmetric(covariance, argument)
    keep = free.astype(covariance.dtype)
    covariance = covariance * outer(keep, keep)
    cholesky = padded_cholesky(covariance, free)
    check_covariance(cholesky, argument)
    return covariance, cholesky, inverse_factor(cholesky)


def check_symmetric(covariance: Array, argument: str) -> None:
    if isinstance(covariance, jax.core.Tracer):
        return
    matrix = np.asarray(covariance)
    gap = np.abs(matrix - np.swapaxes(matrix, -1, -2)).max(initial=0.0)
    if gap > 1e-4 * np.abs(matrix).max(initial=0.0):
        raise ValueError(
            f"Expected a symmetric matrix for `{argument}`; it differs from its transpose by "
            f"{gap:.3g}. Use (matrix + matrix.T) / 2 if that is rounding."
        )


def check_covariance(cholesky: Array, argument: str) -> None:
    if not isinstance(cholesky, jax.core.Tracer) and not np.isfinite(np.asarray(cholesky)).all():
        raise ValueError(
            f"Expected a symmetric positive definite matrix for `{argument}`; its Cholesky factor "
            "is not finite. Add a small multiple of the identity."
        )


def cholesky_or_diagonal(covariance: Array) -> Array:
    """Cholesky factor of each covariance (..., d, d), or its deviations where there is none.

    Rounding can leave a nearly singular matrix without a factor. The standard deviations alone, as
    a diagonal factor, always exist.
    """
    factor = jnp.linalg.cholesky(covariance)
    deviation = jnp.sqrt(jnp.maximum(jnp.diagonal(covariance, axis1=-2, axis2=-1), 0))
    finite = jnp.isfinite(factor).all((-2, -1), keepdims=True)
    eye = jnp.eye(covariance.shape[-1], dtype=covariance.dtype)
    return jnp.where(finite, factor, deviation[..., None] * eye)


def component_distances(
    x: Array, means: Array, cholesky: Array, kept: Array
) -> tuple[Array, Array]:
    """Squared Mahalanobis distances of n points to K Gaussians, and log normalising constants.

    The log density of point i under component k is constants[k] - distances[i, k] / 2. The two are
    apart so that densities of rescaled components cost nothing more. One matrix product for each
    component keeps many points fast.

    Args:
        x: points, shape (n, d).
        means: shape (K, d).
        cholesky: lower-triangular factors of the covariances, with the identity on coordinates
            that are not kept, shape (K, d, d).
        kept: 0/1 array (d,): coordinates with 0 are no part of the density.

    Returns:
        Distances (n, K) and constants (K,).
    """
    residual = (x[None] - means[:, None]) * kept
    white = residual @ jnp.swapaxes(inverse_factor(cholesky), 1, 2)
    log_det = jnp.log(jnp.diagonal(cholesky, axis1=1, axis2=2)).sum(1)
    return (white**2).sum(2).T, -log_det - 0.5 * LOG_2_PI * kept.sum()
