"""`check_conditional` against the closed forms of a Gaussian."""

import warnings

import jax
import numpy as np
import pytest
from helpers.priors import gaussian_prior
from helpers.statistics import assert_within
from scipy import stats

import numpyro_disco as disco
from numpyro_disco.tables.variable import Variable
from numpyro_disco.tables.variables import Variables

NAMES = ("a", "b", "c")
MEAN = np.array([0.5, -0.3, 0.2])
COVARIANCE = np.array([[1.0, 0.6, 0.2], [0.6, 1.5, -0.4], [0.2, -0.4, 0.8]])
KEY = jax.random.key(3)
WIDE = disco.GaussianReference(np.zeros(len(MEAN)), 6.0 * np.eye(len(MEAN)))
PRIOR = gaussian_prior(MEAN, COVARIANCE, NAMES, reference=WIDE)


def rows(num, seed=0):
    return np.random.default_rng(seed).multivariate_normal(MEAN, COVARIANCE, size=num)


def tail(values, seen):
    """Exact share of draws with a lower marginal density, from the chi-squared distribution."""
    residual = values[seen] - MEAN[seen]
    square = residual @ np.linalg.inv(COVARIANCE[np.ix_(seen, seen)]) @ residual
    return stats.chi2.sf(square, len(seen))


@pytest.mark.statistics
def test_percentiles_agree_with_exact_marginals():
    points = MEAN + np.sqrt(np.diagonal(COVARIANCE)) * np.array([[0.3], [1.2], [2.0]])
    observed = np.array([points[0], points[1], points[2], points[2]])
    observed[1:, 2] = np.nan
    observed[3, 1] = np.nan
    check = disco.check_conditional(KEY, PRIOR, observed, num_samples=1000)
    patterns = [0, 1, 2], [0, 1], [0, 1], [0]
    truth = np.array([tail(row, seen) for row, seen in zip(observed, patterns, strict=True)])
    # Noise of the particles moves draws across the line as often as back.
    error = np.sqrt(truth * (1 - truth) / 1000) + 0.01
    assert_within(check.percentile, truth, error, resolution=0.15, label="percentile")
    with pytest.raises(AssertionError, match="is off"):
        assert_within(check.percentile, truth[::-1], error, resolution=0.15, label="twin")
    assert check.typical.all() and check.distance_percentile is None


@pytest.mark.statistics
def test_rare_values_warn():
    data = rows(500)
    far = {"a": [0.4, 7.0], "b": [0.1, -6.0]}
    with pytest.warns(UserWarning, match=r"in 1 of 2 rows.*\[1\].*hardly any data"):
        check = disco.check_conditional(KEY, PRIOR, far, data=data)
    assert check.typical.tolist() == [True, False]
    assert check.percentile[1] == 0 and check.distance_percentile[1] == 0
    assert check.percentile[0] > 0.3 and check.distance_percentile[0] > 0.05
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = disco.check_conditional(
            KEY, PRIOR, {"a": 0.4}, data=dict(zip(NAMES, data.T, strict=True))
        )
    assert one.percentile.shape == () and one.typical


@pytest.mark.statistics
def test_distance_alone_finds_a_gap_between_rows():
    """Two clusters, and a prior that bridges them, so that its density does not show the gap."""
    data = rows(400)
    data[:, 0] += np.where(np.arange(400) < 200, 40, -40)
    wide = gaussian_prior(MEAN, np.cov(data, rowvar=False), NAMES, reference=WIDE)
    with pytest.warns(UserWarning, match="rarer than one in 100"):
        check = disco.check_conditional(KEY, wide, {"a": MEAN[0], "b": MEAN[1]}, data=data)
    assert check.percentile > 0.5 and check.distance_percentile < 0.01


@pytest.mark.statistics
def test_the_nearest_rows_say_how_far_a_conditional_is_off():
    """Conditionals of a prior whose slope is wrong on one side only, and right on the other."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=4000)
    b = np.where(a > 0, 3.0, 0.0) * 0.1 + 0.1 * rng.normal(size=4000)
    truth = gaussian_prior(np.zeros(2), np.array([[1.0, 0.0], [0.0, 0.01]]), ("a", "b"))
    data = np.stack([a, b], axis=1)
    with pytest.warns(UserWarning, match=r"1 of 2 rows.*near row 1.*'b' lie 3"):
        check = disco.check_conditional(KEY, truth, {"a": [-0.5, 0.5]}, data=data)
    assert check.typical.all()
    found, error = check.relative_error[:, 1], check.relative_error_se[:, 1] + 0.02
    # The mean is off by three deviations, so the RMS distance is sqrt(1 + 9) deviations.
    exact = np.sqrt([1.0, 10.0])
    assert_within(found, exact, error, resolution=1.0, label="relative error")
    with pytest.raises(AssertionError, match="is off"):
        assert_within(found, exact[::-1], error, resolution=1.0, label="rows swapped")
    assert np.isnan(check.relative_error[:, 0]).all()
    right, wrong = str(check).splitlines()
    assert right.startswith("pass") and "typical" in right and "'b'" in right
    assert wrong.startswith("fail") and "widen intervals" in wrong


def test_sentences_without_data():
    check = disco.check_conditional(KEY, PRIOR, {"a": 0.4}, num_samples=50)
    assert 0 < check.effective_share <= 1 and check.relative_error is None
    text = str(check)
    assert text.startswith("pass") and "typical" in text and "give `data`" in text
    assert check.method == "importance" and "(method: importance)" in text
    left_out = disco.check_conditional(
        KEY, PRIOR, {"a": 0.4}, data=rows(100), num_samples=50, num_neighbours=0
    )
    assert left_out.relative_error is None and "`num_neighbours`" in str(left_out)


def test_stacks_of_images_are_data():
    prior = PRIOR.over(Variables((Variable("", (1, 3)),)))
    settings = {"num_samples": 20, "num_particles": 64, "num_neighbours": 5}
    images, observed = rows(50).reshape(-1, 1, 3), np.array([[0.3, np.nan, np.nan]])
    check = disco.check_conditional(KEY, prior, observed, data=images, **settings)
    same = disco.check_conditional(KEY, PRIOR, observed[0], data=rows(50), **settings)
    np.testing.assert_allclose(check.distance_percentile, same.distance_percentile)
    np.testing.assert_allclose(check.relative_error, same.relative_error, rtol=1e-3)


def test_wrong_arguments_raise():
    with pytest.raises(ValueError, match="at least one number in every row.*row 1"):
        disco.check_conditional(KEY, PRIOR, {"a": [0.1, np.nan]})
    with pytest.raises(ValueError, match="complete rows in `data`"):
        disco.check_conditional(KEY, PRIOR, {"a": 0.1}, data=np.full((5, 3), np.nan))
    with pytest.raises(ValueError, match="last axis of 3 for `data`"):
        disco.check_conditional(KEY, PRIOR, {"a": 0.1}, data=np.zeros((5, 2)))
    with pytest.raises(ValueError, match="at least 2 for `num_samples`"):
        disco.check_conditional(KEY, PRIOR, {"a": 0.1}, num_samples=1)
