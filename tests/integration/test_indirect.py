"""Likelihoods of the coordinates: measurement errors, a linear map, a censoring bound.

The energy is Gaussian, so the moments of each posterior are known. Runs of TemperedSMC are
independent, which gives standard errors. NUTS on the same kind of model is in `test_nuts.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers.priors import log_mass
from helpers.statistics import assert_within, mean_and_error
from helpers.three_coordinates import COVARIANCE, MEAN, NAMES, PRIOR
from scipy import stats

import numpyro_disco as disco

pytestmark = pytest.mark.statistics

RUNS = 16


def check(model, mean, covariance, log_likelihood, *args):
    """Check all moments and the evidence; a posterior shifted by one deviation must fail."""
    smc = disco.TemperedSMC(model, num_particles=512, num_chains=RUNS, progress_bar=False)
    smc.run(jax.random.key(0), *args)
    draws = smc.get_samples(group_by_chain=True)
    x = np.stack([draws[f"x.{name}"] for name in NAMES], axis=-1).astype(np.float64)
    deviation = np.sqrt(np.diagonal(covariance))
    for found, truth, what in ((x.mean(1), mean, "means"), (x.std(1), deviation, "deviations")):
        estimate, error = mean_and_error(found)
        assert_within(estimate, truth, error, sigmas=7.4, resolution=0.15, label=what)
    with pytest.raises(AssertionError, match="is off"):
        estimate, error = mean_and_error(x.mean(1))
        assert_within(estimate, mean + deviation, error, sigmas=7.4, resolution=9, label="twin")
    truth = log_mass(COVARIANCE) + log_likelihood
    ratio = np.exp(np.asarray(smc.log_normalizer, np.float64) - truth)
    estimate, error = mean_and_error(ratio)
    assert_within(estimate, 1.0, error, sigmas=7.4, resolution=0.2, label="evidence")


def given_linear(matrix, noise, y):
    """Posterior of x given y = matrix x + noise, and the log density of y."""
    covariance = matrix @ COVARIANCE @ matrix.T + noise
    gain = COVARIANCE @ matrix.T @ np.linalg.inv(covariance)
    log_density = stats.multivariate_normal.logpdf(y, matrix @ MEAN, covariance)
    return MEAN + gain @ (y - matrix @ MEAN), COVARIANCE - gain @ matrix @ COVARIANCE, log_density


@pytest.mark.slow
def test_known_measurement_errors():
    """Two coordinates have an error of their own; the third is never observed."""
    y, errors = np.array([1.4, -1.0]), np.array([0.3, 0.8])

    def model(y, errors):
        x = disco.sample("x", PRIOR)
        numpyro.sample("y", dist.Normal(x[..., :2], errors).to_event(1), obs=y)

    check(model, *given_linear(np.eye(3)[:2], np.diag(errors**2), y), y, errors)


def test_a_linear_map():
    matrix, y = np.array([[1.0, 1.0, 1.0], [0.5, -1.0, 0.0]]), np.array([1.5, -0.4])

    def model(y):
        x = disco.sample("x", PRIOR)
        seen = jnp.einsum("ij,...j->...i", jnp.asarray(matrix), x)
        numpyro.sample("y", dist.Normal(seen, 0.4).to_event(1), obs=y)

    check(model, *given_linear(matrix, 0.16 * np.eye(2), y), y)


@pytest.mark.slow
def test_a_censoring_bound():
    """A measurement is only known to lie above a limit: the moments of a truncated normal."""
    limit, error = 1.2, 0.5

    def model(limit):
        x = disco.sample("x", PRIOR)
        above = 1.0 - dist.Normal(x[..., 1], error).cdf(limit)
        numpyro.factor("above", jnp.log(above))

    variance = COVARIANCE[1, 1] + error**2
    alpha = (limit - MEAN[1]) / variance**0.5
    hazard = stats.norm.pdf(alpha) / stats.norm.sf(alpha)
    # y = x_b + noise is a truncated normal, and x is linear in y plus independent noise.
    gain = COVARIANCE[:, 1] / variance
    mean = MEAN + gain * variance**0.5 * hazard
    cut = variance * (1 + alpha * hazard - hazard**2)
    covariance = COVARIANCE - np.outer(gain, gain) * (variance - cut)
    check(model, mean, covariance, stats.norm.logsf(alpha), limit)
