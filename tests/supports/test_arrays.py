import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to

from numpyro_disco.supports.arrays import StandardizedArray
from numpyro_disco.supports.clamped import StandardizedVector

OBSERVED = (False, True, False, False, True, False)
VALUES = jnp.arange(6.0)
FACTOR = jnp.tril(0.1 * jnp.ones((6, 6))) + jnp.eye(6)


def support(observed=OBSERVED):
    values = VALUES if any(observed) else None
    vector = StandardizedVector(jnp.ones(6), FACTOR, values, observed)
    return vector, StandardizedArray(vector, (2, 3))


def test_map_is_that_of_the_vector():
    vector, array = support()
    u = jax.random.normal(jax.random.key(0), (5, 4))
    flat, whole = biject_to(vector)(u), biject_to(array)(u)
    assert whole.shape == (5, 2, 3)
    np.testing.assert_array_equal(whole.reshape(5, 6), flat)
    np.testing.assert_allclose(biject_to(array).inv(whole), u, atol=1e-6)
    np.testing.assert_array_equal(
        biject_to(array).log_abs_det_jacobian(u, whole),
        biject_to(vector).log_abs_det_jacobian(u, flat),
    )


def test_holds_arrays_with_the_fixed_values():
    _, array = support()
    inside = biject_to(array)(jnp.zeros(4))
    assert bool(array(inside)) and not bool(array(inside.at[0, 1].add(1.0)))
    assert not bool(array(inside.at[0, 0].set(jnp.nan)))
    assert array.feasible_like(jnp.zeros((7, 2, 3))).shape == (7, 2, 3)
    assert array.event_dim == 2


def test_equality_and_leaves():
    vector, array = support()
    leaves, structure = jax.tree.flatten(array)
    assert jax.tree.unflatten(structure, leaves) == array
    assert array != StandardizedArray(vector, (3, 2))
    assert array != support((False,) * 6)[1]
