"""A Gaussian and a mixture reference in three coordinates, beside their exact float64 truths."""

from __future__ import annotations

import itertools

import jax
import numpy as np

from helpers.statistics import Mixture, assert_within, mean_and_error, moments
from numpyro_disco import GaussianReference, MixtureReference

# Skewed, unequally weighted and correlated in different ways: a symmetric target hides sign errors.
TRUTH = {
    "gaussian": Mixture(
        [1.0], [[0.5, -1.0, 2.0]], [[[1.0, 0.7, -0.3], [0.7, 2.0, 0.4], [-0.3, 0.4, 0.8]]]
    ),
    "mixture": Mixture(
        [0.62, 0.28, 0.10],
        [[0.0, 0.0, 0.0], [2.0, -1.0, 1.5], [-1.5, 3.0, 0.5]],
        [
            [[0.5, 0.3, 0.0], [0.3, 0.6, -0.2], [0.0, -0.2, 0.4]],
            [[0.3, -0.2, 0.1], [-0.2, 0.8, 0.3], [0.1, 0.3, 0.5]],
            [[1.2, 0.0, -0.5], [0.0, 0.2, 0.0], [-0.5, 0.0, 0.9]],
        ],
    ),
}

# Three well separated modes of unequal mass in the plane.
MODES = Mixture(
    [0.05, 0.35, 0.6],
    [[-3.0, 0.0], [1.0, 2.5], [2.5, -2.0]],
    [[[0.06, 0.03], [0.03, 0.05]], [[0.04, -0.03], [-0.03, 0.08]], [[0.12, 0.02], [0.02, 0.04]]],
)
# Three components that overlap, so that conditioning changes their weights.
OVERLAPPING = Mixture(
    [0.2, 0.3, 0.5],
    [[-1.0, 0.5, 0.0], [0.5, -0.5, 1.0], [0.0, 0.5, -0.5]],
    [
        [[0.6, 0.3, 0.1], [0.3, 0.4, 0.0], [0.1, 0.0, 0.3]],
        [[0.2, -0.1, 0.0], [-0.1, 0.5, 0.2], [0.0, 0.2, 0.8]],
        [[1.5, 0.4, -0.6], [0.4, 0.9, 0.3], [-0.6, 0.3, 1.2]],
    ],
)

# One row for each subset of the three coordinates, from none to all.
MASKS = np.array(list(itertools.product([False, True], repeat=3)))
VALUES = np.random.default_rng(0).normal(size=MASKS.shape).astype(np.float32)

# Compiled once for all tests of a kind, which therefore use arrays of shape (8, 3).
log_prob_of = jax.jit(lambda reference, x: reference.log_prob(x))
sample_of = jax.jit(lambda reference, key, shape: reference.sample(key, shape), static_argnums=2)
split_of = jax.jit(
    lambda reference, values, mask: (
        reference.condition(values, mask),
        reference.marginal_log_prob(values, mask),
    )
)


def reference_of(truth):
    """The reference with the parameters of a `Mixture`: a Gaussian if it has one component."""
    if len(truth.weights) == 1:
        return GaussianReference(truth.means[0], truth.covariances[0])
    return MixtureReference(truth.weights, truth.means, truth.covariances)


def check_moments(draws, truth, resolution=0.4):
    """Assert that draws (n, D) have the moments of a `Mixture`.

    Draws are standardised by the truth, so that one resolution serves every moment.
    """
    loc, scale = truth.mean, np.sqrt(np.diag(truth.covariance))
    estimate, error = mean_and_error(moments((draws - loc) / scale))
    exact = truth.standardize(loc, scale).moments
    assert_within(estimate, exact, error, resolution=resolution, label="moments")
