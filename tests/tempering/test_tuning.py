"""Tuning finds moves that go far for their cost."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from numpyro_disco.tempering.kernels import Kernel
from numpyro_disco.tempering.state import Chains, Level, Tuning
from numpyro_disco.tempering.tuning import initial_tuning

pytestmark = pytest.mark.statistics


@partial(jax.jit, static_argnames="name")
def tuned(key, tuning, *, name):
    """Tuning, acceptance and length of the last 50 of 200 moves in a 10-D standard Gaussian."""

    def log_densities(u):
        height = -0.5 * (u**2).sum()
        return height, height

    kernel = Kernel(name, log_densities, 32, None)
    position = jax.random.normal(key, (512, 10))
    height = -0.5 * (position**2).sum(1)
    level = Level(jnp.ones(()), jnp.ones(10), jnp.ones(10), jnp.sqrt(5.0))

    def body(index, carry):
        chains, tuning, acceptance, length = carry
        move_key, share = jax.random.fold_in(key, index), jnp.where(index < 150, 0.0, 1 / 50)
        move = kernel.move(move_key, chains, (index == 0).astype(int), tuning, level)
        acceptance += share * move.acceptance.mean()
        length += share * move.num_gradients * jnp.exp(tuning.log_step)
        return move.chains, move.tuning, acceptance, length

    chains = Chains(position, height, height, jnp.zeros_like(position))
    return jax.lax.fori_loop(0, 200, body, (chains, tuning, 0.0, 0.0))[1:]


@pytest.mark.parametrize("name, least, most", [("hmc", 0.5, 0.95), ("random_walk", 0.15, 0.45)])
def test_tuning_finds_sensible_moves(name, least, most):
    key, found = jax.random.key(10, impl="rbg"), []
    start = initial_tuning(10, jnp.float32)
    for off in (-2.0, 0.0, 2.0):
        first = Tuning(start.log_step + off, start.log_length - off / 2)
        tuning, acceptance, length = tuned(key, first, name=name)
        assert least < acceptance < most, f"acceptance {acceptance} from {off}"
        if name == "hmc":
            assert 0.8 < length < 3, f"length {length} from {off}"
            assert tuning.log_step <= tuning.log_length
        found.append(float(tuning.log_step))
    assert np.ptp(found) < 0.4, f"the start should not matter: {found}"
