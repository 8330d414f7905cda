"""Linear algebra of Gaussian densities, for everything that holds a Gaussian or a mixture of them.

A Gaussian is stored with the Cholesky factor L of its covariance and the inverse W of L, the
*whitener*. Its log density

    log N(x; mean, L L') = log det W - |W (x - mean)|^2 / 2 - D log(2 pi) / 2

then takes a product for each point and no solve.

Coordinates are selected by boolean arrays rather than by indices. A matrix keeps its size (D, D),
and the rows and columns of the coordinates left out are *padded* with those of the identity. Shapes
do not depend on which coordinates are observed, so one compiled program serves every pattern.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import numpy as np

from numpyro_disco._checks import is_traced
from numpyro_disco._compiling import as_one_program
from numpyro_disco._typing import Array, ArrayLike

LOG_2_PI = float(np.log(2 * np.pi))


def floating(x: Any) -> Array:
    """`x` as an array of floating-point numbers; integers are converted."""
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.result_type(float))


def outer(a: Array, b: Array) -> Array:
    """Outer product over the last axis, shape (..., n, m)."""
    return a[..., :, None] * b[..., None, :]


def padded_cholesky(covariance: Array, kept: Array) -> Array:
    """Cholesky factor of `covariance` on the kept coordinates, and the identity on the others.

    The identity block has log determinant 0 and adds no quadratic term where the residual is 0, so
    the density is that of the kept coordinates alone.
    """
    keep = kept.astype(covariance.dtype)
    eye = jnp.eye(covariance.shape[-1], dtype=covariance.dtype)
    return jnp.linalg.cholesky(covariance * outer(keep, keep) + eye * (1 - keep)[..., None, :])


def inverse_factor(triangular: Array, *, lower: bool = True) -> Array:
    """Inverse of a triangular matrix, so that each point takes a product instead of a solve."""
    eye = jnp.broadcast_to(jnp.eye(triangular.shape[-1], dtype=triangular.dtype), triangular.shape)
    return jsl.solve_triangular(triangular, eye, lower=lower)


def multiply(triangular: Array, x: Array) -> Array:
    """Products of triangular matrices (..., d, d) and vectors (..., d), whose axes broadcast."""
    # Many small products in one fused loop; a batch of matrix products would call a library for
    # each of them.
    return (triangular * x[..., None, :]).sum(-1)


def solve(triangular: Array, x: Array) -> Array:
    """Solutions z of L z = x, for lower-triangular L (..., d, d) and vectors x (..., d)."""
    shape = jnp.broadcast_shapes(triangular.shape[:-1], x.shape)
    triangular = jnp.broadcast_to(triangular, (*shape, shape[-1]))
    return jsl.solve_triangular(triangular, jnp.broadcast_to(x, shape)[..., None], lower=True)[
        ..., 0
    ]


def log_diagonal(triangular: Array) -> Array:
    """Logs of the absolute diagonal entries, shape (..., D); they sum to the log determinant."""
    return jnp.log(jnp.abs(jnp.diagonal(triangular, axis1=-2, axis2=-1)))


def whiten(x: Array, mean: Array, whitener: Array, kept: Array) -> tuple[Array, Array]:
    """Log density of the kept coordinates, and the white residual W (x - mean).

    Args:
        x: points, shape (..., D).
        mean: shape (..., D).
        whitener: inverse Cholesky factor, padded with the identity, shape (..., D, D).
        kept: boolean array (..., D); the other coordinates of `x` are ignored.

    Returns:
        Arrays of shapes (...) and (..., D); the residual is 0 outside the kept coordinates.
    """
    residual = jnp.where(kept, x - mean, 0.0)
    white = (whitener @ residual[..., None])[..., 0]
    log_det = log_diagonal(whitener).sum(-1)
    log_prob = log_det - 0.5 * (white**2).sum(-1) - 0.5 * LOG_2_PI * kept.sum(-1)
    return log_prob, white


@as_one_program
def condition_gaussian(
    mean: Array, covariance: Array, values: Array, observed: Array
) -> tuple[Array, Array, Array]:
    """Condition N(mean, covariance) on some of its coordinates.

    With o the observed and f the free block, the conditional has mean
    mean_f + S_fo S_oo^-1 (values_o - mean_o) and covariance S_ff - S_fo S_oo^-1 S_of.

    Args:
        mean: shape (..., D).
        covariance: shape (..., D, D).
        values: shape (..., D); entries of free coordinates are ignored.
        observed: boolean array (..., D).

    Returns:
        Mean (..., D) and covariance (..., D, D) of the conditional, where observed coordinates
        have their values and zero covariance, and the log density (...) of the observed values.
    """
    seen, free = observed.astype(covariance.dtype), (~observed).astype(covariance.dtype)
    whitener = inverse_factor(padded_cholesky(covariance, observed))
    log_density, white = whiten(values, mean, whitener, observed)
    # S_fo S_oo^-1 S_of = half' half, and S_fo S_oo^-1 (values_o - mean_o) = half' white.
    half = whitener @ (covariance * outer(seen, free))
    shift = (jnp.swapaxes(half, -1, -2) @ white[..., None])[..., 0]
    conditional_mean = jnp.where(observed, values, mean + shift)
    conditional_covariance = covariance * outer(free, free) - jnp.swapaxes(half, -1, -2) @ half
    return conditional_mean, conditional_covariance, log_density


def affine_gaussian(
    mean: ArrayLike, covariance: ArrayLike, matrix: ArrayLike, shift: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of matrix @ x + shift, in double precision; the covariance is symmetric.

    Leading axes of `mean` and `covariance`, such as components, are kept.
    """
    mean, covariance, matrix, shift = (
        np.asarray(array, np.float64) for array in (mean, covariance, matrix, shift)
    )
    covariance = matrix @ covariance @ matrix.T
    return mean @ matrix.T + shift, 0.5 * (covariance + np.swapaxes(covariance, -1, -2))


