"""Variables of any shape as vectors of coordinates."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from helpers.variables import VARIABLES, draws_of_variables
from numpyro.distributions import biject_to

from numpyro_disco.tables.variable import JOINT_SUPPORTS, Variable
from numpyro_disco.tables.variables import Variables

SHAPES = {
    "simplex": (2, 3),
    "ordered_vector": (3,),
    "positive_ordered_vector": (3,),
    "corr_cholesky": (3, 3),
    "corr_matrix": (3, 3),
    "lower_cholesky": (2, 2),
    "softplus_lower_cholesky": (2, 2),
    "scaled_unit_lower_cholesky": (2, 2),
    "positive_definite": (2, 2),
    "l1_ball": (3,),
    "zero_sum(1)": (3,),
    "zero_sum(2)": (3, 2),
}


def test_coordinates_are_named_by_element():
    assert Variable("s").coordinates == ("s",)
    assert Variable("M", (2, 2)).coordinates == ("M[0,0]", "M[0,1]", "M[1,0]", "M[1,1]")
    assert Variable("L", (3, 3), "corr_cholesky").coordinates == tuple(
        f"L.unconstrained[{i}]" for i in range(3)
    )


@pytest.mark.parametrize("kind", JOINT_SUPPORTS)
def test_joint_supports_are_those_of_numpyro(kind):
    variable = Variable("v", SHAPES[kind], kind)
    u = 0.5 * jax.random.normal(jax.random.key(0), (4, variable.size))
    value = variable.constrain(u)
    assert value.shape == (4, *variable.shape)
    np.testing.assert_allclose(variable.unconstrain(value), u, atol=2e-5)
    transform = biject_to(JOINT_SUPPORTS[kind])
    blocks = u.reshape(4, *variable.coordinate_shape)
    log_det = transform.log_abs_det_jacobian(blocks, transform(blocks)).reshape(4, -1).sum(1)
    np.testing.assert_allclose(variable.log_det(u), log_det, rtol=1e-6)
    assert variable.inside(value).all()
    outside = -jnp.arange(1.0, value[0].size + 1).reshape(variable.shape)
    assert not variable.inside(outside)


def test_pack_and_unpack_are_inverse():
    draws = draws_of_variables(5)
    x = VARIABLES.pack(draws)
    assert x.shape == (5, len(VARIABLES.names)) == (5, 6)
    for name, value in VARIABLES.unpack(x).items():
        np.testing.assert_allclose(value, draws[name], atol=1e-6)
    with pytest.raises(ValueError, match=r"\['s2'\] are missing"):
        VARIABLES.pack({name: value for name, value in draws.items() if name != "s2"})


def test_log_det_counts_the_chosen_variables_alone():
    x = VARIABLES.pack(draws_of_variables(3))
    which = np.isin(np.arange(6), VARIABLES.indices["p"])
    alone = VARIABLES["p"].log_det(x[:, which])
    np.testing.assert_allclose(VARIABLES.log_det(x, which), alone, rtol=1e-6)
    both = alone + VARIABLES["L"].log_det(x[:, VARIABLES.indices["L"]])
    np.testing.assert_allclose(VARIABLES.log_det(x), both, rtol=1e-6)


def test_observations_of_whole_variables_and_of_elements():
    found = VARIABLES.observed_coordinates({"b": [0.3, np.nan], "p": [0.2, 0.3, 0.5]})
    assert found["b[0]"] == 0.3 and np.isnan(found["b[1]"])
    u = np.array([found[name] for name in VARIABLES["p"].coordinates])
    np.testing.assert_allclose(VARIABLES["p"].constrain(jnp.asarray(u)), [0.2, 0.3, 0.5], rtol=1e-6)
    rows = np.array([[0.2, 0.3, 0.5], [np.nan] * 3])
    found = VARIABLES.observed_coordinates({"p": rows, "b[1]": [1.0, 2.0]})
    assert np.isnan(found["p.unconstrained[0]"]).tolist() == [False, True]
    assert found["b[1]"] == [1.0, 2.0]


def test_series_are_matched_by_their_index():
    variables = Variables((Variable("a"), Variable("b"), Variable("c", (2,))))
    a, b = pd.Series([1.0, 2.0], ["r", "s"]), pd.Series([4.0, 3.0], ["s", "r"])
    packed = variables.pack({"a": a, "b": b, "c": pd.Series([5.0, 6.0])})
    np.testing.assert_array_equal(packed, [[1, 3, 5, 6], [2, 4, 5, 6]])
    found = variables.observed_coordinates({"a": a, "b": b[:1]})
    np.testing.assert_array_equal(found["b"], [np.nan, 4])
    with pytest.raises(ValueError, match="one index in `values` beside the arrays"):
        variables.pack({"a": a, "b": b, "c": np.ones((2, 2))})


@pytest.mark.parametrize(
    ("observed", "message"),
    [
        ({"p": [0.2, np.nan, 0.5]}, "all elements of 'p'.*coupled"),
        ({"p[0]": 0.2}, "coupled by its support \\(simplex\\)"),
        ({"p": [0.2, 0.3, 0.6]}, "to be in its support, simplex"),
        ({"L": np.ones((2, 2))}, "to be in its support, corr_cholesky"),
        ({"q": 1.0}, "neither a variable .* shapes are"),
        ({"b": [1.0, 2.0, 3.0]}, r"last axes are \(2,\) for 'b'"),
        ({"b": [1.0, 2.0], "b[0]": 1.0}, r"\['b\[0\]'\] twice"),
        ({"b": ["x", "y"]}, "numbers for 'b'"),
    ],
)
def test_observations_that_do_not_fit_are_refused(observed, message):
    with pytest.raises(ValueError, match=message):
        VARIABLES.observed_coordinates(observed)


def test_plain_data_and_back():
    again = Variables.from_json(VARIABLES.to_json())
    assert again == VARIABLES and hash(again) == hash(VARIABLES)
    with pytest.raises(ValueError, match="no support 'cone'"):
        Variables.from_json([{"name": "v", "shape": [2], "joint_support": "cone"}])
