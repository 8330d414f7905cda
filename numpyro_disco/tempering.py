"""Tempered sequential Monte Carlo from a density that can be drawn to one that cannot.

The path is p_b(u) proportional to base(u)^(1 - b) target(u)^b, b from 0 to 1, over a flat vector u.
Each step raises b as far as the particles allow, weights them by (target / base)^(db), resamples
M of them, and moves these with a kernel that leaves p_b invariant. The states of the moves are the
next particles, P of each chain (waste-free): N = M P. The last resampling and moves are at b = 1,
so the particles that come out are equally weighted.

What is exact: with a schedule and moves fixed in advance the product of the mean weights is an
unbiased estimate of Z_target / Z_base. Here the moves, and the schedule unless it is given, are
tuned from the particles themselves, which keeps the estimate consistent as particles grow and
costs a bias of order 1 / num_particles. What is asymptotic: the law of the draws.

Everything here is a pure function of arrays and knows log densities only: `init`, `step` and
`result`, and `tempered_smc`, which is a whole run. Runs, and all independent runs together, are
one compiled program.

References:
    Del Moral, Doucet & Jasra 2006; Chopin & Papaspiliopoulos 2020, chapter 17; Dau & Chopin 2022
    for waste-free particles; Zhou, Johansen & Aston 2016 for the conditional effective sample size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from numpyro_disco._typing import Array
from numpyro_disco.kernels import (
    Chains,
    Kernel,
    LogDensities,
    Tuning,
    accept_probability,
    choose,
    in_batches,
    initial_tuning,
    log_path,
    spread,
)
from numpyro_disco.proposals import Proposal, fit_proposal
from numpyro_disco.resampling import SCHEMES, log_mean_exp, weight_ess
from numpyro_disco.tempering_settings import (
    COLLAPSED,
    CONVERGED,
    FROZEN,
    LEAST_ACCEPTANCE,
    NON_FINITE,
    RUNNING,
    STUCK,
    TemperingSettings,
)

DrawBase: TypeAlias = Callable[[Array], Array]
"""A random key to one draw u of the base, shape (d,)."""
Report: TypeAlias = Callable[[Array], None]
"""Called on the device's side with the inverse temperature after each step."""


class TemperedHistory(NamedTuple):
    """One row for each step from 0 to 1, padded with NaN to max_temperatures rows."""

    inverse_temperature: Array
    """b after the step."""
    weight_ess: Array
    """Effective sample size of the step's weights."""
    log_normalizer: Array
    """Log of the estimated ratio of masses at b and at 0."""
    acceptance: Array
    """Mean acceptance probability of the step's last moves."""
    step_size: Array
    """Common leapfrog step in units of the particles' spread."""
    trajectory_length: Array
    """Common length of a trajectory in the same units."""
    correlation: Array
    """Largest correlation of a chain's first kept state with its start."""
    num_moves: Array
    """Moves between two states that became particles."""
    unique_ancestors: Array
    """How many distinct particles survived the resampling."""
    num_gradients: Array
    """Gradients that each of the chains took."""


class TemperedResult(NamedTuple):
    """What a tempered run leaves."""

    position: Array
    """Equally weighted particles at b = 1, shape (num_particles, d), those of a chain together."""
    log_base: Array
    """Log base at each particle, shape (num_particles,)."""
    log_target: Array
    """Log target at each particle, shape (num_particles,)."""
    acceptance: Array
    """Acceptance probability of the move to each particle, shape (num_particles,)."""
    log_normalizer: Array
    """Log of the estimated Z_target / Z_base, shape (): of the two below, the better one."""
    log_path_normalizer: Array
    """The same from the path's weights alone."""
    mixture_ess: Array
    """Effective sample size of the weights of the mixture's draws; 0 if there were none."""
    num_steps: Array
    """How many steps were taken from 0 to 1."""
    status: Array
    """One of CONVERGED, STUCK, NON_FINITE, COLLAPSED, FROZEN."""
    history: TemperedHistory
    """One row for each step."""


