import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from numpyro_disco.energy.convolutions import EnergyUNet, ScoreUNet, halvings

SIZES = {"width": 4, "num_scales": 2, "num_blocks": 1, "num_octaves": 1}


def initial(kind, shape, **settings):
    """A network at its start, by one compiled program."""
    return nnx.jit(lambda rngs: kind(shape, **SIZES | settings, rngs=rngs))(nnx.Rngs(0))


def perturbed(network, scale=1.0):
    """The network with weights away from their start."""
    graph, state = nnx.split(network)
    rng = np.random.default_rng(1)
    moved = jax.tree.map(
        lambda leaf: np.float32(leaf + scale * rng.standard_normal(leaf.shape)), state
    )
    return nnx.merge(graph, moved)


@pytest.mark.parametrize(
    ("shape", "num_axes"), [((4, 6), 2), ((4, 4, 3), 2), ((8, 3), 1), ((5, 3), 2)]
)
def test_energy_starts_at_zero_and_is_bounded_below(shape, num_axes):
    network = initial(EnergyUNet, shape, num_spatial_axes=num_axes)
    rng = np.random.default_rng(0)
    points = np.float32(3 * rng.standard_normal((20, int(np.prod(shape)))))
    np.testing.assert_array_equal(jax.jit(jax.vmap(network))(points), np.zeros(20))
    other = perturbed(network)
    places = np.prod(shape[:num_axes])
    floor = -0.5 * places * float((other.offset[...] ** 2).sum())
    energies = jax.jit(jax.vmap(other))(points)
    assert np.isfinite(energies).all() and float(energies.min()) >= floor


def test_gradient_at_the_start_is_that_of_the_offset():
    # A squared norm that starts at zero has no gradient; the offset gives it one.
    network = initial(EnergyUNet, (4, 4), num_spatial_axes=2)
    graph, state = nnx.split(network)
    slope = jax.jit(jax.grad(lambda s: nnx.merge(graph, s)(jnp.ones(16))))
    gradient = slope(state)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient)) > 1e-3


def test_settings_rebuild_the_network():
    network = initial(EnergyUNet, (4, 4, 2), num_spatial_axes=2)
    settings = network.settings
    assert settings.pop("kind") == "EnergyUNet"
    again = EnergyUNet(**settings, rngs=nnx.Rngs(0))
    assert nnx.graphdef(again) == nnx.graphdef(network)


def test_score_form_starts_from_half_the_point():
    network = initial(ScoreUNet, (4, 4), noise_scale=0.5, num_spatial_axes=2)
    z = np.random.default_rng(0).standard_normal(16).astype(np.float32)
    np.testing.assert_allclose(jax.jit(network)(z), (0.5 * z - z) / 0.25, rtol=1e-6)


def test_convolutions_move_with_the_array():
    # One scale: away from the edges the outputs of a shifted array are the shifted outputs.
    network = initial(ScoreUNet, (16, 16), noise_scale=1.0, num_spatial_axes=2, num_scales=1)
    score = jax.jit(perturbed(network, 0.1))
    x = np.zeros((16, 16), np.float32)
    x[6:9, 6:9] = np.random.default_rng(2).standard_normal((3, 3))
    here, there = (score(a.ravel()).reshape(16, 16) for a in (x, np.roll(x, 1, axis=0)))
    np.testing.assert_allclose(there[5:12, 5:12], here[4:11, 5:12], atol=1e-5)


def test_axes_are_halved_as_often_as_they_can_be():
    assert [halvings(shape, 3) for shape in ((28, 28), (8, 8), (7, 8), (16,))] == [2, 3, 0, 3]
