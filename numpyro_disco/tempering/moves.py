"""The sequence of moves at one inverse temperature.

The survivors of a resampling are the starts of M chains, and P states of each chain become the
next particles (N = M P). With P = 1 only the last state does; with more (waste-free SMC) states
before it do as well, a fixed number of moves apart. That number is found on the way to the first
kept state: the chains move until no coordinate, nor the log ratio of target to base, correlates
with its start by more than `MAX_CORRELATION`, or until that correlation has stopped falling. With
P = 1, the chains also move at b = 1 until few of them are copies of another.

Where some coordinates are discrete, each move is a Gibbs sweep over them (`discrete.py`), followed
by a move of the others, which changes no discrete coordinate.

References:
    Dau & Chopin 2022 (waste-free SMC).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco._devices import shard
from numpyro_disco._typing import Array
from numpyro_disco.tempering.discrete import draw_levels
from numpyro_disco.tempering.kernels import Kernel, Move, choose
from numpyro_disco.tempering.noise import draw_key
from numpyro_disco.tempering.resampling import quick_sum, relative_weights
from numpyro_disco.tempering.schedule import LogDensities, log_path
from numpyro_disco.tempering.settings import TemperingSettings
from numpyro_disco.tempering.state import Chains, Level, Particles, Selection, Tuning
from numpyro_disco.tempering.tuning import LEAST_TUNED
from numpyro_disco.tempering.whitening import spread

MAX_CORRELATION = 0.1
"""Correlation with their start below which chains count as having forgotten it."""
MIN_MOVES = 1
"""Smallest number of moves before the first kept state."""
FIRST_MOVE = 1
"""Number of a step's first draw for moves; the one before it is for resampling."""
FIRST_SWEEP = 2**15
"""Number of a step's first draw for sweeps over discrete coordinates."""
FINAL_FACTOR = 2
"""Factor of `MIN_MOVES` at b = 1, where no later move can make up for dependence."""
MOST_COPIES = 0.01
"""Largest share of chains that may be copies of another when the moves at b = 1 end."""
COPIES_FACTOR = 4
"""Factor of `max_moves` for chains of which more are copies."""


class Moves(NamedTuple):
    """The progress of a sequence of moves; at its end, what the step needs of it."""

    chains: Chains
    """Current states."""
    kept: Particles
    """States kept so far, in places 0 to num_kept - 1 of the first axis, (P, M)."""
    tuning: Tuning
    """Parameters of the next move."""
    num_kept: Array
    """Number of states kept so far, shape ()."""
    since: Array
    """Moves since the last state was kept, shape ()."""
    between: Array
    """Moves from one kept state to the next, shape ()."""
    total: Array
    """Moves so far, shape ()."""
    correlation: Array
    """Largest correlation with the start, up to the first kept state, shape ()."""
    num_gradients: Array
    """Gradients that each chain took so far, shape ()."""


def move_particles(
    rng_key: Array,
    step: Array,
    particles: Particles,
    selection: Selection,
    tuning: Tuning,
    log_densities: LogDensities,
    settings: TemperingSettings,
    free: Array,
    mesh: jax.sharding.Mesh | None,
    num_levels: tuple[int, ...] | None,
) -> Moves:
    """Move the survivors of a resampling until P states of each chain are kept.

    Args:
        rng_key: random key of the run.
        step: number of the step, for the keys of its draws, shape ().
        particles: all particles before the resampling, flat.
        selection: the next inverse temperature, with weights and ancestors.
        tuning: parameters of the first move.
        log_densities: log densities of base and target at one point.
        settings: settings of the run.
        free: 1 for coordinates that move and 0 for those that do not, shape (d,).
        mesh: devices over which chains are spread, or None.
        num_levels: levels of each coordinate, 0 for continuous ones; None if all are.

    Returns:
        `Moves`, with the next particles in `kept`.
    """
    continuous = free if num_levels is None else free * (np.asarray(num_levels) == 0)
    level = find_level(particles, selection, continuous, settings)
    kernel = Kernel(
        settings.kernel, log_densities, settings.max_leapfrog, settings.particles_at_once
    )
    chains = shard(start_chains(particles, selection.ancestors), mesh, 0)
    traces = standardized_traces(chains)

    def body(moves: Moves) -> Moves:
        chains, stale = moves.chains, (moves.total == 0).astype(int)
        if num_levels is not None:
            sweep_key = draw_key(rng_key, step, FIRST_SWEEP + moves.total)
            chains = draw_levels(
                sweep_key,
                chains,
                level.inverse_temperature,
                free,
                num_levels,
                log_densities,
                settings.particles_at_once,
            )
            stale = jnp.ones_like(stale)
        move_key = draw_key(rng_key, step, FIRST_MOVE + moves.total)
        move = kernel.move(move_key, chains, stale, moves.tuning, level)
        if num_levels is not None:
            # With nothing to move there is nothing to tune.
            move = move._replace(tuning=choose(level.free.any(), move.tuning, moves.tuning))
        move = move._replace(chains=shard(move.chains, mesh, 0))
        correlation = largest_correlation(traces, standardized_traces(move.chains), free)
        # Discrete coordinates have values in common without being copies.
        copied = level.free.any() & copies(move.chains)
        return record(moves, move, correlation, copied, level.inverse_temperature, settings)

    moves = jax.lax.while_loop(
        lambda moves: moves.num_kept < settings.chain_length,
        body,
        start_moves(chains, tuning, level, settings),
    )
    return moves._replace(kept=shard(moves.kept, mesh, 1))


