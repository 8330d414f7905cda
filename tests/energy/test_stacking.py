"""Evaluation with stacked parameters agrees with a loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from numpyro_disco.energy.stacking import beside_batch, evaluate_stacked


def quadratic(parameters, x):
    matrix, offset = parameters
    return 0.5 * x @ matrix @ x + offset


@pytest.mark.parametrize("stack", [(), (4,), (4, 2)])
def test_each_point_is_evaluated_with_its_own_parameters(stack):
    rng = np.random.default_rng(0)
    matrix = jnp.asarray(rng.normal(size=(*stack, 3, 3)))
    offset = jnp.asarray(rng.normal(size=stack))
    x = jnp.asarray(rng.normal(size=(*stack, 5, 3)))

    def evaluate(function, output):
        return evaluate_stacked(
            function, (matrix, offset), x, stack=stack, batch_ndim=1, output=output
        )

    values = evaluate(quadratic, "()")
    gradients = evaluate(jax.grad(quadratic, argnums=1), "(d)")
    assert values.shape == (*stack, 5) and gradients.shape == (*stack, 5, 3)
    for place in np.ndindex(*stack, 5):
        parameters = matrix[place[:-1]], offset[place[:-1]]
        np.testing.assert_allclose(values[place], quadratic(parameters, x[place]), rtol=1e-4)
        gradient = jax.grad(quadratic, argnums=1)(parameters, x[place])
        np.testing.assert_allclose(gradients[place], gradient, rtol=1e-3, atol=1e-5)


def test_batch_axes_come_after_the_stack():
    assert beside_batch(jnp.zeros((4, 3)), (4,), 2).shape == (4, 1, 1, 3)
    assert beside_batch(jnp.zeros(3), (), 0).shape == (3,)
