"""Tempered sequential Monte Carlo from a density that can be drawn to one that cannot.

The path is p_b(u) proportional to base(u)^(1 - b) target(u)^b, b from 0 to 1, over a flat vector u.
Each step raises b as far as the particles allow, weights them by (target / base)^(db), resamples,
and moves them with Hamiltonian Monte Carlo that leaves p_b invariant. The last resampling and
moves are at b = 1, so the particles that come out are equally weighted.

What is exact: with a schedule fixed in advance the product of the mean weights is an unbiased
estimate of Z_target / Z_base. Here the schedule and the moves are tuned from the particles
themselves, which keeps the estimate consistent as particles grow and costs a bias of order
1 / num_particles. What is asymptotic: the law of the draws.

Everything here is a pure function of arrays and knows log densities only; a whole run, and all
independent runs together, are one compiled program.

References:
    Del Moral, Doucet & Jasra 2006; Chopin & Papaspiliopoulos 2020, chapter 17; Neal 2011 for HMC.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from numpyro_disco._checks import check_count, check_fraction
from numpyro_disco._typing import Array
from numpyro_disco.resampling import log_mean_exp, systematic, weight_ess

DrawBase: TypeAlias = Callable[[Array], Array]
"""A random key to one draw u of the base, shape (d,)."""
LogDensities: TypeAlias = Callable[[Array], tuple[Array, Array]]
"""One u, shape (d,), to (log base, log target). The base must be normalised, or the evidence is
that of the target relative to the base's mass."""
Report: TypeAlias = Callable[[Array], None]
"""Called on the device's side with the inverse temperature after each step."""

RUNNING, CONVERGED, STUCK, NON_FINITE, COLLAPSED, FROZEN = range(6)
LEAST_ACCEPTANCE = 0.01
"""Mean acceptance of the last moves below which particles have only been copied, not moved."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TemperingSettings:
    """How a tempered run is made; checked when made.

    Attributes:
        num_particles: particles of one run.
        target_ess: effective sample size of the weights that each step aims at, as a share of the
            particles. Higher means more, smaller steps.
        num_moves: Hamiltonian trajectories at each inverse temperature; twice as many at the last.
        max_leapfrog: most gradients in a trajectory.
        target_accept: acceptance rate that the step size is tuned towards.
        dense_mass: whiten by the particles' covariance rather than by their standard deviations.
        max_temperatures: most steps from 0 to 1 before the run gives up.
    """

    num_particles: int = 1024
    target_ess: float = 0.5
    num_moves: int = 4
    max_leapfrog: int = 16
    target_accept: float = 0.8
    dense_mass: bool = False
    max_temperatures: int = 200

    def __post_init__(self) -> None:
        check_count(self.num_particles, "num_particles", minimum=2)
        check_fraction(self.target_ess, "target_ess")
        check_count(self.num_moves, "num_moves")
        check_count(self.max_leapfrog, "max_leapfrog")
        check_fraction(self.target_accept, "target_accept")
        check_count(self.max_temperatures, "max_temperatures")


class TemperedHistory(NamedTuple):
    """One row for each step from 0 to 1, padded with NaN to max_temperatures rows."""

    inverse_temperature: Array
    """b after the step."""
    weight_ess: Array
    """Effective sample size of the step's weights."""
    acceptance: Array
    """Mean acceptance probability of the step's last moves."""
    step_size: Array
    """Leapfrog step in units of the particles' spread."""
    unique_ancestors: Array
    """How many distinct particles survived the resampling."""
    num_gradients: Array
    """Gradients for each particle."""


