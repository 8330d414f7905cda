"""Expectation-maximisation: densities, one iteration against a loop, and splitting."""

import numpy as np
import pytest
from helpers.references import MODES
from scipy.stats import multivariate_normal

from numpyro_disco.references import em
from numpyro_disco.references.em import MixtureParameters

MIXTURE = MixtureParameters(
    np.array([0.3, 0.7]),
    np.array([[-1.0, 0.5, 0.0], [2.0, 0.0, 1.0]]),
    np.array([np.diag([1.0, 0.5, 2.0]), [[1.0, 0.6, 0.0], [0.6, 1.0, -0.2], [0.0, -0.2, 0.5]]]),
    np.zeros((2, 0, 0)),
)
ROWS = np.random.default_rng(0).normal(size=(40, 3)) * [1.0, 2.0, 0.5]


def densities(mixture, rows):
    """Weighted density of each row under each component, shape (N, K)."""
    components = zip(*mixture[:3], strict=True)
    return np.stack([w * multivariate_normal(m, c).pdf(rows) for w, m, c in components], axis=1)


def one_iteration(mixture, rows):
    """One iteration written out as a loop over components."""
    joint = densities(mixture, rows)
    shares = joint / joint.sum(1, keepdims=True)
    weights, means, covariances = [], [], []
    for share in shares.T:
        mean = share @ rows / share.sum()
        away = rows - mean
        weights.append(share.mean())
        means.append(mean)
        covariances.append((share[:, None] * away).T @ away / share.sum())
    none = np.zeros((len(weights), 0, 0))
    return MixtureParameters(np.array(weights), np.array(means), np.array(covariances), none)


def moments(mixture):
    """Mean and covariance of a mixture."""
    mean = mixture.weights @ mixture.means
    away = mixture.means - mean
    within = mixture.covariances + away[:, :, None] * away[:, None, :]
    return mean, np.einsum("k,kij->ij", mixture.weights, within)


def test_log_densities_are_those_of_the_gaussians():
    expected = np.log(densities(MIXTURE, ROWS).sum(1))
    np.testing.assert_allclose(MIXTURE.log_prob(ROWS), expected, rtol=1e-10)


@pytest.mark.parametrize("most", [em.MAX_PRODUCTS, 70])
def test_an_iteration_is_that_of_a_loop_whatever_the_parts(monkeypatch, most):
    monkeypatch.setattr(em, "MAX_PRODUCTS", most)
    sums, log_density = em.expectations(MIXTURE, ROWS)
    assert log_density == pytest.approx(MIXTURE.log_prob(ROWS).mean())
    found, expected = em.next_mixture(sums), one_iteration(MIXTURE, ROWS)
    np.testing.assert_allclose(found.weights, expected.weights, rtol=1e-9)
    np.testing.assert_allclose(found.means, expected.means, rtol=1e-9)
    added = em.ADDED_VARIANCE * np.eye(3)
    np.testing.assert_allclose(found.covariances, expected.covariances + added, atol=1e-9)


@pytest.mark.parametrize("most", [em.MAX_PRODUCTS, 70])
def test_whole_weights_count_like_repeated_rows(monkeypatch, most):
    monkeypatch.setattr(em, "MAX_PRODUCTS", most)
    counts = np.random.default_rng(1).integers(1, 4, len(ROWS))
    repeated = np.repeat(ROWS, counts, axis=0)
    sums, log_density = em.expectations(MIXTURE, ROWS, counts)
    expected, mean = em.expectations(MIXTURE, repeated)
    np.testing.assert_allclose(sums, expected, atol=1e-9)
    assert log_density == pytest.approx(mean)
    for found, other in zip(
        em.split(MIXTURE, ROWS, row_weights=counts), em.split(MIXTURE, repeated), strict=True
    ):
        np.testing.assert_allclose(found, other, atol=1e-9)
    # The broken twin: without weights the sums are others.
    assert np.abs(em.expectations(MIXTURE, ROWS)[0] - expected).max() > 1


def test_weights_move_a_mixture_to_the_density_they_stand_for():
    """N(0, 1) with the weights exp(x) is N(1, 1)."""
    rows = np.random.default_rng(0).normal(size=(20_000, 1))
    (mixture,) = em.growing_mixtures(rows, [1], row_weights=np.exp(rows[:, 0] - 0.5))
    assert mixture.means[0, 0] == pytest.approx(1, abs=0.05)
    assert mixture.covariances[0, 0, 0] == pytest.approx(1, abs=0.1)


def test_halves_have_the_moments_of_their_component():
    halves = em.split(MIXTURE, ROWS)
    assert halves.means.shape == (4, 3)
    for found, expected in zip(moments(halves), moments(MIXTURE), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_component_is_split_between_its_clouds():
    """Whitened clouds are as long in every direction; their fourth moments differ."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2000, 3)) * [0.3, 1.0, 1.0]
    rows[:, 0] += rng.choice([-0.95, 0.95], 2000)
    one = MixtureParameters(np.ones(1), np.zeros((1, 3)), np.eye(3)[None], np.zeros((1, 0, 0)))
    step = np.diff(em.split(one, rows).means, axis=0)[0]
    assert abs(step[0]) > 0.95 * np.linalg.norm(step)


def test_every_size_fits_the_rows_better_and_finds_the_modes():
    rows = MODES.draw(np.random.default_rng(0), 4000)
    mean = [mixture.log_prob(rows).mean() for mixture in em.growing_mixtures(rows, [1, 2, 4])]
    assert np.diff(mean).min() > 0.01
    assert mean[-1] > MODES.log_prob(rows).mean() - 0.02
