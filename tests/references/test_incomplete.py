"""Mixtures fitted to rows with missing entries, against direct maximisation and closed forms."""

import numpy as np
import pytest
from helpers.references import MODES
from scipy.optimize import minimize
from scipy.stats import multivariate_normal, norm

from numpyro_disco._levels import with_indicators
from numpyro_disco.references import em, incomplete
from numpyro_disco.references.em import MixtureParameters

MIXTURE = MixtureParameters(
    np.array([0.3, 0.7]),
    np.array([[-1.0, 0.5, 0.0], [2.0, 0.0, 1.0]]),
    np.array([np.diag([1.0, 0.5, 2.0]), [[1.0, 0.6, 0.0], [0.6, 1.0, -0.2], [0.0, -0.2, 0.5]]]),
    np.zeros((2, 0, 0)),
)
REAL = (0, 0, 0)
MIXED = MIXTURE._replace(probabilities=np.array([[[0.2, 0.3, 0.5]], [[0.7, 0.2, 0.1]]]))
LEVELS = (0, 3, 0, 0)
"""A discrete column between the real ones."""


def expected_sums(mixture, rows, num_levels=REAL, weights=None):
    """Sums and mean log density, all weights one by default."""
    weights = np.ones(len(rows)) if weights is None else weights
    return incomplete.expectations(mixture, rows, num_levels, weights)


def one_gaussian(dimension, covariance):
    return MixtureParameters(
        np.ones(1), np.zeros((1, dimension)), covariance[None], np.zeros((1, 0, 0))
    )


def mixed_rows(num):
    rows, codes = normal_rows(num), np.random.default_rng(5).integers(3, size=(num, 1))
    return np.concatenate([rows[:, :1], codes, rows[:, 1:]], axis=1)


def complete_sums(mixture, rows, num_levels):
    """Sums of complete rows, whose discrete columns become indicators."""
    return em.expectations(mixture, with_indicators(rows, num_levels))


def with_gaps(rows, share, seed=0):
    """Rows without some entries; each keeps at least one."""
    rng = np.random.default_rng(seed)
    missing = rng.random(rows.shape) < share
    missing[np.arange(len(rows)), rng.integers(rows.shape[1], size=len(rows))] = False
    return np.where(missing, np.nan, rows)


def normal_rows(num, seed=0):
    return np.random.default_rng(seed).normal(size=(num, 3)) * [1.0, 2.0, 0.5]


def observed_log_density(mean, factor, rows):
    """Log density of what is observed of all rows under one Gaussian, row by row."""
    covariance, total = factor @ factor.T, 0.0
    for row in rows:
        o = ~np.isnan(row)
        total += multivariate_normal.logpdf(row[o], mean[o], covariance[np.ix_(o, o)])
    return total


def test_complete_rows_give_the_sums_of_complete_rows():
    rows, weights = normal_rows(40), np.arange(1.0, 41.0)
    found = expected_sums(MIXTURE, rows, weights=weights)
    expected = em.expectations(MIXTURE, rows, weights)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-9)
    assert found[1] == pytest.approx(expected[1])


@pytest.mark.parametrize(
    ("mixture", "rows", "num_levels"),
    [(MIXTURE, normal_rows(30), REAL), (MIXED, mixed_rows(30), LEVELS)],
    ids=["real", "mixed"],
)
def test_expected_sums_are_means_over_draws_of_the_missing_entries(mixture, rows, num_levels):
    rows = with_gaps(rows, 0.4)
    expected, _ = expected_sums(mixture, rows, num_levels)
    rng = np.random.default_rng(1)
    fills = [incomplete.draw_missing(rng, mixture, rows, num_levels) for _ in range(300)]
    drawn = np.stack([complete_sums(mixture, filled, num_levels)[0] for filled in fills])
    error = drawn.std(0, ddof=1) / np.sqrt(len(drawn))
    assert (np.abs(drawn.mean(0) - expected) <= 5 * error + 1e-9).all() and error.max() < 2
    # The broken twin puts zeros where entries are missing.
    zeros = complete_sums(mixture, np.nan_to_num(rows), num_levels)[0]
    assert (np.abs(drawn.mean(0) - zeros) > 5 * error + 1e-9).any()


