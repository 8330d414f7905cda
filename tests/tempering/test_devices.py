"""Particles spread over devices keep their values."""

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco.tempering.devices import make_mesh, shard
from numpyro_disco.tempering.state import Particles


def particles():
    return Particles(
        jnp.arange(8.0).reshape(1, 4, 2), jnp.zeros((1, 4)), jnp.ones((1, 4)), jnp.zeros((1, 4))
    )


def test_without_a_mesh_nothing_changes():
    before = particles()
    assert shard(before, None, 1) is before


def test_values_stay_the_same():
    mesh = make_mesh(jax.devices()[:1])
    assert mesh.axis_names == ("particles",)
    spread = jax.jit(lambda record: shard(record, mesh, 1))(particles())
    for leaf, expected in zip(spread, particles(), strict=True):
        np.testing.assert_array_equal(leaf, expected)
