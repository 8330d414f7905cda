"""Checks of conditionals: typical or not, calibrated or not, against a Gaussian's closed forms."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.statistics import assert_within
from scipy import stats

import numpyro_disco as disco

NAMES = ("a", "b", "c")
MEAN = np.array([0.5, -0.3, 0.2])
COVARIANCE = np.array([[1.0, 0.6, 0.2], [0.6, 1.5, -0.4], [0.2, -0.4, 0.8]])
KEY = jax.random.key(3)


def energy(parameters, x):
    mean, precision = parameters
    return 0.5 * (x - mean) @ precision @ (x - mean)


def prior_of(covariance=COVARIANCE):
    parameters = jnp.asarray(MEAN), jnp.asarray(np.linalg.inv(covariance))
    reference = disco.GaussianReference(np.zeros(3), 6.0 * np.eye(3))
    return disco.EnergyDistribution(
        jax.tree_util.Partial(energy, parameters), reference, names=NAMES
    )


PRIOR = prior_of()


def rows(num, seed=0):
    return np.random.default_rng(seed).multivariate_normal(MEAN, COVARIANCE, size=num)


def tail(values, seen):
    """Share of draws less likely than these values: that of a chi-squared beyond them."""
    residual = values[seen] - MEAN[seen]
    square = residual @ np.linalg.inv(COVARIANCE[np.ix_(seen, seen)]) @ residual
    return stats.chi2.sf(square, len(seen))


@pytest.mark.statistics
def test_percentiles_are_those_of_the_marginals():
    points = MEAN + np.sqrt(np.diagonal(COVARIANCE)) * np.array([[0.3], [1.2], [2.0]])
    observed = np.array([points[0], points[1], points[2], points[2]])
    observed[1:, 2] = np.nan
    observed[3, 1] = np.nan
    check = disco.check_conditional(KEY, PRIOR, observed, num_draws=1000)
    patterns = [0, 1, 2], [0, 1], [0, 1], [0]
    truth = np.array([tail(row, seen) for row, seen in zip(observed, patterns, strict=True)])
    # The particles' own noise moves draws across the line as often as back.
    error = np.sqrt(truth * (1 - truth) / 1000) + 0.01
    assert_within(check.percentile, truth, error, resolution=0.15, label="percentile")
    with pytest.raises(AssertionError, match="is off"):
        assert_within(check.percentile, truth[::-1], error, resolution=0.15, label="twin")
    assert check.typical.all() and check.distance_percentile is None


@pytest.mark.statistics
def test_what_is_rare_is_warned_of():
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
def test_a_hole_between_rows_is_seen_by_distance_alone():
    """Two clusters, and a prior that bridges them: its density says nothing of the gap."""
    data = rows(400)
    data[:, 0] += np.where(np.arange(400) < 200, 40, -40)
    wide = prior_of(np.cov(data, rowvar=False))
    with pytest.warns(UserWarning, match="rarer than one in 100"):
        check = disco.check_conditional(KEY, wide, {"a": MEAN[0], "b": MEAN[1]}, data=data)
    assert check.percentile > 0.5 and check.distance_percentile < 0.01


@pytest.mark.statistics
def test_ranks_are_uniform_for_the_right_prior_and_not_for_wrong_ones():
    table = rows(150)
    table[0, 1] = table[5, 2] = np.nan
    right = disco.calibration(KEY, PRIOR, table)
    assert {name: len(r) for name, r in right.ranks.items()} == {"a": 150, "b": 149, "c": 149}
    assert min(right.p_values().values()) > 1e-3
    for level in (0.5, 0.9):
        found = np.array(list(right.coverage(level).values()))
        error = np.sqrt(level * (1 - level) / 149)
        assert_within(found, level, error, resolution=0.25, label=f"coverage of {level}")
    # Too narrow by a factor of two, and independent where it should not be.
    for covariance in (COVARIANCE / 4, np.diag(np.diagonal(COVARIANCE)) * 3):
        wrong = disco.calibration(KEY, prior_of(covariance), table)
        assert min(wrong.p_values().values()) < 1e-4
        assert "bad" in str(wrong)
    assert "bad" not in str(right) and "90 % intervals" in str(right)


def test_the_test_of_ranks_has_the_level_it_says_and_sees_what_is_wrong():
    rng = np.random.default_rng(0)
    uniform = rng.uniform(size=(2000, 150))
    levels = np.array([[0.01], [0.1], [0.5]])
    p = np.array(list(disco.Calibration(dict(enumerate(uniform)), 99).p_values().values()))
    found, error = (p < levels).mean(axis=1), np.sqrt(levels * (1 - levels) / 2000)[:, 0]
    # The statistic is chi-squared up to a little at 150 rows.
    assert_within(found, levels[:, 0], error + 0.002, resolution=0.1, label="rejected")
    wide, skewed, shifted = (uniform[0] + 1) / 3, uniform[0] ** 0.5, 0.75 * uniform[0]
    ends = np.where(uniform[1] < 0.5, uniform[0] / 3, 1 - uniform[0] / 3)
    wrong = {"wide": wide, "skewed": skewed, "shifted": shifted, "narrow": ends}
    assert max(disco.Calibration(wrong, 99).p_values().values()) < 1e-3


def test_some_columns_and_a_figure():
    ranks = disco.calibration(KEY, PRIOR, rows(20), columns=["c"], num_draws=19, num_particles=64)
    assert list(ranks.ranks) == ["c"] and ranks.ranks["c"].shape == (20,)
    assert ((ranks.ranks["c"] > 0) & (ranks.ranks["c"] < 1)).all()
    data = ranks.to_arviz()
    assert data["prior_sbc"]["c"].shape == (1, 20)
    assert ranks.plot() is not None


def test_what_makes_no_sense():
    with pytest.raises(ValueError, match="at least one number in every row.*row 1"):
        disco.check_conditional(KEY, PRIOR, {"a": [0.1, np.nan]})
    with pytest.raises(ValueError, match="complete rows in `data`"):
        disco.check_conditional(KEY, PRIOR, {"a": 0.1}, data=np.full((5, 3), np.nan))
    with pytest.raises(ValueError, match="columns.*for `data`"):
        disco.check_conditional(KEY, PRIOR, {"a": 0.1}, data=np.zeros((5, 2)))
    with pytest.raises(ValueError, match="`columns` names 'z'"):
        disco.calibration(KEY, PRIOR, rows(5), columns=["z"])
    with pytest.raises(ValueError, match="clamped"):
        disco.calibration(KEY, PRIOR.clamp({"a": 0.0}), rows(5), columns=["a"])
    with pytest.raises(ValueError, match="entry in `table` that can be hidden"):
        disco.calibration(KEY, PRIOR, np.full((4, 3), np.nan))
    with pytest.raises(ValueError, match="shape .rows, D. for `table`"):
        disco.calibration(KEY, PRIOR, rows(1)[0])
