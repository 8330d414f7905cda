"""Energy networks with random weights, and points near and far at which to evaluate them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from numpyro_disco.energy.networks import EnergyNetwork

evaluate = nnx.jit(lambda network, points: jax.vmap(network)(points))


def make(seed=0, **settings):
    return EnergyNetwork(2, **{"width": 16, "num_blocks": 2, **settings}, rngs=nnx.Rngs(seed))


@functools.cache
def fresh():
    """Structure and initial weights of one network, shared because making one is slow."""
    return nnx.split(make())


def perturbed(seed, size):
    """A network with noise added to all weights, including those that start at zero."""
    graph, weights = fresh()
    leaves, tree = jax.tree.flatten(weights)
    rng = np.random.default_rng(seed)
    moved = [leaf + jnp.float32(size * rng.normal(size=leaf.shape)) for leaf in leaves]
    return nnx.merge(graph, jax.tree.unflatten(tree, moved))


def points_everywhere(num_points=400):
    rng = np.random.default_rng(0)
    radius = 10 ** rng.uniform(-2, 4, size=(num_points, 1))
    return np.float32(radius * rng.normal(size=(num_points, 2)))
