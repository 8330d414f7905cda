"""NUTS on models with a Gaussian learned prior, against closed forms.

First with NumPyro's `condition` on a coordinate, in both precisions; then with the prior as an
argument of a compiled model.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers import three_coordinates
from helpers.models import CHAIN_SIGMAS, KEY, chain_means, nuts
from helpers.priors import FLIP, gaussian_prior
from helpers.statistics import assert_within
from numpyro.diagnostics import effective_sample_size
from numpyro.handlers import condition

import numpyro_disco as disco

NAMES = ("a", "b", "c")
MEAN = np.array([1.0, -2.0, 0.5])
FACTOR = np.array([[1.0, 0.0, 0.0], [0.8, 0.9, 0.0], [-0.9, 0.6, 0.7]])
COVARIANCE = FACTOR @ FACTOR.T
A, NOISE = 0.3, 0.5


def prior_of(covariance=COVARIANCE, reference_covariance=4 * COVARIANCE):
    reference = disco.GaussianReference(MEAN, reference_covariance)
    return gaussian_prior(MEAN, covariance, names=NAMES, reference=reference)


def posterior(y):
    """Mean and sd of (b, c) given a = A and y ~ N(b, NOISE), by two updates of the Gaussian."""
    free = [1, 2]
    gain = COVARIANCE[free, 0] / COVARIANCE[0, 0]
    mean = MEAN[free] + gain * (A - MEAN[0])
    covariance = COVARIANCE[np.ix_(free, free)] - np.outer(gain, COVARIANCE[0, free])
    weight = covariance[:, 0] / (covariance[0, 0] + NOISE**2)
    mean = mean + weight * (y - mean[0])
    covariance = covariance - np.outer(weight, covariance[0])
    return mean, np.sqrt(np.diag(covariance))


def model(prior, y):
    x = disco.sample("x", prior)
    numpyro.sample("y", dist.Normal(x[..., 1], NOISE), obs=y)


def plated(prior, y):
    with numpyro.plate("member", len(y)):
        model(prior, y)


def conditioned(model):
    """A sampler that is compiled once for all priors and data of one shape."""
    known = condition(model, {"x.a": A})
    return nuts(known, num_warmup=400, num_samples=2500, num_chains=4, jit_model_args=True)


@pytest.fixture(scope="module")
def one_vector():
    return conditioned(model)


def draw(mcmc, prior, y):
    mcmc.run(jax.random.key(0), prior, y)
    return mcmc.get_samples(group_by_chain=True)


def check(draws, mean, deviation, label):
    """Means within 5 standard errors, deviations within 5 %."""
    assert set(draws) == {"x.b", "x.c"}
    stacked = np.stack([np.asarray(draws["x.b"]), np.asarray(draws["x.c"])], axis=-1)
    ess = np.asarray(effective_sample_size(stacked))
    error = deviation / np.sqrt(ess)
    estimate = stacked.mean((0, 1))
    print(f"{label}: z scores of the means {np.round((estimate - mean) / error, 2).tolist()}")
    assert_within(estimate, mean, error, resolution=0.2 * deviation, label=f"{label}: mean")
    ratio = stacked.std((0, 1)) / deviation
    print(f"{label}: standard deviations over the truth {np.round(ratio, 3).tolist()}")
    assert (np.abs(ratio - 1) <= 0.05).all()


def test_conditioned_model_matches_closed_form(one_vector):
    check(draw(one_vector, prior_of(), 0.7), *posterior(0.7), "one vector")


def test_conditioned_model_under_a_plate_of_five():
    y = np.linspace(-3, 1, 5)
    truth = [posterior(value) for value in y]
    mean = np.stack([m for m, _ in truth])
    deviation = np.stack([s for _, s in truth])
    check(draw(conditioned(plated), prior_of(), y), mean, deviation, "plate of 5")


def test_conditioned_model_in_double_precision():
    with jax.enable_x64(True):
        draws = draw(conditioned(model), prior_of(), 0.7)
        assert draws["x.b"].dtype == np.float64
        check(draws, *posterior(0.7), "double precision")


def test_a_wrong_energy_fails_the_check(one_vector):
    wrong = COVARIANCE * np.where(np.eye(3), 1, -1)
    draws = draw(one_vector, prior_of(wrong), 0.7)
    with pytest.raises(AssertionError):
        check(draws, *posterior(0.7), "sign of the correlations flipped")


def test_a_prior_as_a_model_argument_is_not_compiled_in():
    """A compiled sampler is reused for another prior of the same shapes."""
    traces = 0

    def counted(prior):
        nonlocal traces
        traces += 1
        disco.sample("x", prior)

    mcmc = nuts(counted, num_warmup=300, num_samples=2000, jit_model_args=True)
    spread = []
    for scale in (1.0, 3.0):
        mcmc.run(jax.random.key(1), prior_of(scale**2 * COVARIANCE, 16 * COVARIANCE))
        spread.append(np.std(mcmc.get_samples()["x.a"]))
        after = traces
    mcmc.run(jax.random.key(2), prior_of(4 * COVARIANCE, 16 * COVARIANCE))
    # NumPyro traces the model again to start each run, but not the sampler.
    assert traces - after <= 3
    assert 2.6 < spread[1] / spread[0] < 3.4


# -- other weights in the same compiled sampler --------------------------------------------------


@pytest.fixture(scope="module")
def chains():
    """One compiled sampler; the prior is an argument of the model."""
    return nuts(
        three_coordinates.model,
        num_warmup=150,
        num_samples=500,
        num_chains=8,
        jit_model_args=True,
    )


def assert_posterior(mcmc, truth):
    estimate, error = chain_means(mcmc, ("x.a", "x.b", "x.c"))
    assert_within(
        estimate, truth, error, resolution=0.8, sigmas=CHAIN_SIGMAS, label="posterior mean"
    )


def test_nuts_with_the_prior_as_an_argument(chains):
    mean, covariance = three_coordinates.MEAN, three_coordinates.COVARIANCE
    chains.run(KEY, three_coordinates.PRIOR, jnp.asarray(2.0))
    assert set(chains.get_samples()) == {"x.a", "x.b", "x.c"}
    assert_posterior(chains, three_coordinates.posterior(2.0)[0])
    # Other weights and another observation reuse the compiled sampler.
    chains.run(KEY, three_coordinates.prior_of(mean + 1.0), jnp.asarray(-1.0))
    assert_posterior(chains, three_coordinates.posterior(-1.0, mean=mean + 1.0)[0])
    with pytest.raises(AssertionError, match="is off"):
        assert_posterior(chains, three_coordinates.posterior(-1.0)[0])
    # The broken twin: the cross term of a and b with its sign flipped.
    broken = three_coordinates.prior_of(covariance=covariance * FLIP)
    chains.run(KEY, broken, jnp.asarray(2.0))
    with pytest.raises(AssertionError, match="is off"):
        assert_posterior(chains, three_coordinates.posterior(2.0)[0])
