"""Likelihoods that are NaN at some draws of the priors, against closed forms."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers.smc import QUICK, RUN_SIGMAS, tempered
from helpers.statistics import assert_within, mean_and_error
from scipy.stats import norm, truncnorm

NOISE, Y = 0.5, 0.5
GAIN = 1 / (1 + NOISE**2)
MEAN, DEVIATION = GAIN * Y, NOISE * np.sqrt(GAIN)


def truth(edge):
    """Log evidence and posterior mean of th ~ N(0, 1), y ~ N(th, NOISE) over th > edge."""
    log_mass = norm.logsf(edge, MEAN, DEVIATION)
    evidence = norm.logpdf(Y, 0.0, np.sqrt(1 + NOISE**2)) + log_mass
    return evidence, truncnorm.mean((edge - MEAN) / DEVIATION, np.inf, MEAN, DEVIATION)


def factor(edge):
    """The likelihood itself is NaN."""

    def model():
        th = numpyro.sample("th", dist.Normal(0.0, 1.0))
        numpyro.factor("l", jnp.where(th < edge, jnp.nan, dist.Normal(th, NOISE).log_prob(Y)))

    return model


def solver(edge):
    """A prediction is NaN, and so are its gradient and the gradient of what is finite."""

    def model():
        th = numpyro.sample("th", dist.Normal(0.0, 1.0))
        prediction = th + 0 * jnp.sqrt(th - edge)
        numpyro.sample("y", dist.Normal(prediction, NOISE), obs=Y)

    return model


def no_gradient(edge):
    """The gradient is NaN on the other side, where the likelihood is finite."""

    def model():
        th = numpyro.sample("th", dist.Normal(0.0, 1.0))
        shift = jnp.where(th > edge + 0.7, jnp.sqrt(edge + 0.7 - th), 0.0)
        shift = jnp.where(th > edge + 0.7, 0.0, shift)
        flat = jnp.where(th < edge, jnp.nan, shift)
        numpyro.sample("y", dist.Normal(th + flat, NOISE), obs=Y)

    return model


def check(smc, edge, log_share=0.0):
    """The evidence and the mean, with `log_share` added to the truth of the evidence."""
    evidence, mean = truth(edge)
    ratio = np.exp(np.asarray(smc.log_normalizer, np.float64) - evidence - log_share)
    found, error = mean_and_error(ratio)
    assert_within(found, 1.0, error, resolution=0.1, sigmas=RUN_SIGMAS, label="evidence")
    draws = np.asarray(smc.get_samples(group_by_chain=True)["th"], np.float64)
    found, error = mean_and_error(draws.mean(1))
    assert_within(found, mean, error, resolution=0.1, sigmas=RUN_SIGMAS, label="mean")


@pytest.mark.parametrize("model", [solver, no_gradient])
def test_the_evidence_is_the_integral_over_the_rest(model):
    edge = -0.2
    smc = tempered(model(edge), num_chains=16, non_finite="impossible")
    share = norm.cdf(edge)
    np.testing.assert_allclose(smc.impossible_share, share, atol=5 * 0.5 / np.sqrt(32 * 512))
    check(smc, edge)
    # The broken twin: the prior renormalised to where the model works.
    with pytest.raises(AssertionError, match="evidence is off"):
        check(smc, edge, log_share=-np.log1p(-share))


def test_one_draw_in_four_thousand():
    smc = tempered(factor(-3.5), num_chains=4, num_particles=1000, non_finite="impossible")
    assert truth(-3.5)[0] == pytest.approx(-1.1305, abs=1e-4)
    np.testing.assert_allclose(smc.log_normalizer, -1.1305, atol=0.05)
    assert 0 < float(smc.impossible_share.mean()) < 1e-3


def test_a_prior_that_is_not_a_number_stays_an_error():
    def model():
        scale = numpyro.sample("scale", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.Normal(jnp.log(scale), 1.0))

    with pytest.raises(RuntimeError, match="NaN"):
        tempered(model, non_finite="impossible", **QUICK)


def test_a_model_that_fails_everywhere():
    with pytest.raises(RuntimeError, match="every particle has weight zero"):
        tempered(factor(100.0), non_finite="impossible", **QUICK)


@pytest.mark.slow
def test_a_kernel_without_gradients():
    smc = tempered(
        solver(-0.2), num_chains=16, kernel="random_walk", max_moves=16, non_finite="impossible"
    )
    check(smc, -0.2)
