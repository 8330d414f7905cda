"""Draws and likelihoods: `Predictive`, `log_likelihood`, and pictures of models."""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers.statistics import assert_within, mean_and_error
from helpers.two_coordinates import (
    COVARIANCE,
    KEY,
    MEAN,
    NOISE,
    PRIOR,
    TWIN,
    Y,
    both_ways,
    model,
    put,
    sites_of,
)
from numpyro.infer import Predictive, log_likelihood
from numpyro.infer.inspect import get_model_relations


@both_ways
def test_log_likelihood_of_draws(vector):
    draws = jax.random.normal(KEY, (3, 7, 2))
    samples = sites_of("x", draws, vector)
    found = log_likelihood(model, samples, vector=vector, batch_ndims=2)
    truth = dist.Normal(draws[..., 0], NOISE).log_prob(Y)
    np.testing.assert_allclose(found["y"], truth, rtol=1e-5)
    # The joint factor of coordinates is listed like any `numpyro.factor`; it is not a likelihood.
    assert set(found) == ({"y"} if vector else {"y", "x.log_prob"})
    if not vector:
        np.testing.assert_allclose(found["x.log_prob"], PRIOR.log_prob(draws), rtol=1e-5)


def unobserved(vector=False, prior=PRIOR):
    x = put("x", prior, vector)
    numpyro.sample("y", dist.Normal(x[..., 0] - x[..., 1], NOISE))


@both_ways
def test_predictive_takes_draws_of_several_chains(vector):
    draws = jax.random.normal(KEY, (3, 7, 2))
    predicted = Predictive(unobserved, sites_of("x", draws, vector), batch_ndims=2)(KEY, vector)
    assert predicted["y"].shape == (3, 7)
    assert np.abs(predicted["y"] - (draws[..., 0] - draws[..., 1])).max() < 5 * NOISE


@pytest.mark.statistics
def test_predictive_draws_from_the_prior():
    """Many draws at once are fast; drawn one at a time, each needs a run of tempered SMC."""
    variance = COVARIANCE[0, 0] + COVARIANCE[1, 1] - 2 * COVARIANCE[0, 1] + NOISE**2
    truth = np.array([MEAN[0] - MEAN[1], variance])

    def check(prior):
        samples = {"x": prior.sample(KEY, (4000,))}
        y = np.asarray(Predictive(unobserved, samples)(KEY, True)["y"], np.float64)
        estimate, error = mean_and_error(np.stack([y, (y - truth[0]) ** 2], axis=-1))
        # Draws of one call share their particles: they are less informative than independent ones.
        assert_within(estimate, truth, 2 * error, resolution=[0.5, 1.5], label="simulated y")

    check(PRIOR)
    with pytest.raises(AssertionError, match="is off"):
        check(TWIN)
    drawn = Predictive(unobserved, num_samples=2)(KEY, vector=True)
    assert drawn["x"].shape == (2, 2) and drawn["y"].shape == (2,)
    assert np.isfinite(drawn["x"]).all() and (drawn["x"][0] != drawn["x"][1]).all()


def test_relations_of_a_vector_site_can_be_drawn():
    relations = get_model_relations(model, model_kwargs={"vector": True})
    assert relations["sample_dist"] == {"x": "EnergyDistribution", "y": "Normal"}
    assert relations["sample_sample"]["y"] == ["x"]


@both_ways
def test_models_can_be_rendered(vector):
    pytest.importorskip("graphviz")
    source = numpyro.render_model(model, model_kwargs={"vector": vector}).source
    assert ("x" if vector else "x.b") in source
