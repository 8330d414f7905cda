"""A search for narrow modes that particles missed: climb, and weigh the highest peak.

A narrow mode holds little of the path's mass until b is near 1, so particles that start near it
leave it, and few return. Gradients of the target alone lead into it from much farther away. So we

1. climb from the highest draws of the base and the highest particles to maxima of the target,
2. take the maximum m whose Gaussian N(m, S), with S the inverse of the negative Hessian, has the
   largest mass by Laplace's method,
3. draw from a somewhat wider Gaussian q and take the mean weight target / q: an unbiased estimate
   of the mass of the whole target, which in practice sees only what is near m.

So this estimate rarely exceeds the mass of the target. If it exceeds the mass that the runs
found, they have missed the peak. A mode on whose slopes no start lies stays unseen, and so does a
peak with less mass than the runs found elsewhere.

References:
    Kingma & Ba 2015 (Adam); Tierney & Kadane 1986 (Laplace's method).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from numpyro_disco._typing import Array
from numpyro_disco.tempering.proposals import Proposal
from numpyro_disco.tempering.resampling import log_mean_exp, weight_ess
from numpyro_disco.tempering.state import Particles

LogTarget: TypeAlias = Callable[[Array], Array]
"""Log density of the target at one point, (d,) to ()."""

STARTS_PER_RUN = 8
"""Highest draws of the base of each run, and highest particles, from which to climb."""
NUM_STEPS = 300
"""Steps of a climb."""
FIRST_RATE = 0.1
"""First length of a step in units of the particles' spread; it falls to 0 along half a cosine."""
DECAYS = (0.9, 0.99)
"""Decay of the means of gradients and of their squares in Adam."""
LEAST_PRECISION = 0.05
"""Least eigenvalue of the negative Hessian, in the same units."""
NUM_DRAWS = 2048
"""Draws that estimate the mass of the peak."""
INFLATION = 1.2
"""Factor of the peak's covariance."""


class Peak(NamedTuple):
    """The target near its heaviest maximum."""

    position: Array
    """The maximum, shape (d,)."""
    log_mass: Array
    """Log of the estimated mass near it, shape ()."""
    error: Array
    """Standard error of `log_mass`, to first order; shape ()."""


def highest(particles: Particles) -> Array:
    """Positions of the highest of flat particles, shape (8, d), or (N, d) of fewer."""
    count = min(STARTS_PER_RUN, len(particles.log_target))
    return particles.position[jax.lax.top_k(particles.log_target, count)[1]]


def find_peak(rng_key: Array, log_target: LogTarget, starts: Array, scale: Array) -> Peak:
    """Climb from all starts, and weigh the maximum with the largest mass.

    Args:
        rng_key: random key.
        log_target: log density of the target at one point.
        starts: shape (n, d).
        scale: spread of the particles, shape (d,).
    """
    unit = jnp.where(scale > 0, scale, 1.0)
    maxima = jax.vmap(lambda start: climb(log_target, start, unit))(starts)
    # One after another: each takes the memory of d gradients.
    log_masses, factors, curved = jax.lax.map(lambda u: laplace(log_target, u, unit), maxima)
    # At a saddle or on a plateau, the least curvature makes up mass.
    sound = curved & (log_masses > -jnp.inf)
    best = jnp.argmax(jnp.where(sound | ~sound.any(), log_masses, -jnp.inf))
    factor = INFLATION**0.5 * factors[best][None]
    free = jnp.ones_like(unit)
    peak = Proposal(jnp.zeros(1, unit.dtype), maxima[best][None], factor, free)
    draws, _ = peak.draw(rng_key, NUM_DRAWS)
    heights = jax.vmap(log_target)(draws)
    log_weights = jnp.where(heights < jnp.inf, heights, -jnp.inf) - peak.log_prob(draws)
    error = jnp.sqrt(1 / weight_ess(log_weights) - 1 / NUM_DRAWS)
    return Peak(maxima[best], log_mean_exp(log_weights), error)


def climb(log_target: LogTarget, start: Array, unit: Array) -> Array:
    """Climb by Adam to a maximum near `start`, shape (d,).

    Args:
        log_target: log density of the target at one point.
        start: shape (d,).
        unit: unit of each coordinate, shape (d,).
    """
    gradient_fn, (first, second) = jax.grad(log_target), DECAYS

    def body(index: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        position, mean, square = carry
        gradient = unit * gradient_fn(position)
        gradient = jnp.where(jnp.isfinite(gradient), gradient, 0.0)
        mean = first * mean + (1 - first) * gradient
        square = second * square + (1 - second) * gradient**2
        rate = 0.5 * FIRST_RATE * (1 + jnp.cos(jnp.pi * index / NUM_STEPS))
        direction = mean / (1 - first ** (index + 1))
        length = jnp.sqrt(square / (1 - second ** (index + 1))) + 1e-8
        return position + rate * unit * direction / length, mean, square

    nothing = jnp.zeros_like(start)
    return jax.lax.fori_loop(0, NUM_STEPS, body, (start, nothing, nothing))[0]


def laplace(log_target: LogTarget, maximum: Array, unit: Array) -> tuple[Array, Array, Array]:
    """The mass of a maximum by Laplace's method.

    Args:
        log_target: log density of the target at one point.
        maximum: shape (d,).
        unit: unit of each coordinate, shape (d,).

    Returns:
        Its log, shape (), -inf where the curvature is not finite; a factor of its covariance,
        shape (d, d); and whether the target falls off on all sides, shape ().
    """

    def height(v: Array) -> Array:
        return log_target(maximum + unit * v)

    # Backwards twice: models with derivatives of their own may not have forward ones.
    precision = -jax.jacrev(jax.grad(height))(jnp.zeros_like(maximum))
    finite = jnp.isfinite(precision).all()
    precision = jnp.where(finite, precision, jnp.eye(len(maximum), dtype=maximum.dtype))
    values, vectors = jnp.linalg.eigh(precision)
    curved = (values >= LEAST_PRECISION).all()
    values = jnp.maximum(values, LEAST_PRECISION)
    covariance = (vectors / values) @ vectors.T * jnp.outer(unit, unit)
    log_determinant = 2 * jnp.log(unit).sum() - jnp.log(values).sum()
    top = height(jnp.zeros_like(maximum))
    log_mass = top + 0.5 * (len(maximum) * jnp.log(2 * jnp.pi) + log_determinant)
    log_mass = jnp.where(finite & jnp.isfinite(log_mass), log_mass, -jnp.inf)
    return log_mass, jnp.linalg.cholesky(covariance), curved
