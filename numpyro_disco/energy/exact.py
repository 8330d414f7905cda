"""Exact draws of all coordinates, from energies that are normalised densities."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import jax

from numpyro_disco._compiling import compiler_options
from numpyro_disco._typing import Array
from numpyro_disco.energy.importance import ScaledEnergy
from numpyro_disco.energy.learned import LearnedEnergy

EXACT = 2
"""Number folded into a random key for exact draws, beside those of `importance`."""


def can_draw_exactly(energy: ScaledEnergy) -> bool:
    """True if exp(-E) integrates to one and can be drawn from."""
    learned = energy.energy_fn
    return (
        isinstance(learned, LearnedEnergy)
        and learned.is_normalized
        and float(energy.inverse_temperature) == 1
    )


def exact_draws(rng_key: Array, energy: ScaledEnergy, row: int, num_draws: int) -> Array:
    """Independent draws of an energy for which `can_draw_exactly`, shape (num_draws, D).

    Args:
        rng_key: random key of the whole call.
        energy: the energy.
        row: number of the row that the draws are for.
        num_draws: number of draws; another number compiles again.
    """
    key = jax.random.fold_in(jax.random.fold_in(rng_key, EXACT), row)
    return _compiled_draws()(key, energy.energy_fn, num_draws)


@cache
def _compiled_draws() -> Callable[..., Array]:
    """The draws as one compiled program, made once the devices are known."""
    return jax.jit(
        lambda rng_key, energy, num_draws: energy.sample(rng_key, num_draws),
        static_argnums=2,
        compiler_options=compiler_options(),
    )
