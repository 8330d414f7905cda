"""The rule that turns a value and its standard error into a verdict."""

import numpy as np
import pytest

from numpyro_disco.diagnostics.verdicts import FAIL, PASS, WARN, verdict_of, worst


@pytest.mark.parametrize(
    ("value", "error", "verdict"),
    [(0.05, 0.01, PASS), (0.5, 0.01, WARN), (3.0, 0.01, FAIL), (9.0, 5.0, WARN)],
)
def test_noise_that_could_hide_a_failure_does_not_pass(value, error, verdict):
    assert verdict_of(value, 0.1, 1.0, error) == verdict


def test_limits_are_included():
    assert verdict_of(0.1, 0.1, 1.0) == PASS and verdict_of(1.0, 0.1, 1.0) == WARN


@pytest.mark.parametrize(("value", "error"), [(np.nan, 0.0), (0.0, np.nan), (np.inf, 1.0)])
def test_values_that_are_not_finite_fail(value, error):
    assert verdict_of(value, 0.1, 1.0, error) == FAIL


def test_worst():
    assert worst(PASS) == PASS and worst(WARN, PASS) == WARN and worst(PASS, FAIL, WARN) == FAIL
