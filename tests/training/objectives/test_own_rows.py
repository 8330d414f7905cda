"""Targets that are the row behind a noisy point: unbiased where the reference is right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.statistics import assert_within, mean_and_error

import numpyro_disco as disco
from numpyro_disco.training.objectives.own_rows import mean_behind
from numpyro_disco.training.rows.batches import TrainingRows

COVARIANCE = np.array([[1.0, 0.6, 0.0], [0.6, 0.5, 0.05], [0.0, 0.05, 0.05]])
SIGMA = 0.3
NOISE = jnp.array([1.0, SIGMA, 0.6])
SMOOTHED = COVARIANCE + SIGMA**2 * np.eye(3)


def targets(reference, noise=NOISE, num_rows=100_000):
    """Rows of a Gaussian, noisy points and their targets; all are linear in each other."""
    row_key, noise_key = jax.random.split(jax.random.key(0))
    rows = jax.random.multivariate_normal(row_key, jnp.zeros(3), COVARIANCE, (num_rows,))
    points = rows + noise * jax.random.normal(noise_key, rows.shape)
    least, more = (
        mean_behind(reference.components(), points, scale, SIGMA)
        for scale in (jnp.full(3, SIGMA), noise)
    )
    return points, rows + least - more


def slope_error(points, target):
    """Error of the regression of the score on the point, and its standard error, (3, 3)."""
    x = np.asarray(points, np.float64)
    score = np.asarray(target - points, np.float64) / SIGMA**2
    # At the exact score s(x) = -S^-1 x the residual is uncorrelated with x.
    residual = score + x @ np.linalg.inv(SMOOTHED)
    return mean_and_error((residual[:, :, None] * x[:, None]).reshape(-1, 9))


def check(reference, noise=NOISE):
    error, standard_error = slope_error(*targets(reference, noise))
    assert_within(error, np.zeros(9), standard_error, resolution=0.3)


def test_targets_are_unbiased_at_all_noise_if_the_reference_is_right():
    check(disco.GaussianReference(np.zeros(3), SMOOTHED))
    twice = np.stack([SMOOTHED, SMOOTHED])
    check(disco.MixtureReference(np.array([0.3, 0.7]), np.zeros((2, 3)), twice))


def test_without_the_correction_they_are_biased():
    """The broken twin: a reference so wide that it corrects nothing."""
    with pytest.raises(AssertionError, match="is off"):
        check(disco.GaussianReference(np.zeros(3), 1e6 * np.eye(3)))


def test_at_the_smallest_noise_the_row_is_the_target_whatever_the_reference():
    reference = disco.GaussianReference(np.ones(3), 0.2 * np.eye(3))
    points, target = targets(reference, jnp.full(3, SIGMA), 10)
    rows = targets(disco.GaussianReference(np.zeros(3), 1e6 * np.eye(3)), jnp.full(3, SIGMA), 10)[1]
    np.testing.assert_allclose(target, rows, atol=1e-3)
    check(reference, jnp.full(3, SIGMA))


@pytest.mark.parametrize("batch_size", [16, 21])
def test_batches_of_any_size(batch_size):
    objective = disco.Disco(noise_scale=SIGMA, target="row", partial_noise=0.5)
    rows = TrainingRows(jax.random.normal(jax.random.key(0), (50, 3)))
    reference = disco.GaussianReference(np.zeros(3), SMOOTHED)
    batch = objective.own_row_batch(jax.random.key(1), rows, reference, batch_size)
    assert batch.points.shape == batch.target.shape == batch.proposal_scale.shape == (batch_size, 3)
    np.testing.assert_array_equal(batch.proposal_scale[:2], np.float32(SIGMA))
    assert batch.proposal_scale.max() > SIGMA and np.isfinite(batch.target).all()
    assert batch.draws.shape == batch.smoothed.shape == (batch_size, 3)
