"""Independence Metropolis with a mixture fitted to the particles, and a second mass estimate.

At b = 1 each particle u is proposed a fresh draw v of a Gaussian mixture q. It is accepted with
probability min(1, w(v) / w(u)), where w = target / q. The mean of w over the draws estimates the
mass of the target.

Each half of the particles is proposed draws of a mixture fitted to the *other* half. A mixture
fitted to the particles themselves, clusters of copies of one ancestor included, would bias them
towards where they are already.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from numpyro_disco._batching import in_batches
from numpyro_disco._typing import Array
from numpyro_disco.tempering.kernels import accept_probability, choose
from numpyro_disco.tempering.noise import draw_key
from numpyro_disco.tempering.proposals import Proposal, fit_proposal
from numpyro_disco.tempering.resampling import log_mean_exp, weight_ess
from numpyro_disco.tempering.schedule import LogDensities
from numpyro_disco.tempering.settings import TemperingSettings
from numpyro_disco.tempering.state import Particles

LEAST_SHARE = 0.02
"""Sweeps end when the effective sample size is a smaller share of the mixture's draws."""
CARRIED_OVER = 4.0
"""Factor of a step's variance for what its error does to later steps."""


class Swept(NamedTuple):
    """The particles after the sweeps, and the estimate of the mass from the mixture's draws."""

    particles: Particles
    """All particles, flat."""
    log_mass: Array
    """Log of the mean weight of the mixture's draws, shape ()."""
    mixture_ess: Array
    """Effective sample size of these weights, shape ()."""
    variance: Array
    """Relative variance of their mean, shape ()."""


class Halves(NamedTuple):
    """Two halves of the particles, H = N // 2 in each, with the mixtures that they meet."""

    particles: Particles
    """Leading axes (2, H)."""
    proposals: Proposal
    """For each half, the mixture fitted to the other one; leading axis (2,)."""

    def log_probs(self, position: Array) -> tuple[Array, Array]:
        """Log densities of the mixtures at points of both halves.

        Args:
            position: shape (2, H, d).

        Returns:
            The log density in the mixture that the half meets, and that in the mean of both
            mixtures, each (2, H). The mean serves the estimate of the mass: a mode that one half
            has missed is in the other.
        """
        half = position.shape[1]
        points = position.reshape((2 * half, -1))
        both = jax.vmap(Proposal.log_prob, (0, None))(self.proposals, points).reshape((2, 2, half))
        return both[jnp.arange(2), jnp.arange(2)], jnp.logaddexp(*both) - jnp.log(2.0)


class Sweeps(NamedTuple):
    """The progress of the sweeps."""

    particles: Particles
    """Both halves, (2, H)."""
    log_weights: Array
    """Log weights of the particles as draws of the mixture that they meet, (2, H)."""
    log_masses: Array
    """Log weights of all draws so far, in the mean of both mixtures, and in the last place those of
    the particles; (num_sweeps + 1, 2, H)."""
    log_mass: Array
    """Log of their mean, shape ()."""
    share: Array
    """Effective sample size as a share of their number, shape ()."""
    num_done: Array
    """Number of sweeps so far, shape (); -1 before the particles are weighed."""


def sweep_particles(
    rng_key: Array,
    step: Array,
    particles: Particles,
    log_densities: LogDensities,
    settings: TemperingSettings,
    free: Array,
) -> Swept:
    """Fit mixtures to the particles, and propose their draws to the particles several times.

    Args:
        rng_key: random key of the run.
        step: number of the step after the last, for the keys of the draws, shape ().
        particles: all particles at b = 1, flat.
        log_densities: log densities of base and target at one point.
        settings: settings of the run.
        free: 1 for coordinates that move and 0 for those that do not, shape (d,).

    Returns:
        A `Swept`.
    """
    draw_keys = jax.vmap(draw_key, (None, None, 0))
    halves = split_in_halves(particles, free)

    def body(sweeps: Sweeps) -> Sweeps:
        sweep_keys = draw_keys(rng_key, step, 2 * sweeps.num_done + jnp.arange(2))
        return sweep_once(sweep_keys, sweeps, halves, log_densities, settings.particles_at_once)

    def useful(sweeps: Sweeps) -> Array:
        return (sweeps.num_done < settings.num_sweeps) & (sweeps.share > LEAST_SHARE)

    log_target = halves.particles.log_target
    dtype, shape = log_target.dtype, log_target.shape
    start = Sweeps(
        halves.particles,
        log_weights=jnp.zeros_like(log_target),
        log_masses=jnp.full((settings.num_sweeps + 1, *shape), -jnp.inf, dtype),
        log_mass=jnp.full((), -jnp.inf, dtype),
        share=jnp.ones((), dtype),
        num_done=jnp.full((), -1),
    )
    end = jax.lax.while_loop(useful, body, start)
    num_drawn = log_target.size * end.num_done
    return Swept(
        join_halves(end.particles, particles),
        end.log_mass,
        mixture_ess=end.share * num_drawn,
        variance=(1 / end.share - 1) / num_drawn,
    )


