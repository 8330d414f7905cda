"""Weights of particles, and resampling schemes.

Resampling draws m ancestors from n particles with normalised weights W_i. All schemes are unbiased:
particle i is an ancestor m W_i times on average. They differ in the noise that they add:
systematic resampling adds the least in practice, multinomial the most.

References:
    Kitagawa 1996; Douc, Cappe & Moulines 2005; Chopin & Papaspiliopoulos 2020, chapter 9.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt
from typing import TypeAlias

import jax
import jax.numpy as jnp

from numpyro_disco._typing import Array
from numpyro_disco.tempering.noise import draws_quickly


def quick_sum(x: Array) -> Array:
    """Sum of a vector, shape ().

    XLA unrolls the sum of a vector on CPUs, but not that of the rows of a matrix. So two equal
    columns are summed, which takes a fraction of the time to compile.
    """
    return jnp.stack([x, x], axis=1).sum(0)[0]


def quick_max(x: Array) -> Array:
    """Largest number of a vector, shape (), likewise."""
    return jnp.stack([x, x], axis=1).max(0)[0]


def relative_weights(log_weights: Array) -> tuple[Array, Array]:
    """Weights as exp(log_weights - scale), the largest of them 1, and this scale, shape ()."""
    largest = quick_max(log_weights)
    log_scale = jnp.where(jnp.isfinite(largest), largest, 0.0)
    return jnp.exp(log_weights - log_scale), log_scale


def _power_sums(weights: Array) -> tuple[Array, Array]:
    """Sums of the weights and of their squares.

    They are one reduction because each further one is slow to compile.
    """
    total, square = jnp.stack([weights, weights**2], axis=1).sum(0)
    return total, square


def log_mean_exp(log_weights: Array) -> Array:
    """Log of the mean of exp(log_weights), shape () from shape (n,)."""
    weights, log_scale = relative_weights(log_weights)
    total, _ = _power_sums(weights)
    return jnp.log(total / len(weights)) + log_scale


def weight_ess(log_weights: Array) -> Array:
    """Effective sample size 1 / sum W_i^2, between 1 and n, or 0 if every weight is zero."""
    return ess_of_weights(relative_weights(log_weights)[0])


def ess_of_weights(weights: Array) -> Array:
    """The same from weights on any scale that neither overflows nor underflows."""
    total, square = _power_sums(weights)
    ess = total**2 / square
    return jnp.where(jnp.isnan(ess), 0.0, ess)


def cumulative_sum(x: Array) -> Array:
    """Cumulative sums of nonnegative numbers, shape (n,), which never fall, whatever the rounding.

    On CPUs there are two short loops: over the entries of about sqrt(n) blocks side by side, and
    over the blocks. The tree of partial sums that XLA makes of `jnp.cumsum` takes much longer to
    compile.
    """
    if not draws_quickly():
        return jnp.cumsum(x)
    size = isqrt(len(x) - 1) + 1
    num_blocks = -(-len(x) // size)
    blocks = jnp.pad(x, (0, size * num_blocks - len(x))).reshape((num_blocks, size)).T

    def add(index: Array, sums: Array) -> Array:
        total = sums[index - 1] + sums[index]
        return jax.lax.dynamic_update_index_in_dim(sums, total, index, 0)

    within = jax.lax.fori_loop(1, size, add, blocks)
    ends = jax.lax.fori_loop(1, num_blocks, add, within[-1])
    # The last sum of a block is the end of that block, so the first of the next is not below it.
    before = jnp.concatenate([jnp.zeros_like(ends[:1]), ends[:-1]])
    return (before + within).T.reshape(-1)[: len(x)]


def _at_positions(weights: Array, positions: Array) -> Array:
    """Particle at each position of the cumulative weights; positions increase within [0, 1)."""
    cumulative = cumulative_sum(weights)
    # Positions are relative to the end of the cumulative sum itself, and stay below it, so that
    # rounding cannot reach past the last particle with a positive weight.
    below = 1 - jnp.finfo(weights.dtype).eps
    places = jnp.minimum(positions, below) * cumulative[-1]
    return jnp.searchsorted(cumulative, places, side="right").clip(max=len(weights) - 1)


def _on_grid(log_weights: Array, num_draws: int, shift: Array) -> Array:
    """Particle at each point of a regular grid, moved up by `shift`, a share of its spacing."""
    return _at_positions(
        relative_weights(log_weights)[0], (jnp.arange(num_draws) + shift) / num_draws
    )


def systematic(rng_key: Array, log_weights: Array, num_draws: int | None = None) -> Array:
    """Systematic resampling: particle i is taken floor(m W_i) or ceil(m W_i) times.

    One uniform number shifts a regular grid. Copies of one particle are adjacent, so that
    diagnostics that read draws in order recognise them as repeats.

    Args:
        rng_key: random key.
        log_weights: unnormalised log weights, shape (n,); -inf is weight zero.
        num_draws: number of ancestors, m; by default n.

    Returns:
        Ancestor of each new particle, increasing integers of shape (m,).

    Example:
        >>> systematic(jax.random.key(0), jnp.zeros(10), 4).shape
        (4,)
    """
    num_draws = len(log_weights) if num_draws is None else num_draws
    return _on_grid(log_weights, num_draws, jax.random.uniform(rng_key, (), log_weights.dtype))


def stratified(rng_key: Array, log_weights: Array, num_draws: int | None = None) -> Array:
    """Stratified resampling: one uniform number in each of m equal parts of the cumulative weights.

    Args:
        rng_key: random key.
        log_weights: unnormalised log weights, shape (n,); -inf is weight zero.
        num_draws: number of ancestors, m; by default n.

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
        num_draws: number of ancestors, m; by default n.

    Returns:
        Ancestor of each new particle, increasing integers of shape (m,).
    """
    num_draws = len(log_weights) if num_draws is None else num_draws
    weights, _ = relative_weights(log_weights)
    # Ratios of partial sums of exponentials are distributed as sorted uniforms.
    gaps = jax.random.exponential(rng_key, (num_draws + 1,), weights.dtype)
    sums = jnp.cumsum(gaps)
    return _at_positions(weights, sums[:-1] / sums[-1])


def residual(rng_key: Array, log_weights: Array, num_draws: int | None = None) -> Array:
    """Residual resampling: floor(m W_i) copies of each particle, the rest drawn independently.

    Args:
        rng_key: random key.
        log_weights: unnormalised log weights, shape (n,); -inf is weight zero.
        num_draws: number of ancestors, m; by default n.

    Returns:
        Ancestor of each new particle, increasing integers of shape (m,).
    """
    draw_key, shuffle_key = rng_key, jax.random.fold_in(rng_key, 1)
    num_draws = len(log_weights) if num_draws is None else num_draws
    weights, _ = relative_weights(log_weights)
    expected = num_draws * weights / weights.sum()
    copies = jnp.floor(expected)
    certain = copies.sum().astype(int)
    left = expected - copies
    # If all expected counts are whole numbers, the remainders are zero and cannot be normalised.
    left = jnp.where(left.sum() > 0, left, expected)
    drawn = multinomial(draw_key, jnp.log(left), num_draws)
    # The independent draws are sorted, so those that are used have to be chosen at random: the
    # first of them alone would favour the particles that come first.
    drawn = jax.random.permutation(shuffle_key, drawn)
    place = jnp.arange(num_draws)
    kept = jnp.searchsorted(jnp.cumsum(copies), place, side="right").clip(max=len(expected) - 1)
    return jnp.sort(jnp.where(place < certain, kept, drawn))


Resampler: TypeAlias = Callable[[Array, Array, int | None], Array]
"""Maps (rng_key, log_weights, num_draws) to ancestors."""

SCHEMES: dict[str, Resampler] = {
    "systematic": systematic,
    "stratified": stratified,
    "residual": residual,
    "multinomial": multinomial,
}
"""Resampling schemes by name."""
