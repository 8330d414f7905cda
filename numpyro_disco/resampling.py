"""Log-weight algebra and resampling of particles."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from numpyro_disco._typing import Array


def log_mean_exp(log_weights: Array) -> Array:
    """Log of the mean of exp(log_weights), shape () from shape (n,)."""
    return logsumexp(log_weights) - jnp.log(log_weights.shape[0])


def weight_ess(log_weights: Array) -> Array:
    """Effective sample size of weights, 1 / sum W^2 with W normalised, between 0 and n.

    Zero when every weight is zero.
    """
    ess = jnp.exp(2 * logsumexp(log_weights) - logsumexp(2 * log_weights))
    return jnp.where(jnp.isnan(ess), 0.0, ess)


def systematic(rng_key: Array, log_weights: Array) -> Array:
    """Systematic resampling: particle i is taken floor(n W_i) or ceil(n W_i) times.

    Unbiased: the expected count is n W_i. Copies of one particle come out next to each other, so
    that diagnostics which read draws in order see them as the repeats they are.

    Args:
        rng_key: random key.
        log_weights: unnormalised log weights, shape (n,); -inf is weight zero.

    Returns:
        Ancestor of each new particle, increasing integers of shape (n,).

    References:
        Kitagawa 1996; Douc, Cappe & Moulines 2005, section 2.4.
    """
    num_particles = log_weights.shape[0]
    weights = jnp.exp(log_weights - log_weights.max())
    cumulative = jnp.cumsum(weights)
    grid = jnp.arange(num_particles) + jax.random.uniform(rng_key)
    # Counts from the cumulative sum's own end, so that rounding cannot reach past the last
    # particle whose weight is positive.
    positions = grid * (cumulative[-1] / num_particles)
    last = num_particles - 1 - jnp.argmax(weights[::-1] > 0)
    return jnp.searchsorted(cumulative, positions, side="right").clip(max=last)
