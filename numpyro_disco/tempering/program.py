"""A whole tempered run as pure functions of arrays: `init`, `step` until it has ended, `result`.

`tempered_smc` does all three at once. Runs, and many independent runs together, are one compiled
program. The package's docstring describes the algorithm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from numpyro_disco._batching import in_batches, one_by_one
from numpyro_disco._devices import shard
from numpyro_disco._typing import Array
from numpyro_disco.tempering.moves import Moves, move_particles
from numpyro_disco.tempering.noise import draw_key, draws_quickly, quick_key, threefry_key
from numpyro_disco.tempering.peaks import highest
from numpyro_disco.tempering.resampling import (
    SCHEMES,
    log_mean_exp,
    quick_sum,
    relative_weights,
    weight_ess,
)
from numpyro_disco.tempering.schedule import DrawBase, LogDensities, next_inverse_temperature
from numpyro_disco.tempering.settings import TemperingSettings
from numpyro_disco.tempering.state import (
    Particles,
    Selection,
    State,
    TemperedHistory,
    TemperedResult,
)
from numpyro_disco.tempering.status import (
    COLLAPSED,
    CONVERGED,
    FROZEN,
    LEAST_ACCEPTANCE,
    NON_FINITE,
    RUNNING,
    STUCK,
)
from numpyro_disco.tempering.sweep import combine_estimates, sweep_particles
from numpyro_disco.tempering.tuning import initial_tuning

WEIGHT_ESS, UNIQUE_ANCESTORS = map(
    TemperedHistory._fields.index, ("weight_ess", "unique_ancestors")
)
"""Columns of the history that are known once ancestors are selected."""
MOST_EDGES = 1e-3
"""Largest share of the base's draws that may lie on the edge of their support."""
MOST_AT_ENDS = 0.02
"""Largest share of the target's mass that may lie beyond the last number before an edge."""

Report: TypeAlias = Callable[[Array], None]
"""Called on the device's side with the inverse temperature after each step."""


class BaseDraws(NamedTuple):
    """Draws of the base from which a run starts."""

    particles: Particles
    """Flat, with acceptance 0."""
    sound: Array
    """True if densities are finite, and few draws lie on the edge of their support; shape ()."""
    impossible: Array
    """Share of the draws at which the target is NaN, shape ()."""


