"""A mode that draws of the base met and the particles lost, as far as densities can show it.

A narrow mode holds little of the path's mass until b is near 1. The few particles that start in it
then leave it, and hardly any come back, in any of the runs. But the draws of the base were there.

Let R_k be the region in which the target's density exceeds that of the k-th highest of N particles.
If particles are draws of the target, R_k holds k / (N + 1) of its mass on average. The M draws of
the base estimate the same mass without bias,

    mass of R_k  ~  1/M sum over draws in R_k of target / base.

If this is a sizeable share of the runs' own estimate of all mass, and many times k / (N + 1), the
particles have lost a mode. By Markov's inequality an estimate is r times as large as the truth with
a probability of at most 1 / r, however heavy the tail of its weights is. That bounds false alarms.

All densities are known anyway, so this costs no evaluation. A mode that no draw of the base met
stays unseen.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp

from numpyro_disco._typing import Array
from numpyro_disco.tempering.state import Particles

NUM_HIGHEST = 64
"""Number of the base's draws that are kept, those at which the target is highest."""
LEAST_MISSED = 0.1
"""Least share of the mass that counts."""
LEAST_RATIO = 200
"""Least ratio of the mass that the base's draws find in a region to that of the particles there."""


def highest_draws(flat: Particles) -> Array:
    """The draws of the base at which the target is highest.

    Leaving out the others makes the estimate of a region's mass smaller, and never larger.

    Args:
        flat: all draws of the base, shape (M,).

    Returns:
        Their log target, and the log of target / base / M; shape (2, min(M, 64)).
    """
    num_drawn = len(flat.log_target)
    log_target, places = jax.lax.top_k(flat.log_target, min(NUM_HIGHEST, num_drawn))
    return jnp.stack([log_target, log_target - flat.log_base[places] - jnp.log(num_drawn)])


def lost_a_mode(highest: Array, log_target: Array, log_masses: Array) -> bool:
    """Return True if independent runs together have lost a mode that their base draws met.

    Args:
        highest: what `highest_draws` returned for each run, shape (runs, 2, n).
        log_target: log density of the target at the particles, shape (runs, particles).
        log_masses: each run's estimate of the log of the target's mass, shape (runs,).
    """
    draws, log_weights = np.swapaxes(np.asarray(highest, np.float64), 0, 1).reshape(2, -1)
    particles = np.sort(np.asarray(log_target, np.float64), axis=None)[::-1]
    # The draws from the highest down, and the mass of the region above each of them.
    order = np.argsort(-draws)
    log_all = logsumexp(np.asarray(log_masses, np.float64))
    log_found = np.logaddexp.accumulate(log_weights[order]) - log_all
    # Particles at least as high as the draw: the last of them is below the whole region.
    expected = (np.searchsorted(-particles, -draws[order]) + 1) / (len(particles) + 1)
    return bool((log_found > np.log(np.maximum(LEAST_MISSED, LEAST_RATIO * expected))).any())
