"""One move of many chains that leaves one density invariant, and the next move's tuning.

The kernels are Hamiltonian Monte Carlo (HMC), MALA, which is HMC with one leapfrog step, and a
Gaussian random walk. Positions are whitened by the particles' spread, u = S v, with unit mass in v.

References:
    Neal 2011 (HMC); Roberts & Tweedie 1996 (MALA).
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from numpyro_disco._batching import in_batches
from numpyro_disco._typing import Array
from numpyro_disco.tempering.noise import signed_uniforms, to_normal
from numpyro_disco.tempering.schedule import LogDensities, log_path
from numpyro_disco.tempering.state import Chains, Level, Tuning
from numpyro_disco.tempering.tuning import STEP_SPREAD, Outcome, squared_jump, tune
from numpyro_disco.tempering.whitening import unwhiten, whiten_gradient

KERNELS = ("hmc", "mala", "random_walk")

_Record = TypeVar("_Record", bound=NamedTuple)


class Noise(NamedTuple):
    """Everything random in one move of M chains."""

    velocity: Array
    """Whitened velocities, zero where coordinates do not move, shape (M, d)."""
    jitter: Array
    """Log of each chain's step size relative to the common one, shape (M,)."""
    log_uniform: Array
    """Log of the uniform number that decides on acceptance, shape (M,)."""


class Trajectory(NamedTuple):
    """A proposal for each of M chains."""

    start: Chains
    """Chains before the move, with their gradients at the current inverse temperature."""
    end: Chains
    """Proposed states."""
    velocity: Array
    """Whitened velocities at the end, shape (M, d)."""
    log_accept: Array
    """Log of the Metropolis ratio; -inf where the proposal is not finite, shape (M,)."""


class Move(NamedTuple):
    """One move of M chains."""

    chains: Chains
    """Chains after the move."""
    tuning: Tuning
    """Parameters of the next move."""
    acceptance: Array
    """Acceptance probabilities, shape (M,)."""
    num_gradients: Array
    """Gradients that each chain took, shape ()."""


def accept_probability(log_accept: Array) -> Array:
    """Metropolis probability min(1, exp(log_accept)), and 0 where that is not a number."""
    return jnp.where(jnp.isnan(log_accept), 0.0, jnp.exp(jnp.minimum(log_accept, 0.0)))


def choose(accept: Array, new: _Record, old: _Record) -> _Record:
    """Take the leaves of `new` where accepted, over the leading axes of `accept`."""

    def choose_leaf(new: Array, old: Array) -> Array:
        return jnp.where(accept.reshape(accept.shape + (1,) * (new.ndim - accept.ndim)), new, old)

    return jax.tree.map(choose_leaf, new, old)


def draw_noise(rng_key: Array, chains: Chains, free: Array) -> Noise:
    """Draw everything that a move needs in one call: each further call is slow to compile."""
    num_chains, dimension = chains.position.shape
    signed = signed_uniforms(rng_key, (num_chains, dimension + 2), chains.position.dtype)
    # A product is computed once, where multiplied columns would be once for each of their uses.
    scales = jnp.diag(jnp.append(free, STEP_SPREAD))
    normal = to_normal(signed[:, : dimension + 1]) @ scales
    return Noise(
        velocity=normal[:, :dimension],
        jitter=normal[:, dimension],
        log_uniform=jnp.log(0.5 * (1 - signed[:, dimension + 1])),
    )


class Kernel(NamedTuple):
    """A Markov kernel; everything here is fixed when the program is compiled."""

    name: str
    """One of `KERNELS`."""
    log_densities: LogDensities
    """Log densities of base and target at one point."""
    max_leapfrog: int
    """Largest number of leapfrog steps in a trajectory."""
    particles_at_once: int | None
    """Number of chains evaluated side by side; None for all of them."""

    def move(
        self, rng_key: Array, chains: Chains, stale: Array, tuning: Tuning, level: Level
    ) -> Move:
        """Propose to every chain, and accept or reject (Metropolis).

        Args:
            rng_key: random key.
            chains: current states.
            stale: 1 if `chains.gradient` is that of another b and must be computed anew, else 0.
            tuning: step size and length.
            level: the inverse temperature of the density that is left invariant, and scales.

        Returns:
            A `Move`.
        """
        noise = draw_noise(rng_key, chains, level.free)
        num_leapfrog = self.num_leapfrog(tuning)

        def move_batch(batch: tuple[Chains, Noise]) -> tuple[Chains, Outcome]:
            chains, noise = batch
            step = jnp.exp(tuning.log_step + noise.jitter)
            if self.name == "random_walk":
                trajectory = walk(self.log_densities, chains, noise.velocity, step, level)
                jump = growth = step**2 * (noise.velocity**2).sum(-1)
            else:
                trajectory = leapfrogs(
                    self.log_densities, chains, noise.velocity, step, num_leapfrog, stale, level
                )
                jump, growth = squared_jump(
                    trajectory.start,
                    trajectory.end,
                    trajectory.velocity,
                    num_leapfrog * step,
                    level,
                )
            probability = accept_probability(trajectory.log_accept)
            accept = noise.log_uniform < jnp.log(probability)
            moved = choose(accept, trajectory.end, trajectory.start)
            return moved, Outcome(probability, jump, growth, noise.jitter)

        moved, outcome = in_batches(move_batch, (chains, noise), self.particles_at_once)
        next_tuning = tune(tuning, outcome, num_leapfrog, self.max_leapfrog, self.name)
        none = jnp.zeros((), int)
        num_gradients = none if self.name == "random_walk" else num_leapfrog + stale
        return Move(moved, next_tuning, outcome.acceptance, num_gradients)

    def num_leapfrog(self, tuning: Tuning) -> Array:
        """Number of leapfrog steps in a trajectory, the same for all chains, shape ()."""
        if self.name != "hmc":
            return jnp.ones((), int)
        count = jnp.ceil(jnp.exp(tuning.log_length - tuning.log_step))
        return jnp.clip(count, 1, self.max_leapfrog).astype(int)