class Particles(NamedTuple):
    """All particles; state by state (P), and in each the chains (M)."""

    position: Array
    """Shape (P, M, d)."""
    log_base: Array
    """Shape (P, M)."""
    log_target: Array
    """Shape (P, M)."""
    acceptance: Array
    """Of the move that led here, shape (P, M)."""


class State(NamedTuple):
    """Everything that the next step needs: what a checkpoint holds."""

    particles: Particles
    inverse_temperature: Array
    log_normalizer: Array
    tuning: Tuning
    num_steps: Array
    status: Array
    rng_key: Array
    history: TemperedHistory


def _status(code: Array) -> Array:
    return code.astype(jnp.int32)


def next_inverse_temperature(log_ratio: Array, current: Array, target_ess: float) -> Array:
    """The largest b at which the weights (target / base)^(b - current) keep `target_ess`.

    Bisection on the logarithm of the step, so that first steps of 1e-10 are found as readily as
    steps of 0.1.

    Args:
        log_ratio: log target - log base of each particle, shape (n,); -inf is allowed.
        current: the inverse temperature of the particles, shape ().
        target_ess: share of n that the effective sample size may not fall below.

    Returns:
        b in (current, 1], shape ().
    """
    num_particles = log_ratio.shape[0]
    # Particles of zero weight at any b > 0 are no reason for a small step: no step would save them.
    alive = jnp.maximum((log_ratio > -jnp.inf).sum(), 1)
    threshold = target_ess * jnp.minimum(alive, num_particles)

    def enough(log_step: Array) -> Array:
        return weight_ess(jnp.exp(log_step) * log_ratio) >= threshold

    def halve(index: Array, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        # The first trial is the whole of what is left; if it is good, all that follow are the same.
        low, high = bracket
        middle = jnp.where(index == 0, high, 0.5 * (low + high))
        good = enough(middle)
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    whole = jnp.log(1 - current)
    low, _ = jax.lax.fori_loop(0, 30, halve, (whole - 40.0, whole))
    smallest = current + jnp.finfo(log_ratio.dtype).eps * jnp.maximum(current, 1e-12)
    return jnp.where(low == whole, 1.0, jnp.clip(current + jnp.exp(low), smallest, 1.0))


_Tree = TypeVar("_Tree", Chains, Particles)


class Program(NamedTuple):
    """One tempered run as pure functions: `init`, then `step` until not RUNNING, then `result`."""

    draw_base: DrawBase
    log_densities: LogDensities
    settings: TemperingSettings
    free: Array | None = None
    """0/1 array (d,): coordinates with 0 keep the value that `draw_base` gave them. It may be
    traced, so one compiled program serves every pattern."""
    report: Report | None = None
    """Called with b after every step, for progress."""
    mesh: jax.sharding.Mesh | None = None
    """Devices over which the chains are spread, along its only axis."""

    def _spread_out(self, tree: _Tree, axis: int) -> _Tree:
        if self.mesh is None:
            return tree
        (name,) = self.mesh.axis_names
        sharding = NamedSharding(self.mesh, PartitionSpec(*(None,) * axis, name))
        return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, sharding), tree)

    def init(self, rng_key: Array) -> State:
        """Particles drawn from the base, at b = 0."""
        settings = self.settings
        start_key, loop_key = jax.random.split(rng_key)
        keys = jax.random.split(start_key, settings.num_particles)
        shape = (settings.chain_length, settings.num_chains)

        def start(keys: Array) -> Particles:
            position = jax.vmap(self.draw_base)(keys)
            log_base, log_target = jax.vmap(self.log_densities)(position)
            return Particles(position, log_base, log_target, jnp.zeros_like(log_target))

        flat = in_batches(start, keys, settings.batch_size)
        particles = jax.tree.map(lambda leaf: leaf.reshape(shape + leaf.shape[1:]), flat)
        particles = self._spread_out(particles, 1)
        sound = jnp.isfinite(particles.log_base) & (particles.log_target < jnp.inf)
        dtype, dimension = particles.log_target.dtype, particles.position.shape[-1]
        blank = jnp.full(settings.max_temperatures, jnp.nan, dtype)
        return State(
            particles,
            inverse_temperature=jnp.zeros((), dtype),
            log_normalizer=jnp.zeros((), dtype),
            tuning=initial_tuning(dimension, dtype),
            num_steps=jnp.zeros((), jnp.int32),
            status=_status(jnp.where(sound.all(), RUNNING, NON_FINITE)),
            rng_key=loop_key,
            history=TemperedHistory(*(blank for _ in TemperedHistory._fields)),
        )

    def step(self, state: State) -> State:
        """To the next inverse temperature: reweight, resample, move."""
        settings = self.settings
        rng_key, resample_key, move_key = jax.random.split(state.rng_key, 3)
        flat = jax.tree.map(
            lambda leaf: leaf.reshape((settings.num_particles,) + leaf.shape[2:]), state.particles
        )
        log_ratio = flat.log_target - flat.log_base
        if settings.schedule is None:
            b = next_inverse_temperature(log_ratio, state.inverse_temperature, settings.target_ess)
        else:
            b = jnp.asarray(settings.schedule, log_ratio.dtype)[state.num_steps]
        log_weights = (b - state.inverse_temperature) * log_ratio
        ess = weight_ess(log_weights)
        log_normalizer = state.log_normalizer + log_mean_exp(log_weights)
        ancestors = SCHEMES[settings.resampling](resample_key, log_weights, settings.num_chains)
        unique = 1 + (jnp.diff(ancestors) > 0).sum()
        weights = jax.nn.softmax(log_weights)
        particles, tuning, moved = self._move(move_key, flat, ancestors, weights, b, state.tuning)
        acceptance = particles.acceptance.mean()
        row = TemperedHistory(
            b,
            ess,
            log_normalizer,
            acceptance,
            jnp.exp(tuning.log_step),
            jnp.exp(tuning.log_length),
            moved.correlation,
            moved.between,
            unique,
            moved.gradients,
        )
        history = jax.tree.map(
            lambda column, value: column.at[state.num_steps].set(value), state.history, row
        )
        num_steps = state.num_steps + 1
        done = jnp.where(acceptance < LEAST_ACCEPTANCE, FROZEN, CONVERGED)
        status = jnp.where(b == 1, done, RUNNING)
        out_of_steps = (status == RUNNING) & (num_steps == settings.max_temperatures)
        status = jnp.where(out_of_steps, STUCK, status)
        status = _status(jnp.where(ess == 0, COLLAPSED, status))
        if self.report is not None:
            self.report(b)
        return State(particles, b, log_normalizer, tuning, num_steps, status, rng_key, history)

    def _move(
        self,
        rng_key: Array,
        flat: Particles,
        ancestors: Array,
        weights: Array,
        b: Array,
        tuning: Tuning,
    ) -> tuple[Particles, Tuning, _Moves]:
        settings = self.settings
        dimension = flat.position.shape[1]
        free = jnp.ones(dimension, flat.position.dtype) if self.free is None else self.free
        factor = spread(flat.position, weights, free, settings.is_dense(dimension))
        height = jnp.where(weights > 0, log_path(flat.log_base, flat.log_target, b), 0.0)
        unit = jnp.sqrt(weights @ (height - weights @ height) ** 2)
        unit = jnp.maximum(unit, jnp.finfo(unit.dtype).tiny ** 0.5)
        kernel = Kernel(
            settings.kernel, self.log_densities, settings.max_leapfrog, settings.batch_size
        )
        position = flat.position[ancestors]
        chains = Chains(
            position, flat.log_base[ancestors], flat.log_target[ancestors], jnp.zeros_like(position)
        )
        chains = self._spread_out(chains, 0)
        traces = _centred(chains)
        shape = (settings.chain_length, settings.num_chains)
        kept = jax.tree.map(
            lambda leaf: jnp.zeros(shape + leaf.shape[1:], leaf.dtype),
            Particles(chains.position, chains.log_base, chains.log_target, chains.log_target),
        )
        least = settings.min_moves * jnp.where(b == 1, 2, 1)
        zero = jnp.zeros((), int)
        start = _Moves(chains, kept, tuning, zero, zero, zero, zero, jnp.ones((), unit.dtype), zero)

        def body(moves: _Moves) -> _Moves:
            chains, tuning, probability, gradients = kernel.move(
                jax.random.fold_in(rng_key, moves.total),
                moves.chains,
                (moves.total == 0).astype(int),
                b,
                moves.tuning,
                factor,
                free,
                unit,
            )
            chains = self._spread_out(chains, 0)
            state = Particles(chains.position, chains.log_base, chains.log_target, probability)
            kept = jax.tree.map(
                lambda all, one: all.at[moves.kept_states].set(one), moves.kept, state
            )
            count, first = moves.since + 1, moves.kept_states == 0
            correlation = _largest_correlation(traces, _centred(chains), free)
            forgotten = (correlation < settings.max_correlation) | (
                # Between modes, correlation stays; it counts as constant within its own noise.
                (count > 1) & (moves.correlation - correlation < 1 / settings.num_chains**0.5)
            )
            stop = ((count >= least) & forgotten) | (count >= settings.max_moves)
            keep = jnp.where(first, stop, count >= moves.between)
            return _Moves(
                chains,
                kept,
                tuning,
                kept_states=moves.kept_states + keep,
                since=jnp.where(keep, 0, count),
                between=jnp.where(
                    first, jnp.maximum(count * settings.min_moves // least, 1), moves.between
                ),
                total=moves.total + 1,
                correlation=jnp.where(first, correlation, moves.correlation),
                gradients=moves.gradients + gradients,
            )

        moves = jax.lax.while_loop(
            lambda moves: moves.kept_states < settings.chain_length, body, start
        )
        return self._spread_out(moves.kept, 1), moves.tuning, moves

    def result(self, state: State) -> TemperedResult:
        """What a finished run leaves."""
        # Particles of one chain, and the chains of one ancestor, next to each other.
        flat = jax.tree.map(
            lambda leaf: jnp.swapaxes(leaf, 0, 1).reshape((-1,) + leaf.shape[2:]), state.particles
        )
        log_normalizer, mixture_ess = state.log_normalizer, jnp.zeros_like(state.log_normalizer)
        if self.settings.num_sweeps:
            flat, log_mass, mixture_ess = self._sweep(state.rng_key, flat)
            # Both estimates have a variance; the better one counts. That of the path is at least
            # what its weights alone would make it.
            of_path = jnp.nansum(1 / state.history.weight_ess - 1 / self.settings.num_particles)
            num_drawn = self.settings.num_particles // 2 * 2 * self.settings.num_sweeps
            of_mixture = 1 / mixture_ess - 1 / num_drawn
            log_normalizer = jnp.where(2 * of_mixture < of_path, log_mass, log_normalizer)
        return TemperedResult(
            position=flat.position,
            log_base=flat.log_base,
            log_target=flat.log_target,
            acceptance=flat.acceptance,
            log_normalizer=log_normalizer,
            log_path_normalizer=state.log_normalizer,
            mixture_ess=mixture_ess,
            num_steps=state.num_steps,
            status=state.status,
            history=state.history,
        )

    def _sweep(self, rng_key: Array, flat: Particles) -> tuple[Particles, Array, Array]:
        """Independence Metropolis with a fitted mixture, and the mass that its weights estimate.

        Either half of the particles meets a mixture fitted to the other half: one fitted to the
        particles themselves, clusters of one ancestor's copies included, would draw them away.
        """
        settings = self.settings
        half = settings.num_particles // 2
        dimension = flat.position.shape[1]
        free = jnp.ones(dimension, flat.position.dtype) if self.free is None else self.free
        halves = jax.tree.map(
            lambda leaf: leaf[: 2 * half].reshape((2, half) + leaf.shape[1:]), flat
        )
        proposals = jax.vmap(fit_proposal, (0, None))(halves.position[::-1], free)
        log_prob = jax.vmap(Proposal.log_prob)
        draw = jax.vmap(Proposal.draw, (0, 0, None))

        def densities(position: Array) -> tuple[Array, Array]:
            return jax.vmap(self.log_densities)(position)

        def sweep(index: Array, carry: tuple) -> tuple:
            halves, log_weights, masses = carry
            keys = jax.random.split(jax.random.fold_in(rng_key, index))
            drawn, uniform = draw(proposals, keys, half)
            log_base, log_target = in_batches(
                densities, drawn.reshape((2 * half, dimension)), settings.batch_size
            )
            log_base, log_target = log_base.reshape((2, half)), log_target.reshape((2, half))
            log_mass = log_target - log_prob(proposals, drawn)
            # A density that is no number counts as none, as it does for a trajectory.
            log_mass = jnp.where(log_mass < jnp.inf, log_mass, -jnp.inf)
            accept = uniform < accept_probability(log_mass - log_weights)
            new = Particles(drawn, log_base, log_target, halves.acceptance)
            halves = choose(accept, new, halves)
            log_weights = jnp.where(accept, log_mass, log_weights)
            return halves, log_weights, masses.at[index].set(log_mass)

        log_weights = halves.log_target - log_prob(proposals, halves.position)
        masses = jnp.zeros((settings.num_sweeps, 2, half), log_weights.dtype)
        halves, _, masses = jax.lax.fori_loop(
            0, settings.num_sweeps, sweep, (halves, log_weights, masses)
        )
        moved = jax.tree.map(
            lambda leaf, rest: jnp.concatenate(
                [leaf.reshape((2 * half,) + leaf.shape[2:]), rest[2 * half :]]
            ),
            halves,
            flat,
        )
        masses = masses.ravel()
        return moved, log_mean_exp(masses), weight_ess(masses)

    def advance(self, state: State, until: Array | int) -> State:
        """Steps until the run has ended or has taken `until` steps in all."""
        return jax.lax.while_loop(
            lambda state: (state.status == RUNNING) & (state.num_steps < until), self.step, state
        )


class _Moves(NamedTuple):
    """Where a sequence of moves at one inverse temperature stands."""

    chains: Chains
    kept: Particles
    tuning: Tuning
    kept_states: Array
    """States kept so far."""
    since: Array
    """Moves since the last one was kept."""
    between: Array
    """Moves from one kept state to the next."""
    total: Array
    correlation: Array
    gradients: Array


def _centred(chains: Chains) -> Array:
    """Each coordinate and the log ratio over the chains, of mean 0 and length 1: (M, d + 1)."""
    ratio = chains.log_target - chains.log_base
    traces = jnp.concatenate([chains.position, ratio[:, None]], axis=1)
    traces = jnp.where(jnp.isfinite(traces), traces, 0.0)
    traces -= traces.mean(0)
    return traces / jnp.maximum(jnp.sqrt((traces**2).sum(0)), 1e-30)


def _largest_correlation(before: Array, after: Array, free: Array) -> Array:
    moving = jnp.append(free, 1.0)
    return (moving * (before * after).sum(0)).max()


def tempered_smc(
    rng_key: Array,
    draw_base: DrawBase,
    log_densities: LogDensities,
    settings: TemperingSettings,
    *,
    free: Array | None = None,
    report: Report | None = None,
) -> TemperedResult:
    """Draw from a target by tempering from a base, and estimate the target's mass.

    Args:
        rng_key: random key.
        draw_base: one key to one draw of the base, shape (d,).
        log_densities: one u to its log base and log target.
        settings: see `TemperingSettings`.
        free: see `Program`.
        report: see `Program`.

    Returns:
        A `TemperedResult`. Nothing is raised here: read `status`.
    """
    program = Program(draw_base, log_densities, settings, free, report)
    state = program.init(quick_key(rng_key))
    return program.result(program.advance(state, settings.max_temperatures))


def quick_key(rng_key: Array) -> Array:
    """A key of JAX's "rbg" kind, whose draws compile several times faster than the default's."""
    return jax.random.wrap_key_data(jax.random.bits(rng_key, (4,), jnp.uint32), impl="rbg")


def make_mesh(devices: Sequence[jax.Device]) -> jax.sharding.Mesh:
    """Devices in a row, for `Program.mesh`."""
    return jax.sharding.Mesh(np.asarray(devices), ("particles",))
