"""Energy networks: bounded below, so that every energy is a density; and energies as pytrees."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from numpyro_disco import EnergyNetwork, GaussianReference, MixtureReference
from numpyro_disco.energy.learned import LearnedEnergy, as_pytree_callable
from numpyro_disco.energy.networks import FLOOR

evaluate = nnx.jit(lambda network, points: jax.vmap(network)(points))


def make(seed=0, **settings):
    return EnergyNetwork(2, **{"width": 16, "num_blocks": 2, **settings}, rngs=nnx.Rngs(seed))


@functools.cache
def fresh():
    """Structure and first weights of one network, shared because making one takes a while."""
    return nnx.split(make())


def perturbed(seed, size):
    """A network with noise on all of its weights, those that start at zero included."""
    graph, weights = fresh()
    leaves, tree = jax.tree.flatten(weights)
    rng = np.random.default_rng(seed)
    moved = [leaf + jnp.float32(size * rng.normal(size=leaf.shape)) for leaf in leaves]
    return nnx.merge(graph, jax.tree.unflatten(tree, moved))


def points_everywhere(num_points=400):
    rng = np.random.default_rng(0)
    radius = 10 ** rng.uniform(-2, 4, size=(num_points, 1))
    return np.float32(radius * rng.normal(size=(num_points, 2)))


def test_starts_at_zero():
    values = np.asarray(evaluate(make(), points_everywhere()))
    np.testing.assert_array_equal(values, 0.0)


def test_starts_at_the_quadratic_of_linear():
    matrix = np.float32([[0.8, -0.3], [0.4, 1.2]])
    points = points_everywhere()
    expected = 0.5 * ((points.astype(np.float64) @ matrix.T) ** 2).sum(-1)
    values = evaluate(make(linear=jnp.asarray(matrix)), points)
    np.testing.assert_allclose(values, expected, rtol=1e-5)


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
            # Rounding of the terms that are summed, not of the sum.
            assert (values >= floor - 1e-5 * (abs(floor) + 1)).all()
            lowest.append(values.min() / abs(floor))
    # The bound is not an empty one: some of these networks do fall below zero.
    assert min(lowest) < -0.05


def test_the_floor_can_be_reached():
    # A bias of the outlet that cancels the offset leaves the smallest value there is.
    network = make()
    bias = jnp.concatenate([jnp.zeros(2), -network.offset[...]])
    gain = float(network.settings.get("gain", 1.0))
    network.outlet.bias[...] = bias / gain
    values = evaluate(network, points_everywhere())
    np.testing.assert_allclose(values, -FLOOR, rtol=1e-5)


def test_a_share_of_either_density_is_in_the_other():
    """The energy rises and falls by log(1 / share - 1) at most, and by nothing where f is zero."""
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
    # As far down as a fresh network's correction goes, which is further than the share lets it.
    lowest = make(defensive_share=share)
    lowest.outlet.bias[...] = jnp.concatenate([jnp.zeros(2), -lowest.offset[...]])
    ratio = ((1 - share) * np.exp(FLOOR) + share) / (1 - share + share * np.exp(FLOOR))
    found = evaluate(lowest, points_everywhere())
    np.testing.assert_allclose(found, -np.log(ratio), rtol=1e-5)
    assert np.log(1 / share - 1) - 0.01 < np.log(ratio) < FLOOR / 2
    slopes = jax.vmap(jax.grad(capped))(points_everywhere())
    assert np.isfinite(np.asarray(slopes)).all()


def test_the_score_is_minus_the_gradient():
    network = perturbed(0, 0.3)
    points = np.float32(np.random.default_rng(1).normal(size=(400, 2)))

    @nnx.jit
    def both(network, points):
        energy, gradient = jax.vmap(jax.value_and_grad(network))(points)
        shifts = 2e-3 * jnp.concatenate([jnp.eye(2), -jnp.eye(2)])
        near = jax.vmap(lambda x: jax.vmap(lambda s: network(x + s))(shifts))(points)
        return energy, gradient, near

    with jax.default_matmul_precision("highest"):
        energy, gradient, near = (np.asarray(a, np.float64) for a in both(network, points))
    np.testing.assert_allclose(energy, evaluate(network, points), rtol=1e-5, atol=1e-5)
    differences = (near[:, :2] - near[:, 2:]) / 4e-3
    size = np.abs(differences).max()
    np.testing.assert_allclose(gradient, differences, atol=5e-3 * size)
    # The sign that must not be: twice the gradient away.
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
def test_bad_sizes(argument):
    with pytest.raises(ValueError, match=f"`{argument}`; got 0"):
        make(**{argument: 0})
    with pytest.raises(ValueError, match="`dimension`; got 2.5"):
        EnergyNetwork(2.5, rngs=nnx.Rngs(0))


# --- energies

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


def test_every_energy_is_a_density():
    # Bounded by e^FLOOR q, so it is integrable whatever the weights; the sum over a grid agrees
    # with sums over a finer and over a wider one.
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


def test_learned_energy_is_the_sum_of_its_parts():
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


def test_a_pytree_stays_as_it_is():
    network = make()
    with_arrays = jax.tree_util.Partial(lambda a, x: (a * x).sum(), jnp.ones(2))
    without_arrays = as_pytree_callable(lambda x: x.sum())
    for energy_fn in (network, with_arrays, without_arrays, learned(network)):
        assert as_pytree_callable(energy_fn) is energy_fn
    assert len(jax.tree.leaves(as_pytree_callable(network))) > 2


def test_a_gaussian_reference_alone():
    # A fresh network adds nothing: the energy is that of the reference.
    reference = GaussianReference(np.zeros(2), np.eye(2))
    total, _ = mass(learned(nnx.merge(*fresh()), reference), 10, 160)
    np.testing.assert_allclose(total, 1.0, rtol=1e-5)
