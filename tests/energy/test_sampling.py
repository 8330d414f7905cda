"""Draws of energies of one's own, and estimates of their normalisers, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.energies import (
    COVARIANCE,
    COVARIANCES,
    GAUSSIAN,
    KEY,
    LOG_NORMALIZER,
    MEAN,
    MEANS,
    WEIGHTS,
    gaussian_log_density,
    mixture_log_marginal,
    prior_of,
)
from helpers.statistics import assert_within

REPEATS = 20
# The error comes from 20 runs: Student's t with 19 degrees of freedom exceeds 7.4 as rarely as a
# Gaussian exceeds 5.
SIGMAS = 7.4


@pytest.fixture(scope="module")
def mixture():
    return prior_of()


@pytest.fixture(scope="module")
def gaussian():
    return prior_of(*GAUSSIAN)


def assert_normalizer(prior, truth, label):
    """Compare the estimate with a closed form, within the standard error that it reports."""
    assert_within(
        prior.log_normalizer,
        truth,
        prior.log_normalizer_error,
        resolution=5 * 0.05,
        label=label,
    )


@pytest.fixture(scope="module")
def normalized(mixture):
    return mixture.normalize(KEY)


def test_log_z_of_a_gaussian_and_of_a_mixture(gaussian, normalized):
    assert_normalizer(gaussian.normalize(KEY), LOG_NORMALIZER, "Gaussian")
    assert_normalizer(normalized, LOG_NORMALIZER, "mixture")
    # The broken twin: an energy that has lost its factor 1/2.
    with pytest.raises(AssertionError, match="is off"):
        assert_normalizer(gaussian.temper(2.0).normalize(KEY), LOG_NORMALIZER, "no 1/2")


def test_log_z_of_a_tempered_gaussian(gaussian):
    # Z_b = integral of Z^b N^b, in closed form; and N(x; m, C) / b is what the reference becomes.
    b = 0.5
    log_det = np.linalg.slogdet(COVARIANCE)[1]
    truth = -0.5 * b * log_det + 0.5 * (log_det + 3 * np.log(2 * np.pi / b))
    assert_normalizer(gaussian.temper(b).normalize(KEY), truth, "tempered")


def test_a_constant_shifts_log_z_but_not_the_normalised_density(normalized):
    shifted = prior_of(offset=37.0).normalize(KEY)
    x = jax.random.normal(KEY, (6, 3))
    error = jnp.hypot(shifted.log_normalizer_error, normalized.log_normalizer_error)
    difference = shifted.log_prob(x) - normalized.log_prob(x)
    assert_within(difference, 0.0, error, resolution=0.25, label="normalised log density")
    unnormalized = prior_of(offset=37.0).log_prob(x) - normalized.log_prob(x)
    with pytest.raises(AssertionError, match="is off"):
        assert_within(unnormalized, 0.0, error, resolution=0.25, label="constant kept")


def test_normalised_log_prob(mixture, normalized):
    x = jax.random.normal(KEY, (6, 3))
    expected = mixture.log_prob(x) - normalized.log_normalizer
    np.testing.assert_allclose(normalized.log_prob(x), expected, rtol=1e-6)
    assert mixture.log_normalizer is None
    # Clamping a normalised density gives one that is not normalised.
    assert normalized.clamp({"a": 0.0}).log_normalizer is None


def test_the_normaliser_of_a_clamped_prior_integrates_over_the_free_coordinates(mixture, gaussian):
    values = np.array([-0.5, 1.5])
    # Two rows of eight runs are the compiled program of one row of sixteen.
    clamped = mixture.clamp({"b": values}).normalize(KEY, num_chains=8)
    assert clamped.log_normalizer.shape == clamped.log_normalizer_error.shape == (2,)
    truth = LOG_NORMALIZER + mixture_log_marginal(values[:, None], [1])
    assert_normalizer(clamped, truth, "clamped mixture")
    # The broken twin: the joint's normaliser in place of the conditional's.
    with pytest.raises(AssertionError, match="is off"):
        assert_normalizer(clamped, np.full(2, LOG_NORMALIZER), "joint in place of marginal")

    step = 0.1
    axis = np.arange(-10.0, 10.0, step)
    a, c = np.meshgrid(axis, axis, indexing="ij")
    for index, value in enumerate(values):
        one = mixture.clamp({"b": value}).replace(
            log_normalizer=clamped.log_normalizer[index],
            log_normalizer_error=clamped.log_normalizer_error[index],
        )
        density = np.exp(one.log_prob(np.stack([a, np.full_like(a, value), c], axis=-1)))
        total = density.sum() * step**2
        error = float(one.log_normalizer_error) * total
        assert_within(total, 1.0, error, resolution=0.25, label="mass on a grid")
        with pytest.raises(AssertionError, match="is off"):
            assert_within(total / step, 1.0, error, resolution=0.25, label="cell forgotten")


def test_normalisers_of_clamped_and_joint_give_the_marginal(gaussian):
    joint = gaussian.normalize(KEY)
    clamped = gaussian.clamp({"a": 1.0}).normalize(jax.random.fold_in(KEY, 1))
    estimate = float(clamped.log_normalizer - joint.log_normalizer)
    error = float(jnp.hypot(clamped.log_normalizer_error, joint.log_normalizer_error))
    truth = gaussian_log_density(np.array([1.0]), MEAN[:1], COVARIANCE[:1, :1])
    assert_within(estimate, truth, error, resolution=0.25, label="log marginal")
    with pytest.raises(AssertionError, match="is off"):
        assert_within(-estimate, truth, error, resolution=0.25, label="sign")


def test_normalize_needs_two_runs_and_a_key(mixture):
    with pytest.raises(ValueError, match="at least 2 for `num_chains`"):
        mixture.normalize(KEY, num_chains=1)
    with pytest.raises(ValueError, match="random key"):
        mixture.normalize(None)


def repeated_moments(sample, num_repeats=REPEATS):
    """Mean and second moments of draws, with standard errors from runs of different keys.

    Draws of one run share ancestors, so their spread would understate the error of their mean.
    """
    moments = []
    for index in range(num_repeats):
        x = np.asarray(sample(jax.random.fold_in(KEY, index)), float)
        assert x.shape == (1000, 3)
        square = x[:, :, None] * x[:, None, :]
        moments.append(np.concatenate([x.mean(0), square.mean(0)[np.triu_indices(3)]]))
    return np.mean(moments, 0), np.std(moments, 0, ddof=1) / np.sqrt(num_repeats)


def true_moments():
    second = COVARIANCES + MEANS[:, :, None] * MEANS[:, None, :]
    second = np.einsum("k,kij->ij", WEIGHTS, second)
    return np.concatenate([WEIGHTS @ MEANS, second[np.triu_indices(3)]])


def assert_moments(prior, sample=lambda prior, key: prior.sample(key, (1000,))):
    estimate, error = repeated_moments(lambda key: sample(prior, key))
    assert_within(
        estimate, true_moments(), error, resolution=0.4, sigmas=SIGMAS, label="moments of draws"
    )


def test_moments_of_draws(mixture):
    assert_moments(mixture)


def test_the_check_of_moments_detects_wrong_masses_and_a_wrong_temperature(mixture):
    with pytest.raises(AssertionError, match="is off"):
        assert_moments(prior_of(weights=WEIGHTS[::-1]))
    with pytest.raises(AssertionError, match="is off"):
        assert_moments(mixture.temper(2.0))


def test_a_constant_in_the_energy_does_not_change_the_law_of_draws():
    # Compared in law: a rounding error that changes one ancestor moves every later particle to
    # another slot, so draws with the same key need not agree one by one.
    assert_moments(prior_of(offset=37.0))


def test_shapes_of_draws(mixture):
    grid = mixture.clamp({"b": np.array([-1.0, 1.0])}).sample(KEY, (2, 3))
    assert grid.shape == (2, 3, 2, 3)
    np.testing.assert_array_equal(grid[..., 0, 1], -1.0)
    np.testing.assert_array_equal(grid[..., 1, 1], 1.0)
    # All draws differ.
    assert len(np.unique(np.asarray(grid)[..., 0, 0])) == 6


def test_one_draw_with_a_legacy_key(mixture):
    draw = mixture.sample(jax.random.PRNGKey(0))
    assert draw.shape == (3,) and np.isfinite(draw).all()


def test_no_draws_are_an_empty_array(mixture):
    assert mixture.sample(KEY, (0,)).shape == (0, 3)


def test_drawing_without_a_key_is_refused(mixture):
    with pytest.raises(ValueError, match="Expected a random key; got None.*`seed`"):
        mixture.sample(None)


@pytest.fixture(scope="module")
def compiled_sample():
    return jax.jit(lambda prior, key: prior.sample(key, (1000,)))


def test_draws_inside_a_compiled_function(mixture, compiled_sample):
    # Tempered there, whatever the draws outside.
    assert_moments(mixture, compiled_sample)


def test_a_target_out_of_reach_raises_outside_and_is_nan_inside(compiled_sample):
    # The density is positive in a ball around the reference's mean that its draws never hit.
    walled = prior_of(wall=1e-3)
    with pytest.raises(RuntimeError, match=r"1 of 1 conditionals.*-infinity.*Widen the reference"):
        walled.sample(KEY, (1000,))
    assert np.isnan(compiled_sample(walled, KEY)).all()
    with pytest.raises(RuntimeError, match="Widen the reference"):
        walled.normalize(KEY)


def test_an_energy_that_is_nan_far_out_never_gives_nan_draws():
    # No trial point of the constructor falls there, but particles may: such a run has to raise,
    # and no draw may be NaN.
    prior = prior_of(cliff=11.0)
    outcomes = []
    for index in range(5):
        try:
            draws = prior.sample(jax.random.fold_in(KEY, index), (1000,))
        except RuntimeError as error:
            assert "NaN" in str(error) and "narrow the reference" in str(error)
            outcomes.append("raised")
        else:
            assert np.isfinite(draws).all()
    assert outcomes, "no run met the NaN: the test has lost its point"