class TemperedResult(NamedTuple):
    """What a tempered run leaves."""

    position: Array
    """Equally weighted particles at b = 1, shape (num_particles, d)."""
    log_base: Array
    """Log base at each particle, shape (num_particles,)."""
    log_target: Array
    """Log target at each particle, shape (num_particles,)."""
    acceptance: Array
    """Acceptance probability of each particle's last move, shape (num_particles,)."""
    log_normalizer: Array
    """Log of the estimated Z_target / Z_base, shape ()."""
    num_steps: Array
    """How many steps were taken from 0 to 1."""
    status: Array
    """One of CONVERGED, STUCK, NON_FINITE, COLLAPSED, FROZEN."""
    history: TemperedHistory
    """One row for each step."""


class _Particles(NamedTuple):
    position: Array
    log_base: Array
    log_target: Array
    gradient: Array
    """Of the path's log density at the current inverse temperature."""


class _State(NamedTuple):
    particles: _Particles
    inverse_temperature: Array
    log_normalizer: Array
    step_size: Array
    acceptance: Array
    num_steps: Array
    status: Array
    rng_key: Array
    history: TemperedHistory


def status_message(status: int, inverse_temperature: float, num_steps: int) -> str:
    """What went wrong in a run, and what to do about it."""
    if status == CONVERGED:
        return "converged: inverse temperature 1 was reached."
    if status == NON_FINITE:
        return (
            "the log density is NaN or +infinity at draws of the base. Check the energy and the "
            "model where their priors reach (a log of a negative number, an overflow), or narrow "
            "the reference."
        )
    if status == COLLAPSED:
        return (
            f"every particle has weight zero at inverse temperature {inverse_temperature:.3g}: the "
            "log density is -infinity wherever the particles are. Widen the reference or the "
            "priors until they reach the region that the data allow, or take more particles."
        )
    if status == FROZEN:
        return (
            "inverse temperature 1 was reached, but the last moves were nearly all refused: "
            "particles are copies of a few. Look for a gradient that is NaN where the density is "
            "finite (a `where` around a square root or a logarithm), or take more `num_moves`."
        )
    return (
        f"after {num_steps} steps the inverse temperature is only {inverse_temperature:.3g}, not "
        "1. The target is very far from the base: take more particles, a lower `target_ess`, more "
        "`max_temperatures`, or a base that is closer."
    )


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
    room = 1 - current
    # Particles of zero weight at any b > 0 are no reason for a small step: no step would save them.
    alive = jnp.maximum((log_ratio > -jnp.inf).sum(), 1)
    threshold = target_ess * jnp.minimum(alive, num_particles)

    def enough(log_step: Array) -> Array:
        return weight_ess(jnp.exp(log_step) * log_ratio) >= threshold

    def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = 0.5 * (low + high)
        good = enough(middle)
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    high = jnp.log(room)
    low = high - 40.0
    low, _ = jax.lax.fori_loop(0, 30, halve, (low, high))
    proposal = current + jnp.exp(low)
    smallest = current + jnp.finfo(log_ratio.dtype).eps * jnp.maximum(current, 1e-12)
    return jnp.where(enough(high), 1.0, jnp.clip(proposal, smallest, 1.0))


def _log_path(log_base: Array, log_target: Array, b: Array) -> Array:
    return (1 - b) * log_base + b * log_target


def _evaluate(log_densities: LogDensities, position: Array, b: Array) -> _Particles:
    """Both log densities at each particle, and the gradient of the path at b."""

    def path(u: Array) -> tuple[Array, tuple[Array, Array]]:
        log_base, log_target = log_densities(u)
        return _log_path(log_base, log_target, b), (log_base, log_target)

    gradient, (log_base, log_target) = jax.vmap(jax.grad(path, has_aux=True))(position)
    return _Particles(position, log_base, log_target, gradient)


