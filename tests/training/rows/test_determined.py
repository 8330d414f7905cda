"""Columns that others determine are found, and strong dependence with noise is not."""

import numpy as np
import pytest

from numpyro_disco.training.rows.determined import find_determined

RNG = np.random.default_rng(1)
X = RNG.normal(size=(2000, 4))
NOISE = RNG.normal(size=2000)


def found(*columns):
    """Each column that is found, with those that determine it."""
    rows = np.column_stack(columns)
    return {one.column: one.inputs for one in find_determined(rows, np.arange(rows.shape[1]))}


@pytest.mark.parametrize(
    ("derived", "together"),
    [
        (X[:, 0] * X[:, 1], {0, 1, 4}),
        (X[:, 0] * X[:, 1] + 0.002 * NOISE, {0, 1, 4}),
        (np.hypot(X[:, 2], X[:, 3]), {2, 3, 4}),
        (np.arctan2(X[:, 2], X[:, 3]), {2, 3, 4}),
        (3 * X[:, 0] + X[:, 1] ** 2, {0, 1, 4}),
    ],
)
def test_functions_of_two_columns(derived, together):
    """Which of the three is named does not matter: one is left out and the others stay."""
    ((column, inputs),) = found(X, derived).items()
    assert {column, *inputs} <= together


def test_a_monotone_function_of_one_column():
    assert found(X[:, :2], np.exp(3 * X[:, 0])) in ({2: (0,)}, {0: (2,)})


def test_every_function_is_found():
    derived = X[:, 0] * X[:, 1], np.hypot(X[:, 2], X[:, 3])
    assert len(found(X, *derived)) == 2


@pytest.mark.parametrize("noise", [0.1, 0.3])
def test_dependence_with_noise_has_a_density(noise):
    """The noise is a tenth of what is explained, or less; linear dependence may be as thin."""
    thin = X[:, 0] + X[:, 1] + 1e-4 * NOISE
    assert found(X, X[:, 0] ** 2 + noise * NOISE) == {}
    assert found(X, X[:, 0] * X[:, 1] + noise * NOISE) == {}
    assert found(X, thin) == {}


def test_a_clipped_column_is_judged_where_it_varies():
    """Most of its rows share one value, which is easy to predict."""
    clipped = lambda noise: np.maximum(0, X[:, 0] - 0.5 + noise * NOISE)  # noqa: E731
    assert found(X[:, :2], clipped(0.1)) == {}
    assert found(X[:, :2], clipped(0.0)) == {2: (0,)}


def test_only_targets_are_examined_and_few_rows_say_nothing():
    rows = np.column_stack([X[:, 0], (X[:, 0] > 0) + (X[:, 0] > 1)])
    assert find_determined(rows, np.array([0])) == []
    assert found(X[:400], X[:400, 0] ** 2) == {}