class Program(NamedTuple):
    """One tempered run as pure functions: `init`, then `step` until not RUNNING, then `result`."""

    draw_base: DrawBase
    """Maps a random key to one draw of the base."""
    log_densities: LogDensities
    """Log densities of base and target at one point."""
    settings: TemperingSettings
    """Settings of the run."""
    free: Array | None = None
    """0/1 array (d,): coordinates with 0 keep the value that `draw_base` gave them. May be traced,
    so one compiled program serves every pattern. By default all coordinates move."""
    report: Report | None = None
    """Called with b after every step, for progress."""
    mesh: jax.sharding.Mesh | None = None
    """Devices over which the chains are spread, along its only axis."""
    num_levels: tuple[int, ...] | None = None
    """Levels of each coordinate: 0 for continuous ones; a discrete one holds a code 0, 1, .... None
    if all are continuous. The mixture at the end has no discrete part, so there are no sweeps."""

    def init(self, rng_key: Array) -> State:
        """Draw from the base, reweight to the first b > 0 and resample; particles do not move yet.

        Args:
            rng_key: random key.

        Returns:
            The state before the first moves, with N particles.
        """
        resample_key = draw_key(rng_key, 0, 0)
        settings = self.settings
        flat, sound, impossible = self._draw_start(rng_key)
        dtype, dimension = flat.log_target.dtype, flat.position.shape[-1]
        zero = jnp.zeros((), dtype)
        b = self._next(flat, zero, 0)
        log_weights = b * (flat.log_target - flat.log_base)
        selected = self._select(resample_key, b, log_weights, settings.num_particles)
        shape = (settings.chain_length, settings.num_survivors)
        particles = jax.tree.map(
            lambda leaf: leaf[selected.ancestors].reshape(shape + leaf.shape[1:]), flat
        )
        status = jnp.where(selected.weight_ess == 0, COLLAPSED, RUNNING)
        status = jnp.where(sound, status, NON_FINITE)
        columns = len(TemperedHistory._fields)
        # The first moves replace this row.
        known = jnp.full(columns, jnp.nan, dtype).at[WEIGHT_ESS].set(selected.weight_ess)
        known = known.at[UNIQUE_ANCESTORS].set(selected.unique_ancestors.astype(dtype))
        history = jnp.full((settings.max_temperatures, columns), jnp.nan, dtype)
        history = jax.lax.dynamic_update_index_in_dim(history, known, 0, 0)
        return State(
            shard(particles, self.mesh, 1),
            inverse_temperature=selected.inverse_temperature,
            log_normalizer=log_mean_exp(selected.log_weights),
            tuning=initial_tuning(dimension, dtype),
            num_steps=jnp.zeros((), jnp.int32),
            status=status.astype(jnp.int32),
            rng_key=rng_key,
            history=history,
            impossible=impossible,
            highest=highest(flat),
        )

    def _draw_start(self, rng_key: Array) -> BaseDraws:
        """Draw base_draws * num_particles points of the base, with their densities."""
        settings = self.settings
        keys = jax.random.split(threefry_key(rng_key), settings.base_draws * settings.num_particles)

        def weigh(position: Array) -> tuple[Particles, Array]:
            # Rounding can put a draw on the edge of its support, where u is infinite: about one in
            # ten million of a uniform variable. Such a draw counts, with weight zero.
            edge = jnp.isinf(position).any(1)
            position = jnp.where(edge[:, None], 0.0, position)
            log_base, log_target = jax.vmap(self.log_densities)(position)
            log_target = jnp.where(edge, -jnp.inf, log_target)
            return Particles(position, log_base, log_target, jnp.zeros_like(log_target)), edge

        at_once = settings.particles_at_once or settings.num_particles
        # A loop of its own: fused with the densities, draws would be computed several times.
        position = in_batches(jax.vmap(self.draw_base), keys, at_once)
        flat, edge = in_batches(weigh, position, at_once)
        flat = shard(flat, self.mesh, 0)
        impossible = jnp.isnan(flat.log_target)
        if settings.non_finite == "impossible":
            # Where the base itself is NaN, something else is wrong.
            log_target = jnp.where(impossible, -jnp.inf, flat.log_target)
            flat = flat._replace(log_target=log_target)
        unsound = ~(jnp.isfinite(flat.log_base) & (flat.log_target < jnp.inf))
        # One reduction instead of three, which compile slowly.
        shares = jnp.stack([unsound, edge, impossible], axis=1).astype(flat.log_base.dtype).mean(0)
        sound = (shares[0] == 0) & (shares[1] < MOST_EDGES)
        return BaseDraws(flat, sound & (self._share_at_ends(flat) < MOST_AT_ENDS), shares[2])

    def _share_at_ends(self, flat: Particles) -> Array:
        """Largest share of the target's mass at the least or largest value of a coordinate, ().

        Draws of a density have hardly any value in common. Where rounding ends short of the edge
        of a support, a value in its place holds all mass beyond, which moves cannot leave.
        """
        position, weights = flat.position, relative_weights(flat.log_target - flat.log_base)[0]
        low, high = position.min(0), position.max(0)
        # Coordinates that do not vary, and discrete ones, have values in common.
        real = jnp.asarray(self.num_levels or (0,) * position.shape[1]) == 0
        counted = jnp.tile(real & (low < high), 2)
        # Numbers and masses in one product, because each sum is slow to compile.
        everywhere = jnp.ones_like(weights)
        parts = [position == low, position == high, everywhere[:, None] > 0]
        same = jnp.concatenate(parts, axis=1).astype(weights.dtype)
        numbers, masses = jnp.stack([everywhere, weights]) @ same
        tied = jnp.where(counted & (numbers[:-1] > 1), masses[:-1], 0.0)
        return tied.max() / jnp.maximum(masses[-1], 1e-30)

    def _next(self, flat: Particles, current: Array, index: Array | int) -> Array:
        """The next inverse temperature, shape ()."""
        settings, log_ratio = self.settings, flat.log_target - flat.log_base
        if settings.schedule is not None:
            return jnp.asarray(settings.schedule, log_ratio.dtype)[index]
        return next_inverse_temperature(
            log_ratio, current, settings.target_ess, settings.num_particles
        )

    def _select(self, rng_key: Array, b: Array, log_weights: Array, count: int) -> Selection:
        """Draw `count` ancestors for the inverse temperature b."""
        ancestors = SCHEMES[self.settings.resampling](rng_key, log_weights, count)
        return Selection(
            b, log_weights, ancestors, weight_ess(log_weights), _num_distinct(ancestors)
        )

    def step(self, state: State) -> State:
        """Go to the next inverse temperature: reweight, resample, move; at first, only move.

        Args:
            state: the state before the step, with status RUNNING.

        Returns:
            The state after it.
        """
        settings, step = self.settings, state.num_steps + 1
        resample_key = draw_key(state.rng_key, step, 0)
        flat = jax.tree.map(
            lambda leaf: leaf.reshape((settings.num_particles,) + leaf.shape[2:]), state.particles
        )
        selected = self._select_unless_first(resample_key, flat, state)
        moves = move_particles(
            state.rng_key,
            step,
            flat,
            selected,
            state.tuning,
            self.log_densities,
            settings,
            self._free_coordinates(flat),
            self.mesh,
            self.num_levels,
        )
        log_normalizer = state.log_normalizer + log_mean_exp(selected.log_weights)
        row = _history_row(selected, log_normalizer, moves)
        values = jnp.stack([value.astype(state.history.dtype) for value in row])
        history = jax.lax.dynamic_update_index_in_dim(state.history, values, state.num_steps, 0)
        if self.report is not None:
            self.report(selected.inverse_temperature)
        return State(
            moves.kept,
            selected.inverse_temperature,
            log_normalizer,
            moves.tuning,
            num_steps=step,
            status=self._status_after(selected, row.acceptance, step),
            rng_key=state.rng_key,
            history=history,
            impossible=state.impossible,
            highest=state.highest,
        )

    def _select_unless_first(self, rng_key: Array, flat: Particles, state: State) -> Selection:
        """Select as usual, except that `init` has already done so for the first step."""
        first, current = state.num_steps == 0, state.inverse_temperature
        b = jnp.where(first, current, self._next(flat, current, state.num_steps))
        log_weights = jnp.where(first, 0.0, (b - current) * (flat.log_target - flat.log_base))
        count = self.settings.num_survivors
        selected = self._select(rng_key, b, log_weights, count)
        apart, known = jnp.arange(count) * self.settings.chain_length, state.history[0]
        return selected._replace(
            ancestors=jnp.where(first, apart, selected.ancestors),
            weight_ess=jnp.where(first, known[WEIGHT_ESS], selected.weight_ess),
            unique_ancestors=jnp.where(first, known[UNIQUE_ANCESTORS], selected.unique_ancestors),
        )

    def _status_after(self, selected: Selection, acceptance: Array, num_steps: Array) -> Array:
        done = jnp.where(acceptance < LEAST_ACCEPTANCE, FROZEN, CONVERGED)
        status = jnp.where(selected.inverse_temperature == 1, done, RUNNING)
        out_of_steps = (status == RUNNING) & (num_steps == self.settings.max_temperatures)
        status = jnp.where(out_of_steps, STUCK, status)
        return jnp.where(selected.weight_ess == 0, COLLAPSED, status).astype(jnp.int32)

    def _free_coordinates(self, flat: Particles) -> Array:
        if self.free is not None:
            return self.free
        return jnp.ones(flat.position.shape[1], flat.position.dtype)

    def advance(self, state: State, until: Array | int) -> State:
        """Step until the run has ended or has taken `until` steps in all."""
        return jax.lax.while_loop(
            lambda state: (state.status == RUNNING) & (state.num_steps < until), self.step, state
        )

    def result(self, state: State) -> TemperedResult:
        """Sweep the particles of a finished run, and estimate the mass of the target."""
        # Particles of one chain, and the chains of one ancestor, next to each other.
        flat = jax.tree.map(
            lambda leaf: jnp.swapaxes(leaf, 0, 1).reshape((-1,) + leaf.shape[2:]), state.particles
        )
        log_normalizer, mixture_ess = state.log_normalizer, jnp.zeros_like(state.log_normalizer)
        if self.settings.num_sweeps and self.num_levels is None:
            swept = sweep_particles(
                state.rng_key,
                state.num_steps + 1,
                flat,
                self.log_densities,
                self.settings,
                self._free_coordinates(flat),
            )
            flat, mixture_ess = swept.particles, swept.mixture_ess
            log_normalizer = combine_estimates(
                state.log_normalizer,
                state.history[:, WEIGHT_ESS],
                state.num_steps,
                swept,
                self.settings,
            )
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
            steps=state.history,
            impossible=state.impossible,
            starts=jnp.concatenate([state.highest, highest(flat)]),
        )


