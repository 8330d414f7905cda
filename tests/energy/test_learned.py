"""Learned energies and scores, and callables as pytrees."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers.networks import evaluate, fresh, make, perturbed

from numpyro_disco import GaussianReference, MixtureReference
from numpyro_disco.energy.learned import Learned, LearnedEnergy, LearnedScore, as_pytree_callable
from numpyro_disco.energy.networks import ScoreNetwork

REFERENCE = MixtureReference(
    [0.7, 0.3], [[0.0, 0.0], [2.0, -1.0]], [np.eye(2), [[0.5, 0.2], [0.2, 0.3]]]
)


LOC, WHITENER = np.array([0.6, -0.3]), np.array([[1 / 1.4, 0.2], [0.0, 1 / 1.1]])


def learned(network, reference=REFERENCE):
    graph, weights = nnx.split(network)
    standard = reference.affine(WHITENER, -WHITENER @ LOC)
    log_det = jnp.float32(np.linalg.slogdet(WHITENER)[1])
    loc, whitener = jnp.float32(LOC), jnp.float32(WHITENER)
    return LearnedEnergy(weights, standard, loc, whitener, log_det, graph)


@jax.jit
def on_grid(energy, centers, step):
    """Riemann sum of exp(-E), and its largest term on the border of the grid."""
    grid = jnp.stack(jnp.meshgrid(centers, centers), axis=-1)
    density = jnp.exp(-jax.vmap(jax.vmap(energy))(grid))
    border = jnp.concatenate([density[0], density[-1], density[:, 0], density[:, -1]])
    return density.sum() * step**2, border.max()


def mass(energy, extent, num_points):
    step = 2 * extent / num_points
    centers = -extent + step * (np.arange(num_points) + 0.5)
    total, border = on_grid(energy, jnp.float32(centers), jnp.float32(step))
    return float(total), float(border)


def test_every_energy_is_that_of_a_density():
    # exp(-E) is bounded by e^FLOOR q, so it is integrable for all weights; its sum over a grid
    # agrees with the sums over a finer and a wider one.
    for seed in range(2):
        energy = learned(perturbed(seed, 0.15))
        base, border = mass(energy, 10, 160)
        fine, _ = mass(energy, 10, 320)
        wide, far_border = mass(energy, 20, 320)
        floor = -0.5 * float((energy.weights["offset"][...] ** 2).sum())
        assert 0 < base <= np.exp(-floor)
        np.testing.assert_allclose(fine, base, rtol=5e-3)
        np.testing.assert_allclose(wide, base, rtol=1e-4)
        assert border < 1e-12 and far_border <= border


def test_a_learned_energy_is_the_sum_of_its_parts():
    network = perturbed(0, 0.3)
    points = np.float32(np.random.default_rng(2).normal(size=(400, 2)))
    got = jax.jit(lambda energy, x: jax.vmap(energy)(x))(learned(network), points)
    z = np.float32((points - LOC) @ WHITENER.T)
    expected = evaluate(network, z) - jax.jit(REFERENCE.log_prob)(points)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_weights_are_arguments_of_compiled_programs():
    traces = 0

    @jax.jit
    def apply(energy, x):
        nonlocal traces
        traces += 1
        return energy(x)

    x = jnp.float32([0.3, 0.4])
    one, other = (apply(learned(perturbed(seed, 0.3)), x) for seed in (0, 1))
    assert traces == 1 and one != other


def test_a_plain_function_becomes_a_pytree():
    energy_fn = as_pytree_callable(lambda x: 0.5 * (x**2).sum())
    assert isinstance(energy_fn, jax.tree_util.Partial)
    assert jax.tree.leaves(energy_fn) == []
    assert jax.jit(lambda f, x: f(x))(energy_fn, jnp.ones(2)) == 1.0
    bound = as_pytree_callable(functools.partial(lambda a, x: a * x.sum(), 2.0))
    assert jax.jit(lambda f, x: f(x))(bound, jnp.ones(2)) == 4.0


def test_a_pytree_is_returned_unchanged():
    network = make()
    with_arrays = jax.tree_util.Partial(lambda a, x: (a * x).sum(), jnp.ones(2))
    without_arrays = as_pytree_callable(lambda x: x.sum())
    for energy_fn in (network, with_arrays, without_arrays, learned(network)):
        assert as_pytree_callable(energy_fn) is energy_fn
    assert len(jax.tree.leaves(as_pytree_callable(network))) > 2


def test_a_gaussian_reference_alone():
    # A new network is zero, so the energy is that of the reference.
    reference = GaussianReference(np.zeros(2), np.eye(2))
    total, _ = mass(learned(nnx.merge(*fresh()), reference), 10, 160)
    np.testing.assert_allclose(total, 1.0, rtol=1e-5)


def test_a_new_score_network_leaves_the_score_of_the_reference():
    network = ScoreNetwork(2, width=16, num_blocks=1, rngs=nnx.Rngs(0))
    graph, weights = nnx.split(network)
    score = LearnedScore(weights, REFERENCE, jnp.zeros(2), jnp.eye(2), jnp.zeros(()), graph)
    z = jnp.float32([0.3, -0.4])
    np.testing.assert_allclose(score.score(z), jax.jit(jax.grad(REFERENCE.log_prob))(z), rtol=1e-5)


def test_the_base_class_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Learned(None, REFERENCE, jnp.zeros(2), jnp.eye(2), jnp.zeros(()), None)


def test_a_leaf_that_is_not_an_array_is_refused():
    with pytest.raises(ValueError, match="Expected arrays as the leaves of `energy_fn`; got 'a'"):
        as_pytree_callable(jax.tree_util.Partial(lambda name, x: x.sum(), "a"))
