"""Priors with closed forms."""

import jax
import jax.numpy as jnp
import numpy as np

import numpyro_disco as disco


def gaussian_energy(parameters, x):
    """Energy of N(mean, precision^-1), up to a constant."""
    mean, precision = parameters
    return 0.5 * (x - mean) @ precision @ (x - mean)


def gaussian_prior(mean, covariance, names=None, reference_variance=6.0):
    """An `EnergyDistribution` of N(mean, covariance), with a wider reference around zero."""
    parameters = jnp.asarray(mean), jnp.asarray(np.linalg.inv(covariance))
    dimension = len(mean)
    reference = disco.GaussianReference(np.zeros(dimension), reference_variance * np.eye(dimension))
    return disco.EnergyDistribution(
        jax.tree_util.Partial(gaussian_energy, parameters), reference, names=names
    )
