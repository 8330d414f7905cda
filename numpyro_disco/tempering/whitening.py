"""The scale of the particles, u = S v, in whose units v moves are made.

S is a lower-triangular factor of the particles' covariance (a dense mass matrix) or the vector of
their standard deviations (a diagonal one). The functions here take either.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from numpyro_disco._gaussians import cholesky_or_diagonal
from numpyro_disco._typing import Array
from numpyro_disco.tempering.resampling import quick_sum

SHRINKAGE_POWER = 6
"""Power of d / n with which off-diagonal entries of a covariance of n particles are shrunk."""


def shrinkage(dimension: int, count: Array) -> Array:
    """Share by which off-diagonal entries of a covariance are shrunk towards zero.

    Shrinkage keeps the factor regular when few particles carry most of the weight. With many
    particles it must vanish: it would hide the narrow directions of a strongly correlated density.

    Args:
        dimension: number of coordinates.
        count: effective number of particles.
    """
    return jnp.minimum((dimension / count) ** SHRINKAGE_POWER, 1.0)


def spread(position: Array, weights: Array, free: Array, dense: bool) -> Array:
    """Compute the scale S of weighted particles.

    Args:
        position: shape (n, d).
        weights: weights that sum to 1, shape (n,).
        free: 1 for coordinates that move and 0 for those that do not, shape (d,).
        dense: use the whole covariance, shrunk towards its diagonal.

    Returns:
        A lower-triangular factor of the covariance, (d, d), if `dense`; else the standard
        deviations, (d,). Coordinates that do not move have scale 1.

    Example:
        >>> spread(jnp.zeros((8, 3)), jnp.full(8, 1 / 8), jnp.ones(3), True).shape
        (3, 3)
    """
    dtype, dimension = position.dtype, position.shape[1]
    centred = (position - weights @ position) * free
    deviation = jnp.sqrt(weights @ centred**2)
    floor = jnp.finfo(dtype).eps ** 0.5 * jnp.maximum(deviation.max(), 1e-6)
    deviation = jnp.where(free > 0, jnp.maximum(deviation, floor), 1.0)
    if not dense:
        return deviation
    white = centred / deviation
    share = jnp.maximum(shrinkage(dimension, 1 / quick_sum(weights**2)), 64 * jnp.finfo(dtype).eps)
    correlation = (1 - share) * (white.T @ (weights[:, None] * white))
    correlation = jnp.where(jnp.eye(dimension) > 0, 1.0, correlation)
    return deviation[:, None] * cholesky_or_diagonal(correlation)


def unwhiten(displacement: Array, factor: Array) -> Array:
    """Map displacements (M, d) in v to displacements in u: S v."""
    return displacement @ factor.T if factor.ndim == 2 else displacement * factor


def whiten(displacement: Array, factor: Array) -> Array:
    """Map displacements (M, d) in u to displacements in v: S^-1 u."""
    if factor.ndim == 1:
        return displacement / factor
    return jax.scipy.linalg.solve_triangular(factor, displacement.T, lower=True).T


def whiten_gradient(gradient: Array, factor: Array) -> Array:
    """Map gradients (M, d) with respect to u to gradients with respect to v: S^T g."""
    return gradient @ factor if factor.ndim == 2 else gradient * factor
