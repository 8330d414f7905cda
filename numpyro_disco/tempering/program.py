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
from jax.scipy.special import logsumexp
from jax.sharding import NamedSharding, PartitionSpec

from numpyro_disco._batching import in_batches
from numpyro_disco._typing import Array
from numpyro_disco.tempering.kernels import (
    LEAST_TUNED,
    Chains,
    Kernel,
    LogDensities,
    Tuning,
    accept_probability,
    choose,
    initial_tuning,
    log_path,
    spread,
)
from numpyro_disco.tempering.proposals import Proposal, fit_proposal
from numpyro_disco.tempering.resampling import SCHEMES, log_mean_exp, weight_ess
from numpyro_disco.tempering.settings import (
    COLLAPSED,
    CONVERGED,
    FROZEN,
    LEAST_ACCEPTANCE,
    NON_FINITE,
    RUNNING,
    STUCK,
    TemperingSettings,
)

LEAST_SHARE = 0.02
"""Sweeps end when fewer of the mixture's draws than this count."""

CARRIED_OVER = 4.0
"""Factor of a step's variance for what it does to later ones."""
MOST_EDGES = 1e-3
"""Share of the base's draws that rounding may put on the edge of their support."""
NUM_HALVINGS = 15
"""Of the search for the next b, which finds its step to within 0.3 %."""

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
    """Log of the estimated Z_target / Z_base, shape (): the mean of the path's estimate and of the
    mixture's, weighted by the inverse of their variances."""
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


def _num_distinct(ancestors: Array) -> Array:
    """Of ancestors in order."""
    return 1 + (jnp.diff(ancestors) > 0).sum()


def _status(code: Array) -> Array:
    return code.astype(jnp.int32)


