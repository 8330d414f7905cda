"""Categorical parts of a mixture: probabilities of levels, and their look-up by codes.

Discrete coordinates hold codes of levels (`_levels.py`). Arrays over levels have an axis of length
L, the largest number of levels, and -inf as the log probability of what is no level.

Codes are compared with all levels at once, so a look-up is one product of matrices and needs no
gather. Its derivative with respect to a code is zero.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco._levels import level_places
from numpyro_disco._typing import Array

LEAST = -1e30
"""Stands for -inf in products, where zero times infinity is not a number."""


def level_indicators(codes: Array, num_levels: tuple[int, ...]) -> Array:
    """Indicators of the levels that codes are ("one-hot").

    Args:
        codes: points (..., D); entries of continuous coordinates are ignored.
        num_levels: levels of each coordinate.

    Returns:
        Zeros and ones, shape (..., F), in the order of `level_places`. A code that is no level has
        zeros only.
    """
    coordinate, level = level_places(num_levels)
    return (codes[..., coordinate] == level).astype(codes.dtype)


def categorical_log_probs(
    codes: Array, log_probabilities: Array, num_levels: tuple[int, ...], which: Array
) -> Array:
    """Log probability of codes under each component, summed over coordinates.

    Args:
        codes: points (..., D).
        log_probabilities: shape (..., K, D, L).
        num_levels: levels of each coordinate.
        which: boolean array (..., D): discrete coordinates with False are left out.

    Returns:
        Shape (..., K); -inf where a code is no level.
    """
    coordinate, level = level_places(num_levels)
    indicators = level_indicators(codes, num_levels) * which[..., coordinate]
    table = jnp.maximum(log_probabilities[..., coordinate, level], LEAST)
    total = jnp.einsum("...f,...kf->...k", indicators, table, precision=jax.lax.Precision.HIGHEST)
    asked = (which & (np.asarray(num_levels) > 0)).sum(-1)
    known = indicators.sum(-1) == asked
    return jnp.where(known[..., None] & (total > 0.5 * LEAST), total, -jnp.inf)


def draw_codes(uniform: Array, probabilities: Array) -> Array:
    """Codes of levels, by inversion of the distribution function.

    Args:
        uniform: numbers in [0, 1), shape (...).
        probabilities: non-negative, not all zero, shape (..., L).

    Returns:
        Codes, shape (...). A level of probability zero is never drawn.
    """
    cumulative = jnp.cumsum(probabilities, axis=-1)
    place = (1 - uniform)[..., None] * cumulative[..., -1:]
    return (cumulative[..., :-1] < place).sum(-1).astype(probabilities.dtype)


def tempered(log_probabilities: Array, inverse_temperature: Array) -> tuple[Array, Array]:
    """Powers of categorical distributions, normalised, and the log of their masses.

    Args:
        log_probabilities: shape (..., D, L).
        inverse_temperature: b, positive.

    Returns:
        Normalised log probabilities (..., D, L), and log sum_c exp(b log_probabilities_c), shape
        (..., D), which is 0 for continuous coordinates.
    """
    power = inverse_temperature * log_probabilities
    discrete = (log_probabilities > -jnp.inf).any(-1)
    log_mass = jnp.where(discrete, jax.nn.logsumexp(power, axis=-1), 0.0)
    return power - log_mass[..., None], log_mass