def _spread(position: Array, free: Array, dense: bool) -> Array:
    """Lower-triangular factor of the particles' covariance, (d, d), or deviations, (d,)."""
    dtype, count = position.dtype, position.shape[0]
    centred = (position - position.mean(axis=0)) * free
    deviation = jnp.sqrt((centred**2).mean(axis=0))
    floor = jnp.finfo(dtype).eps ** 0.5 * jnp.maximum(deviation.max(), 1e-6)
    deviation = jnp.where(free > 0, jnp.maximum(deviation, floor), 1.0)
    if not dense:
        return deviation
    white = centred / deviation
    # Shrinkage towards the diagonal keeps the factor well-conditioned with few particles.
    dimension = position.shape[1]
    share = jnp.maximum(dimension / (dimension + count), 1e-3)
    correlation = (1 - share) * (white.T @ white) / count + share * jnp.eye(dimension, dtype=dtype)
    correlation = jnp.where(jnp.eye(dimension, dtype=bool), 1.0, correlation)
    return deviation[:, None] * jnp.linalg.cholesky(correlation)


def _accept_probability(log_accept: Array) -> Array:
    """Metropolis: min(1, exp(log_accept)), and 0 where that is not a number."""
    return jnp.where(jnp.isnan(log_accept), 0.0, jnp.exp(jnp.minimum(log_accept, 0.0)))


