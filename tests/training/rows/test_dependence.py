"""Columns that are linear functions of others, up to rounding, are named with their equation."""

import numpy as np
import pytest
from helpers.fits import quick_fit
from numpyro.distributions import constraints

from numpyro_disco.training.rows.dependence import (
    describe_dependences,
    find_dependences,
    is_whole,
    precision,
    standardized,
)

RNG = np.random.default_rng(0)
A, B, C = RNG.normal(size=(3, 300)) * np.array([[1.0], [3.0], [0.2]]) + np.array([[0], [5], [-1]])
SHARES = RNG.dirichlet([2, 3, 4, 1], size=300)


def equations(*columns):
    rows = np.stack(columns, axis=1)
    found = find_dependences(rows, precision(rows))
    return describe_dependences(found, tuple("abcdef"), standardized(rows)[2])


@pytest.mark.parametrize("scale", [1e-300, 1e-19, 1.0, 1e40, 1e300])
def test_equations_at_any_scale(scale):
    assert equations(*(scale * x for x in (A, B, A + B))) == "'c' = 1.00 'a' + 1.00 'b'"
    assert equations(A, scale * B, C) == ""


def test_several_equations():
    text = equations(A, B, 3 + A - 2.5 * B, C, C - 1e-4 * A)
    assert text == "'c' = 3.00 + 1.00 'a' - 2.50 'b'; 'e' = -0.0001 'a' + 1.00 'd'"


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_shares_sum_to_one_up_to_rounding(dtype):
    shares = SHARES.astype(dtype).astype(np.float64)
    (found,) = find_dependences(shares, precision(shares))
    assert found.column == 3 and is_whole(found)
    assert describe_dependences([found], tuple("pqrs"), shares.std(0)) == (
        "'s' = 1.00 - 1.00 'p' - 1.00 'q' - 1.00 'r'"
    )


def test_nearly_dependent_columns_have_a_density():
    noise = RNG.normal(size=300)
    assert equations(A, B, A + B + 1e-6 * noise) == ""
    # Whole numbers are exact, although single precision holds them.
    counts = RNG.integers(0, 100_000, (2, 300)).astype(float)
    assert equations(*counts, counts.sum(0) + RNG.integers(-1, 2, 300)) == ""
    assert "'c' = 1.00 'a' + 1.00 'b'" in equations(*counts, counts.sum(0))
    # What single precision rounds is rounding.
    single = np.stack([A, 1e3 + B, A + B + 1e3], axis=1).astype(np.float32).astype(float)
    assert "'c'" in equations(*single.T)


def test_deviations_below_the_working_precision_are_a_dependence():
    rows = np.stack([A, B, A + B + 1e-9 * RNG.normal(size=300)], axis=1)
    assert find_dependences(rows, precision(rows)) == []
    single = float(np.finfo(np.float32).eps)
    (found,) = find_dependences(rows, precision(rows), single)
    assert found.column == 2 and set(found.slopes) == {0, 1}
    # Rounding to single precision keeps these.
    rows[:, 2] += 1e-5 * RNG.normal(size=300)
    assert find_dependences(rows, precision(rows), single) == []


def refusal(data, **settings):
    with pytest.raises(ValueError, match="linearly independent") as error:
        quick_fit(data, **settings)
    return str(error.value)


def test_fits_name_what_depends_on_what():
    message = refusal({"a": A, "b": B, "c": C, "total": A + B + C})
    assert "'total' = 1.00 'a' + 1.00 'b' + 1.00 'c'. Leave out one column" in message
    assert "simplex" in refusal(SHARES, names=tuple("pqrs"))
    nearly = A + B + 1e-9 * RNG.normal(size=300)
    assert "'c' = 1.00 'a' + 1.00 'b'" in refusal({"a": A, "b": B, "c": nearly})


def test_dependence_in_unconstrained_space():
    data = {"a": np.exp(A), "b": np.exp(C), "product": np.exp(A + C)}
    positive = dict.fromkeys(data, constraints.positive)
    assert "'product' = 1.00 'a' + 1.00 'b'" in refusal(data, supports=positive)