def split_in_halves(particles: Particles, free: Array) -> Halves:
    """Split flat particles, leaving out the last one of an odd number, and fit a mixture to each.

    Args:
        particles: all particles, flat.
        free: 1 for coordinates that move and 0 for those that do not, shape (d,).
    """
    half = len(particles.position) // 2
    halves = jax.tree.map(
        lambda leaf: leaf[: 2 * half].reshape((2, half) + leaf.shape[1:]), particles
    )
    return Halves(halves, jax.vmap(fit_proposal, (0, None))(halves.position[::-1], free))


def join_halves(halves: Particles, particles: Particles) -> Particles:
    """Flatten both halves, followed by the particle that was left out, if there is one."""
    count = halves.log_target.size
    return jax.tree.map(
        lambda leaf, rest: jnp.concatenate([leaf.reshape((count,) + leaf.shape[2:]), rest[count:]]),
        halves,
        particles,
    )


def sweep_once(
    rng_keys: Array,
    sweeps: Sweeps,
    halves: Halves,
    log_densities: LogDensities,
    particles_at_once: int | None,
) -> Sweeps:
    """Propose one draw to every particle, or at first only weigh the particles themselves.

    Args:
        rng_keys: one random key for each half, shape (2,).
        sweeps: the progress so far.
        halves: the halves before the first sweep, with their mixtures.
        log_densities: log densities of base and target at one point.
        particles_at_once: number of draws evaluated side by side, or None.

    Returns:
        The progress after the sweep.
    """
    half = sweeps.log_weights.shape[1]
    draw = jax.vmap(Proposal.draw, (0, 0, None))
    drawn, uniform = draw(halves.proposals, rng_keys, half)
    # The particles take the place of the first draws, so that densities occur once in the program.
    first = sweeps.num_done < 0
    drawn = jnp.where(first, halves.particles.position, drawn)
    log_base, log_target = in_batches(
        jax.vmap(log_densities), drawn.reshape((2 * half, -1)), particles_at_once
    )
    log_base, log_target = log_base.reshape((2, half)), log_target.reshape((2, half))
    # A density that is not a number counts as zero, as it does for a trajectory.
    log_target = jnp.where(log_target < jnp.inf, log_target, -jnp.inf)
    log_own, log_mean = halves.log_probs(drawn)
    accept = uniform < accept_probability(log_target - log_own - sweeps.log_weights)
    accept |= first
    proposed = Particles(drawn, log_base, log_target, sweeps.particles.acceptance)
    num_done = sweeps.num_done + 1
    last = len(sweeps.log_masses) - 1
    log_masses = jax.lax.dynamic_update_index_in_dim(
        sweeps.log_masses, log_target - log_mean, jnp.where(first, last, sweeps.num_done), 0
    )
    log_drawn = log_masses[:last].ravel()
    log_mass = log_mean_exp(log_drawn) + jnp.log(last / jnp.maximum(num_done, 1))
    # The mean square of the weights of the mixture's draws is the mean weight of the target's
    # draws. So the particles reveal what the mixture lacks, a tail or a small mode, which its own
    # draws cannot.
    log_mean_weight = log_mean_exp(log_masses[last].ravel())
    share = jnp.minimum(
        weight_ess(log_drawn) / (2 * half * jnp.maximum(num_done, 1)),
        jnp.exp(log_mass - log_mean_weight),
    )
    return Sweeps(
        choose(accept, proposed, sweeps.particles),
        jnp.where(accept, log_target - log_own, sweeps.log_weights),
        log_masses,
        log_mass,
        jnp.where(first, 1.0, share),
        num_done,
    )


def combine_estimates(
    log_path_mass: Array,
    path_ess: Array,
    num_steps: Array,
    swept: Swept,
    settings: TemperingSettings,
) -> Array:
    """Log of the mean of the path's and the mixture's estimates, weighted by inverse variance.

    Both estimates are means of weights, whose relative variance is known from the weights. Steps of
    the path share their particles, and the error of one carries over to later ones, so steps after
    the first count more.

    Args:
        log_path_mass: the path's estimate, shape ().
        path_ess: effective sample size of each step's weights; NaN after the last step.
        num_steps: number of steps, shape ().
        swept: the mixture's estimate.
        settings: settings of the run.

    Returns:
        The log of the weighted mean, shape ().
    """
    num_drawn = settings.base_draws * settings.num_particles
    first = 1 / path_ess[0]
    later = jnp.nansum(1 / path_ess) - first
    later -= (num_steps - 1) / settings.num_particles
    path_variance = first - 1 / num_drawn + CARRIED_OVER * later
    # If all weights are equal, rounding may leave either a little below zero.
    eps = jnp.finfo(path_variance.dtype).eps
    path_variance, variance = jnp.maximum(path_variance, eps), jnp.maximum(swept.variance, eps)
    log_share = -jnp.log1p(jnp.array([variance / path_variance, path_variance / variance]))
    return logsumexp(log_share + jnp.array([swept.log_mass, log_path_mass]))
