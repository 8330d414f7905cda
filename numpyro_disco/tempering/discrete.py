"""Gibbs moves of discrete coordinates.

A discrete coordinate of u holds a code, one of 0, 1, ..., K_j - 1, and has no gradient. Each is
drawn in turn from its conditional given all other coordinates,

    P(u_j = c | others) proportional to p_b(u with u_j = c),    c = 0, ..., K_j - 1,

which leaves the path's density p_b invariant. It takes one evaluation for each level, and reaches a
level of the target in one move however little mass the base gives it.

The conditional is not normalised: the largest of log p_b + G_c, with independent standard Gumbel
G_c, is at a draw from it. So levels are visited one by one, and the program holds one evaluation.

References:
    Geman & Geman 1984 (Gibbs sampling); Gumbel 1954 (the maximum).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco._batching import in_batches
from numpyro_disco._levels import level_places
from numpyro_disco._typing import Array
from numpyro_disco.tempering.kernels import choose
from numpyro_disco.tempering.noise import signed_uniforms
from numpyro_disco.tempering.schedule import LogDensities, log_path
from numpyro_disco.tempering.state import Chains


class Candidate(NamedTuple):
    """For each of M chains, the level with the largest perturbed log density so far."""

    score: Array
    """Log density of the path plus Gumbel noise, shape (M,); -inf before the first level."""
    code: Array
    """The level, shape (M,)."""
    log_base: Array
    """Log density of the base there, shape (M,)."""
    log_target: Array
    """Log density of the target there, shape (M,)."""


def draw_levels(
    rng_key: Array,
    chains: Chains,
    inverse_temperature: Array,
    free: Array,
    num_levels: tuple[int, ...],
    log_densities: LogDensities,
    particles_at_once: int | None,
) -> Chains:
    """Draw each free discrete coordinate from its conditional given the others, one by one.

    Args:
        rng_key: random key.
        chains: current states, M of them.
        inverse_temperature: b of the density that is left invariant, shape ().
        free: 1 for coordinates that move and 0 for those that do not, shape (d,).
        num_levels: levels of each coordinate, 0 for continuous ones.
        log_densities: log densities of base and target at one point.
        particles_at_once: number of chains evaluated side by side, or None.

    Returns:
        The chains after the moves. Their gradients are those from before.
    """
    coordinates, codes = level_places(num_levels)
    ends = codes == np.asarray(num_levels)[coordinates] - 1
    # Levels of free coordinates come first and the others are not visited, so that a coordinate
    # that is observed costs nothing.
    held = free[coordinates] == 0
    order = jnp.argsort(held, stable=True)
    visits = [jnp.asarray(column)[order] for column in (coordinates, codes, ends)]
    shape = (len(codes), len(chains.log_target))
    dtype = chains.position.dtype
    # At 1, to which the sum may round, the noise would be infinite.
    below_one = 1 - jnp.finfo(dtype).epsneg
    uniform = jnp.minimum(0.5 * (1 - signed_uniforms(rng_key, shape, dtype)), below_one)
    noise = -jnp.log(-jnp.log(uniform))

    def visit(index: Array, carry: tuple[Chains, Candidate]) -> tuple[Chains, Candidate]:
        chains, best = carry
        place, code, end = (column[index] for column in visits)
        here = jnp.arange(len(num_levels)) == place
        position = jnp.where(here, code.astype(chains.position.dtype), chains.position)
        log_base, log_target = in_batches(jax.vmap(log_densities), position, particles_at_once)
        height = log_path(log_base, log_target, inverse_temperature)
        score = height + noise[index]
        # A density that is infinite or not a number counts as zero.
        better = (score > best.score) & (height < jnp.inf)
        codes = jnp.full_like(score, code)
        best = choose(better, Candidate(score, codes, log_base, log_target), best)
        drawn = Chains(
            jnp.where(here, best.code[:, None], chains.position),
            best.log_base,
            best.log_target,
            chains.gradient,
        )
        # With the last level of a coordinate its draw is known, unless none has a density.
        chains = choose(end & (best.score > -jnp.inf), drawn, chains)
        return chains, best._replace(score=jnp.where(end, -jnp.inf, best.score))

    none = jnp.full_like(chains.log_target, -jnp.inf)
    start = Candidate(none, jnp.zeros_like(none), none, none)
    return jax.lax.fori_loop(0, (~held).sum(), visit, (chains, start))[0]