def find_level(
    particles: Particles, selection: Selection, free: Array, settings: TemperingSettings
) -> Level:
    """Compute the scales of the particles, weighted for the next inverse temperature."""
    b, (weights, _) = selection.inverse_temperature, relative_weights(selection.log_weights)
    weights /= quick_sum(weights)
    factor = spread(particles.position, weights, free, settings.is_dense(len(free)))
    height = jnp.where(weights > 0, log_path(particles.log_base, particles.log_target, b), 0.0)
    mean = quick_sum(weights * height)
    deviation = jnp.sqrt(quick_sum(weights * (height - mean) ** 2))
    deviation = jnp.maximum(deviation, jnp.finfo(deviation.dtype).tiny ** 0.5)
    return Level(b, factor, free, deviation)


def start_chains(particles: Particles, ancestors: Array) -> Chains:
    """Chains at their ancestors, with gradients yet to be computed."""
    position = particles.position[ancestors]
    return Chains(
        position,
        particles.log_base[ancestors],
        particles.log_target[ancestors],
        jnp.zeros_like(position),
    )


def start_moves(chains: Chains, tuning: Tuning, level: Level, settings: TemperingSettings) -> Moves:
    """The progress before the first move."""
    shape = (settings.chain_length, settings.num_survivors)
    kept = jax.tree.map(
        lambda leaf: jnp.zeros(shape + leaf.shape[1:], leaf.dtype),
        Particles(chains.position, chains.log_base, chains.log_target, chains.log_target),
    )
    zero, one = jnp.zeros((), int), jnp.ones((), level.deviation.dtype)
    return Moves(chains, kept, tuning, zero, zero, zero, zero, one, zero)


def record(
    moves: Moves,
    move: Move,
    correlation: Array,
    copied: Array,
    b: Array,
    settings: TemperingSettings,
) -> Moves:
    """Add one move to the progress, and decide whether its states are kept.

    Args:
        moves: progress before the move.
        move: the move.
        correlation: largest correlation of the chains with their start, shape ().
        copied: True for chains that are where another one is, see `copies`; shape (M,).
        b: inverse temperature, shape ().
        settings: settings of the run.

    Returns:
        The progress after the move.
    """
    state = Particles(
        move.chains.position, move.chains.log_base, move.chains.log_target, move.acceptance
    )
    # Written at each move; what is not kept is written over by the next one.
    kept = jax.tree.map(
        lambda all, one: jax.lax.dynamic_update_index_in_dim(all, one, moves.num_kept, 0),
        moves.kept,
        state,
    )
    factor = jnp.where(b == 1, FINAL_FACTOR, 1)
    count, first = moves.since + 1, moves.num_kept == 0
    # One reduction instead of two, which compile slowly.
    accepted, copied = jnp.stack([move.acceptance, copied.astype(b.dtype)], axis=1).mean(0)
    # Moves whose step size leads to few acceptances are not informative yet.
    tuned = accepted > LEAST_TUNED
    # Between modes, correlation stays high; it counts as constant within its own noise.
    constant = moves.correlation - correlation < 1 / settings.num_survivors**0.5
    forgotten = tuned & ((correlation < MAX_CORRELATION) | (count > 1) & constant)
    # Copies are resampled and moved again below b = 1, and within a chain there are others.
    crowded = (copied > MOST_COPIES) & (b == 1) & (settings.chain_length == 1)
    limit = settings.max_moves * jnp.where(crowded, COPIES_FACTOR, 1)
    stop = ((count >= MIN_MOVES * factor) & forgotten & ~crowded) | (count >= limit)
    keep = jnp.where(first, stop, count >= moves.between)
    return Moves(
        move.chains,
        kept,
        move.tuning,
        num_kept=moves.num_kept + keep,
        since=jnp.where(keep, 0, count),
        between=jnp.where(first, jnp.maximum(count // factor, 1), moves.between),
        total=moves.total + 1,
        correlation=jnp.where(first, correlation, moves.correlation),
        num_gradients=moves.num_gradients + move.num_gradients,
    )


def copies(chains: Chains) -> Array:
    """True for chains that are where another one is, except for one of each place; shape (M,).

    They are in the order of their densities.
    """
    # Copies carry the same density, so sorting puts them next to each other.
    position = chains.position[jnp.argsort(chains.log_target)]
    same = (position[1:] == position[:-1]).all(1)
    return jnp.append(same, False)


def standardized_traces(chains: Chains) -> Array:
    """Each coordinate and the log ratio over the chains, with mean 0 and length 1: (M, d + 1)."""
    ratio = chains.log_target - chains.log_base
    traces = jnp.concatenate([chains.position, ratio[:, None]], axis=1)
    traces = jnp.where(jnp.isfinite(traces), traces, 0.0)
    traces -= traces.mean(0)
    return traces / jnp.maximum(jnp.sqrt((traces**2).sum(0)), 1e-30)


def largest_correlation(before: Array, after: Array, free: Array) -> Array:
    """Largest correlation of two sets of standardised traces, over what moves, shape ()."""
    moving = jnp.append(free, 1.0)
    return (moving * (before * after).sum(0)).max()
