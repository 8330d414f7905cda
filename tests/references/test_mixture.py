"""`MixtureReference`: its tempering, weights of zero, and the arguments it refuses."""

import math

import numpy as np
import pytest
from helpers.references import MASKS, TRUTH, VALUES, log_prob_of, reference_of, split_of
from helpers.statistics import Mixture

from numpyro_disco import MixtureReference


@pytest.mark.parametrize("b", [0.1, 0.5, 3.0])
def test_tempered_mixture_bounds_its_power(b):
    truth = TRUTH["mixture"].marginal([0, 1])
    reference = reference_of(truth)
    # The mass of w_k^b N_k^b; (sum a_k)^b is at most sum a_k^b, times K^(b-1) when b > 1.
    log_det = np.linalg.slogdet(2 * np.pi * truth.covariances)[1]
    masses = truth.weights**b * np.exp(0.5 * (1 - b) * log_det) / b
    bound = math.log(masses.sum()) + max(b - 1, 0) * math.log(3)

    def excess(tempered, x):
        return float((b * log_prob_of(reference, x) - log_prob_of(tempered, x)).max())

    tempered = reference.temper(b)
    axis = np.linspace(-40, 40, 321, dtype=np.float32)
    wide = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    assert excess(tempered, wide) <= bound + 1e-3
    np.testing.assert_allclose(tempered.weights, masses / masses.sum(), rtol=1e-5)
    # One Gaussian with the mixture's mean and covariance does not bound its power.
    moments_only = MixtureReference([1.0] * 3, [truth.mean] * 3, [truth.covariance / b] * 3)
    assert excess(moments_only, wide) > bound + 1
    # A Riemann sum of a smooth density with steps this fine is exact in effect.
    mass = np.exp(np.asarray(log_prob_of(tempered, wide), np.float64)).sum() * 0.25**2
    assert abs(mass - 1) < 1e-5


def test_weights_of_zero_are_allowed():
    truth = TRUTH["mixture"]
    without = Mixture(truth.weights[:2], truth.means[:2], truth.covariances[:2])
    reference = MixtureReference([0.62, 0.28, 0.0], truth.means, truth.covariances)
    log_prob = log_prob_of(reference, VALUES)
    np.testing.assert_allclose(log_prob, without.log_prob(VALUES), rtol=1e-5)
    given, _ = split_of(reference, VALUES, MASKS)
    assert (given.weights[:, 2] == 0).all()
    assert np.isfinite(log_prob_of(given, VALUES)).all()


def test_log_weights_may_be_too_small_to_exponentiate():
    truth = TRUTH["mixture"]
    log_weights = np.log(truth.weights) - 500.0
    reference = MixtureReference.from_log_weights(log_weights, truth.means, truth.covariances)
    np.testing.assert_allclose(log_prob_of(reference, VALUES), truth.log_prob(VALUES), rtol=1e-4)


EYE = np.eye(2)
BAD = {
    "means without components": ((np.ones(2), np.zeros(2), EYE), {}, "means"),
    "too few weights": ((np.ones(1), np.zeros((2, 2)), [EYE, EYE]), {}, "weights"),
    "too few covariances": ((np.ones(2), np.zeros((2, 2)), [EYE]), {}, "covariances"),
    "a covariance not definite": ((np.ones(2), np.zeros((2, 2)), [EYE, -EYE]), {}, "covariances"),
    "negative weights": (([1.5, -0.5], np.zeros((2, 2)), [EYE, EYE]), {}, "weights"),
    "weights of NaN": (([1.5, np.nan], np.zeros((2, 2)), [EYE, EYE]), {}, "weights"),
    "weights all zero": (([0, 0], np.zeros((2, 2)), [EYE, EYE]), {}, "weights"),
    "weights all zero in one of a batch": (
        ([[0, 0], [1, 1]], np.zeros((2, 2)), [EYE, EYE]),
        {},
        "weights",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_refused(case):
    arguments, keywords, name = BAD[case]
    with pytest.raises(ValueError, match=f"`{name}`"):
        MixtureReference(*map(np.asarray, arguments), **keywords)
