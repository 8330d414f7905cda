"""Priors with discrete coordinates, against sums over all combinations of levels."""

import jax
import numpy as np
import numpyro
import pandas as pd
import pytest
from helpers.mixed import (
    HARD,
    MASKS,
    NAMES,
    SHIFT,
    SUPPORTS,
    TRUTH,
    VALUES,
    MixedMixture,
    far_reference,
    mixed_prior,
)
from helpers.statistics import Mixture, assert_within, mean_and_error
from numpyro.distributions import constraints
from numpyro.infer import MCMC, NUTS

import numpyro_disco as disco

KEY = jax.random.key(0)
POINTS = VALUES + SHIFT
REPEATS = 20
PATTERNS = (0, 2, 5, 8, 10, 13)


@pytest.fixture(scope="module")
def prior():
    return mixed_prior(names=NAMES, supports=SUPPORTS)


def rows_of(masks, points):
    """Rows with NaN where they are free."""
    return np.where(masks, points, np.nan)


# --- the density


def test_the_density_is_the_mass_times_the_density(prior):
    np.testing.assert_allclose(prior.log_prob(POINTS), TRUTH.log_prob(VALUES), rtol=1e-5)
    assert prior.coordinate_supports.num_levels == (0, 3, 0, 2)
    outside = np.array([[0, 4, 0, 1], [0, 1.5, 0, 1], [0, 1, 0, 2]], np.float32)
    assert (np.asarray(prior.energy(outside)) == np.inf).all()


