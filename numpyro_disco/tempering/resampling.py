"""Log-weight algebra and resampling of particles.

All schemes are unbiased: particle i is expected m W_i times among m ancestors. They differ in how
much noise they add: systematic least in practice, multinomial most.

References:
    Kitagawa 1996; Douc, Cappe & Moulines 2005; Chopin & Papaspiliopoulos 2020, chapter 9.
"""

from __future__ import annotations

from collections.abc import Callable

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


def _at_positions(weights: Array, positions: Array) -> Array:
    """The particle at each of the increasing positions in [0, 1) of the cumulative weights."""
    cumulative = jnp.cumsum(weights)
    # Counts from the cumulative sum's own end, so that rounding cannot reach past the last
    # particle whose weight is positive.
    last = len(weights) - 1 - jnp.argmax(weights[::-1] > 0)
    return jnp.searchsorted(cumulative, positions * cumulative[-1], side="right").clip(max=last)


def _normalized(log_weights: Array) -> Array:
    weights = jnp.exp(log_weights - log_weights.max())
    return weights / weights.sum()


def _on_grid(log_weights: Array, num_draws: int, shift: Array) -> Array:
    """The particle at each point of a regular grid, moved up by `shift` of its spacing."""
    return _at_positions(_normalized(log_weights), (jnp.arange(num_draws) + shift) / num_draws)


def systematic(rng_key: Array, log_weights: Array, num_draws: int | None = None) -> Array:
    """Systematic resampling: particle i is taken floor(m W_i) or ceil(m W_i) times.

    One uniform shifts a regular grid. Copies of one particle come out next to each other, so that
    diagnostics which read draws in order see them as the repeats they are.

    Args:
        rng_key: random key.
        log_weights: unnormalised log weights, shape (n,); -inf is weight zero.
        num_draws: m, how many ancestors; n by default.

    Returns:
        Ancestor of each new particle, increasing integers of shape (m,).
    """
    num_draws = len(log_weights) if num_draws is None else num_draws
    return _on_grid(log_weights, num_draws, jax.random.uniform(rng_key, (), log_weights.dtype))


def stratified(rng_key: Array, log_weights: Array, num_draws: int | None = None) -> Array:
    """Stratified resampling: one uniform in each of m equal parts of the cumulative weights.

    Args:
        rng_key: random key.
        log_weights: unnormalised log weights, shape (n,); -inf is weight zero.
        num_draws: m, how many ancestors; n by default.

    Returns:
        Ancestor of each new particle, increasing integers of shape (m,).
    """
    num_draws = len(log_weights) if num_draws is None else num_draws
    shift = jax.random.uniform(rng_key, (num_draws,), log_weights.dtype)
    return _on_grid(log_weights, num_draws, shift)


def multinomial(rng_key: Array, log_weights: Array, num_draws: int | None = None) -> Array:
    """Multinomial resampling: m independent draws, sorted.

    Args:
        rng_key: random key.
        log_weights: unnormalised log weights, shape (n,); -inf is weight zero.
        num_draws: m, how many ancestors; n by default.

    Returns:
        Ancestor of each new particle, increasing integers of shape (m,).
    """
    num_draws = len(log_weights) if num_draws is None else num_draws
    weights = _normalized(log_weights)
    # Ratios of sums of exponentials are the order statistics of uniforms.
    gaps = jax.random.exponential(rng_key, (num_draws + 1,), weights.dtype)
    sums = jnp.cumsum(gaps)
    return _at_positions(weights, sums[:-1] / sums[-1])


def residual(rng_key: Array, log_weights: Array, num_draws: int | None = None) -> Array:
    """Residual resampling: floor(m W_i) copies of each particle, the rest drawn independently.

    Args:
        rng_key: random key.
        log_weights: unnormalised log weights, shape (n,); -inf is weight zero.
        num_draws: m, how many ancestors; n by default.

    Returns:
        Ancestor of each new particle, increasing integers of shape (m,).
    """
    num_draws = len(log_weights) if num_draws is None else num_draws
    expected = num_draws * _normalized(log_weights)
    copies = jnp.floor(expected)
    certain = copies.sum().astype(int)
    left = expected - copies
    # Weights that are all whole numbers leave nothing to draw, and rounding nothing to divide by.
    left = jnp.where(left.sum() > 0, left, expected)
    drawn = multinomial(rng_key, jnp.log(left), num_draws)
    # The independent draws are sorted, so which of them are used has to be random: every
    # num_draws-th part of the cumulative weights must stay as likely.
    drawn = jax.random.permutation(jax.random.fold_in(rng_key, 1), drawn)
    place = jnp.arange(num_draws)
    kept = jnp.searchsorted(jnp.cumsum(copies), place, side="right").clip(max=len(expected) - 1)
    return jnp.sort(jnp.where(place < certain, kept, drawn))


Resampler = Callable[[Array, Array, int | None], Array]

SCHEMES: dict[str, Resampler] = {
    "systematic": systematic,
    "stratified": stratified,
    "residual": residual,
    "multinomial": multinomial,
}
"""Resampling schemes by name: (rng_key, log_weights, num_draws) to ancestors."""
