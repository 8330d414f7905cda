"""Implicit score matching with the exact trace, and with two estimates of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.scores import ROW, LinearScore

import numpyro_disco as disco

SQUARE = float((ROW**2).sum())
EXACT = (0.5 * 4 * SQUARE - 4) / 2
"""The loss of s(x) = -2 x at ROW: |s|^2 / 2 plus the trace -4, over two coordinates."""


def test_the_exact_loss():
    assert float(disco.Implicit().loss(LinearScore, ROW)) == pytest.approx(EXACT, rel=1e-5)


def test_random_signs_give_the_exact_trace_of_a_diagonal_jacobian():
    signs = jnp.array([1.0, -1.0])
    found = disco.Hutchinson().loss(LinearScore, ROW, signs)
    assert float(found) == pytest.approx(EXACT, rel=1e-5)


def test_random_directions_give_the_exact_loss_on_average():
    directions = jax.random.normal(jax.random.key(0), (20_000, 2))
    losses = jax.vmap(lambda v: disco.Sliced().loss(LinearScore, ROW, v))(directions)
    error = float(losses.std()) / 20_000**0.5
    assert 5 * error < 0.3 and abs(float(losses.mean()) - EXACT) < 5 * error
    # Broken twin: directions of twice the length.
    wrong = jax.vmap(lambda v: disco.Sliced().loss(LinearScore, ROW, 2 * v))(directions)
    assert abs(float(wrong.mean()) - EXACT) > 5 * error


@pytest.mark.parametrize("kind", [disco.Implicit, disco.Hutchinson, disco.Sliced])
def test_held_out_rows_are_judged_by_the_exact_loss(kind):
    objective = kind()
    assert not objective.smooths
    noise = objective.held_out_noise(jax.random.key(0), jnp.zeros((5, 2)), 3, None)
    assert noise.shape == (5, 1)
    found = objective.held_out_loss(LinearScore, ROW, noise[0, 0])
    np.testing.assert_allclose(found, EXACT, rtol=1e-5)
