"""A Gaussian prior over three coordinates, a, b and c; a is observed with noise."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import numpyro_disco as disco
from helpers.priors import gaussian_prior

NAMES = ("a", "b", "c")
MEAN = np.array([0.5, -0.3, 0.2])
COVARIANCE = np.array([[1.0, 0.6, 0.2], [0.6, 1.5, -0.4], [0.2, -0.4, 0.8]])
NOISE = 0.5


def prior_of(mean=MEAN, covariance=COVARIANCE, names=NAMES):
    return gaussian_prior(mean, covariance, names=names)


PRIOR = prior_of()
POINT = jnp.array([0.1, 0.2, 0.3])
AT_POINT = disco.site_values("x", PRIOR, POINT)


def posterior(y, mean=MEAN, covariance=COVARIANCE):
    """Mean and covariance of x given y = x_a + noise."""
    gain = covariance[:, 0] / (covariance[0, 0] + NOISE**2)
    return mean + gain * (y - mean[0]), covariance - np.outer(gain, covariance[0])


TABLE = np.array(
    [[1.0, np.nan, 0.5], [np.nan, 0.2, np.nan], [0.1, 0.2, 0.3], [np.nan, np.nan, np.nan]]
)
NUM_MISSING = int(np.isnan(TABLE).sum())


def model(prior=PRIOR, y=None):
    x = disco.sample("x", prior)
    numpyro.sample("y", dist.Normal(x[..., 0], NOISE), obs=y)
    return x


def with_table(table, prior=PRIOR):
    x = disco.sample("x", prior, obs=table)
    numpyro.deterministic("completed", x)