def test_the_score_is_zero_for_discrete_coordinates(prior):
    score, step = np.asarray(prior.score(POINTS)), 1e-3
    assert (score[:, [1, 3]] == 0).all()
    for place in (0, 2):
        shift = step * np.eye(4)[place]
        slope = (TRUTH.log_prob(VALUES + shift) - TRUTH.log_prob(VALUES - shift)) / (2 * step)
        np.testing.assert_allclose(score[:, place], slope, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("observed", [{"c": 4}, {"c": 0}, {"d": 0.5}])
def test_values_that_are_no_level_are_refused(prior, observed):
    with pytest.raises(ValueError, match="inside their supports"):
        prior.clamp(observed)
    with pytest.raises(ValueError, match="inside their supports"):
        disco.sample_conditional(KEY, prior, observed, 10)


def test_supports_have_to_agree_with_the_reference():
    prior = mixed_prior()
    assert prior.coordinate_supports.supports[1].upper_bound == 2
    with pytest.raises(ValueError, match="'1' has 3 levels in the reference and 4"):
        mixed_prior(supports={"1": constraints.integer_interval(0, 3)})
    gaussian = disco.GaussianReference(np.zeros(2), np.eye(2))
    with pytest.raises(ValueError, match="need a `MixedReference`"):
        disco.EnergyDistribution(lambda x: x @ x, gaussian, supports={"0": constraints.boolean})
    with pytest.raises(ValueError, match="at most 64 levels"):
        wide = {"0": constraints.integer_interval(0, 99)}
        disco.EnergyDistribution(lambda x: x @ x, gaussian, supports=wide)


def test_tempered_masses_are_powers(prior):
    tempered = prior.temper(2.0)
    np.testing.assert_allclose(tempered.log_prob(POINTS), 2 * TRUTH.log_prob(VALUES), rtol=1e-5)
    codes, probabilities, mixtures = TRUTH.conditional(VALUES[5], MASKS[5])
    assert not len(codes[0])  # row 5 observes both discrete coordinates
    draws = np.asarray(tempered.clamp({"a": 0.3, "b": -0.2}).sample(KEY, (4000,)))
    codes = TRUTH.combinations([1, 3])
    points = np.concatenate([np.full((6, 1), 0.3), codes[:, :1], np.full((6, 1), -0.2)], axis=1)
    log_mass = TRUTH.log_prob(np.concatenate([points, codes[:, 1:]], axis=1))
    found = (draws[:, None, [1, 3]] == codes + [1, 0]).all(-1)
    mean, error = mean_and_error(found)

    def check(power):
        mass = np.exp(power * log_mass)
        assert_within(mean, mass / mass.sum(), np.maximum(error, 1e-3), resolution=0.05)

    check(2.0)
    with pytest.raises(AssertionError, match="is off"):
        check(1.0)


# --- draws


def check_rows(draws, truth, points, masks, resolution):
    """Assert that draws (n, rows, D) of repeated rows have the moments of their conditionals."""
    found = truth.features(draws).mean(0).reshape(len(points), REPEATS, -1)
    for place, (point, mask) in enumerate(zip(points, masks, strict=True)):
        mean, error = mean_and_error(found[place])
        # Levels that are hardly ever drawn have no spread to speak of.
        error = np.maximum(error, 1e-3)
        expected = truth.expected(point, mask)
        assert_within(mean, expected, error, resolution=resolution, sigmas=7.4, label=str(mask))


@pytest.mark.statistics
def test_conditionals_given_either_kind(prior):
    masks, points = MASKS[list(PATTERNS)], VALUES[list(PATTERNS)]
    rows = np.repeat(rows_of(masks, points + SHIFT), REPEATS, axis=0)
    draws, info = disco.sample_conditional(KEY, prior, rows, 400, return_info=True)
    assert (info.method == "importance").all()
    draws = np.asarray(draws) - SHIFT
    check_rows(draws, TRUTH, points, masks, resolution=0.4)
    # The masses of one column forgotten.
    forgotten = MixedMixture(TRUTH.gaussians, {1: np.ones((3, 3)), 3: TRUTH.tables[3]})
    with pytest.raises(AssertionError, match="is off"):
        check_rows(draws, forgotten, points, masks, resolution=0.4)


@pytest.mark.statistics
def test_marginals_sum_over_free_levels(prior):
    masks, values = MASKS[[2, 5, 8, 13, 15]], VALUES[[2, 5, 8, 13, 15]]
    rows = rows_of(masks, values + SHIFT)
    found = disco.log_marginal(KEY, prior, rows)
    exact = [TRUTH.marginal_log_prob(*pair) for pair in zip(values, masks, strict=True)]
    assert_within(found.log_density, exact, found.error, resolution=0.1, sigmas=7.4)
    with pytest.raises(AssertionError, match="is off"):
        assert_within(found.log_density, exact[::-1], found.error, resolution=0.1, sigmas=7.4)


@pytest.mark.statistics
def test_conditionals_that_have_to_be_tempered():
    prior = mixed_prior(HARD, far_reference())
    points = np.array([[0.0, 2.0, 0.0, 0.0, 0.0, 0.0]])
    masks = np.array([[False, True, False, False, False, False]])
    rows = np.repeat(rows_of(masks, points), REPEATS, axis=0)
    draws, info = disco.sample_conditional(
        KEY, prior, rows, 256, num_particles=256, return_info=True
    )
    assert (info.method == "tempering").all()
    check_rows(np.asarray(draws), HARD, points, masks, resolution=1.2)
    forgotten = MixedMixture(HARD.gaussians, {**HARD.tables, 4: np.ones((3, 4))})
    with pytest.raises(AssertionError, match="is off"):
        check_rows(np.asarray(draws), forgotten, points, masks, resolution=1.2)


def test_compiled_functions_temper_both_kinds():
    prior = mixed_prior(HARD, far_reference())
    run = jax.jit(lambda key: disco.sample_conditional(key, prior, {"1": 2}, 64))
    draws = np.asarray(run(KEY))
    assert (draws[:, 1] == 2).all() and set(np.unique(draws[:, 4])) <= {0.0, 1.0, 2.0, 3.0}
    assert np.isfinite(draws).all()


def test_imputed_tables_hold_levels(prior):
    frame = pd.DataFrame(rows_of(MASKS, POINTS), columns=list(NAMES))
    for filled in disco.impute(KEY, prior, frame, 3):
        assert filled["c"].isin([1, 2, 3]).all() and filled["d"].isin([0, 1]).all()
        np.testing.assert_array_equal(filled.to_numpy()[MASKS], POINTS.astype(float)[MASKS])


# --- checks


@pytest.mark.statistics
def test_ranks_of_discrete_columns_are_uniform(prior):
    rng = np.random.default_rng(0)
    component = rng.choice(3, size=200, p=TRUTH.gaussians.weights)
    rows = np.zeros((200, 4))
    for row, k in zip(rows, component, strict=True):
        gaussians = TRUTH.gaussians
        row[[0, 2]] = rng.multivariate_normal(gaussians.means[k], gaussians.covariances[k])
        row[1] = 1 + rng.choice(3, p=TRUTH.tables[1][k])
        row[3] = rng.choice(2, p=TRUTH.tables[3][k])
    right = disco.calibration(KEY, prior, rows, columns=("c", "d"))
    assert min(right.p_values().values()) > 1e-3
    swapped = MixedMixture(TRUTH.gaussians, {1: TRUTH.tables[1][:, ::-1], 3: TRUTH.tables[3]})
    wrong = mixed_prior(swapped, names=NAMES, supports=SUPPORTS)
    assert disco.calibration(KEY, wrong, rows, columns=("c",)).p_values()["c"] < 1e-4


def test_rare_levels_are_not_typical():
    table = np.array([[0.9, 0.098, 0.002]])
    truth = MixedMixture(Mixture([1.0], [[0.0]], [[[1.0]]]), {1: table})
    prior = mixed_prior(truth, names=("a", "c"))
    with pytest.warns(UserWarning, match="rarer than one in 100"):
        check = disco.check_conditional(KEY, prior, {"c": [0.0, 1.0, 2.0]}, num_samples=400)
    assert check.typical.tolist() == [True, True, False]
    data = np.stack([np.linspace(-1, 1, 50), np.arange(50) % 2], axis=1)
    with pytest.warns(UserWarning):
        check = disco.check_conditional(KEY, prior, {"c": [0.0, 2.0]}, data=data)
    assert check.distance_percentile.tolist() == [1.0, 0.0]


# --- inside models


def vector_model(prior):
    numpyro.sample("x", prior)


def test_vector_sites_move_continuous_coordinates_only(prior):
    sampler = MCMC(NUTS(vector_model), num_warmup=200, num_samples=400, progress_bar=False)
    with pytest.raises(ValueError, match="numpyro_disco.sample.*clamp the discrete ones"):
        sampler.run(KEY, prior)
    # Nearly all of this conditional is one mode.
    sampler.run(KEY, prior.clamp({"c": 1, "d": 0}))
    draws = np.asarray(sampler.get_samples()["x"])
    assert (draws[:, [1, 3]] == [1, 0]).all()
    (_, _, (given,)) = TRUTH.conditional(np.zeros(4), np.array([False, True, False, True]))
    # Draws of one chain are correlated: a fifth of them counts.
    error = np.sqrt(np.diag(given.covariance) / 80)
    assert_within(draws[:, [0, 2]].mean(0), given.mean, error, resolution=1.0)
    # The broken twin: the conditional given other levels.
    other = TRUTH.at_levels(TRUTH.discrete, [2, 1])[1].mean
    with pytest.raises(AssertionError, match="is off"):
        assert_within(draws[:, [0, 2]].mean(0), other, error, resolution=1.0)
