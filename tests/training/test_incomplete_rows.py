"""Complete held-out rows judge, weighted to stand for all; imputed entries judge nothing."""

import jax
import numpy as np
import pytest
from helpers.statistics import assert_within, mean_and_error
from scipy.special import expit

import numpyro_disco as disco
from numpyro_disco.training.incomplete_rows import judging_weights

NUM = 8000


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).multivariate_normal(
        [0.0, 1.0], [[1.0, 0.8], [0.8, 1.0]], size=NUM
    )


@pytest.fixture(scope="module")
def complete(rows):
    """True where the second column is observed, which is rarer where the first is large."""
    return np.random.default_rng(1).random(NUM) < expit(0.5 - rows[:, 0])


def fitted(table, **settings):
    return disco.fit(
        jax.random.key(0),
        table,
        names=("a", "b"),
        reference=disco.MixtureFit(max_components=1),
        network=disco.MLP(width=8, num_blocks=1),
        num_steps=50,
        progress_bar=False,
        **settings,
    )


@pytest.mark.statistics
def test_weighted_complete_rows_have_the_means_of_all(rows, complete):
    weights = judging_weights(rows, complete, np.arange(NUM))
    assert (weights[~complete] == 0).all() and (weights[complete] >= 1).all()

    def mean(weights):
        # The ratio of two means: its error to first order is that of w (x - mean).
        found = np.average(rows, axis=0, weights=weights)
        return found, mean_and_error(weights[:, None] * (rows - found))[1] / weights.mean()

    found, error = mean(weights)
    assert_within(found, [0.0, 1.0], error, resolution=0.12, label="mean")
    alone, error = mean(complete.astype(float))
    with pytest.raises(AssertionError, match="is off"):
        assert_within(alone, [0.0, 1.0], error, resolution=0.12, label="unweighted twin")


def test_weights_of_rows_multiply_and_few_complete_rows_give_none(rows, complete):
    held_out = np.flatnonzero(complete)[:120]
    alike = judging_weights(rows, complete, held_out)
    doubled = judging_weights(rows, complete, held_out, np.full(NUM, 2.0))
    np.testing.assert_allclose(doubled, 2 * alike, rtol=1e-2)
    assert judging_weights(rows, complete, held_out[:99]) is None
    steep = np.where(np.arange(NUM) == held_out[0], 1e4, 1.0)
    assert judging_weights(rows, complete, held_out, steep) is None


@pytest.mark.parametrize("missing", ["mixture", disco.Refit(num_refits=1)])
def test_imputed_rows_are_trained_on_and_judge_nothing(rows, complete, missing):
    table = rows[:4000].copy()
    table[~complete[:4000], 1] = np.nan
    fit = fitted(table, missing=missing)
    evidence = fit.evidence

    def imputed(points):
        """How many of the rows (n, 2) are not rows of the table."""
        nearest = np.abs(points[:, None, 1] - rows[None, :4000][:, complete[:4000], 1])
        return (nearest.min(1) > 1e-4).sum()

    judging, trained = (
        np.asarray(evidence.unstandardize(points)) for points in (evidence.held_out, evidence.rows)
    )
    assert imputed(judging) == 0 and 100 <= len(judging) < 400
    assert len(judging) == len(evidence.held_out_weights)
    # A broken twin: rows that were imputed are recognised as such.
    assert len(trained) == 3600 and imputed(trained) > 500
    line = fit.report()["missing"]
    assert line.verdict == "pass" and f"{(~complete[:4000]).sum()} rows" in line.reason


def test_the_report_says_that_imputed_rows_judge(rows, complete):
    table = rows[:600].copy()
    table[~complete[:600], 1] = np.nan
    line = fitted(table).report()["missing"]
    assert line.verdict == "warn" and 0 < line.value < 60
    assert "of 60 held-out rows" in line.reason and "held_out_fraction" in line.reason
    assert all(one.name != "missing" for one in fitted(rows[:600]).report().lines)


def test_a_score_has_no_draws_to_learn_from_again(rows):
    table = np.where(np.arange(NUM)[:, None] % [7, NUM + 1] == 3, np.nan, rows)
    refit = disco.Refit(num_refits=1)
    with pytest.raises(ValueError, match="learns a density for `missing=disco.Refit"):
        disco.fit(jax.random.key(0), table, objective=disco.DiscoScore(), missing=refit)