def next_inverse_temperature(
    log_ratio: Array, current: Array, target_ess: float, num_particles: int | None = None
) -> Array:
    """The largest b at which the weights (target / base)^(b - current) keep `target_ess`.

    Bisection on the logarithm of the step, so that first steps of 1e-10 are found as readily as
    steps of 0.1.

    Args:
        log_ratio: log target - log base of each particle, shape (n,); -inf is allowed.
        current: the inverse temperature of the particles, shape ().
        target_ess: share of `num_particles` that the effective sample size may not fall below.
        num_particles: how many of the n are kept; by default all.

    Returns:
        b in (current, 1], shape ().
    """
    num_particles = log_ratio.shape[0] if num_particles is None else num_particles
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
    low, _ = jax.lax.fori_loop(0, NUM_HALVINGS, halve, (whole - 40.0, whole))
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
        """Draws of the base, reweighted to the first b > 0 and resampled, but not yet moved."""
        settings = self.settings
        start_key, resample_key, loop_key = jax.random.split(rng_key, 3)
        num_particles = settings.num_particles
        # A key for each draw: only JAX's default kind draws for many keys side by side.
        start_key = jax.random.key(jax.random.bits(start_key, (), jnp.uint32), impl="threefry2x32")
        keys = jax.random.split(start_key, settings.base_draws * num_particles)

        def start(keys: Array) -> Particles:
            position = jax.vmap(self.draw_base)(keys)
            # Rounding can put a draw on the edge of its support, where u is infinite: one in some
            # ten million of a uniform variable. Such a draw counts, and weighs nothing.
            edge = jnp.isinf(position).any(1)
            position = jnp.where(edge[:, None], 0.0, position)
            log_base, log_target = jax.vmap(self.log_densities)(position)
            log_target = jnp.where(edge, -jnp.inf, log_target)
            return Particles(position, log_base, log_target, edge.astype(log_target.dtype))

        flat = self._spread_out(
            in_batches(start, keys, settings.particles_at_once or num_particles), 0
        )
        sound = jnp.isfinite(flat.log_base) & (flat.log_target < jnp.inf)
        sound = sound.all() & (flat.acceptance.mean() < MOST_EDGES)
        flat = flat._replace(acceptance=jnp.zeros_like(flat.acceptance))
        dtype, dimension = flat.log_target.dtype, flat.position.shape[-1]
        b, log_weights = self._reweight(flat, jnp.zeros((), dtype), 0)
        ancestors = SCHEMES[settings.resampling](resample_key, log_weights, num_particles)
        shape = (settings.chain_length, settings.num_survivors)
        particles = jax.tree.map(lambda leaf: leaf[ancestors].reshape(shape + leaf.shape[1:]), flat)
        ess = weight_ess(log_weights)
        status = jnp.where(ess == 0, COLLAPSED, RUNNING)
        status = jnp.where(sound, status, NON_FINITE)
        blank = jnp.full(settings.max_temperatures, jnp.nan, dtype)
        history = TemperedHistory(*(blank for _ in TemperedHistory._fields))
        # The rest of this row is what the first moves find.
        history = history._replace(
            weight_ess=blank.at[0].set(ess),
            unique_ancestors=blank.at[0].set(_num_distinct(ancestors)),
        )
        return State(
            self._spread_out(particles, 1),
            inverse_temperature=b,
            log_normalizer=log_mean_exp(log_weights),
            tuning=initial_tuning(dimension, dtype),
            num_steps=jnp.zeros((), jnp.int32),
            status=_status(status),
            rng_key=loop_key,
            history=history,
        )

    def _reweight(self, flat: Particles, current: Array, index: Array | int) -> tuple[Array, Array]:
        """The next b, and the log weights that bring particles there."""
        settings = self.settings
        log_ratio = flat.log_target - flat.log_base
        if settings.schedule is None:
            b = next_inverse_temperature(
                log_ratio, current, settings.target_ess, settings.num_particles
            )
        else:
            b = jnp.asarray(settings.schedule, log_ratio.dtype)[index]
        return b, (b - current) * log_ratio

    def step(self, state: State) -> State:
        """To the next inverse temperature: reweight, resample, move; at first, only move."""
        settings = self.settings
        rng_key, resample_key, move_key = jax.random.split(state.rng_key, 3)
        flat = jax.tree.map(
            lambda leaf: leaf.reshape((settings.num_particles,) + leaf.shape[2:]), state.particles
        )
        first = state.num_steps == 0
        b, log_weights = self._reweight(flat, state.inverse_temperature, state.num_steps)
        b = jnp.where(first, state.inverse_temperature, b)
        log_weights = jnp.where(first, 0.0, log_weights)
        log_normalizer = state.log_normalizer + log_mean_exp(log_weights)
        chains = settings.num_survivors
        ancestors = SCHEMES[settings.resampling](resample_key, log_weights, chains)
        ancestors = jnp.where(first, jnp.arange(chains) * settings.chain_length, ancestors)
        ess = jnp.where(first, state.history.weight_ess[0], weight_ess(log_weights))
        unique = jnp.where(first, state.history.unique_ancestors[0], _num_distinct(ancestors))
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
            settings.kernel, self.log_densities, settings.max_leapfrog, settings.particles_at_once
        )
        position = flat.position[ancestors]
        chains = Chains(
            position, flat.log_base[ancestors], flat.log_target[ancestors], jnp.zeros_like(position)
        )
        chains = self._spread_out(chains, 0)
        traces = _centred(chains)
        shape = (settings.chain_length, settings.num_survivors)
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
            # Moves of a step size that few of them survive say nothing yet.
            tuned = probability.mean() > LEAST_TUNED
            forgotten = tuned & (
                (correlation < settings.max_correlation)
                # Between modes, correlation stays; it counts as constant within its own noise.
                | (count > 1) & (moves.correlation - correlation < 1 / settings.num_survivors**0.5)
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
            flat, log_mass, mixture_ess, of_mixture = self._sweep(state.rng_key, flat)
            # Both are means of weights, whose relative variances weigh them. Steps of the path
            # share their particles, and what one gets wrong carries over: later ones count more.
            num_drawn = self.settings.base_draws * self.settings.num_particles
            first = 1 / state.history.weight_ess[0]
            later = jnp.nansum(1 / state.history.weight_ess) - first
            later -= (state.num_steps - 1) / self.settings.num_particles
            of_path = first - 1 / num_drawn + CARRIED_OVER * later
            # Where all weights are equal, rounding may leave either a little below zero.
            eps = jnp.finfo(of_path.dtype).eps
            of_path, of_mixture = jnp.maximum(of_path, eps), jnp.maximum(of_mixture, eps)
            log_share = -jnp.log1p(jnp.array([of_mixture / of_path, of_path / of_mixture]))
            log_normalizer = logsumexp(log_share + jnp.array([log_mass, log_normalizer]))
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

    def _sweep(self, rng_key: Array, flat: Particles) -> tuple[Particles, Array, Array, Array]:
        """Independence Metropolis with a fitted mixture, and the mass that its weights estimate.

        After it, the effective sample size of these weights and the mass's relative variance.

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
        draw = jax.vmap(Proposal.draw, (0, 0, None))

        def densities(position: Array) -> tuple[Array, Array]:
            return jax.vmap(self.log_densities)(position)

        def log_probs(position: Array) -> tuple[Array, Array]:
            """Of points of both halves: in the proposal of their own half, and in the mean of both.

            The mean serves the evidence: a mode that one half has missed is in the other.
            """
            points = position.reshape((2 * half, dimension))
            each = jax.vmap(Proposal.log_prob, (0, None))(proposals, points).reshape((2, 2, half))
            return each[jnp.arange(2), jnp.arange(2)], jnp.logaddexp(*each) - jnp.log(2.0)

        def sweep(carry: _Sweeps) -> _Sweeps:
            halves, log_weights, masses, _, done = carry
            keys = jax.random.split(jax.random.fold_in(rng_key, done))
            drawn, uniform = draw(proposals, keys, half)
            log_base, log_target = in_batches(
                densities, drawn.reshape((2 * half, dimension)), settings.particles_at_once
            )
            log_base, log_target = log_base.reshape((2, half)), log_target.reshape((2, half))
            # A density that is no number counts as none, as it does for a trajectory.
            log_target = jnp.where(log_target < jnp.inf, log_target, -jnp.inf)
            log_own, log_mean = log_probs(drawn)
            accept = uniform < accept_probability(log_target - log_own - log_weights)
            new = Particles(drawn, log_base, log_target, halves.acceptance)
            halves = choose(accept, new, halves)
            log_weights = jnp.where(accept, log_target - log_own, log_weights)
            masses = masses.at[done].set(log_target - log_mean)
            log_total = log_mean_exp(masses.ravel()) + jnp.log(settings.num_sweeps / (done + 1))
            # The mean square of the weights of the mixture's draws is the mean weight of the
            # target's. The particles thus know of what the mixture lacks, a tail or a small mode,
            # which the draws themselves cannot.
            share = jnp.minimum(
                weight_ess(masses.ravel()) / (2 * half * (done + 1)),
                jnp.exp(log_total - log_mean_weight),
            )
            return _Sweeps(halves, log_weights, masses, (log_total, share), done + 1)

        def useful(carry: _Sweeps) -> Array:
            _, share = carry.found
            return (carry.done < settings.num_sweeps) & (share > LEAST_SHARE)

        log_own, log_mean = log_probs(halves.position)
        log_weights = halves.log_target - log_own
        log_mean_weight = log_mean_exp((halves.log_target - log_mean).ravel())
        dtype = log_weights.dtype
        masses = jnp.full((settings.num_sweeps, 2, half), -jnp.inf, dtype)
        none = jnp.full((), -jnp.inf, dtype), jnp.ones((), dtype)
        start = _Sweeps(halves, log_weights, masses, none, jnp.zeros((), int))
        swept = jax.lax.while_loop(useful, sweep, start)
        moved = jax.tree.map(
            lambda leaf, rest: jnp.concatenate(
                [leaf.reshape((2 * half,) + leaf.shape[2:]), rest[2 * half :]]
            ),
            swept.halves,
            flat,
        )
        log_mass, share = swept.found
        num_drawn = 2 * half * swept.done
        return moved, log_mass, share * num_drawn, (1 / share - 1) / num_drawn

    def advance(self, state: State, until: Array | int) -> State:
        """Steps until the run has ended or has taken `until` steps in all."""
        return jax.lax.while_loop(
            lambda state: (state.status == RUNNING) & (state.num_steps < until), self.step, state
        )


class _Sweeps(NamedTuple):
    """Where the sweeps at b = 1 stand."""

    halves: Particles
    log_weights: Array
    """Of the particles, as draws of the other half's mixture: (2, N // 2)."""
    masses: Array
    """Log weights of all draws so far, (num_sweeps, 2, N // 2)."""
    found: tuple[Array, Array]
    """Log of their mean, and their effective sample size as a share of them."""
    done: Array
    """Sweeps so far."""


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
