"""Gaussian energies as learned priors, whose posteriors are known in closed form."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import numpyro_disco as disco

FLIP = np.array([[1, -1, 1], [-1, 1, 1], [1, 1, 1]])
"""Times a covariance of three coordinates: flips the sign of the term of the first two."""


def gaussian_energy(parameters, x):
    """Energy of a Gaussian with parameters (mean, precision), unnormalised."""
    mean, precision = parameters
    return 0.5 * (x - mean) @ precision @ (x - mean)


def gaussian_prior(mean, covariance, names=None, *, reference=None):
    """A Gaussian prior whose mean and precision are leaves of the distribution.

    The reference is by default N(0, 4 I).
    """
    if reference is None:
        reference = disco.GaussianReference(np.zeros(len(mean)), 4.0 * np.eye(len(mean)))
    parameters = (jnp.asarray(mean), jnp.asarray(np.linalg.inv(covariance)))
    energy = jax.tree_util.Partial(gaussian_energy, parameters)
    return disco.EnergyDistribution(energy, reference, names=names)


def log_mass(covariance):
    """Log of the integral of exp(-energy) of a Gaussian."""
    return float(0.5 * np.linalg.slogdet(2 * np.pi * np.asarray(covariance))[1])
