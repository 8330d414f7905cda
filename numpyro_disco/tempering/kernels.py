"""Moves of many particles that leave one density invariant, and their tuning from the particles.

A move takes M chains at once: Hamiltonian Monte Carlo, of which one leapfrog step is MALA, or a
random walk. Positions are whitened by the particles' spread, u = S v, with unit mass in v.

A move's worth is its expected squared jump E[a J], a the probability of acceptance, over what it
costs. J counts the whitened position and, as much, the path's log density, whose changes the
weights depend on. With the step h and the length t = (number of leapfrogs) h, E[a J] h / t is
largest where

    d log E[a J] / d log t = 1    and    d log E[a J] / d log h = -1.

The first derivative is read off the end of each trajectory: dJ / dt is what its velocity there
would do. For the second, each chain draws its own step, log-normally around a common one: for a
log-normal s of variance tau^2, the mean of s weighted by a J is tau^2 times the slope of
log E[a J] in both together. (It also makes the lengths of trajectories random.) Each move takes a
step of stochastic approximation towards both.

References:
    Neal 2011 (HMC); Buchholz, Chopin & Jacob 2021 (tuning it from particles, by squared jump);
    Hoffman & Sountsov 2022 (jumps of a second moment, which the evidence depends on).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp

from numpyro_disco._batching import in_batches
from numpyro_disco._typing import Array

LogDensities: TypeAlias = Callable[[Array], tuple[Array, Array]]
"""One u, shape (d,), to (log base, log target), both densities over u itself, Jacobians included.
The base must be normalised."""

_Tree = TypeVar("_Tree", bound=NamedTuple)

KERNELS = ("hmc", "mala", "random_walk")
LEAST_TUNED = 0.1
"""Mean acceptance below which a step size is far too large."""
STEP_SPREAD = 0.3
"""Standard deviation of the logarithm of the chains' step sizes."""
GAIN = 0.15
"""Share of the slope that one move adds to the logarithm of step and length."""
LARGEST_CHANGE = 0.7
"""Most that one move changes either logarithm."""


class Chains(NamedTuple):
    """M particles on the move."""

    position: Array
    """Shape (M, d)."""
    log_base: Array
    """Shape (M,)."""
    log_target: Array
    """Shape (M,)."""
    gradient: Array
    """Of the path's log density, shape (M, d)."""


class Tuning(NamedTuple):
    """What moves are tuned by, both in units of the particles' spread."""

    log_step: Array
    """Log of the common step size, shape ()."""
    log_length: Array
    """Log of the common length of a trajectory, shape ()."""


def initial_tuning(dimension: int, dtype: jnp.dtype) -> Tuning:
    """For a standard Gaussian: a step that is mostly accepted, and a quarter of its period."""
    return Tuning(
        jnp.asarray(jnp.log(0.9 * max(dimension, 1) ** -0.25), dtype),
        jnp.asarray(jnp.log(0.5 * jnp.pi), dtype),
    )


def log_path(log_base: Array, log_target: Array, b: Array) -> Array:
    """Log of base^(1 - b) target^b."""
    # Where b is 0 or 1, an infinite density with no weight must not make a NaN.
    return jnp.where(b < 1, (1 - b) * log_base, 0.0) + jnp.where(b > 0, b * log_target, 0.0)


def spread(position: Array, weights: Array, free: Array, dense: bool) -> Array:
    """Lower-triangular factor of the particles' covariance, (d, d), or deviations, (d,).

    Args:
        position: shape (n, d).
        weights: shape (n,), of sum 1.
        free: shape (d,), 0 where coordinates do not move.
        dense: the whole covariance, shrunk towards its diagonal.
    """
    dtype, dimension = position.dtype, position.shape[1]
    centred = (position - weights @ position) * free
    deviation = jnp.sqrt(weights @ centred**2)
    floor = jnp.finfo(dtype).eps ** 0.5 * jnp.maximum(deviation.max(), 1e-6)
    deviation = jnp.where(free > 0, jnp.maximum(deviation, floor), 1.0)
    if not dense:
        return deviation
    white = centred / deviation
    # Shrinkage keeps the factor regular when few particles have most of the weight. With enough of
    # them it must vanish: it would hide the narrow directions of a strongly correlated density.
    count = 1 / (weights**2).sum()
    share = jnp.clip((dimension / count) ** 6, 64 * jnp.finfo(dtype).eps, 1.0)
    eye = jnp.eye(dimension, dtype=dtype)
    correlation = (1 - share) * (white.T @ (weights[:, None] * white)) + share * eye
    correlation = jnp.where(eye > 0, 1.0, correlation)
    factor = jnp.linalg.cholesky(correlation)
    # Rounding can leave a singular matrix none; the deviations alone always serve.
    return deviation[:, None] * jnp.where(jnp.isfinite(factor).all(), factor, eye)


