"""Expectation-maximisation with discrete columns and with row weights."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from numpyro_disco._levels import with_indicators
from numpyro_disco.references import em
from numpyro_disco.references.em import MixtureParameters

SHARES = np.array([[0.2, 0.5, 0.3], [0.6, 0.4, 0.0]])
TRUTH = MixtureParameters(
    np.array([0.4, 0.6]),
    np.array([[-1.0, 0.5], [1.5, 0.0]]),
    np.array([[[1.0, 0.3], [0.3, 0.5]], [[0.5, -0.2], [-0.2, 1.0]]]),
    np.array([[[0.7, 0.2, 0.1], [0.9, 0.1, 0.0]], [[0.1, 0.3, 0.6], [0.3, 0.7, 0.0]]]),
)


def rows_of(truth, num_rows, seed=0):
    """Draws of a mixture with two discrete columns: reals and codes."""
    rng = np.random.default_rng(seed)
    component = rng.choice(len(truth.weights), num_rows, p=truth.weights)
    reals = np.stack(
        [rng.multivariate_normal(truth.means[k], truth.covariances[k]) for k in component]
    )
    codes = np.stack(
        [[rng.choice(3, p=column) for column in truth.probabilities[k]] for k in component]
    )
    return reals, codes.astype(float)


REALS, CODES = rows_of(TRUTH, 300)
ROWS = with_indicators(np.concatenate([REALS, CODES], axis=1), (0,) * REALS.shape[1] + (3, 2))
WEIGHTS = np.random.default_rng(1).uniform(0.2, 1.8, len(ROWS))


def densities(mixture):
    """Weighted density of each row under each component, shape (N, K)."""
    columns = []
    for weight, mean, covariance, (first, second) in zip(*mixture, strict=True):
        mass = first[CODES[:, 0].astype(int)] * second[CODES[:, 1].astype(int)]
        columns.append(weight * multivariate_normal(mean, covariance).pdf(REALS) * mass)
    return np.stack(columns, axis=1)


def one_iteration(mixture):
    """One weighted iteration written out as a loop over components, levels and rows."""
    joint = densities(mixture)
    shares = WEIGHTS[:, None] * joint / joint.sum(1, keepdims=True)
    found = [np.zeros_like(field) for field in mixture]
    for k, share in enumerate(shares.T):
        found[0][k] = share.sum() / WEIGHTS.sum()
        found[1][k] = share @ REALS / share.sum()
        away = REALS - found[1][k]
        found[2][k] = (share[:, None] * away).T @ away / share.sum()
        for column, count in enumerate((3, 2)):
            for level in range(count):
                rows = share[CODES[:, column] == level].sum()
                prior = em.ADDED_ROWS * SHARES[column, level]
                found[3][k, column, level] = (rows + prior) / (share.sum() + em.ADDED_ROWS)
    return MixtureParameters(*found)


def penalised(mixture):
    """What an iteration cannot lower: log likelihood plus the log of the Dirichlet prior."""
    levels = SHARES > 0
    prior = em.ADDED_ROWS * SHARES[levels] * np.log(mixture.probabilities[:, levels])
    return WEIGHTS @ mixture.log_prob(ROWS) + prior.sum()


def test_log_densities_are_those_of_gaussians_times_masses():
    expected = np.log(densities(TRUTH).sum(1))
    np.testing.assert_allclose(TRUTH.log_prob(ROWS), expected, rtol=1e-10)


@pytest.mark.parametrize("most", [em.MAX_PRODUCTS, 70])
def test_a_weighted_iteration_is_that_of_a_loop_whatever_the_parts(monkeypatch, most):
    monkeypatch.setattr(em, "MAX_PRODUCTS", most)
    sums, mean = em.expectations(TRUTH, ROWS, WEIGHTS)
    assert mean == pytest.approx(np.average(TRUTH.log_prob(ROWS), weights=WEIGHTS))
    expected = one_iteration(TRUTH)
    expected = expected._replace(covariances=expected.covariances + em.ADDED_VARIANCE * np.eye(2))
    for found, wanted in zip(em.next_mixture(sums, SHARES), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-9)


def test_a_weight_of_two_is_the_row_twice():
    twice = em.expectations(TRUTH, np.concatenate([ROWS, ROWS[:100]]))
    weighted = em.expectations(TRUTH, ROWS, 1.0 + (np.arange(len(ROWS)) < 100))
    for found, expected in zip(weighted, twice, strict=True):
        np.testing.assert_allclose(found, expected)


def weighted_step(mixture):
    """One iteration with the weights of the rows."""
    return em.next_mixture(em.expectations(mixture, ROWS, WEIGHTS)[0], SHARES)


def step_without_weights(mixture):
    """The broken twin: sums without the weights that the likelihood has."""
    return em.next_mixture(em.expectations(mixture, ROWS)[0], SHARES)


def test_no_iteration_lowers_the_penalised_likelihood():
    one = next(em.growing_mixtures(ROWS, [1], SHARES, WEIGHTS))
    path = [em.split(one, ROWS, SHARES, WEIGHTS)]
    for _ in range(15):
        path.append(weighted_step(path[-1]))
    rises = np.diff([penalised(mixture) for mixture in path])
    # The variance that is added costs about its share of a variance, for each row and column.
    slack = 10 * len(ROWS) * em.ADDED_VARIANCE
    assert rises.min() > -slack and rises.sum() > 1
    assert penalised(step_without_weights(path[-1])) < penalised(path[-1]) - slack


def test_an_unseen_level_keeps_a_mass():
    sums = em.expectations(TRUTH, ROWS)[0]
    sums[:, -5] = 0.0
    found = em.next_mixture(sums, SHARES).probabilities
    expected = em.ADDED_ROWS * SHARES[0, 0] / (sums[:, 0] + em.ADDED_ROWS)
    np.testing.assert_allclose(found[:, 0, 0], expected, rtol=1e-9)
    assert (found[:, 1, 2] == 0).all()


def test_splitting_finds_the_dependence_between_discrete_columns():
    """Two classes of rows that differ in the levels alone, each of which is as common."""
    rng = np.random.default_rng(0)
    group = rng.integers(0, 2, 2000)
    codes = np.where(rng.random((2000, 3)) < 0.9, group[:, None], 1 - group[:, None])
    shares = np.full((3, 2), 0.5)
    rows = with_indicators(np.column_stack([rng.normal(size=2000), codes]), (0, 2, 2, 2))
    one, two = em.growing_mixtures(rows, [1, 2], shares)
    gain = (two.log_prob(rows) - one.log_prob(rows)).mean()
    # The mutual information of the group and the columns, less what is not told of the group.
    agree = 0.5 * (0.9**3 + 0.1**3), 0.5 * (0.9**2 * 0.1 + 0.1**2 * 0.9)
    entropy = -(2 * agree[0] * np.log(agree[0]) + 6 * agree[1] * np.log(agree[1]))
    assert gain == pytest.approx(3 * np.log(2) - entropy, abs=0.03)
    np.testing.assert_allclose(np.sort(two.probabilities[:, :, 0], axis=0)[0], 0.1, atol=0.03)


def test_every_column_may_be_discrete():
    indicators = ROWS[:, 2:]
    mixtures = list(em.growing_mixtures(indicators, [1, 2], SHARES))
    assert mixtures[1].log_prob(indicators).mean() > mixtures[0].log_prob(indicators).mean()
