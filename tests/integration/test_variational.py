"""Variational inference on models with learned priors, by hand-written and automatic guides."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers import three_coordinates
from helpers.statistics import assert_within, mean_and_error
from helpers.two_coordinates import (
    KEY,
    LOG_SCALES,
    LOG_Z,
    PRIOR,
    Y,
    both_ways,
    model,
    posterior,
)
from helpers.variables import LOC, SCALE, variables_prior
from numpyro.infer import SVI, Trace_ELBO, init_to_uniform
from numpyro.infer.autoguide import (
    AutoBNAFNormal,
    AutoDelta,
    AutoLaplaceApproximation,
    AutoMultivariateNormal,
    AutoNormal,
)

import numpyro_disco as disco

VARIABLES = variables_prior()


def exact_guide(vector, flip=1.0):
    """The posterior as a guide; with `flip=-1` its correlation has the wrong sign."""
    mean, covariance, _ = posterior()
    covariance = covariance * np.array([[1, flip], [flip, 1]])

    def guide(prior=PRIOR, y=Y, vector=vector):
        if vector:
            numpyro.sample("x", dist.MultivariateNormal(mean, covariance))
            return
        a = numpyro.sample("x.a", dist.Normal(mean[0], np.sqrt(covariance[0, 0])))
        slope = covariance[1, 0] / covariance[0, 0]
        rest = np.sqrt(covariance[1, 1] - slope * covariance[0, 1])
        numpyro.sample("x.b", dist.Normal(mean[1] + slope * (a - mean[0]), rest))

    return guide


@both_ways
def test_the_bound_is_the_evidence_if_a_hand_written_guide_is_the_posterior(vector):
    """The bound then has no variance: every draw gives the evidence times the prior's Z."""

    def loss(guide):
        return Trace_ELBO(num_particles=5).loss(KEY, {}, model, guide, vector=vector)

    truth = -(posterior()[2] + LOG_Z)
    np.testing.assert_allclose(loss(exact_guide(vector)), truth, rtol=1e-4)
    assert abs(loss(exact_guide(vector, flip=-1.0)) - truth) > 0.05


@both_ways
def test_the_bound_is_the_evidence_if_an_automatic_guide_is_the_posterior(vector):
    mean, covariance, evidence = posterior()
    guide = AutoMultivariateNormal(model, init_loc_fn=init_to_uniform)
    svi = SVI(model, guide, numpyro.optim.Adam(0.1), Trace_ELBO(num_particles=5))
    svi.init(KEY, vector=vector)
    scale = np.asarray(PRIOR.scale, np.float64)
    params = {
        "auto_loc": jnp.asarray((mean - np.asarray(PRIOR.loc)) / scale),
        "auto_scale_tril": jnp.asarray(np.linalg.cholesky(covariance / np.outer(scale, scale))),
    }
    loss = Trace_ELBO(num_particles=5).loss(KEY, params, model, guide, vector=vector)
    # Without the Jacobian the bound would be off by the log of the scales, far above rounding.
    assert abs(LOG_SCALES) > 0.5
    np.testing.assert_allclose(loss, -(evidence + LOG_Z), rtol=1e-4)
    draws = guide.sample_posterior(KEY, params, sample_shape=(6,))
    assert {name: value.shape for name, value in draws.items()} == (
        {"x": (6, 2)} if vector else {"x.a": (6,), "x.b": (6,)}
    )


def minimise(guide, vector, steps=1000):
    svi = SVI(model, guide, numpyro.optim.Adam(0.02), Trace_ELBO())
    return svi.run(KEY, steps, progress_bar=False, vector=vector).params


@both_ways
def test_automatic_guides_find_the_mode_and_its_curvature(vector):
    """`AutoDelta` finds the mean of a Gaussian; `AutoLaplaceApproximation` also its covariance."""
    mean, covariance, _ = posterior()
    guide = AutoDelta(model, init_loc_fn=init_to_uniform)
    median = guide.median(minimise(guide, vector))
    mode = median["x"] if vector else np.stack([median["x.a"], median["x.b"]])
    np.testing.assert_allclose(mode, mean, atol=1e-3)
    laplace = AutoLaplaceApproximation(model, init_loc_fn=init_to_uniform)
    found = laplace.get_posterior(minimise(laplace, vector))
    scale = np.asarray(PRIOR.scale)
    np.testing.assert_allclose(PRIOR.loc + scale * found.loc, mean, atol=1e-3)
    found_covariance = np.asarray(found.covariance_matrix) * np.outer(scale, scale)
    np.testing.assert_allclose(found_covariance, covariance, atol=1e-3)


