"""Runs of TemperedSMC, a model with known evidence, and a check of the evidence."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy.stats import norm

import numpyro_disco as disco
from helpers.statistics import assert_within, mean_and_error

QUICK = {"num_particles": 40, "num_chains": 2, "kernel": "random_walk", "num_sweeps": 0}
"""The smallest program, for tests of what goes in and comes out, not of the draws.

It compiles in half of the time that one with gradients and sweeps takes."""
RUN_SIGMAS = 7.4
"""Gate for standard errors from 20 runs: exceeding 7.4 is as rare as exceeding 5 known ones."""


def tempered(model, *args, num_particles=512, num_chains=8, seed=0, **settings):
    """A `TemperedSMC` that has run."""
    smc = disco.TemperedSMC(
        model,
        num_particles=num_particles,
        num_chains=num_chains,
        progress_bar=False,
        **settings,
    )
    smc.run(jax.random.key(seed), *args)
    return smc


def check_evidence(smc, truth):
    """Check mean(Z-hat / Z) = 1 for the evidence, and for that of the path alone."""
    estimates = {"evidence": smc.log_normalizer, "path alone": smc.log_path_normalizer}
    for label, estimate in estimates.items():
        mean, error = mean_and_error(np.exp(np.asarray(estimate, np.float64) - truth))
        assert_within(mean, 1.0, error, resolution=0.6, sigmas=RUN_SIGMAS, label=label)


# -- a model with conjugate sites ------------------------------------------------------------------

Y = np.array([-2.1, -1.0, 2.2, 1.5, 3.0], np.float32)
NOISE = 0.7


def conjugate(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    scale = numpyro.sample("scale", dist.LogNormal(0.0, 0.5))
    numpyro.sample("y", dist.Normal(mu, NOISE), obs=y)
    numpyro.sample("s", dist.LogNormal(jnp.log(scale), 0.5), obs=2.0)


def conjugate_evidence(y):
    """Exact log evidence: mu is conjugate to y, and the logarithm of scale to s."""
    covariance = NOISE**2 * np.eye(len(y)) + 1
    quadratic = y @ np.linalg.solve(covariance, y)
    log_density = -0.5 * (quadratic + np.linalg.slogdet(2 * np.pi * covariance)[1])
    return log_density + norm.logpdf(np.log(2), 0, np.sqrt(0.5)) - np.log(2)
