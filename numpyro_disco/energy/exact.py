"""Exact draws from energies that are normalised densities: of all coordinates, or of the last.

An autoregressive density draws its columns in an order. Where the observed coordinates are the
first of that order, the others are drawn as they are from the joint density, and the density of
what is observed is known.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import jax
import numpy as np

from numpyro_disco._compiling import compiler_options
from numpyro_disco._typing import Array
from numpyro_disco.energy.importance import ScaledEnergy
from numpyro_disco.energy.learned import LearnedEnergy

EXACT = 2
"""Number folded into a random key for exact draws, beside those of `importance`."""


def rows_drawn_exactly(energy: ScaledEnergy, observed: np.ndarray) -> np.ndarray:
    """Rows whose conditional can be drawn from and has a known integral.

    Args:
        energy: the energy.
        observed: boolean array (rows, D).

    Returns:
        Boolean array (rows,). Rows without free coordinates are not among them.
    """
    learned = energy.energy_fn
    order = learned.normalized_order if isinstance(learned, LearnedEnergy) else None
    if order is None or float(energy.inverse_temperature) != 1:
        return np.zeros(len(observed), bool)
    assert isinstance(learned, LearnedEnergy)
    whitener = np.asarray(learned.whitener)
    # Otherwise one standardised column depends on several coordinates.
    each_alone = np.count_nonzero(whitener - np.diag(np.diagonal(whitener))) == 0
    in_order = observed[:, list(order)]
    come_first = (in_order[:, :-1] >= in_order[:, 1:]).all(axis=1) & each_alone
    return (come_first | ~observed.any(axis=1)) & ~observed.all(axis=1)


def exact_draws(
    rng_key: Array,
    energy: ScaledEnergy,
    row: int,
    num_draws: int,
    values: np.ndarray,
    observed: np.ndarray,
) -> tuple[Array, float]:
    """Independent draws of a row that is drawn exactly, and its integral.

    Args:
        rng_key: random key of the whole call.
        energy: the energy.
        row: number of the row that the draws are for.
        num_draws: number of draws; another number compiles again.
        values: unconstrained values of the observed coordinates, shape (D,).
        observed: boolean array (D,). Another pattern does not compile again.

    Returns:
        Draws (num_draws, D), and the log of the integral of exp(-E) over the free coordinates.
    """
    key = jax.random.fold_in(jax.random.fold_in(rng_key, EXACT), row)
    draws, log_prob = _compiled_draws()(key, energy.energy_fn, num_draws, values, observed)
    # The joint density integrates to one, whatever rounding makes of it.
    return draws, float(log_prob) if observed.any() else 0.0


@cache
def _compiled_draws() -> Callable[..., tuple[Array, Array]]:
    """The draws as one compiled program, made once the devices are known."""
    return jax.jit(
        lambda rng_key, energy, num_draws, values, observed: energy.sample_given(
            rng_key, num_draws, values, observed
        ),
        static_argnums=2,
        compiler_options=compiler_options(),
    )