@pytest.mark.statistics
@pytest.mark.parametrize(
    "vector",
    [False, pytest.param(True, marks=pytest.mark.slow)],
    ids=["coordinates", "vector"],
)
def test_a_flow_as_a_guide_comes_close_to_the_evidence(vector):
    guide = AutoBNAFNormal(model, num_flows=1, init_loc_fn=init_to_uniform)
    svi = SVI(model, guide, numpyro.optim.Adam(0.01), Trace_ELBO(num_particles=4))
    untrained = svi.get_params(svi.init(KEY, vector=vector))
    trained = svi.run(KEY, 600, progress_bar=False, vector=vector).params
    loss = jax.jit(
        jax.vmap(
            lambda key, params: Trace_ELBO().loss(key, params, model, guide, vector=vector),
            in_axes=(0, None),
        )
    )
    keys = jax.random.split(KEY, 400)

    def check(params, resolution):
        estimate, error = mean_and_error(loss(keys, params))
        # The flow does not fit the posterior exactly: 0.04 is added to the error for the gap.
        truth = -(posterior()[2] + LOG_Z)
        assert_within(estimate, truth, error + 0.04, resolution=resolution, label="negative bound")

    check(trained, 0.5)
    # The bound of a flow that was not trained is far off, and noisier.
    with pytest.raises(AssertionError, match="is off"):
        check(untrained, np.inf)


def variables_model():
    disco.sample("theta", VARIABLES)


def test_the_bound_is_the_evidence_for_variables_with_shapes():
    """All coordinates are independent normals, so the posterior is among the automatic guides."""
    guide = AutoNormal(variables_model)
    SVI(variables_model, guide, numpyro.optim.Adam(0.1), Trace_ELBO()).init(KEY)
    loc, scale = (np.asarray(part) for part in VARIABLES.location_and_scale)

    def loss(shift):
        params = {}
        for name, places in VARIABLES.variables.indices.items():
            shape = VARIABLES.variables[name].coordinate_shape
            mean, deviation = ((LOC - loc) / scale)[places], (SCALE / scale)[places]
            params[f"theta.{name}_auto_loc"] = jnp.asarray(mean + shift).reshape(shape)
            params[f"theta.{name}_auto_scale"] = jnp.asarray(deviation).reshape(shape)
        return Trace_ELBO(num_particles=5).loss(KEY, params, variables_model, guide)

    np.testing.assert_allclose(loss(0.0), 0.0, atol=1e-4)
    assert abs(loss(0.5)) > 0.1


def test_a_point_of_variables_with_shapes_is_the_mode():
    guide = AutoDelta(variables_model)
    svi = SVI(variables_model, guide, numpyro.optim.Adam(0.02), Trace_ELBO())
    params = svi.run(KEY, 800, progress_bar=False).params
    mode = {name.removeprefix("theta."): value for name, value in guide.median(params).items()}
    assert {name: value.shape for name, value in mode.items()} == VARIABLES.variables.shapes
    loss = Trace_ELBO().loss(KEY, params, variables_model, guide)
    np.testing.assert_allclose(loss, -VARIABLES.log_prob(mode), rtol=1e-5)
    np.testing.assert_allclose(mode["b"], LOC[:2], atol=1e-2)
    # The mode of a log-normal.
    np.testing.assert_allclose(mode["s2"], np.exp(LOC[2] - SCALE[2] ** 2), atol=1e-2)


@pytest.mark.parametrize("guide_class", [AutoNormal, AutoMultivariateNormal])
def test_variational_inference_finds_the_mean(guide_class):
    def prior_alone():
        disco.sample("x", three_coordinates.PRIOR)

    guide = guide_class(prior_alone)
    svi = SVI(prior_alone, guide, numpyro.optim.Adam(0.02), Trace_ELBO(num_particles=4))
    run = jax.jit(lambda state: jax.lax.scan(lambda s, _: (svi.update(s)[0], 0), state, None, 300))
    state, _ = run(svi.init(KEY))
    means = []
    # A stochastic optimiser jitters around the optimum, so the test averages several states that
    # are far enough apart.
    for _ in range(10):
        state, _ = run(state)
        median = guide.median(svi.get_params(state))
        means.append([median[f"x.{name}"] for name in three_coordinates.NAMES])
    estimate, error = np.mean(means, 0), np.std(means, 0, ddof=1) / np.sqrt(len(means))
    # As for chains, fewer than twenty repeats need wider gates.
    gates = dict(resolution=0.6, sigmas=10, label="variational mean")
    assert_within(estimate, three_coordinates.MEAN, error, **gates)
    with pytest.raises(AssertionError, match="is off"):
        assert_within(estimate, -three_coordinates.MEAN, error, **gates)
