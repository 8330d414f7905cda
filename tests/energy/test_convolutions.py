import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from numpyro_disco.energy.convolutions import EnergyUNet, ScoreUNet, halvings

SIZES = {"width": 4, "num_scales": 2, "num_blocks": 1, "num_octaves": 1, "rngs": nnx.Rngs(0)}


def perturbed(network, scale=1.0):
    """The network with weights away from their start."""
    graph, state = nnx.split(network)
    leaves, structure = jax.tree.flatten(state)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noise = [scale * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    moved = [leaf + one for leaf, one in zip(leaves, noise, strict=True)]
    return nnx.merge(graph, jax.tree.unflatten(structure, moved))


@pytest.mark.parametrize(
    ("shape", "num_axes"), [((4, 6), 2), ((4, 4, 3), 2), ((8, 3), 1), ((5, 3), 2)]
)
def test_energy_starts_at_zero_and_is_bounded_below(shape, num_axes):
    network = EnergyUNet(shape, num_spatial_axes=num_axes, **SIZES)
    points = 3 * jax.random.normal(jax.random.key(0), (20, int(np.prod(shape))))
    np.testing.assert_array_equal(jax.vmap(network)(points), np.zeros(20))
    other = perturbed(network)
    places = np.prod(shape[:num_axes])
    floor = -0.5 * places * float((other.offset[...] ** 2).sum())
    energies = jax.vmap(other)(points)
    assert np.isfinite(energies).all() and float(energies.min()) >= floor


def test_gradient_at_the_start_is_that_of_the_offset():
    # A squared norm that starts at zero has no gradient; the offset gives it one.
    network = EnergyUNet((4, 4), num_spatial_axes=2, **SIZES)
    graph, state = nnx.split(network)
    gradient = jax.grad(lambda s: nnx.merge(graph, s)(jnp.ones(16)))(state)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) > 1e-3


def test_settings_rebuild_the_network():
    network = EnergyUNet((4, 4, 2), num_spatial_axes=2, **SIZES)
    settings = network.settings
    assert settings.pop("kind") == "EnergyUNet"
    again = EnergyUNet(**settings, rngs=nnx.Rngs(0))
    assert nnx.graphdef(again) == nnx.graphdef(network)


def test_score_form_starts_from_half_the_point():
    network = ScoreUNet((4, 4), noise_scale=0.5, num_spatial_axes=2, **SIZES)
    z = jax.random.normal(jax.random.key(0), (16,))
    np.testing.assert_allclose(network(z), (0.5 * z - z) / 0.25, rtol=1e-6)


def test_convolutions_move_with_the_array():
    # One scale: away from the edges the outputs of a shifted array are the shifted outputs.
    sizes = {**SIZES, "num_scales": 1}
    network = perturbed(ScoreUNet((16, 16), noise_scale=1.0, num_spatial_axes=2, **sizes), 0.1)
    x = jnp.zeros((16, 16)).at[6:9, 6:9].set(jax.random.normal(jax.random.key(2), (3, 3)))
    here, there = (network(a.ravel()).reshape(16, 16) for a in (x, jnp.roll(x, 1, axis=0)))
    np.testing.assert_allclose(there[5:12, 5:12], here[4:11, 5:12], atol=1e-5)


def test_axes_are_halved_as_often_as_they_can_be():
    assert [halvings(shape, 3) for shape in ((28, 28), (8, 8), (7, 8), (16,))] == [2, 3, 0, 3]
