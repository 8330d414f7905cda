"""Mean and covariance of a mixture, as a whole and given some of its coordinates."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco._gaussians import cholesky_or_diagonal, condition_gaussian, outer
from numpyro_disco._typing import Array
from numpyro_disco.references.base import Components
from numpyro_disco.references.categorical import categorical_log_probs


def mixture_moments(weights: Array, means: Array, covariances: Array) -> tuple[Array, Array]:
    """Mean and covariance of a mixture.

    The covariance is the mean of the components' covariances plus the covariance of their means.

    Args:
        weights: weights that sum to one, shape (..., K).
        means: shape (..., K, D).
        covariances: shape (..., K, D, D).

    Returns:
        Arrays of shapes (..., D) and (..., D, D).
    """
    mean = (weights[..., None] * means).sum(-2)
    spread = means - mean[..., None, :]
    weighted = weights[..., None] * spread
    between = jnp.swapaxes(weighted, -1, -2) @ spread
    # A product of matrices, so that nothing of size (rows, K, D, D) is made where rows share the
    # covariances of their components.
    flat = covariances.reshape(*covariances.shape[:-2], -1)
    within = (weights[..., None, :] @ flat)[..., 0, :].reshape(between.shape)
    return mean, within + between


def conditional_moments(
    components: Components, values: Array, observed: Array, num_levels: tuple[int, ...]
) -> tuple[Array, Array]:
    """Mean and covariance of a mixture given some of its coordinates, exact.

    Free discrete coordinates have no part in it: their entries mean nothing.

    Args:
        components: the components of an unconditioned reference.
        values: array (..., D); entries of free coordinates are ignored.
        observed: boolean array (..., D). The covariances of the components' conditionals depend on
            it alone: where rows share a pattern, an axis of length 1 computes them once.
        num_levels: levels of each coordinate, 0 for continuous ones.

    Returns:
        Mean (..., D) and covariance (..., D, D). Observed coordinates have their values and, up
        to rounding, zero covariance.
    """
    continuous = np.asarray(num_levels) == 0
    means, covariances, log_densities = condition_gaussian(
        components.means,
        components.covariances,
        jnp.where(observed, values, 0.0)[..., None, :],
        (observed & continuous)[..., None, :],
    )
    joint = components.log_weights + log_densities
    if components.log_probabilities is not None:
        joint += categorical_log_probs(values, components.log_probabilities, num_levels, observed)
    weights = jax.nn.softmax(joint, axis=-1)
    return mixture_moments(weights, means, covariances)


def coordinate_factor(covariance: Array, scale: Array, observed: Array) -> Array:
    """Lower-triangular L with L L^T the covariance of the free coordinates.

    Args:
        covariance: shape (..., D, D); rows and columns of observed coordinates are ignored.
        scale: positive unit of each coordinate, shape (..., D).
        observed: boolean array (..., D).

    Returns:
        Array (..., D, D). Observed coordinates have their scale on the diagonal and zeros beside
        it. L always has an inverse: variances below the resolution of the floating-point numbers
        are raised to it.
    """
    free = (~observed).astype(covariance.dtype)
    eye = jnp.eye(covariance.shape[-1], dtype=covariance.dtype)
    resolution = 10 * jnp.finfo(covariance.dtype).eps
    standard = covariance / outer(scale, scale) * outer(free, free)
    padded = standard + eye * (1 - free + resolution * free)[..., None, :]
    factor = cholesky_or_diagonal(padded)
    # Rounding can leave a variance of zero, for which there is no factor.
    diagonal = jnp.diagonal(factor, axis1=-2, axis2=-1)
    raised = jnp.maximum(jnp.sqrt(resolution) - diagonal, 0.0)
    return scale[..., :, None] * (factor + eye * raised[..., None, :])
