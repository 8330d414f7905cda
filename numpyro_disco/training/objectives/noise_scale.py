"""The choice of the smoothing sigma_0 by held-out likelihood."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco._statistics import selected
from numpyro_disco._typing import Array
from numpyro_disco.training.rows.batches import TrainingRows
from numpyro_disco.training.rows.row_posterior import row_posterior

MAX_JUDGES = 1024
"""Most held-out rows that judge a noise scale."""
TRIED_SCALES = tuple(float(s) for s in np.geomspace(0.01, 1, 15))
"""Noise scales that are tried, in standardised units, smallest first."""


def choose_noise_scale(
    rows: TrainingRows, held_out: TrainingRows
) -> tuple[float, dict[float, float]]:
    """Choose the noise scale at which the smoothed rows best predict held-out rows.

    This is the bandwidth of a kernel density estimate by held-out likelihood, among `TRIED_SCALES`.
    A smaller scale leaves the training rows isolated; a larger one loses structure that they show.
    A network also interpolates between rows, so it never needs more smoothing than this.

    Args:
        rows: standardised rows to train on.
        held_out: standardised rows that judge; at most `MAX_JUDGES` are read.

    Returns:
        The scale, and the mean held-out log density by scale.
    """
    judges = held_out.values[:MAX_JUDGES]
    weights = selected(held_out.weights, slice(MAX_JUDGES))
    tried = {
        scale: float(np.average(smoothed_log_density(rows, judges, scale), weights=weights))
        for scale in TRIED_SCALES
    }
    return max(tried, key=lambda scale: tried[scale]), tried


def smoothed_log_density(rows: TrainingRows, held_out: np.ndarray, scale: float) -> np.ndarray:
    """Log density of held-out rows under the rows smoothed by `scale`.

    Args:
        rows: standardised rows.
        held_out: standardised rows, shape (M, D); at most `MAX_JUDGES` are read.
        scale: standard deviation of the smoothing, in standardised units.

    Returns:
        Array of shape (min(M, MAX_JUDGES),).
    """
    points = jnp.asarray(held_out[:MAX_JUDGES])
    found = _log_density(jax.random.key(0), points, rows, jnp.asarray(scale, points.dtype))
    return np.asarray(found, np.float64)


@jax.jit
def _log_density(rng_key: Array, points: Array, rows: TrainingRows, noise_scale: Array) -> Array:
    return row_posterior(
        rng_key, points, jnp.asarray(rows.values), noise_scale, rows.weights
    ).log_density
