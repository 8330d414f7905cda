"""The path from base to target, and the next inverse temperature on it.

The path is p_b(u) proportional to base(u)^(1 - b) target(u)^b, with b from 0 to 1. A step from b
to b' weights particles by (target / base)^(b' - b). The adaptive schedule takes the largest b' at
which the effective sample size of these weights is still `target_ess`.

References:
    Zhou, Johansen & Aston 2016 (the conditional effective sample size).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from numpyro_disco._typing import Array
from numpyro_disco.tempering.resampling import ess_of_weights, quick_max

NUM_HALVINGS = 15
"""Bisections in the search for the next b, which find the step to within 0.3 %."""

DrawBase: TypeAlias = Callable[[Array], Array]
"""Maps a random key to one draw u of the base, shape (d,)."""
LogDensities: TypeAlias = Callable[[Array], tuple[Array, Array]]
"""Maps one u, shape (d,), to (log base, log target). Both are densities over u itself, Jacobians
included. The base must be normalised."""


def log_path(log_base: Array, log_target: Array, inverse_temperature: Array) -> Array:
    """Log of base^(1 - b) target^b, elementwise."""
    b = inverse_temperature
    # If b is 0 or 1, an infinite density without weight must not give NaN.
    return jnp.where(b < 1, (1 - b) * log_base, 0.0) + jnp.where(b > 0, b * log_target, 0.0)


def next_inverse_temperature(
    log_ratio: Array, current: Array, target_ess: float, num_particles: int | None = None
) -> Array:
    """Find the largest b at which the weights (target / base)^(b - current) keep `target_ess`.

    Bisection on the logarithm of the step finds steps of 1e-10 as readily as steps of 0.1.

    Args:
        log_ratio: log target - log base of each particle, shape (n,); may be -inf.
        current: the inverse temperature of the particles, shape ().
        target_ess: share of `num_particles` that the effective sample size may not fall below.
        num_particles: number of the n particles that will be kept; by default all.

    Returns:
        b in (current, 1], shape ().

    Example:
        >>> next_inverse_temperature(jnp.array([0.0, -3.0, 1.0]), jnp.array(0.0), 0.5).shape
        ()
    """
    num_particles = log_ratio.shape[0] if num_particles is None else num_particles
    # Particles with weight zero at every b > 0 do not count: no step, however small, saves them.
    alive = jnp.maximum((log_ratio > -jnp.inf).sum(), 1)
    threshold = target_ess * jnp.minimum(alive, num_particles)

    # Relative to the largest, so that weights do not overflow; all weights have the same factor.
    centred = log_ratio - quick_max(log_ratio)

    def halve(index: Array, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        # The first trial is all that is left of the path. If it succeeds, the others repeat it.
        low, high = bracket
        middle = jnp.where(index == 0, high, 0.5 * (low + high))
        enough = ess_of_weights(jnp.exp(jnp.exp(middle) * centred)) >= threshold
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    whole = jnp.log(1 - current)
    low, _ = jax.lax.fori_loop(0, NUM_HALVINGS, halve, (whole - 40.0, whole))
    smallest = current + jnp.finfo(log_ratio.dtype).eps * jnp.maximum(current, 1e-12)
    return jnp.where(low == whole, 1.0, jnp.clip(current + jnp.exp(low), smallest, 1.0))