def _hmc_move(
    rng_key: Array,
    particles: _Particles,
    b: Array,
    step_size: Array,
    spread: Array,
    free: Array,
    log_densities: LogDensities,
    max_leapfrog: int,
) -> tuple[_Particles, Array, Array]:
    """One Hamiltonian trajectory of every particle, accepted or rejected (Metropolis).

    Positions are whitened by `spread`: u = spread v, with unit mass in v. The trajectory's length
    is random, up to half a period of a Gaussian, so that no particle can resonate. The length is
    shared by the particles, so they do one loop together.
    """
    momentum_key, length_key, accept_key = jax.random.split(rng_key, 3)
    dense = spread.ndim == 2

    def whiten(gradient: Array) -> Array:
        return free * (gradient @ spread if dense else gradient * spread)

    def unwhiten(velocity: Array) -> Array:
        return free * (velocity @ spread.T if dense else velocity * spread)

    momentum = free * jax.random.normal(
        momentum_key, particles.position.shape, particles.position.dtype
    )
    length = jax.random.uniform(length_key, minval=0.2, maxval=1.0) * jnp.pi
    num_leapfrog = jnp.clip(jnp.ceil(length / step_size), 1, max_leapfrog).astype(int)
    start_density = _log_path(particles.log_base, particles.log_target, b)

    def leapfrog(_: Array, carry: tuple[_Particles, Array]) -> tuple[_Particles, Array]:
        moving, velocity = carry
        velocity = velocity + 0.5 * step_size * whiten(moving.gradient)
        position = moving.position + step_size * unwhiten(velocity)
        moving = _evaluate(log_densities, position, b)
        velocity = velocity + 0.5 * step_size * whiten(moving.gradient)
        return moving, velocity

    proposal, velocity = jax.lax.fori_loop(0, num_leapfrog, leapfrog, (particles, momentum))
    end_density = _log_path(proposal.log_base, proposal.log_target, b)
    log_accept = (end_density - 0.5 * (velocity**2).sum(-1)) - (
        start_density - 0.5 * (momentum**2).sum(-1)
    )
    # A trajectory that ends where the path or its gradient is not a number is refused.
    finite = jnp.isfinite(end_density) & jnp.isfinite(proposal.gradient).all(-1)
    probability = _accept_probability(jnp.where(finite, log_accept, -jnp.inf))
    accept = jax.random.uniform(accept_key, probability.shape) < probability
    moved = jax.tree.map(
        lambda new, old: jnp.where(accept.reshape((-1,) + (1,) * (new.ndim - 1)), new, old),
        proposal,
        particles,
    )
    return moved, probability, num_leapfrog


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
        free: 0/1 array (d,): coordinates with 0 keep the value that `draw_base` gave them. It may
            be traced, so one compiled program serves every pattern.
        report: called with b after every step, for progress.

    Returns:
        A `TemperedResult`. Nothing is raised here: read `status`.
    """
    start_key, loop_key = jax.random.split(rng_key)
    num_particles = settings.num_particles
    keys = jax.random.split(start_key, num_particles)
    position = jax.vmap(draw_base)(keys)
    free = jnp.ones(position.shape[1], position.dtype) if free is None else free
    log_base, log_target = jax.vmap(log_densities)(position)
    particles = _Particles(position, log_base, log_target, jnp.zeros_like(position))
    sound = jnp.isfinite(particles.log_base) & (particles.log_target < jnp.inf)
    dtype = particles.log_target.dtype
    blank = jnp.full(settings.max_temperatures, jnp.nan, dtype)
    dimension = position.shape[1]
    state = _State(
        particles,
        inverse_temperature=jnp.zeros((), dtype),
        log_normalizer=jnp.zeros((), dtype),
        step_size=jnp.asarray(max(dimension, 1) ** -0.25, dtype),
        acceptance=jnp.zeros(num_particles, dtype),
        num_steps=jnp.zeros((), jnp.int32),
        status=_status(jnp.where(sound.all(), RUNNING, NON_FINITE)),
        rng_key=loop_key,
        history=TemperedHistory(*(blank for _ in TemperedHistory._fields)),
    )

    def step(state: _State) -> _State:
        rng_key, resample_key, move_key = jax.random.split(state.rng_key, 3)
        particles = state.particles
        log_ratio = particles.log_target - particles.log_base
        b = next_inverse_temperature(log_ratio, state.inverse_temperature, settings.target_ess)
        log_weights = (b - state.inverse_temperature) * log_ratio
        ess = weight_ess(log_weights)
        log_normalizer = state.log_normalizer + log_mean_exp(log_weights)
        ancestors = systematic(resample_key, log_weights)
        unique = 1 + (jnp.diff(ancestors) > 0).sum()
        # The path has changed with b, so gradients are taken anew.
        particles = _evaluate(log_densities, particles.position[ancestors], b)
        spread = _spread(particles.position, free, settings.dense_mass)

        def move(index: Array, carry: tuple) -> tuple:
            particles, step_size, _, gradients = carry
            particles, probability, num_leapfrog = _hmc_move(
                jax.random.fold_in(move_key, index),
                particles,
                b,
                step_size,
                spread,
                free,
                log_densities,
                settings.max_leapfrog,
            )
            error = probability.mean() - settings.target_accept
            return particles, step_size * jnp.exp(error), probability, gradients + num_leapfrog

        num_moves = settings.num_moves * jnp.where(b == 1, 2, 1)
        particles, step_size, probability, gradients = jax.lax.fori_loop(
            0, num_moves, move, (particles, state.step_size, state.acceptance, 1)
        )
        row = TemperedHistory(b, ess, probability.mean(), step_size, unique, gradients)
        history = jax.tree.map(
            lambda column, value: column.at[state.num_steps].set(value), state.history, row
        )
        num_steps = state.num_steps + 1
        frozen = probability.mean() < LEAST_ACCEPTANCE
        status = jnp.where(b == 1, jnp.where(frozen, FROZEN, CONVERGED), RUNNING)
        status = jnp.where(
            (status == RUNNING) & (num_steps == settings.max_temperatures), STUCK, status
        )
        status = _status(jnp.where(ess == 0, COLLAPSED, status))
        if report is not None:
            report(b)
        return _State(
            particles,
            b,
            log_normalizer,
            step_size,
            probability,
            num_steps,
            status,
            rng_key,
            history,
        )

    state = jax.lax.while_loop(lambda state: state.status == RUNNING, step, state)
    return TemperedResult(
        position=state.particles.position,
        log_base=state.particles.log_base,
        log_target=state.particles.log_target,
        acceptance=state.acceptance,
        log_normalizer=state.log_normalizer,
        num_steps=state.num_steps,
        status=state.status,
        history=state.history,
    )