def test_the_likelihood_is_that_of_what_is_observed():
    """Rows with nothing but the code, and with the code and one real column."""
    rows = np.array([[np.nan, 2.0, np.nan, np.nan], [0.5, 1.0, np.nan, np.nan]])
    found = np.exp(incomplete.log_prob(MIXED, rows, LEVELS))
    assert found[0] == pytest.approx(0.3 * 0.5 + 0.7 * 0.1)
    assert found[1] == pytest.approx(
        0.3 * 0.3 * norm.pdf(0.5, -1, 1) + 0.7 * 0.2 * norm.pdf(0.5, 2, 1)
    )


def test_one_gaussian_is_that_of_direct_maximisation():
    rows = with_gaps(normal_rows(12), 0.3)[:, :2]
    rows = rows[~np.isnan(rows).all(1)]
    one = one_gaussian(2, np.eye(2))
    for _ in range(300):
        one = em.next_mixture(expected_sums(one, rows, (0, 0))[0])

    def negative(parameters):
        a, b, log_c, log_d, e = parameters
        return -observed_log_density(
            np.array([a, b]), np.array([[np.exp(log_c), 0], [e, np.exp(log_d)]]), rows
        )

    found = minimize(negative, np.zeros(5), method="BFGS", options={"gtol": 1e-6})
    a, b, log_c, log_d, e = found.x
    factor = np.array([[np.exp(log_c), 0], [e, np.exp(log_d)]])
    np.testing.assert_allclose(one.means[0], [a, b], atol=1e-3)
    np.testing.assert_allclose(one.covariances[0], factor @ factor.T, atol=2e-3)
    assert incomplete.log_prob(one, rows, (0, 0)).sum() == pytest.approx(-found.fun, abs=1e-3)


def test_no_iteration_lowers_the_likelihood():
    rows = with_gaps(MODES.draw(np.random.default_rng(0), 500), 0.3)
    mixture = em.split(one_gaussian(2, 4 * np.eye(2)), np.nan_to_num(rows))
    found = []
    for _ in range(40):
        sums, log_density = expected_sums(mixture, rows, (0, 0))
        mixture = em.next_mixture(sums)
        found.append(log_density)
    # `ADDED_VARIANCE` may cost as much as its share of a variance.
    assert np.diff(found).min() > -1e-5 and found[-1] > found[0] + 0.1


def test_whole_weights_are_repeated_rows():
    rows = with_gaps(mixed_rows(40), 0.4)
    counts = np.random.default_rng(1).integers(1, 4, 40)
    found = expected_sums(MIXED, rows, LEVELS, counts)
    expected = expected_sums(MIXED, np.repeat(rows, counts, axis=0), LEVELS)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-9)
    assert found[1] == pytest.approx(expected[1])


def test_the_modes_are_found_without_a_complete_row():
    """Every row of a mixture in the plane, with a third column that is their sum and noise."""
    rng = np.random.default_rng(0)
    plane = MODES.draw(rng, 3000)
    rows = np.column_stack([plane, plane.sum(1) + 0.3 * rng.normal(size=3000)])
    gaps = rows.copy()
    gaps[np.arange(3000), rng.integers(3, size=3000)] = np.nan
    assert np.isnan(gaps).any(1).all()
    mixture = incomplete.fit_incomplete(gaps[:2400], gaps[2400:], REAL)
    filled = incomplete.draw_missing(rng, mixture, gaps, REAL)
    np.testing.assert_array_equal(np.isnan(gaps) | (filled == rows), True)
    one = multivariate_normal(rows.mean(0), np.cov(rows.T)).logpdf(rows).mean()
    assert mixture.log_prob(rows).mean() > one + 0.5
    assert np.abs(filled.mean(0) - rows.mean(0)).max() < 0.1


def test_columns_that_only_held_out_rows_have_are_refused_by_name():
    rows = normal_rows(60)
    rows[:50, 1] = np.nan
    for names, found in ((None, "1"), (("a", "b", "c"), "b")):
        with pytest.raises(ValueError, match=rf"\['{found}'\] have none among 50 rows"):
            incomplete.fit_incomplete(rows[:50], rows[50:], REAL, names=names)
