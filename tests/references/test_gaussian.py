"""`GaussianReference`: its powers, and the arguments it refuses."""

import numpy as np
import pytest
from helpers.references import TRUTH, VALUES, log_prob_of, reference_of
from helpers.statistics import Mixture

from numpyro_disco import GaussianReference


def test_tempered_gaussian_is_its_power():
    truth = TRUTH["gaussian"]
    reference = reference_of(truth)
    x = 3 * VALUES
    for b in (0.2, 1.0, 4.0):
        tempered = reference.temper(b)
        difference = np.asarray(
            log_prob_of(tempered, x) - b * log_prob_of(reference, x), np.float64
        )
        size = np.abs(b * log_prob_of(reference, x)).max()
        np.testing.assert_allclose(difference, difference[0], atol=1e-6 * size + 1e-5)
        exact = Mixture([1.0], truth.means, truth.covariances / b).log_prob(x)
        np.testing.assert_allclose(log_prob_of(tempered, x), exact, rtol=1e-5, atol=1e-4)


EYE = np.eye(2)
BAD = {
    "mean without an axis": ((0.0, EYE), {}, "mean"),
    "mean that is not finite": (([0.0, np.nan], EYE), {}, "mean"),
    "covariance of another size": ((np.zeros(3), EYE), {}, "covariance"),
    "covariance not definite": ((np.zeros(2), [[1, 2], [2, 1]]), {}, "covariance"),
    "covariance not symmetric": ((np.zeros(2), [[1, 0.9], [0, 1]]), {}, "covariance"),
    "observed of another size": ((np.zeros(2), EYE), {"observed": [True]}, "observed"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_refused(case):
    arguments, keywords, name = BAD[case]
    with pytest.raises(ValueError, match=f"`{name}`"):
        GaussianReference(*map(np.asarray, arguments), **keywords)
