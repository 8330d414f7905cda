"""Densities, conditionals and files of a prior over variables with shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.fits import quick_fit
from helpers.statistics import assert_within, mean_and_error
from helpers.variables import LOC, SCALE, SUPPORTS, draws_of_variables, variables_prior
from scipy import stats

import numpyro_disco as disco

PRIOR = variables_prior()
DRAWS = draws_of_variables(3)


def test_the_density_of_a_dict_is_one_of_the_variables():
    y = np.array(PRIOR.variables.pack(DRAWS), np.float64)
    y[:, 2] = np.log(y[:, 2])
    normal = stats.norm.logpdf(y, LOC, SCALE).sum(1)
    simplex, factor = DRAWS["p"].astype(np.float64), DRAWS["L"].astype(np.float64)
    # Log-normal, logistic-normal, and r = L[1, 0] = tanh(u), whose density NumPyro gives to L.
    log_dets = np.log(DRAWS["s2"]) + np.log(simplex).sum(1) + np.log1p(-(factor[:, 1, 0] ** 2))
    np.testing.assert_allclose(PRIOR.log_prob(DRAWS), normal - log_dets, rtol=2e-5)
    np.testing.assert_allclose(PRIOR.energy(DRAWS), -PRIOR.log_prob(DRAWS), rtol=1e-6)


def test_the_density_of_a_simplex_integrates_to_one():
    grid = (np.arange(400) + 0.5) / 400
    first, second = np.meshgrid(grid, grid)
    inside = first + second < 1
    p = np.stack([first, second, 1 - first - second], axis=-1)[inside]
    point = {name: value[0] for name, value in DRAWS.items()}
    rest = PRIOR.log_prob(point) - logistic_normal(point["p"])
    at = {**{n: np.broadcast_to(v, (len(p), *v.shape)) for n, v in point.items()}, "p": p}
    mass = np.exp(np.asarray(PRIOR.log_prob(at) - rest, np.float64)).sum() / 400**2
    assert abs(mass - 1) < 0.01


def logistic_normal(p):
    """Log density of the simplex alone."""
    u = PRIOR.variables["p"].unconstrain(jnp.asarray(p))
    normal = stats.norm.logpdf(np.asarray(u), LOC[3:5], SCALE[3:5]).sum()
    return normal - np.log(p).sum()


def test_values_outside_of_a_joint_support_have_no_density():
    outside = DRAWS | {"p": DRAWS["p"] + 0.1}
    assert (np.asarray(PRIOR.log_prob(outside)) == -np.inf).all()
    with pytest.raises(ValueError, match="without NaN"):
        PRIOR.log_prob(DRAWS | {"s2": DRAWS["s2"] * np.nan})


def test_coordinates_that_a_support_couples_are_observed_together():
    row = np.full(len(PRIOR.names), np.nan)
    row[3] = 0.1
    for condition in (
        PRIOR.clamp,
        lambda row: disco.sample_conditional(jax.random.key(0), PRIOR, row[None], num_samples=2),
    ):
        with pytest.raises(ValueError, match="all elements of 'p'.*coupled.*simplex"):
            condition(row)
    row[4] = 0.2
    assert PRIOR.clamp(row).observed == (False, False, False, True, True, False)


def test_conditionals_are_dicts():
    observed = {"b": [0.3, np.nan], "p": [0.2, 0.3, 0.5]}
    draws = disco.sample_conditional(jax.random.key(0), PRIOR, observed, num_samples=2000)
    np.testing.assert_allclose(draws["p"], np.tile([0.2, 0.3, 0.5], (2000, 1)), rtol=1e-5)
    np.testing.assert_allclose(draws["b"][:, 0], 0.3, rtol=1e-6)
    # Draws are resampled from weighted points, so they say about half as much as independent ones.
    estimate, error = mean_and_error(np.log(draws["s2"]))
    assert_within(estimate, LOC[2], np.sqrt(2) * error, resolution=0.1)
    with pytest.raises(AssertionError, match="is off"):
        assert_within(estimate, LOC[2] + 0.2, np.sqrt(2) * error, resolution=0.1)
    rows = {"b[1]": [0.1, 0.2]}
    assert disco.sample_conditional(jax.random.key(0), PRIOR, rows, 10)["L"].shape == (10, 2, 2, 2)
    filled = disco.impute(jax.random.key(0), PRIOR, observed | {"b": [[0.3, np.nan]]}, 3)
    assert filled["s2"].shape == (3, 1)


def test_marginals_are_densities_of_the_variables():
    found = disco.log_marginal(jax.random.key(0), PRIOR, {"p": DRAWS["p"]})
    truth = [logistic_normal(p) for p in DRAWS["p"]]
    assert_within(found.log_density, truth, found.error, resolution=0.1)
    with pytest.raises(AssertionError, match="is off"):
        assert_within(found.log_density, truth[::-1], found.error, resolution=0.1)


def test_clamped_priors_keep_their_variables():
    clamped = PRIOR.clamp({"b[0]": 0.3})
    assert clamped.temper(0.5).variables == PRIOR.variables
    point = {name: value[0] for name, value in DRAWS.items()}
    moved = point | {"b": point["b"] + np.array([1.0, 0.0], np.float32)}
    np.testing.assert_allclose(clamped.log_prob(point), clamped.log_prob(moved), rtol=1e-6)
    leaves, structure = jax.tree.flatten(clamped)
    assert jax.tree.unflatten(structure, leaves).variables == PRIOR.variables


@pytest.mark.training
def test_files_keep_variables(tmp_path):
    fit = quick_fit(
        draws_of_variables(100), supports=SUPPORTS, num_steps=1, objective="contrastive"
    )
    disco.save(tmp_path / "prior.npz", fit.distribution)
    again = disco.load(tmp_path / "prior.npz")
    assert again.variables == fit.distribution.variables == PRIOR.variables
    np.testing.assert_array_equal(again.log_prob(DRAWS), fit.distribution.log_prob(DRAWS))
