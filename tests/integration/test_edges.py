"""Latents near an edge of their support, in single precision: right, or reported as failed."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers.smc import QUICK, RUN_SIGMAS, tempered
from helpers.statistics import assert_within, mean_and_error
from scipy.integrate import quad
from scipy.special import betaln, comb

SETTINGS = {"num_particles": 500, "num_chains": 8}


def beta_binomial(a, successes):
    """The model of `successes` in 3, p ~ Beta(a, a), with its log evidence and posterior mean."""

    def model():
        p = numpyro.sample("p", dist.Beta(a, a))
        numpyro.sample("y", dist.Binomial(3, p), obs=successes)

    evidence = np.log(comb(3, successes)) + betaln(a + successes, a + 3 - successes) - betaln(a, a)
    return model, evidence, (a + successes) / (2 * a + 3)


def check(smc, evidence, mean, unit=1.0):
    ratio = np.exp(np.asarray(smc.log_normalizer, np.float64) - evidence)
    found, error = mean_and_error(ratio)
    assert_within(found, 1.0, error, resolution=0.1, sigmas=RUN_SIGMAS, label="evidence")
    draws = np.asarray(smc.get_samples(group_by_chain=True)["p"], np.float64) / unit
    found, error = mean_and_error(draws.mean(1))
    assert_within(found, mean, error, resolution=0.1, sigmas=RUN_SIGMAS, label="mean")


@pytest.mark.parametrize("a, successes", [(0.01, 1), (0.5, 3)])
def test_mass_that_single_precision_holds(a, successes):
    model, evidence, mean = beta_binomial(a, successes)
    smc = tempered(model, **SETTINGS)
    check(smc, evidence, mean)
    # The broken twin: a Beta prior with another exponent.
    with pytest.raises(AssertionError, match="evidence is off"):
        check(smc, beta_binomial(1.5 * a, successes)[1], mean)


def test_numbers_far_out():
    def model():
        p = numpyro.sample("p", dist.HalfCauchy(1e20))
        numpyro.factor("y", -p / 1e20)

    mass, first = (
        quad(lambda x, k=k: x**k * 2 / np.pi / (1 + x**2) * np.exp(-x), 0, np.inf)[0]
        for k in (0, 1)
    )
    check(tempered(model, **SETTINGS), np.log(mass), first / mass, unit=1e20)


def gamma():
    p = numpyro.sample("p", dist.Gamma(0.01, 1.0))
    numpyro.sample("y", dist.Poisson(p), obs=0)


def dirichlet():
    p = numpyro.sample("p", dist.Dirichlet(jnp.full(3, 0.01)))
    numpyro.sample("y", dist.Multinomial(4, p), obs=jnp.array([4, 0, 0]))


def many():
    p = numpyro.sample("p", dist.Beta(0.01, 0.02).expand([3]).to_event(1))
    numpyro.factor("y", p.sum())


@pytest.mark.parametrize(
    "model",
    [
        beta_binomial(0.01, 3)[0],
        dirichlet,
        pytest.param(beta_binomial(0.01, 0)[0], marks=pytest.mark.slow),
        pytest.param(gamma, marks=pytest.mark.slow),
        pytest.param(many, marks=pytest.mark.slow),
    ],
)
def test_mass_between_the_edge_and_the_last_number_is_reported(model):
    with pytest.raises(RuntimeError, match="edge of their support"):
        tempered(model, **QUICK | {"num_particles": 100})


COMPONENTS = [dist.Uniform(0.0, 1.0), dist.Uniform(2.0, 3.0)]


def mixture(**support):
    def model():
        mixed = dist.MixtureGeneral(dist.Categorical(jnp.ones(2) / 2), COMPONENTS, **support)
        numpyro.sample("y", dist.Normal(numpyro.sample("m", mixed), 1.0), obs=1.0)

    return model


def test_a_mixture_of_uniforms_needs_its_own_support():
    with pytest.raises(ValueError, match="'m'.*NumPyro takes the first.*`MixtureGeneral"):
        tempered(mixture(), num_particles=64, num_chains=2)
    smc = tempered(mixture(support=dist.constraints.interval(0.0, 3.0)), num_chains=4)
    truth = np.log(0.5 * (0.5 - 0.15865525) + 0.5 * (0.97724987 - 0.84134475))
    np.testing.assert_allclose(smc.log_normalizer, truth, atol=0.05)
