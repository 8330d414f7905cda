"""Supports of many coordinates: their maps, their equality, and the check of a user's mapping."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import biject_to, constraints

from numpyro_disco.supports.coordinates import CoordinateSupports, check_supports, num_levels

# Two intervals with different bounds: their numbers become arrays, and the others stay numbers.
KINDS = (
    constraints.interval(-2.0, 5.0),
    constraints.real,
    constraints.positive,
    constraints.interval(0.0, 1.0),
    constraints.less_than(-1.0),
)
SUPPORTS = CoordinateSupports(KINDS)
Y = np.random.default_rng(0).normal(size=(7, len(KINDS))).astype(np.float32)


def test_each_coordinate_has_its_own_map():
    x = SUPPORTS.constrain(Y)
    log_dets = SUPPORTS.log_dets(Y, x)
    assert x.shape == log_dets.shape == Y.shape and x.dtype == jnp.float32
    for index, kind in enumerate(KINDS):
        transform = biject_to(kind)
        np.testing.assert_allclose(x[:, index], transform(Y[:, index]), rtol=1e-6)
        slope = jax.jit(jax.vmap(jax.grad(transform)))(jnp.asarray(Y[:, index]))
        np.testing.assert_allclose(log_dets[:, index], np.log(np.abs(slope)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(SUPPORTS.unconstrain(x), Y, rtol=1e-4, atol=1e-5)


def test_real_coordinates_are_returned_as_they_are():
    real = CoordinateSupports((constraints.real,) * 2)
    assert real.real and not SUPPORTS.real
    np.testing.assert_array_equal(real.constrain(Y[:, :2]), Y[:, :2])
    np.testing.assert_array_equal(real.unconstrain(Y[:, :2]), Y[:, :2])
    np.testing.assert_array_equal(real.log_dets(Y[:, :2], Y[:, :2]), np.zeros((7, 2)))


def test_inside_is_judged_by_coordinate():
    x = np.array([[6.0, np.inf, 1.0, 0.5, -2.0], [0.0, 1.0, -1.0, np.nan, 0.0]])
    expected = [[False, False, True, True, True], [True, True, False, False, False]]
    np.testing.assert_array_equal(SUPPORTS.inside(x), expected)
    assert SUPPORTS.inside(SUPPORTS.constrain(Y)).all()


def test_selected_coordinates_keep_the_given_order():
    some = SUPPORTS.select([3, 1])
    assert some.supports == (KINDS[3], KINDS[1])
    x = SUPPORTS.constrain(Y)
    np.testing.assert_allclose(some.constrain(Y[:, [3, 1]]), x[:, [3, 1]], rtol=1e-6)


def test_equality_is_by_type_and_bounds():
    again = CoordinateSupports((constraints.interval(-2.0, 5.0), *KINDS[1:]))
    assert again == SUPPORTS and hash(again) == hash(SUPPORTS)
    assert CoordinateSupports((constraints.interval(-2.0, 5.5), *KINDS[1:])) != SUPPORTS
    assert CoordinateSupports(KINDS[::-1]) != SUPPORTS and SUPPORTS != KINDS


def test_one_type_is_mapped_in_one_call():
    wide = CoordinateSupports(tuple(constraints.interval(0.0, 1.0 + i) for i in range(20)))
    program = jax.make_jaxpr(wide.constrain)(np.zeros(20, np.float32))
    one = jax.make_jaxpr(wide.select([0]).constrain)(np.zeros(1, np.float32))
    assert str(program).count("logistic") == str(one).count("logistic") > 0


def test_missing_supports_are_the_real_line():
    names = ("a", "b", "c")
    assert check_supports(None, names) == (constraints.real,) * 3
    found = check_supports({"b": constraints.positive, "c": constraints.boolean}, names)
    assert found == (constraints.real, constraints.positive, constraints.boolean)


class Unmapped(constraints.Constraint):
    """A constraint without a bijection."""


@pytest.mark.parametrize(
    ("supports", "message"),
    [
        ([constraints.positive], "a mapping from names to NumPyro constraints .*; got list"),
        ({"z": constraints.positive}, "`supports` names 'z', which is not a coordinate"),
        ({"a": "positive"}, "a constraint on one number for 'a' in `supports`.*got 'positive'"),
        ({"a": constraints.simplex}, "a constraint on one number for 'a' in `supports`"),
        ({"a": Unmapped()}, "NumPyro can map the real line onto for 'a'.*Register one"),
    ],
)
def test_bad_supports_are_refused(supports, message):
    with pytest.raises(ValueError, match=message):
        check_supports(supports, ("a", "b"))


# --- discrete coordinates

MIXED = CoordinateSupports(
    (
        constraints.integer_interval(2, 5),
        constraints.positive,
        constraints.boolean,
        constraints.integer_interval(-1, 0),
    )
)


def test_levels_of_discrete_coordinates_become_codes():
    assert MIXED.num_levels == (4, 0, 2, 2) and not MIXED.real
    assert MIXED.discrete.tolist() == [True, False, True, True]
    codes = np.array([[0, 0.3, 1, 1], [3, -0.5, 0, 0]], np.float32)
    x = MIXED.constrain(codes)
    np.testing.assert_array_equal(x[:, [0, 2, 3]], [[2, 1, 0], [5, 0, -1]])
    np.testing.assert_allclose(MIXED.unconstrain(x), codes, rtol=1e-6)
    log_dets = MIXED.log_dets(codes, x)
    assert (log_dets[:, [0, 2, 3]] == 0).all() and (log_dets[:, 1] != 0).all()
    assert MIXED.inside(x).all() and x.dtype == np.float32
    outside = np.array([[6, 1.0, 2, 0.5], [2.5, 1.0, 0.5, 1]])
    assert not MIXED.inside(outside)[:, [0, 2, 3]].any()


def test_few_levels_have_an_exact_mass():
    counts = (
        (constraints.boolean, 2),
        (constraints.integer_interval(0, 63), 64),
        (constraints.integer_interval(0, 64), 0),
        (constraints.integer_interval(0.5, 3.5), 0),
        (constraints.integer_interval(2**24, 2**24 + 3), 0),
        (constraints.nonnegative_integer, 0),
        (constraints.interval(0, 3), 0),
    )
    for support, count in counts:
        assert num_levels(support) == count, support


def test_both_precisions_in_one_process():
    y = np.array(Y)
    with jax.enable_x64(True):
        double = SUPPORTS.constrain(jnp.asarray(y, jnp.float64))
        assert double.dtype == jnp.float64
    single = SUPPORTS.constrain(jnp.asarray(y, jnp.float32))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, double, rtol=1e-4)