def factorize(
    covariance: Array, free: Array, argument: str, *, symmetric: bool
) -> tuple[Array, Array, Array]:
    """Check and factorise the covariance of the free coordinates.

    Args:
        covariance: shape (..., D, D); rows and columns of the other coordinates are ignored.
        free: boolean array (..., D).
        argument: name of the covariance in error messages.
        symmetric: refuse a covariance that is not symmetric. A conditional's covariance may differ
            from its transpose by rounding, which is not the user's mistake.

    Returns:
        The covariance, zero outside the free coordinates; its padded Cholesky factor; and the
        inverse of the factor.
    """
    if symmetric:
        check_symmetric(covariance, argument)
    covariance, cholesky, whitener = _factors(covariance, free)
    check_definite(cholesky, argument)
    return covariance, cholesky, whitener


@partial(jax.jit, inline=True)
def _factors(covariance: Array, free: Array) -> tuple[Array, Array, Array]:
    keep = free.astype(covariance.dtype)
    covariance = covariance * outer(keep, keep)
    cholesky = padded_cholesky(covariance, free)
    return covariance, cholesky, inverse_factor(cholesky)


def check_finite(mean: Array, argument: str) -> None:
    """Refuse a mean that is not finite; a traced one is accepted as it is."""
    if not is_traced(mean) and not np.isfinite(np.asarray(mean)).all():
        raise ValueError(f"Expected finite numbers for `{argument}`; got {mean}.")


def check_observed(observed: ArrayLike | None, dimension: int) -> Array | None:
    """Return `observed` as a boolean array (..., D), or None."""
    if observed is None:
        return None
    observed = jnp.asarray(observed, bool)
    if observed.shape[-1:] != (dimension,):
        raise ValueError(f"Expected shape (..., {dimension}) for `observed`; got {observed.shape}.")
    return observed


def check_symmetric(covariance: Array, argument: str) -> None:
    """Refuse a matrix that differs from its transpose by more than rounding."""
    if is_traced(covariance):
        return
    matrix = np.asarray(covariance)
    gap = np.abs(matrix - np.swapaxes(matrix, -1, -2)).max(initial=0.0)
    if gap > 1e-4 * np.abs(matrix).max(initial=0.0):
        raise ValueError(
            f"Expected a symmetric matrix for `{argument}`; got one that differs from its "
            f"transpose by {gap:.3g}. If this is rounding, use (matrix + matrix.T) / 2."
        )


def check_definite(cholesky: Array, argument: str) -> None:
    """Refuse a matrix whose Cholesky factor is not finite."""
    if not is_traced(cholesky) and not np.isfinite(np.asarray(cholesky)).all():
        raise ValueError(
            f"Expected a positive definite matrix for `{argument}`; got one whose Cholesky factor "
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
        kept: 0/1 array (d,): the density leaves out coordinates with 0.

    Returns:
        Distances (n, K) and constants (K,).
    """
    residual = (x[None] - means[:, None]) * kept
    white = residual @ jnp.swapaxes(inverse_factor(cholesky), 1, 2)
    log_det = jnp.log(jnp.diagonal(cholesky, axis1=1, axis2=2)).sum(1)
    return (white**2).sum(2).T, -log_det - 0.5 * LOG_2_PI * kept.sum()
