"""Step size and trajectory length, tuned from the particles themselves.

A move is worth its expected squared jump E[a J], with a the probability of acceptance, relative to
its cost. J counts the jump of the whitened position and, with the same weight, that of the path's
log density, because the weights depend on its changes. With step size h and length
t = (number of leapfrog steps) h, E[a J] h / t is largest where

    d log E[a J] / d log t = 1    and    d log E[a J] / d log h = -1.

The first derivative is read off the end of each trajectory: dJ / dt is the change that the velocity
there would make. For the second, each chain draws its own step size, log-normally around the common
one. For a log-normal s of variance tau^2, the mean of log s weighted by a J is tau^2 times the
slope of log E[a J] in both h and t together. (It also makes the lengths of trajectories random.)
Each move takes one step of stochastic approximation towards both.

References:
    Buchholz, Chopin & Jacob 2021 (tuning from particles, by squared jump); Hoffman & Sountsov 2022
    (jumps of a second moment, on which the evidence depends).
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from numpyro_disco._typing import Array
from numpyro_disco.tempering.schedule import log_path
from numpyro_disco.tempering.state import Chains, Level, Tuning
from numpyro_disco.tempering.whitening import unwhiten, whiten

LEAST_TUNED = 0.1
"""Mean acceptance below which a step size is far too large."""
STEP_SPREAD = 0.3
"""Standard deviation of the logarithm of the chains' step sizes."""
GAIN = 0.15
"""Share of the slope that one move adds to the logarithms of step size and length."""
LARGEST_CHANGE = 0.7
"""Largest change of either logarithm in one move."""
SHORTEST, LONGEST = 0.05, 4.0
"""Bounds of the length of a trajectory, in units of the particles' spread."""


class Outcome(NamedTuple):
    """The outcome of one move, for each of M chains."""

    acceptance: Array
    """Acceptance probability a, shape (M,)."""
    jump: Array
    """Squared jump J of the proposal, shape (M,)."""
    growth: Array
    """dJ / d log t at the end of the trajectory, shape (M,)."""
    jitter: Array
    """Log of the chain's own step size relative to the common one, shape (M,)."""


def initial_tuning(dimension: int, dtype: jnp.dtype) -> Tuning:
    """Tuning for a standard Gaussian: steps mostly accepted, a quarter of a period long."""
    return Tuning(
        jnp.asarray(jnp.log(0.9 * max(dimension, 1) ** -0.25), dtype),
        jnp.asarray(jnp.log(0.5 * jnp.pi), dtype),
    )


def squared_jump(
    start: Chains, end: Chains, velocity: Array, length: Array, level: Level
) -> tuple[Array, Array]:
    """Squared jump of each trajectory, and its growth with the trajectory's length.

    Args:
        start: chains before the move, M of them.
        end: where their trajectories end, with the gradients there.
        velocity: whitened velocities there, shape (M, d).
        length: lengths of the trajectories, shape (M,).
        level: the inverse temperature and scales.

    Returns:
        J and dJ / d log t, each of shape (M,); zero where they are not finite.
    """
    free, b = level.free, level.inverse_temperature
    white = free * whiten(end.position - start.position, level.factor)
    slope = (end.gradient * unwhiten(velocity, level.factor)).sum(-1)
    rise = log_path(end.log_base, end.log_target, b) - log_path(start.log_base, start.log_target, b)
    share = 1 / jnp.maximum(free.sum(), 1.0)
    squared = share * (white**2).sum(-1) + (rise / level.deviation) ** 2
    growth = 2 * length * (share * (white * velocity).sum(-1) + rise * slope / level.deviation**2)
    finite = jnp.isfinite(squared) & jnp.isfinite(growth)
    return jnp.where(finite, squared, 0.0), jnp.where(finite, growth, 0.0)


def tune(
    tuning: Tuning, outcome: Outcome, num_leapfrog: Array, max_leapfrog: int, kernel: str
) -> Tuning:
    """Take one step towards the largest squared jump for its cost; see the top of this file.

    Args:
        tuning: parameters of the move that was made.
        outcome: how it ended.
        num_leapfrog: leapfrog steps of a trajectory, shape ().
        max_leapfrog: largest number of them.
        kernel: name of the kernel.

    Returns:
        Parameters of the next move.
    """
    probability = outcome.acceptance
    reward = jnp.where(probability > 0, probability * outcome.jump, 0.0)
    gain = jnp.where(probability > 0, probability * outcome.growth, 0.0)
    # One reduction instead of four, which compile slowly.
    columns = jnp.stack([reward, reward * outcome.jitter, gain, probability], axis=1)
    total, both, growth, accepted = columns.sum(0)
    both_slope = both / (STEP_SPREAD**2 * total)
    length_slope = growth / total
    if kernel == "hmc":
        # With the largest number of leapfrog steps the cost is fixed: only the jump counts.
        step = both_slope - length_slope + 1
        step = jnp.where(num_leapfrog == max_leapfrog, both_slope, step)
        length = length_slope - 1
    else:
        # A move costs one evaluation whatever its step size: only the jump counts.
        step, length = both_slope, jnp.zeros_like(length_slope)
    failed = (accepted / len(probability) < LEAST_TUNED) | ~jnp.isfinite(both_slope + length_slope)
    step = jnp.where(failed, -LARGEST_CHANGE, GAIN * step)
    length = jnp.where(failed, 0.0, GAIN * length)
    log_step = tuning.log_step + jnp.clip(step, -LARGEST_CHANGE, LARGEST_CHANGE)
    log_length = tuning.log_length + jnp.clip(length, -LARGEST_CHANGE, LARGEST_CHANGE)
    log_length = jnp.clip(log_length, jnp.log(SHORTEST), jnp.log(LONGEST))
    return Tuning(jnp.minimum(log_step, log_length) if kernel == "hmc" else log_step, log_length)
