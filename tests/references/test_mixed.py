"""`MixedReference`: densities, conditionals on any subset of both kinds, draws and arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.mixed import MASKS, TRUTH, VALUES
from helpers.references import log_prob_of, sample_of, split_of
from helpers.statistics import assert_within, mean_and_error

from numpyro_disco import MixedReference
from numpyro_disco.references.base import host_draws

REFERENCE = TRUTH.reference()
NUM_DRAWS = 20_000


@pytest.fixture(scope="module")
def given():
    """The conditional given each subset of coordinates, batch shape (16,)."""
    return split_of(REFERENCE, VALUES, MASKS)


def check_draws(draws, point, mask):
    """Assert that draws (n, 4) have the frequencies of levels and the means of a conditional."""
    codes, probabilities, mixtures = TRUTH.conditional(point, mask)
    free = [place for place in TRUTH.discrete if not mask[place]]
    hidden = [place for place in TRUTH.continuous if not mask[place]]
    for combination, probability, mixture in zip(codes, probabilities, mixtures, strict=True):
        here = (draws[:, free] == combination).all(axis=1)
        frequency, error = mean_and_error(here)
        error = max(error, 1 / len(draws))
        assert_within(frequency, probability, error, resolution=0.03, label="frequency")
        if hidden and here.sum() > 500:
            mean, error = mean_and_error(draws[here][:, hidden])
            assert_within(mean, mixture.mean, error, resolution=0.4, label="mean")


def test_density_agrees_with_the_sum_over_components():
    np.testing.assert_allclose(log_prob_of(REFERENCE, VALUES), TRUTH.log_prob(VALUES), rtol=1e-5)
    log_prob, local = REFERENCE.describe(VALUES)
    assert local.shape == (16, 4 + 3) and (local[:, [1, 3]] == 0).all()
    np.testing.assert_allclose(local[:, 4:].sum(-1), 1, rtol=1e-5)


def test_what_is_no_level_has_no_density():
    x = np.array([[0.0, 3.0, 0.0, 1.0], [0.0, 0.5, 0.0, 1.0], [0.0, -1.0, 0.0, 0.0]], np.float32)
    assert (log_prob_of(REFERENCE, x) == -np.inf).all()


def test_conditionals_given_every_subset_are_exact(given):
    conditional, marginal = given
    log_prob = log_prob_of(conditional, VALUES)
    for row, (mask, point) in enumerate(zip(MASKS, VALUES, strict=True)):
        expected = TRUTH.marginal_log_prob(point, mask)
        np.testing.assert_allclose(marginal[row], expected, rtol=1e-4, atol=2e-5)
        joint = TRUTH.log_prob(point[None])[0]
        np.testing.assert_allclose(log_prob[row], joint - expected, rtol=1e-4, atol=5e-5)
    assert (conditional.variance[MASKS] == 0).all()
    np.testing.assert_allclose(conditional.mean[MASKS], VALUES[MASKS], rtol=1e-6)


def test_two_steps_of_conditioning_are_one(given):
    first = MASKS & np.array([True, True, False, False])
    twice = REFERENCE.condition(VALUES, first).condition(VALUES, MASKS)
    np.testing.assert_allclose(twice.log_weights, given[0].log_weights, atol=2e-5)
    np.testing.assert_allclose(twice.means, given[0].means, atol=2e-5)


@pytest.mark.parametrize("row", [0, 5, 8, 10])
def test_draws_of_conditionals(given, row):
    draws = np.asarray(sample_of(given[0], jax.random.key(0), (NUM_DRAWS,)))[:, row]
    np.testing.assert_allclose(draws[:, MASKS[row]] - VALUES[row, MASKS[row]], 0, atol=1e-6)
    check_draws(draws, VALUES[row], MASKS[row])


def test_draws_on_the_host():
    draws = host_draws(np.random.default_rng(0), REFERENCE.components(), NUM_DRAWS)
    check_draws(draws, VALUES[0], MASKS[0])
    variance = np.asarray(REFERENCE.variance)
    np.testing.assert_allclose(draws.mean(0), REFERENCE.mean, atol=5 * variance.max() ** 0.5 / 141)
    np.testing.assert_allclose(draws.var(0), variance, rtol=0.1)


def test_draws_with_levels_of_the_wrong_component_fail(given):
    # Levels from the mixture as a whole, not from the component of the draw.
    draws = np.array(sample_of(given[0], jax.random.key(0), (NUM_DRAWS,)))[:, 0]
    draws[:, 1] = np.random.default_rng(0).permutation(draws[:, 1])
    with pytest.raises(AssertionError, match="is off"):
        check_draws(draws, VALUES[0], MASKS[0])


@pytest.mark.parametrize("b", [0.3, 2.0])
def test_tempered_mixture_bounds_its_power(b):
    tempered = REFERENCE.temper(b)
    axis = np.linspace(-15, 15, 121, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    mass, excess = 0.0, -np.inf
    for codes in TRUTH.combinations(TRUTH.discrete):
        x = np.zeros((len(grid), 4), np.float32)
        x[:, TRUTH.continuous], x[:, TRUTH.discrete] = grid, codes
        log_prob = np.asarray(log_prob_of(tempered, x), np.float64)
        mass += np.exp(log_prob).sum() * 0.25**2
        excess = max(excess, float((b * log_prob_of(REFERENCE, x) - log_prob).max()))
    # Riemann sums of smooth densities with steps this fine are exact in effect.
    assert abs(mass - 1) < 1e-4
    # sum_k a_k^b bounds (sum_k a_k)^b for b < 1, and K^(b - 1) times it does for b > 1.
    masses = TRUTH.gaussians.weights**b
    masses *= np.linalg.det(2 * np.pi * TRUTH.gaussians.covariances) ** ((1 - b) / 2) / b
    for table in TRUTH.tables.values():
        masses *= (table**b).sum(1)
    np.testing.assert_allclose(tempered.weights, masses / masses.sum(), rtol=1e-4)
    assert excess <= np.log(masses.sum()) + max(b - 1, 0) * np.log(3) + 1e-3


def test_affine_maps_leave_codes_alone():
    matrix = np.arange(16.0).reshape(4, 4) + 10 * np.eye(4)
    mapped = REFERENCE.affine(matrix, np.arange(4.0))
    block = matrix[np.ix_(TRUTH.continuous, TRUTH.continuous)]
    x = VALUES.copy()
    x[:, TRUTH.continuous] = x[:, TRUTH.continuous] @ block.T + np.array([0.0, 2.0])
    expected = TRUTH.log_prob(VALUES) - np.log(abs(np.linalg.det(block)))
    np.testing.assert_allclose(log_prob_of(mapped, x), expected, rtol=1e-4, atol=1e-4)
    smoothed = REFERENCE.smoothed(0.5)
    diagonal = np.diagonal(smoothed.covariances[0] - REFERENCE.covariances[0])
    np.testing.assert_allclose(diagonal, [0.25, 0.0, 0.25, 0.0], atol=1e-6)


def test_laws_of_pytrees(given):
    leaves, structure = jax.tree.flatten(REFERENCE)
    again = jax.tree.unflatten(structure, leaves)
    assert again.num_levels == (0, 3, 0, 2)
    np.testing.assert_array_equal(again.log_prob(VALUES), REFERENCE.log_prob(VALUES))
    one = jax.vmap(lambda v, m: REFERENCE.condition(v, m).log_prob(v))(VALUES, jnp.asarray(MASKS))
    np.testing.assert_allclose(one, log_prob_of(given[0], VALUES), rtol=1e-4, atol=1e-4)


EYE = np.eye(2)[None]
LOG = np.array([[[-np.inf, -np.inf], [np.log(0.9), np.log(0.1)]]])
BAD = {
    "a table of another shape": ((np.ones(1), np.zeros((1, 2)), EYE, LOG[:, :1]), {}),
    "a component without levels": (
        (np.ones(2), np.zeros((2, 2)), np.tile(EYE, (2, 1, 1)), np.stack([LOG[0], LOG[0, ::-1]])),
        {"num_levels": (0, 2)},
    ),
    "NaN": ((np.ones(1), np.zeros((1, 2)), EYE, np.full((1, 2, 2), np.nan)), {}),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_refused(case):
    arguments, keywords = BAD[case]
    with pytest.raises(ValueError, match="`log_probabilities`"):
        MixedReference(*arguments, **keywords)


def test_levels_are_counted_or_given():
    assert MixedReference(np.ones(1), np.zeros((1, 2)), EYE, LOG).num_levels == (0, 2)
    with pytest.raises(ValueError, match="`num_levels`"):
        MixedReference(np.ones(1), np.zeros((1, 2)), EYE, LOG, num_levels=(0, 3))