def accept_probability(log_accept: Array) -> Array:
    """Metropolis: min(1, exp(log_accept)), and 0 where that is not a number."""
    return jnp.where(jnp.isnan(log_accept), 0.0, jnp.exp(jnp.minimum(log_accept, 0.0)))


def choose(accept: Array, new: _Tree, old: _Tree) -> _Tree:
    """Leaf by leaf what was proposed where accepted, over the leading axes of `accept`."""

    def one(new: Array, old: Array) -> Array:
        return jnp.where(accept.reshape(accept.shape + (1,) * (new.ndim - accept.ndim)), new, old)

    return jax.tree.map(one, new, old)


class Kernel(NamedTuple):
    """How chains are moved; everything here is fixed when the program is compiled."""

    name: str
    log_densities: LogDensities
    max_leapfrog: int
    batch_size: int | None

    def move(
        self,
        rng_key: Array,
        chains: Chains,
        stale: Array,
        b: Array,
        tuning: Tuning,
        factor: Array,
        free: Array,
        unit: Array,
    ) -> tuple[Chains, Tuning, Array, Array]:
        """One move of every chain, accepted or refused (Metropolis).

        Args:
            rng_key: random key.
            chains: where they are.
            stale: whether `chains.gradient` is that of another b, and is to be taken anew.
            b: inverse temperature of the density that is left invariant.
            tuning: step and length.
            factor: what `spread` returned.
            free: shape (d,), 0 where coordinates do not move.
            unit: deviation of the path's log density among the particles, shape ().

        Returns:
            The chains, the next move's tuning, each chain's acceptance probability (M,), and how
            many gradients each chain took.
        """
        num_chains, dimension = chains.position.shape
        dtype = chains.position.dtype
        noise = jax.random.normal(rng_key, (num_chains, dimension + 2), dtype)
        # One call for all noise: each call of its own takes a good part of a second to compile.
        velocity, jitter = free * noise[:, :dimension], STEP_SPREAD * noise[:, dimension]
        log_uniform = jax.scipy.special.log_ndtr(noise[:, dimension + 1])
        step = jnp.exp(tuning.log_step + jitter)
        if self.name == "hmc":
            count = jnp.ceil(jnp.exp(tuning.log_length - tuning.log_step))
            num_leapfrog = jnp.clip(count, 1, self.max_leapfrog).astype(int)
        else:
            num_leapfrog = jnp.ones((), int)

        def one_batch(
            batch: tuple[Chains, Array, Array, Array],
        ) -> tuple[Chains, Array, Array, Array]:
            chains, velocity, step, log_uniform = batch
            if self.name == "random_walk":
                proposal, log_accept = self._walk(chains, velocity, step, b, factor)
                jump = growth = step**2 * (velocity**2).sum(-1)
            else:
                chains, proposal, end_velocity, log_accept = self._leapfrogs(
                    chains, velocity, step, num_leapfrog, stale, b, factor, free
                )
                jump, growth = _squared_jump(
                    chains, proposal, end_velocity, num_leapfrog * step, b, factor, free, unit
                )
            probability = accept_probability(log_accept)
            accept = log_uniform < jnp.log(probability)
            moved = choose(accept, proposal, chains)
            return moved, probability, jump, growth

        moved, probability, jump, growth = in_batches(
            one_batch, (chains, velocity, step, log_uniform), self.batch_size
        )
        next_tuning = self._tune(tuning, probability, jump, growth, jitter, num_leapfrog)
        if self.name == "random_walk":
            return moved, next_tuning, probability, jnp.zeros((), int)
        return moved, next_tuning, probability, num_leapfrog + stale

    def _walk(
        self, chains: Chains, velocity: Array, step: Array, b: Array, factor: Array
    ) -> tuple[Chains, Array]:
        position = chains.position + step[:, None] * _unwhiten(velocity, factor)
        log_base, log_target = jax.vmap(self.log_densities)(position)
        proposal = Chains(position, log_base, log_target, chains.gradient)
        difference = log_path(log_base, log_target, b) - log_path(
            chains.log_base, chains.log_target, b
        )
        return proposal, jnp.where(jnp.isfinite(difference), difference, -jnp.inf)

    def _leapfrogs(
        self,
        chains: Chains,
        momentum: Array,
        step: Array,
        num_leapfrog: Array,
        stale: Array,
        b: Array,
        factor: Array,
        free: Array,
    ) -> tuple[Chains, Chains, Array, Array]:
        def path(u: Array) -> tuple[Array, tuple[Array, Array]]:
            log_base, log_target = self.log_densities(u)
            return log_path(log_base, log_target, b), (log_base, log_target)

        def whiten(gradient: Array) -> Array:
            return free * (gradient @ factor if factor.ndim == 2 else gradient * factor)

        # A stale gradient costs one leapfrog of step zero, which changes nothing else: so the
        # gradient stands once in the program, which halves what there is to compile.
        def leapfrog(
            index: Array, carry: tuple[Chains, Array, Array]
        ) -> tuple[Chains, Array, Array]:
            moving, velocity, first = carry
            h = jnp.where(index < stale, 0.0, step)[:, None]
            velocity = velocity + 0.5 * h * whiten(moving.gradient)
            position = moving.position + h * _unwhiten(velocity, factor)
            gradient, (log_base, log_target) = jax.vmap(jax.grad(path, has_aux=True))(position)
            velocity = velocity + 0.5 * h * whiten(gradient)
            first = jnp.where(index < stale, gradient, first)
            return Chains(position, log_base, log_target, gradient), velocity, first

        proposal, velocity, gradient = jax.lax.fori_loop(
            0, num_leapfrog + stale, leapfrog, (chains, momentum, chains.gradient)
        )
        end = log_path(proposal.log_base, proposal.log_target, b)
        start = log_path(chains.log_base, chains.log_target, b)
        log_accept = (end - 0.5 * (velocity**2).sum(-1)) - (start - 0.5 * (momentum**2).sum(-1))
        # A trajectory that ends where the path or its gradient is not a number is refused.
        finite = jnp.isfinite(end) & jnp.isfinite(proposal.gradient).all(-1)
        start_chains = chains._replace(gradient=gradient)
        return start_chains, proposal, velocity, jnp.where(finite, log_accept, -jnp.inf)

    def _tune(
        self,
        tuning: Tuning,
        probability: Array,
        jump: Array,
        growth: Array,
        jitter: Array,
        num_leapfrog: Array,
    ) -> Tuning:
        """A step towards the largest squared jump for what it costs; see the top of this file."""
        reward = jnp.where(probability > 0, probability * jump, 0.0)
        of_both = (reward * jitter).sum() / (STEP_SPREAD**2 * reward.sum())
        of_length = jnp.where(probability > 0, probability * growth, 0.0).sum() / reward.sum()
        step, length = of_both - of_length + 1, of_length - 1
        # At one evaluation whatever the step, or at the most there may be, only the jump counts.
        if self.name != "hmc":
            step, length = of_both, jnp.zeros_like(of_length)
        else:
            step = jnp.where(num_leapfrog == self.max_leapfrog, of_both, step)
        failed = (probability.mean() < LEAST_TUNED) | ~jnp.isfinite(of_both + of_length)
        step = jnp.where(failed, -LARGEST_CHANGE, GAIN * step)
        length = jnp.where(failed, 0.0, GAIN * length)

        def changed(value: Array, change: Array) -> Array:
            return value + jnp.clip(change, -LARGEST_CHANGE, LARGEST_CHANGE)

        log_step = changed(tuning.log_step, step)
        log_length = jnp.clip(changed(tuning.log_length, length), jnp.log(0.05), jnp.log(4.0))
        return Tuning(
            jnp.minimum(log_step, log_length) if self.name == "hmc" else log_step, log_length
        )


