"""`calibration`: ranks are uniform for the right prior, and wrong priors are found."""

import jax
import numpy as np
import pytest
from helpers.priors import gaussian_prior
from helpers.statistics import assert_within

import numpyro_disco as disco

NAMES = ("a", "b", "c")
MEAN = np.array([0.5, -0.3, 0.2])
COVARIANCE = np.array([[1.0, 0.6, 0.2], [0.6, 1.5, -0.4], [0.2, -0.4, 0.8]])
KEY = jax.random.key(3)
WIDE = disco.GaussianReference(np.zeros(len(MEAN)), 6.0 * np.eye(len(MEAN)))
PRIOR = gaussian_prior(MEAN, COVARIANCE, NAMES, reference=WIDE)


def rows(num, seed=0):
    return np.random.default_rng(seed).multivariate_normal(MEAN, COVARIANCE, size=num)


def check_coverage(found):
    for level in (0.5, 0.9):
        share = np.array(list(found.coverage(level).values()))
        error = np.sqrt(level * (1 - level) / 149)
        assert_within(share, level, error, resolution=0.25, label=f"coverage of {level}")


@pytest.mark.statistics
def test_ranks_are_uniform_for_the_right_prior_and_not_for_wrong_ones():
    data = rows(150)
    data[0, 1] = data[5, 2] = np.nan
    right = disco.calibration(KEY, PRIOR, data)
    assert {name: len(r) for name, r in right.ranks.items()} == {"a": 150, "b": 149, "c": 149}
    assert min(right.p_values().values()) > 1e-3
    check_coverage(right)
    # Too narrow by a factor of two, and independent where it should not be.
    for covariance in (COVARIANCE / 4, np.diag(np.diagonal(COVARIANCE)) * 3):
        wrong = disco.calibration(
            KEY, gaussian_prior(MEAN, covariance, NAMES, reference=WIDE), data
        )
        assert min(wrong.p_values().values()) < 1e-4
        assert "fail" in str(wrong)
        with pytest.raises(AssertionError, match="is off"):
            check_coverage(wrong)
    assert {name: len(info.method) for name, info in right.info.items()}["b"] == 149
    assert "fail" not in str(right) and "90 % intervals" in str(right)


def test_smooth_test_has_its_level_and_finds_wrong_ranks():
    rng = np.random.default_rng(0)
    uniform = rng.uniform(size=(2000, 150))
    levels = np.array([[0.01], [0.1], [0.5]])
    # With 150 rows the statistic is chi-squared only approximately.
    error = np.sqrt(levels * (1 - levels) / 2000)[:, 0] + 0.002

    def check(ranks):
        p = np.array(list(disco.Calibration(dict(enumerate(ranks)), 99).p_values().values()))
        found = (p < levels).mean(axis=1)
        assert_within(found, levels[:, 0], error, resolution=0.1, label="rejected")

    check(uniform)
    # The broken twin: ranks that are a little too high.
    with pytest.raises(AssertionError, match="is off"):
        check(uniform**0.8)
    wide, skewed, shifted = (uniform[0] + 1) / 3, uniform[0] ** 0.5, 0.75 * uniform[0]
    ends = np.where(uniform[1] < 0.5, uniform[0] / 3, 1 - uniform[0] / 3)
    wrong = {"wide": wide, "skewed": skewed, "shifted": shifted, "narrow": ends}
    assert max(disco.Calibration(wrong, 99).p_values().values()) < 1e-3


def test_verdicts_by_p_value():
    """A column passes, warns or fails by its p-value; the level is shared by all columns."""
    uniform = (np.arange(150) + 0.5) / 150
    ranks = {"right": uniform, "shifted": uniform**1.35, "narrow": np.round(uniform)}
    found = disco.Calibration(ranks, 99)
    p = found.p_values()
    assert p["right"] > 0.05 / 3 > p["shifted"] > 1e-4 > p["narrow"]
    assert [line.split()[:2] for line in str(found).splitlines()] == [
        ["pass", "right"],
        ["warn", "shifted"],
        ["fail", "narrow"],
    ]


def test_some_columns_and_a_figure():
    found = disco.calibration(KEY, PRIOR, rows(20), columns=["c"], num_samples=19, num_particles=64)
    assert list(found.ranks) == ["c"] and found.ranks["c"].shape == (20,)
    assert found.num_samples == 19
    assert found.info["c"].method.tolist() == 20 * ["importance"]
    assert str(found).endswith("; drawn: 20 by importance")
    assert ((found.ranks["c"] > 0) & (found.ranks["c"] < 1)).all()
    data = found.to_arviz()
    assert data["prior_sbc"]["c"].shape == (1, 20)
    (axis,) = found.plot()
    assert axis.get_title().startswith("c ") and found.verdicts()["c"] in axis.get_title()


def test_wrong_arguments_raise():
    with pytest.raises(ValueError, match="`columns` names 'z'"):
        disco.calibration(KEY, PRIOR, rows(5), columns=["z"])
    with pytest.raises(ValueError, match="clamped"):
        disco.calibration(KEY, PRIOR.clamp({"a": 0.0}), rows(5), columns=["a"])
    with pytest.raises(ValueError, match="entry in `data` that can be hidden"):
        disco.calibration(KEY, PRIOR, np.full((4, 3), np.nan))
    with pytest.raises(ValueError, match="shape .rows, D. for `data`"):
        disco.calibration(KEY, PRIOR, rows(1)[0])
