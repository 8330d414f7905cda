"""Observations, parsed: values, what is observed, unconstrained values, and error messages."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from numpyro.distributions import constraints

from numpyro_disco.energy.pattern import (
    check_some_observed,
    make_pattern,
    parse_pattern,
)
from numpyro_disco.supports.coordinates import CoordinateSupports
from numpyro_disco.tables.columns import Real

NAMES = ("z", "u", "g")
REAL = CoordinateSupports((constraints.real,) * 3)
SUPPORTS = CoordinateSupports(
    (constraints.positive, constraints.interval(-2.0, 3.0), constraints.real)
)
FLOAT32 = np.dtype("float32")


def parse(observed, argument="observed", supports=REAL):
    return parse_pattern(observed, NAMES, (Real(),) * 3, supports, FLOAT32, argument)


def refuses(*parts):
    """Expect a ValueError whose message holds every part, in this order."""
    return pytest.raises(ValueError, match="(?s)" + ".*".join(re.escape(p) for p in parts))


def assert_pattern(found, values, observed):
    np.testing.assert_array_equal(found.values, values)
    np.testing.assert_array_equal(found.observed, observed)
    np.testing.assert_array_equal(found.unconstrained, np.asarray(values, FLOAT32))
    assert found.observed.dtype == bool and found.unconstrained.dtype == FLOAT32


def test_mapping():
    assert_pattern(parse({"u": 2.0}), [0, 2, 0], [False, True, False])
    assert_pattern(parse({}), [0, 0, 0], [False] * 3)
    # NaN marks a free entry, wherever it is.
    found = parse({"g": [1.0, np.nan], "z": 5})
    assert_pattern(found, [[5, 0, 1], [5, 0, 0]], [[True, False, True], [True, False, False]])
    assert found.labels is None


def test_array_and_frame():
    table = np.array([[1.0, np.nan, 3.0], [np.nan, np.nan, np.nan]])
    observed = [[True, False, True], [False] * 3]
    assert_pattern(parse(table), [[1, 0, 3], [0, 0, 0]], observed)
    assert_pattern(parse(table[0]), [1, 0, 3], observed[0])
    assert_pattern(parse([1, None, 3]), [1, 0, 3], observed[0])
    # Columns of a DataFrame are found by name; one that is missing is free.
    frame = pd.DataFrame({"g": [3.0, np.nan], "z": [1.0, np.nan]}, index=["first", 2])
    found = parse(frame)
    assert_pattern(found, [[1, 0, 3], [0, 0, 0]], observed)
    assert found.labels == ("first", "2")


def test_traced():
    @jax.jit
    def by_name(value):
        found = parse({"u": value, "g": 3.0})
        assert isinstance(found.observed, np.ndarray)  # what is observed is known while tracing
        np.testing.assert_array_equal(found.observed.reshape(-1, 3).all(0), [False, True, True])
        return found.values

    np.testing.assert_array_equal(by_name(2.0), [0, 2, 3])
    np.testing.assert_array_equal(by_name(jnp.array([2.0, 4.0])), [[0, 2, 3], [0, 4, 3]])

    @jax.jit
    def whole(table):
        found = parse(table)
        return found.values, found.observed, found.unconstrained

    values, observed, unconstrained = whole(jnp.array([1.0, jnp.nan, 3.0]))
    np.testing.assert_array_equal(values, [1, 0, 3])
    np.testing.assert_array_equal(observed, [True, False, True])
    np.testing.assert_array_equal(unconstrained, [1, 0, 3])


def test_concrete_observations_are_checked_while_a_program_is_traced():
    @jax.jit
    def program(x):
        return x + parse({"z": 2.0}, supports=SUPPORTS).unconstrained

    np.testing.assert_allclose(program(jnp.zeros(3)), [np.log(2), 0, 0], rtol=1e-6)
    with refuses("inside their supports"):
        jax.jit(lambda x: x + parse({"z": -2.0}, supports=SUPPORTS).unconstrained)(jnp.zeros(3))


def test_values_keep_their_last_bit():
    table = np.array([[0.1, np.nan, 1 / 3]])
    found = parse(table)
    assert found.values.dtype == np.float64
    np.testing.assert_array_equal(found.values[found.observed], table[0, [0, 2]])


def test_unconstrained_values():
    found = parse({"z": [2.0, np.nan], "u": 0.5, "g": -1.0}, supports=SUPPORTS)
    # 0.5 is the middle of its interval.
    expected = [[np.log(2.0), 0.0, -1.0], [0.0, 0.0, -1.0]]
    np.testing.assert_allclose(found.unconstrained, expected, rtol=1e-6, atol=1e-6)


def test_invalid_observations():
    with refuses("`given` names 'redshift'", str(NAMES)):
        parse({"redshift": 1.0}, "given")
    with refuses("one batch shape in `given`", "'z': (2,)", "'u': (3,)"):
        parse({"z": [1, 2], "u": [1, 2, 3]}, "given")
    for value in (np.zeros(2), np.zeros((3, 2)), 1.0):
        with refuses("last axis of 3 for `given`", str(NAMES), f"got shape {np.shape(value)}"):
            parse(value, "given")
    for value in ({"z": np.inf}, [np.nan, -np.inf, 0.0]):
        with refuses("finite numbers", "`given`", "got infinity"):
            parse(value, "given")
    for value in ({"z": "low"}, ["a", "b", "c"]):
        with refuses("Expected numbers for 'z' in `given`", "got"):
            parse(value, "given")
    with refuses("last axis of 3 for `given`"):
        jax.eval_shape(lambda x: parse(x, "given").values, np.zeros(2))
    with refuses("distinct columns in `given`", "['z', 'z']"):
        parse(pd.DataFrame([[1.0, 2.0]], columns=["z", "z"]), "given")


@pytest.mark.parametrize(
    "observed", [{"z": -1.0}, {"z": 0.0}, {"u": 3.0}, [[1.0, 0.0, 0.0], [1.0, -2.5, 0.0]]]
)
def test_values_outside_their_supports(observed):
    with refuses("inside their supports in `given`", "whose support is"):
        parse(observed, "given", SUPPORTS)


def test_filling_from_another_pattern():
    values = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    held = np.broadcast_to([True, True, False], (2, 3))
    other = make_pattern(values, held, SUPPORTS, FLOAT32)
    found = parse({"z": 7.0}, supports=SUPPORTS).fill_from(other)
    np.testing.assert_array_equal(found.observed, held)
    np.testing.assert_array_equal(found.values, [[7, 2, 0], [7, 5, 0]])
    np.testing.assert_allclose(found.unconstrained[:, 0], np.log(7), rtol=1e-6)
    np.testing.assert_array_equal(found.unconstrained[0, 1:], other.unconstrained[0, 1:])


def test_rows():
    single = parse({"u": 2.0})
    assert single.is_single and single.as_rows().values.shape == (1, 3)
    rows = parse({"u": [1.0, np.nan, 3.0]}).as_rows()
    assert not rows.is_single
    assert_pattern(rows.select([2, 0]), [[0, 3, 0], [0, 1, 0]], [[False, True, False]] * 2)
    hidden = rows.hide(np.array([[False, True, False], [False] * 3, [False] * 3]))
    assert_pattern(hidden, [[0, 0, 0], [0, 0, 0], [0, 3, 0]], rows.values == 3)
    assert rows.reshape(3, 1, 3).unconstrained.shape == (3, 1, 3)
    with refuses("(D,) or (rows, D) for `given`", "got shape (1, 1, 3)"):
        parse(np.zeros((1, 1, 3))).as_rows("given")
    check_some_observed(np.ones((2, 3), bool))
    with refuses("at least one number in every row of `observed`", "row 1"):
        check_some_observed(np.array([[True, False], [False, False]]))
