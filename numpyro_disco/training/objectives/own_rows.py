r"""The row behind a noisy point as its target, corrected by the reference.

In as many dimensions as an image has, the posterior over training rows is on one row: the row that
a point was made from, or another by chance. At the noise sigma_0 of the target density that row r
is an unbiased target. At points x that were proposed by more noise, with variances V, its mean is
the posterior mean under V and not the one under sigma_0^2. For a reference q both are known, so

.. math:: m = r + m_q(x; \sigma_0^2 I) - m_q(x; V), \qquad
          m_q(x; V) = x + V \nabla \log (q_c * N(0, V))(x)

with q = q_c * N(0, sigma_0^2 I). The target is unbiased at sigma_0 whatever q is, and at all other
points if the rows have the density q_c; otherwise only the part of the posterior mean that q does
not describe is that of the larger noise.

References:
    Robbins 1956 (Miyasawa 1961) for posterior means as scores; Vincent 2011 for sigma_0.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from numpyro_disco._gaussians import inverse_factor, log_diagonal
from numpyro_disco._typing import Array
from numpyro_disco.references.base import Components


def mean_behind(components: Components, points: Array, noise: Array, resolution: float) -> Array:
    """Means m_q(x; V) of the rows behind noisy points that share the noise of each coordinate.

    Args:
        components: components of the smoothed reference q.
        points: x, shape (B, D).
        noise: standard deviations of the noise, the root of V, none below sigma_0, shape (D,).
        resolution: sigma_0.

    Returns:
        Shape (B, D).
    """
    more = jnp.maximum(noise**2 - resolution**2, 0.0)
    return points + noise**2 * _score(components, points, more)


def _score(components: Components, points: Array, variances: Array) -> Array:
    """Score at points (B, D) of a mixture with added variances (D,)."""
    covariances = components.covariances + jnp.diag(variances)
    whiteners = inverse_factor(jnp.linalg.cholesky(covariances))
    white = jnp.einsum("kij,bkj->bki", whiteners, points[:, None] - components.means)
    logits = components.log_weights + log_diagonal(whiteners).sum(-1) - 0.5 * (white**2).sum(-1)
    return -jnp.einsum("bk,kji,bkj->bi", jax.nn.softmax(logits), whiteners, white)
