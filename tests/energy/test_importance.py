"""Weighted points: their judgement, their integral, and the draws resampled from them."""

import jax
import numpy as np
import pytest
from helpers import conditional_targets
from helpers.conditional_targets import UNEQUAL
from helpers.energies import GAUSSIAN, KEY, LOG_NORMALIZER, NAMES, prior_of
from helpers.statistics import assert_within, moments

import numpyro_disco as disco
from numpyro_disco.energy.importance import (
    BLOCK,
    blocks_at_once,
    judge,
    log_integral,
    pareto_k,
    resample,
)


def generalised_pareto(shape, count, seed=0):
    """Draws of a generalised Pareto distribution with scale 1."""
    uniform = np.random.default_rng(seed).uniform(size=count)
    return (uniform**-shape - 1) / shape


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9])
def test_pareto_k_of_weights_with_a_known_tail(shape):
    estimates = np.array([pareto_k(generalised_pareto(shape, 8192, seed)) for seed in range(60)])
    # The prior of the fit pulls the estimate towards 0.5 with the weight of 10 of 272 values.
    truth = (shape * 272 + 0.5 * 10) / 282
    error = estimates.std(ddof=1) / np.sqrt(60)
    assert_within(estimates.mean(), truth, error, resolution=0.1, label="Pareto k")
    # The broken twin: the tail of the square roots, which is half as heavy.
    roots = np.array([pareto_k(generalised_pareto(shape, 8192, s) ** 0.5) for s in range(60)])
    with pytest.raises(AssertionError, match="is off"):
        assert_within(roots.mean(), truth, error, resolution=0.1, label="twin")


def test_pareto_k_of_weights_without_a_tail():
    assert pareto_k(np.ones(1024)) == 0
    # The largest of weights that are equal up to rounding are ties.
    rounded = 1 + 1e-7 * np.random.default_rng(0).integers(-3, 4, size=1024)
    assert pareto_k(rounded) == 0
    assert judge(np.log(rounded), 100, 200).enough
    assert pareto_k(np.random.default_rng(0).uniform(size=1024)) < 0
    assert pareto_k(np.append(np.zeros(1023), 1.0)) <= 1e3


def test_judgement():
    rng = np.random.default_rng(0)
    good = judge(0.3 * rng.normal(size=4096), 1000, 2000)
    assert good.enough and good.weight_ess > 3000 and good.growth == 2
    # Too few effective points; more of them would do.
    few = judge(1.5 * rng.normal(size=4096), 1000, 2000)
    assert not few.enough and few.growth == pytest.approx(2600 / few.weight_ess)
    # A few large weights: copies.
    log_weights = np.zeros(4096)
    log_weights[:8] = np.log(20.0)
    copied = judge(log_weights, 1000, 500)
    assert copied.copies == pytest.approx(8 * (1000 * 20 / (4088 + 160) - 1) / 1000)
    assert not copied.enough
    # A tail without a variance.
    heavy = judge(np.log(generalised_pareto(0.95, 4096)), 0, 10)
    assert heavy.pareto_k > 0.7 and not heavy.enough


def test_weights_in_steps_are_trusted_if_many_share_the_largest():
    log_weights = 0.05 * np.random.default_rng(0).normal(size=32_768)
    # A level that is fifty times as probable as in the reference, drawn at 300 points.
    log_weights[:300] += np.log(50)
    stepped = judge(log_weights, 0, 20, in_steps=True)
    assert stepped.pareto_k > 0.7 and stepped.few < 0.1 and stepped.enough
    assert not judge(log_weights, 0, 20).enough
    # A heavy tail is one with levels as well.
    heavy = np.log(generalised_pareto(0.95, 4096))
    assert not judge(heavy, 0, 10, in_steps=True).enough


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_numbers_are_never_enough(bad):
    log_weights = np.zeros(1024)
    log_weights[3] = bad
    assert not judge(log_weights, 10, 20).enough
    assert not judge(np.full(1024, -np.inf), 10, 20).enough


def test_points_of_weight_zero_are_never_drawn():
    log_weights = np.full(1024, -np.inf)
    log_weights[::2] = 0.0
    chosen = resample(np.random.default_rng(0), log_weights, 5000)
    assert (chosen % 2 == 0).all() and chosen.max() <= 1022


def test_counts_are_within_one_of_their_expectation():
    log_weights = np.random.default_rng(0).normal(size=1024)
    chosen = resample(np.random.default_rng(1), log_weights, 5000)
    weights = np.exp(log_weights)
    counts = np.bincount(chosen, minlength=1024)
    assert np.abs(counts - 5000 * weights / weights.sum()).max() < 1
    assert (np.diff(chosen) < 0).any()


