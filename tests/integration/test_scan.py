"""Learned priors along NumPyro's `scan`: innovations of a time series.

The series is linear and Gaussian, so its density and evidence are known.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers.statistics import assert_within, mean_and_error
from helpers.two_coordinates import (
    COVARIANCE,
    KEY,
    LOG_SCALES,
    LOG_Z,
    MEAN,
    NAMES,
    NOISE,
    PRIOR,
    SERIES,
    assert_same,
    both_ways,
    potential,
    prior_of,
    put,
    series,
    sites_of,
    standardized,
)
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer import Predictive, log_likelihood
from numpyro.infer.util import initialize_model, log_density

import numpyro_disco as disco

INNOVATIONS = jax.random.normal(jax.random.key(1), (5, 2))


def unrolled(u, vector, forget=0.8):
    """Potential energy of `series`, as a plain loop."""
    e = u["e"] if vector else jnp.stack([u["e.a"], u["e.b"]], axis=-1)
    e = PRIOR.loc + PRIOR.scale * e
    level, log_prob = jnp.zeros(2), len(SERIES) * LOG_SCALES
    for innovation, seen in zip(e, SERIES, strict=True):
        level = forget * level + innovation
        log_prob += PRIOR.log_prob(innovation) + dist.Normal(level[0], NOISE).log_prob(seen)
    return -log_prob


@both_ways
def test_innovations_of_a_scan(vector):
    got = potential(series, PRIOR, SERIES, vector)
    at = standardized("e", INNOVATIONS, vector)
    assert_same(got, lambda u: unrolled(u, vector), at, lambda u: unrolled(u, vector, forget=0.7))


def test_an_energy_of_elementwise_weights_in_a_scan():
    """`scan` stacks weights along time, and stacked weights must not broadcast against points."""

    def elementwise(weights, x):
        return jnp.sum(weights * x**2)

    weights = jax.tree_util.Partial(elementwise, jnp.array([0.5, 2.0]))
    prior = disco.EnergyDistribution(weights, PRIOR.reference, names=NAMES)
    innovations = {"e": INNOVATIONS}
    joint = log_density(series, (prior, SERIES, True), {}, innovations)[0]
    series_joint = log_density(series, (PRIOR, SERIES, True), {}, innovations)[0]
    expected = series_joint - PRIOR.log_prob(INNOVATIONS).sum() + prior.log_prob(INNOVATIONS).sum()
    np.testing.assert_allclose(joint, expected, rtol=1e-5)


@both_ways
def test_a_plate_inside_a_scan(vector):
    def panel(prior):
        def step(level, _):
            with numpyro.plate("members", 3):
                return level + put("e", prior, vector), None

        scan(step, jnp.zeros((3, 2)), None, length=4)

    x = jax.random.normal(KEY, (4, 3, 2))
    got = potential(panel, PRIOR)(standardized("e", x, vector))
    expected = -(PRIOR.log_prob(x).sum() + 12 * LOG_SCALES)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@both_ways
def test_a_prior_clamped_anew_at_each_step_of_a_scan(vector):
    def given(a):
        def step(total, a):
            return total + put("e", PRIOR.clamp({"a": a}), vector)[..., 1], None

        scan(step, 0.0, a)

    u = standardized("e", INNOVATIONS, True)["e"][:, 1]
    at = {"e": u[:, None]} if vector else {"e.b": u}
    got = potential(given, INNOVATIONS[:, 0])(at)
    expected = -(PRIOR.log_prob(INNOVATIONS).sum() + 5 * jnp.log(PRIOR.scale[1]))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_a_prior_clamped_to_the_carry_of_a_scan_is_refused():
    def chained():
        def step(b, _):
            return disco.sample("e", PRIOR.clamp({"a": b}))[..., 1], None

        scan(step, 0.0, None, length=3)

    with pytest.raises(ValueError, match="is being inferred"):
        initialize_model(KEY, chained)


def test_conditioning_on_a_coordinate_along_a_scan():
    known = handlers.condition(series, {"e.a": INNOVATIONS[:, 0]})
    got = potential(known, PRIOR, SERIES, False)
    at = standardized("e", INNOVATIONS, False)
    # The Jacobian of the known coordinate is absent.
    expected = unrolled(at, False) + 5 * jnp.log(PRIOR.scale[0])
    np.testing.assert_allclose(got({"e.b": at["e.b"]}), expected, rtol=1e-5)
    with pytest.warns(UserWarning, match="'e.z'.*not a site of 'e'"):
        potential(handlers.condition(series, {"e.z": SERIES}), PRIOR, SERIES, False)


@both_ways
def test_likelihood_along_a_scan(vector):
    innovations = jnp.stack([INNOVATIONS, 2 * INNOVATIONS])
    found = log_likelihood(
        series, sites_of("e", innovations, vector), PRIOR, SERIES, vector=vector
    )["y"]
    forget = 0.8 ** np.abs(np.subtract.outer(range(5), range(5)))
    levels = np.tril(forget) @ np.asarray(innovations[..., 0]).T
    truth = dist.Normal(levels.T, NOISE).log_prob(SERIES)
    np.testing.assert_allclose(found, truth, rtol=1e-4, atol=1e-5)


@pytest.mark.statistics
def test_a_forecast_draws_a_vector_site_and_refuses_coordinates():
    def predict(vector):
        innovations = sites_of("e", jnp.stack([INNOVATIONS, 2 * INNOVATIONS]), vector)
        return Predictive(series, innovations)(KEY, PRIOR, None, vector, length=6)

    forecast = predict(True)["y"]
    assert forecast.shape == (2, 6) and np.isfinite(forecast).all()
    with pytest.raises(NotImplementedError, match="'a'.*cannot be drawn on its own"):
        predict(False)


@pytest.mark.parametrize("what", ["learned", "built in"])
def test_discrete_states_along_a_scan_need_real_support(what):
    """NumPyro sums states out of a `scan` only if its sites have real support."""

    def states():
        def step(z, seen):
            chances = jnp.array([[0.8, 0.2], [0.3, 0.7]])[z]
            z = numpyro.sample("z", dist.Categorical(chances), infer={"enumerate": "parallel"})
            if what == "learned":
                e = numpyro.sample("e", PRIOR)[..., 0]
            else:
                e = numpyro.sample("e", dist.Uniform(-3.0, 4.0))
            numpyro.sample("y", dist.Normal(e + z, NOISE), obs=seen)
            return z, None

        scan(step, 0, SERIES)

    with pytest.raises(AssertionError):
        initialize_model(KEY, states)


# -- tempering ----------------------------------------------------------------------------------


def check_evidence(smc, truth):
    estimate, error = mean_and_error(np.exp(np.asarray(smc.log_normalizer, np.float64) - truth))
    # Eight runs: Student's t with 7 degrees of freedom.
    assert_within(estimate, 1.0, error, resolution=0.8, sigmas=15, label="evidence over truth")


@pytest.mark.statistics
@pytest.mark.parametrize(
    "vector",
    [False, pytest.param(True, marks=pytest.mark.slow)],
    ids=["coordinates", "vector"],
)
def test_tempering_of_a_series(vector):
    """The evidence of a linear Gaussian time series, times the normaliser of the prior."""
    forget = np.tril(0.8 ** np.abs(np.subtract.outer(range(5), range(5))))
    truth = dist.MultivariateNormal(
        forget @ np.full(5, MEAN[0]), forget @ forget.T * COVARIANCE[0, 0] + NOISE**2 * np.eye(5)
    ).log_prob(SERIES)
    truth = float(truth) + 5 * LOG_Z
    smc = disco.TemperedSMC(
        partial(series, vector=vector), num_particles=300, num_chains=8, progress_bar=False
    )

    def check(prior):
        smc.run(KEY, prior, SERIES)
        check_evidence(smc, truth)

    check(PRIOR)
    with pytest.raises(AssertionError, match="is off"):
        check(prior_of(MEAN + 1.0))


@pytest.mark.statistics
@pytest.mark.slow
def test_tempering_of_a_series_with_a_built_in_distribution():
    """Each step of the series starts from its own draw."""

    def built_in(y, mean):
        def step(level, seen):
            level = 0.8 * level + numpyro.sample("e", dist.Normal(mean, 1.0))
            numpyro.sample("y", dist.Normal(level, NOISE), obs=seen)
            return level, None

        scan(step, 0.0, y)

    forget = np.tril(0.8 ** np.abs(np.subtract.outer(range(5), range(5))))
    covariance = forget @ forget.T + NOISE**2 * np.eye(5)
    truth = float(dist.MultivariateNormal(forget @ np.full(5, 0.5), covariance).log_prob(SERIES))
    smc = disco.TemperedSMC(built_in, num_particles=300, num_chains=8, progress_bar=False)

    def check(mean):
        smc.run(KEY, SERIES, mean)
        check_evidence(smc, truth)

    check(0.5)
    with pytest.raises(AssertionError, match="is off"):
        check(1.5)
