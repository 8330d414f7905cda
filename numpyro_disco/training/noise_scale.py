"""The choice of the smoothing sigma_0 by held-out likelihood."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco._typing import Array
from numpyro_disco.training.row_posterior import row_posterior

MAX_JUDGES = 1024
"""Most held-out rows that judge a noise scale."""
TRIED_SCALES = tuple(float(s) for s in np.geomspace(0.01, 1, 15))
"""Noise scales that are tried, in standardised units, smallest first."""


def choose_noise_scale(rows: np.ndarray, held_out: np.ndarray) -> tuple[float, dict[float, float]]:
    """Choose the noise scale at which the smoothed rows best predict held-out rows.

    This is the bandwidth of a kernel density estimate by held-out likelihood, among `TRIED_SCALES`.
    A smaller scale leaves the training rows isolated; a larger one loses structure that they show.
    A network also interpolates between rows, so it never needs more smoothing than this.

    Args:
        rows: standardised rows to train on, shape (N, D).
        held_out: standardised rows that judge, shape (M, D); at most `MAX_JUDGES` are read.

    Returns:
        The scale, and the mean held-out log density by scale.
    """
    tried = {
        scale: float(smoothed_log_density(rows, held_out, scale).mean()) for scale in TRIED_SCALES
    }
    return max(tried, key=lambda scale: tried[scale]), tried


def smoothed_log_density(rows: np.ndarray, held_out: np.ndarray, scale: float) -> np.ndarray:
    """Log density of held-out rows under the rows smoothed by `scale`.

    Args:
        rows: standardised rows, shape (N, D).
        held_out: standardised rows, shape (M, D); at most `MAX_JUDGES` are read.
        scale: standard deviation of the smoothing, in standardised units.

    Returns:
        Array of shape (min(M, MAX_JUDGES),).
    """
    points = jnp.asarray(held_out[:MAX_JUDGES])
    found = _log_density(
        jax.random.key(0), points, jnp.asarray(rows), jnp.asarray(scale, points.dtype)
    )
    return np.asarray(found, np.float64)


@jax.jit
def _log_density(rng_key: Array, points: Array, rows: Array, noise_scale: Array) -> Array:
    return row_posterior(rng_key, points, rows, noise_scale).log_density