def _num_distinct(ancestors: Array) -> Array:
    """Number of distinct ancestors, given in order."""
    return 1 + (jnp.diff(ancestors) > 0).sum()


def _history_row(selected: Selection, log_normalizer: Array, moves: Moves) -> TemperedHistory:
    return TemperedHistory(
        inverse_temperature=selected.inverse_temperature,
        weight_ess=selected.weight_ess,
        log_normalizer=log_normalizer,
        acceptance=quick_sum(moves.kept.acceptance.ravel()) / moves.kept.acceptance.size,
        step_size=jnp.exp(moves.tuning.log_step),
        trajectory_length=jnp.exp(moves.tuning.log_length),
        correlation=moves.correlation,
        num_moves=moves.between,
        unique_ancestors=selected.unique_ancestors,
        num_gradients=moves.num_gradients,
    )


def tempered_smc(
    rng_key: Array,
    draw_base: DrawBase,
    log_densities: LogDensities,
    settings: TemperingSettings,
    *,
    free: Array | None = None,
    report: Report | None = None,
    num_levels: tuple[int, ...] | None = None,
) -> TemperedResult:
    """Draw from a target by tempering from a base, and estimate the target's mass.

    Draws are asymptotically exact as `num_particles` grows. The estimate of the mass is consistent,
    with a bias of order 1 / num_particles.

    Args:
        rng_key: random key.
        draw_base: maps a random key to one draw of the base, shape (d,).
        log_densities: maps one u, shape (d,), to its log base and log target.
        settings: settings of the run.
        free: 0/1 array (d,): coordinates with 0 keep the value that `draw_base` gave them.
        report: called with the inverse temperature after every step.
        num_levels: levels of each coordinate, 0 for continuous ones; None if all are.

    Returns:
        A `TemperedResult`. Nothing is raised for a run that fails: read its `status`.

    Example:
        >>> def draw_base(rng_key):
        ...     return jax.random.normal(rng_key, (2,))
        >>> def log_densities(u):
        ...     log_base = jax.scipy.stats.norm.logpdf(u).sum()
        ...     return log_base, log_base + u[0]
        >>> settings = TemperingSettings(num_particles=64)
        >>> result = tempered_smc(jax.random.key(0), draw_base, log_densities, settings)
        >>> result.position.shape
        (64, 2)
    """
    program = Program(draw_base, log_densities, settings, free, report, num_levels=num_levels)

    def run(rng_key: Array) -> TemperedResult:
        state = program.init(quick_key(rng_key))
        return program.result(program.advance(state, settings.max_temperatures))

    # Quick keys do not draw for several runs side by side.
    return one_by_one(run, rng_key) if draws_quickly() else run(rng_key)