def _unwhiten(velocity: Array, factor: Array) -> Array:
    return velocity @ factor.T if factor.ndim == 2 else velocity * factor


def _squared_jump(
    chains: Chains,
    proposal: Chains,
    velocity: Array,
    length: Array,
    b: Array,
    factor: Array,
    free: Array,
    unit: Array,
) -> tuple[Array, Array]:
    """Squared jump J of each chain, and dJ / d log t where its trajectory ends."""
    jump = proposal.position - chains.position
    if factor.ndim == 2:
        white = jax.scipy.linalg.solve_triangular(factor, jump.T, lower=True).T
    else:
        white = jump / factor
    white = free * white
    slope = (proposal.gradient * _unwhiten(velocity, factor)).sum(-1)
    rise = log_path(proposal.log_base, proposal.log_target, b) - log_path(
        chains.log_base, chains.log_target, b
    )
    share = 1 / jnp.maximum(free.sum(), 1.0)
    squared = share * (white**2).sum(-1) + (rise / unit) ** 2
    growth = 2 * length * (share * (white * velocity).sum(-1) + rise * slope / unit**2)
    sound = jnp.isfinite(squared) & jnp.isfinite(growth)
    return jnp.where(sound, squared, 0.0), jnp.where(sound, growth, 0.0)