def walk(
    log_densities: LogDensities, chains: Chains, velocity: Array, step: Array, level: Level
) -> Trajectory:
    """Propose a Gaussian step around each chain.

    Args:
        log_densities: log densities of base and target at one point.
        chains: current states, M of them.
        velocity: whitened directions, shape (M, d).
        step: step sizes, shape (M,).
        level: the inverse temperature and scales.

    Returns:
        A `Trajectory`; gradients are not computed.
    """
    b = level.inverse_temperature
    position = chains.position + step[:, None] * unwhiten(velocity, level.factor)
    log_base, log_target = jax.vmap(log_densities)(position)
    proposal = Chains(position, log_base, log_target, chains.gradient)
    start = log_path(chains.log_base, chains.log_target, b)
    difference = log_path(log_base, log_target, b) - start
    log_accept = jnp.where(jnp.isfinite(difference), difference, -jnp.inf)
    return Trajectory(chains, proposal, velocity, log_accept)


def leapfrogs(
    log_densities: LogDensities,
    chains: Chains,
    momentum: Array,
    step: Array,
    num_leapfrog: Array,
    stale: Array,
    level: Level,
) -> Trajectory:
    """Follow the Hamiltonian dynamics of each chain.

    Args:
        log_densities: log densities of base and target at one point.
        chains: current states, M of them.
        momentum: whitened momenta, equal to the velocities because of unit mass, shape (M, d).
        step: step sizes, shape (M,).
        num_leapfrog: number of leapfrog steps, shape ().
        stale: 1 if the gradients of `chains` must be computed anew, else 0.
        level: the inverse temperature and scales.

    Returns:
        A `Trajectory`.
    """
    b, factor, free = level.inverse_temperature, level.factor, level.free

    def path(u: Array) -> tuple[Array, tuple[Array, Array]]:
        log_base, log_target = log_densities(u)
        return log_path(log_base, log_target, b), (log_base, log_target)

    # A stale gradient costs one leapfrog of step zero, which changes nothing else. The gradient
    # then occurs once in the program, which halves what has to be compiled.
    def leapfrog(index: Array, carry: tuple[Chains, Array, Array]) -> tuple[Chains, Array, Array]:
        moving, velocity, first = carry
        h = jnp.where(index < stale, 0.0, step)[:, None]
        velocity = velocity + 0.5 * h * (free * whiten_gradient(moving.gradient, factor))
        position = moving.position + h * unwhiten(velocity, factor)
        gradient, (log_base, log_target) = jax.vmap(jax.grad(path, has_aux=True))(position)
        # A leapfrog along any function of the position is reversible and preserves volume, and
        # Metropolis corrects for the rest. So zero is as valid a gradient as any, and particles
        # move where the density is finite and its gradient is not, as they would not otherwise.
        gradient = jnp.where(jnp.isfinite(gradient), gradient, 0.0)
        velocity = velocity + 0.5 * h * (free * whiten_gradient(gradient, factor))
        first = jnp.where(index < stale, gradient, first)
        return Chains(position, log_base, log_target, gradient), velocity, first

    proposal, velocity, gradient = jax.lax.fori_loop(
        0, num_leapfrog + stale, leapfrog, (chains, momentum, chains.gradient)
    )
    end = log_path(proposal.log_base, proposal.log_target, b)
    start = log_path(chains.log_base, chains.log_target, b)
    log_accept = (end - 0.5 * (velocity**2).sum(-1)) - (start - 0.5 * (momentum**2).sum(-1))
    # A trajectory that ends where the path is not finite is rejected.
    log_accept = jnp.where(jnp.isfinite(end), log_accept, -jnp.inf)
    return Trajectory(chains._replace(gradient=gradient), proposal, velocity, log_accept)
