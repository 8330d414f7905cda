"""The support of a variable of any shape, and the map onto it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import biject_to, constraints

from numpyro_disco.supports.coordinates import CoordinateSupports
from numpyro_disco.supports.variables import StandardizedVariable
from numpyro_disco.tables.variable import Variable

LOC, SCALE = jnp.array([0.4, -0.3]), jnp.array([0.5, 1.5])
POSITIVE = CoordinateSupports((constraints.positive, constraints.real))
REAL = CoordinateSupports((constraints.real,) * 2)
SUPPORTS = {
    "elements": StandardizedVariable(LOC, SCALE, Variable("v", (1, 2)), POSITIVE),
    "simplex": StandardizedVariable(LOC, SCALE, Variable("v", (3,), "simplex"), REAL),
}


@pytest.mark.parametrize("support", SUPPORTS.values(), ids=SUPPORTS)
def test_the_map_is_a_bijection_with_its_jacobian(support):
    transform = biject_to(support)
    u = jnp.array([0.7, -0.2])
    value = transform(u)
    assert value.shape == support.variable.shape == transform.forward_shape((2,))
    assert transform.inverse_shape((5, *value.shape)) == (5, 2)
    assert bool(support(value)) and transform.codomain == support
    np.testing.assert_allclose(transform.inv(value), u, atol=1e-6)
    # The density of a simplex is one of its first elements.
    jacobian = jax.jacfwd(lambda u: transform(u).ravel()[:2])(u)
    log_det = transform.log_abs_det_jacobian(u, value)
    np.testing.assert_allclose(log_det, jnp.linalg.slogdet(jacobian)[1], rtol=1e-5)
    centre = support.feasible_like(value)
    np.testing.assert_allclose(transform(jnp.zeros(2)), centre, rtol=1e-6)


@pytest.mark.parametrize("support", SUPPORTS.values(), ids=SUPPORTS)
def test_values_outside_and_shapes_that_do_not_fit(support):
    transform = biject_to(support)
    assert not bool(support(-jnp.ones(support.variable.shape)))
    with pytest.raises(ValueError, match="last axis of 2"):
        transform.forward_shape((3,))
    with pytest.raises(ValueError, match="Expected last axes"):
        transform.inverse_shape((4,))


def test_supports_are_pytrees_and_know_their_plain_support():
    one, other = SUPPORTS["elements"], SUPPORTS["simplex"]
    again = jax.tree.unflatten(jax.tree.structure(one), jax.tree.leaves(one))
    assert again == one and one != other
    assert other.plain == constraints.simplex
    assert one.plain == (constraints.positive, constraints.real)
