"""Residual networks: their start, their lower bound, defensive shares and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers.networks import evaluate, fresh, make, perturbed, points_everywhere

from numpyro_disco.energy.networks import FLOOR, EnergyNetwork


def test_a_new_network_is_zero():
    values = np.asarray(evaluate(make(), points_everywhere()))
    np.testing.assert_array_equal(values, 0.0)


def test_a_new_network_is_the_quadratic_form_of_linear():
    matrix = np.float32([[0.8, -0.3], [0.4, 1.2]])
    points = points_everywhere()
    expected = 0.5 * ((points.astype(np.float64) @ matrix.T) ** 2).sum(-1)
    values = evaluate(make(linear=jnp.asarray(matrix)), points)
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_levels_enter_by_their_indicators():
    """The quadratic form of a new network reads one number for each level, and none between."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(6, 6)).astype(np.float32)
    settings = dict(width=16, num_blocks=1, num_levels=(2, 0, 3), linear=jnp.asarray(matrix))
    network = EnergyNetwork(3, **settings, rngs=nnx.Rngs(0))
    points = np.float32([[0, 0.5, 2], [1, -0.3, 0]])
    embedded = np.float32([[0.5, 1, 0, 0, 0, 1], [-0.3, 0, 1, 1, 0, 0]])
    expected = 0.5 * ((embedded @ matrix.T) ** 2).sum(-1)
    np.testing.assert_allclose(evaluate(network, points), expected, rtol=1e-4)
    gradient = jax.jit(jax.grad(lambda z: network(z)))(jnp.asarray(points[0]))
    assert gradient[0] == gradient[2] == 0 and gradient[1] != 0
    assert network.settings["num_levels"] == [2, 0, 3]


def test_the_offset_is_the_floor():
    offset = np.asarray(make().offset[...], np.float64)
    np.testing.assert_allclose(0.5 * (offset**2).sum(), FLOOR, rtol=1e-5)


def test_never_below_the_floor():
    lowest = []
    for seed in range(6):
        for size in (0.1, 1.0, 3.0):
            network = perturbed(seed, size)
            values = np.asarray(evaluate(network, points_everywhere()), np.float64)
            offset = np.asarray(network.offset[...], np.float64)
            floor = -0.5 * (offset**2).sum()
            assert np.isfinite(values).all()
            # Allow for rounding of the terms, not only of their sum.
            assert (values >= floor - 1e-5 * (abs(floor) + 1)).all()
            lowest.append(values.min() / abs(floor))
    # Some of these networks do fall below zero, so the bound is tested.
    assert min(lowest) < -0.05


def test_the_floor_can_be_reached():
    # A bias of the last layer that cancels the offset gives the smallest possible value.
    network = make()
    bias = jnp.concatenate([jnp.zeros(2), -network.offset[...]])
    gain = float(network.settings.get("gain", 1.0))
    network.outlet.bias[...] = bias / gain
    values = evaluate(network, points_everywhere())
    np.testing.assert_allclose(values, -FLOOR, rtol=1e-5)


def test_a_defensive_share_mixes_each_density_with_the_other():
    """The correction is at most log(1 / share - 1) in size, and zero where f is zero."""
    share = 0.01
    start = evaluate(make(defensive_share=share), points_everywhere())
    np.testing.assert_allclose(start, 0.0, atol=1e-7)
    capped = make(defensive_share=share)
    network = perturbed(0, 1.0)
    nnx.update(capped, nnx.state(network))
    f, values = (np.asarray(evaluate(n, points_everywhere()), float) for n in (network, capped))
    ratio = np.exp(-f)
    expected = ((1 - share) * ratio + share) / (1 - share + share * ratio)
    np.testing.assert_allclose(np.exp(-values), expected, rtol=1e-4)
    assert f.max() > 1000
    assert np.abs(values).max() <= np.log(1 / share - 1) + 1e-5
    # The lowest correction of a new network is lower than the share allows.
    lowest = make(defensive_share=share)
    lowest.outlet.bias[...] = jnp.concatenate([jnp.zeros(2), -lowest.offset[...]])
    ratio = ((1 - share) * np.exp(FLOOR) + share) / (1 - share + share * np.exp(FLOOR))
    found = evaluate(lowest, points_everywhere())
    np.testing.assert_allclose(found, -np.log(ratio), rtol=1e-5)
    assert np.log(1 / share - 1) - 0.01 < np.log(ratio) < FLOOR / 2
    slopes = jax.jit(jax.vmap(jax.grad(capped)))(points_everywhere())
    assert np.isfinite(np.asarray(slopes)).all()


def test_the_score_is_minus_the_gradient():
    network = perturbed(0, 0.3)
    points = np.float32(np.random.default_rng(1).normal(size=(400, 2)))

    @nnx.jit
    def both(network, points):
        energy, gradient = jax.jit(jax.vmap(jax.value_and_grad(network)))(points)
        shifts = 2e-3 * jnp.concatenate([jnp.eye(2), -jnp.eye(2)])
        near = jax.vmap(lambda x: jax.vmap(lambda s: network(x + s))(shifts))(points)
        return energy, gradient, near

    with jax.default_matmul_precision("highest"):
        energy, gradient, near = (np.asarray(a, np.float64) for a in both(network, points))
    np.testing.assert_allclose(energy, evaluate(network, points), rtol=1e-5, atol=1e-5)
    differences = (near[:, :2] - near[:, 2:]) / 4e-3
    size = np.abs(differences).max()
    np.testing.assert_allclose(gradient, differences, atol=5e-3 * size)
    # The broken twin has the wrong sign.
    assert np.abs(gradient + differences).max() > size


def test_settings_make_an_equal_network():
    network = perturbed(0, 0.3)
    assert make(defensive_share=0.1).settings == {**network.settings, "defensive_share": 0.1}
    again = EnergyNetwork(**network.settings, rngs=nnx.Rngs(7))
    assert again.settings == network.settings
    assert again.settings["width"] == 16 and again.settings["num_blocks"] == 2
    graph, other = nnx.split(again)
    weights = nnx.state(network)
    shapes, expected = ([leaf.shape for leaf in jax.tree.leaves(w)] for w in (other, weights))
    assert shapes == expected
    restored, points = nnx.merge(graph, weights), points_everywhere()
    np.testing.assert_array_equal(evaluate(restored, points), evaluate(network, points))


def test_seeds_differ():
    one, other = (jax.tree.leaves(w) for w in (fresh()[1], nnx.state(make(1))))
    assert any((a != b).any() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("argument", ["width", "num_blocks"])
def test_invalid_sizes(argument):
    with pytest.raises(ValueError, match=f"`{argument}`; got 0"):
        make(**{argument: 0})
    with pytest.raises(ValueError, match="`dimension`; got 2.5"):
        EnergyNetwork(2.5, rngs=nnx.Rngs(0))