def test_the_integral_is_the_mean_weight_and_its_error_is_that_of_groups():
    rng = np.random.default_rng(0)
    log_weights = rng.normal(size=8 * BLOCK)
    estimate, error = log_integral(log_weights, 4)
    assert estimate == pytest.approx(np.log(np.exp(log_weights).mean()))
    exact = np.sqrt((np.e - 1) / (8 * BLOCK))
    assert 0.2 * exact < error < 3 * exact
    assert np.isnan(log_integral(log_weights, 1)[1])


def test_blocks_fit_memory():
    assert blocks_at_once(10) == 32
    assert blocks_at_once(784) == 5
    assert blocks_at_once(10**6) == 1


def test_draws_of_the_joint_and_log_z_say_how_they_were_made():
    prior = conditional_targets.prior_of(UNEQUAL)
    draws, info = prior.sample(KEY, (500,), return_info=True)
    np.testing.assert_array_equal(draws, prior.sample(KEY, (500,)))
    assert info.method.tolist() == ["importance"]
    assert info.num_distinct.tolist() == [len(np.unique(draws, axis=0))]
    batch = prior.clamp(np.array([[np.nan, 0.5, np.nan], [np.nan, -0.5, np.nan]]))
    normalized, info = batch.normalize(KEY, return_info=True)
    assert info.method.tolist() == 2 * ["importance"]
    np.testing.assert_array_equal(normalized.log_normalizer, batch.normalize(KEY).log_normalizer)


def test_draws_agree_with_closed_forms():
    prior, given = conditional_targets.prior_of(UNEQUAL), np.array([np.nan, 0.5, np.nan])
    truth = UNEQUAL.condition([1], [0.5])
    runs = []
    for index in range(20):
        key = jax.random.fold_in(KEY, index)
        draws, info = disco.sample_conditional(key, prior, given, return_info=True)
        assert info.method.tolist() == ["importance"]
        assert info.num_distinct[0] >= 980 and info.weight_ess[0] >= 2000
        runs.append(moments(draws[:, [0, 2]]).mean(0))
    estimate = np.mean(runs, axis=0)
    error = np.std(runs, axis=0, ddof=1) / np.sqrt(20)
    assert_within(estimate, truth.moments, error, resolution=0.6, sigmas=7.4, label="moments")
    # As good as the independent draws that were asked for: their error, for one coordinate.
    independent = np.sqrt(np.diagonal(truth.covariance) / (20 * 1000))
    assert (error[:2] < 2 * independent).all()
    # The broken twin skips the weights: draws of the reference.
    reference = prior.joint_reference.condition(given).sample(KEY, (1000,))
    skipped = moments(reference[:, [0, 2]]).mean(0)
    with pytest.raises(AssertionError, match="is off"):
        assert_within(skipped, truth.moments, error, resolution=0.6, sigmas=7.4, label="twin")


def test_the_error_of_log_z_is_honest():
    normalized = [
        prior_of(*GAUSSIAN).normalize(jax.random.fold_in(KEY, index)) for index in range(30)
    ]
    scores = np.array(
        [float((p.log_normalizer - LOG_NORMALIZER) / p.log_normalizer_error) for p in normalized]
    )
    # Student's t with 15 degrees of freedom has a standard deviation of 1.07.
    assert 0.6 < np.sqrt((scores**2).mean()) < 1.7
    # The broken twin takes the spread between runs as the error of their mean.
    assert np.sqrt(((scores / 4) ** 2).mean()) < 0.6
    assert max(float(p.log_normalizer_error) for p in normalized) < 0.05


def test_a_narrow_target_is_tempered_and_a_twin_that_skips_the_criterion_is_wrong(monkeypatch):
    # A Gaussian whose standard deviations are 1 / 60 of those of the reference.
    narrow = 0.05**2 * np.eye(3)
    prior = prior_of([0.5, 0.5], np.zeros((2, 3)), np.stack([narrow, narrow]))
    given = {NAMES[0]: 0.0}

    def spread_of(runs):
        draws = [
            disco.sample_conditional(
                jax.random.fold_in(KEY, i), prior, given, 500, return_info=True
            )
            for i in range(runs)
        ]
        variances = np.array([np.asarray(d)[:, 1:].var(0).mean() / 0.05**2 for d, _ in draws])
        distinct = [int(info.num_distinct[0]) for _, info in draws]
        return variances, distinct, draws[0][1].method[0]

    variances, distinct, method = spread_of(3)
    assert method == "tempering"
    np.testing.assert_allclose(variances, 1.0, atol=0.35)
    assert min(distinct) > 450
    monkeypatch.setattr("numpyro_disco.energy.drawing.judge", _always_enough)
    _, distinct, method = spread_of(1)
    assert method == "importance"
    assert max(distinct) < 250


def _always_enough(log_weights, num_samples, required, **_):
    return judge(log_weights, num_samples, required)._replace(
        weight_ess=np.inf, pareto_k=0.0, copies=0.0
    )
