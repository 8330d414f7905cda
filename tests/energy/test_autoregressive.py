"""The normalised autoregressive density: integral, order, draws, and the energy around it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import numpyro_disco as disco
from numpyro_disco.energy.autoregressive import AutoregressiveNetwork
from numpyro_disco.energy.learned import LearnedEnergy

GRID = np.linspace(-20, 20, 401)
SHARE = 0.4


def random_network(dimension, share=0.0, order=None):
    """A network with outputs that depend on the columns."""
    network = AutoregressiveNetwork(
        dimension,
        order=order,
        width=8,
        num_blocks=1,
        num_components=3,
        defensive_share=share,
        rngs=nnx.Rngs(0),
    )
    network.outlet_kernel = nnx.Param(5 * network.outlet_kernel[...])
    return network


def make_prior(whitener):
    """A density of a and b, of which b is drawn first."""
    graph, weights = nnx.split(random_network(2, SHARE, order=(1, 0)))
    reference = disco.GaussianReference(jnp.array([1.0, 0.0]), 2 * jnp.eye(2))
    loc, whitener = jnp.array([0.5, -0.5]), jnp.array(whitener)
    log_det = jnp.linalg.slogdet(whitener)[1]
    energy = LearnedEnergy(weights, reference, loc, whitener, log_det, graph)
    outside = reference.affine(jnp.linalg.inv(whitener), loc)
    return disco.EnergyDistribution(energy, outside, names=("a", "b"))


@pytest.fixture(scope="module")
def prior():
    return make_prior([[1.0, 0.0], [0.3, 0.8]])


@pytest.fixture(scope="module")
def diagonal():
    """Each standardised column is one of the user's."""
    return make_prior([[1.5, 0.0], [0.0, 0.8]])


def test_the_energy_integrates_to_one(prior):
    points = np.stack(np.meshgrid(GRID, GRID), axis=-1).reshape(-1, 2)
    total = np.exp(np.asarray(jax.jit(prior.log_prob)(points), np.float64)).sum()
    assert total * (GRID[1] - GRID[0]) ** 2 == pytest.approx(1, abs=1e-3)


def moments_agree(draws, log_prob):
    """True if means of bounded functions are those of the density, within five standard errors."""
    points = np.stack(np.meshgrid(GRID, GRID), axis=-1).reshape(-1, 2)
    weights = np.exp(np.asarray(log_prob(points), np.float64))
    weights /= weights.sum()

    def functions(x):
        a, b = x.T
        return np.tanh(np.stack([a, b, a * b, a - b - 1], axis=1))

    found = functions(np.asarray(draws, np.float64))
    error = found.std(0) / len(found) ** 0.5
    assert (5 * error < 0.05).all()
    return bool((np.abs(found.mean(0) - weights @ functions(points)) < 5 * error).all())


@pytest.mark.statistics
def test_draws_are_exact_and_say_so(prior):
    draws, info = disco.sample_conditional(
        jax.random.key(0), prior, observed={}, num_samples=20_000, return_info=True
    )
    assert (info.method == "exact").all() and (info.num_distinct == 20_000).all()
    log_prob = jax.jit(prior.log_prob)
    assert moments_agree(draws, log_prob)
    # Broken twin: without the share of the reference.
    graph, weights = nnx.split(random_network(2, 0.0, order=(1, 0)))
    alone = prior.replace(
        energy_fn=prior.energy_fn.__class__(
            weights,
            prior.energy_fn.reference,
            prior.energy_fn.loc,
            prior.energy_fn.whitener,
            prior.energy_fn.log_det,
            graph,
        )
    )
    assert not moments_agree(alone.sample(jax.random.key(0), (20_000,)), log_prob)


def on_a_line(prior, name, value):
    """Points with one coordinate given, and the other on the grid."""
    columns = {"a": GRID, "b": GRID} | {name: np.full_like(GRID, value)}
    return np.stack([columns["a"], columns["b"]], axis=1)


def means_on_the_line(prior, name, value):
    """Means of tanh(2 x - k), k = -2, 0, 2, of the other coordinate, by quadrature."""
    points = on_a_line(prior, name, value)
    weights = np.exp(np.asarray(jax.jit(prior.log_prob)(points), np.float64))
    other = points[:, 1 - prior.names.index(name)]
    return weights @ steps(other) / weights.sum()


def steps(x):
    return np.tanh(2 * x[:, None] - np.array([-2.0, 0.0, 2.0]))


@pytest.mark.statistics
@pytest.mark.parametrize(("name", "method"), [("b", "exact"), ("a", "importance")])
def test_conditionals_agree_with_quadrature(diagonal, name, method):
    """What comes first in the order is given exactly, and anything else by weights."""
    draws, info = disco.sample_conditional(
        jax.random.key(0), diagonal, observed={name: 1.2}, num_samples=8000, return_info=True
    )
    assert info.method == method
    found = steps(np.asarray(draws, np.float64)[:, 1 - diagonal.names.index(name)])
    error = found.std(0) / len(found) ** 0.5
    assert (5 * error < 0.05).all()
    away = np.abs(found.mean(0) - means_on_the_line(diagonal, name, 1.2)) / error
    assert (away < 5).all()
    # Broken twin: the conditional at another value.
    away = np.abs(found.mean(0) - means_on_the_line(diagonal, name, -1.2)) / error
    assert (away > 5).any()


def test_the_marginal_of_first_columns_is_exact(diagonal):
    at, step = 1.2, GRID[1] - GRID[0]
    points = on_a_line(diagonal, "b", at)
    exact = np.log(np.exp(np.asarray(jax.jit(diagonal.log_prob)(points), np.float64)).sum() * step)
    clamped = diagonal.clamp({"b": at}).normalize(jax.random.key(0))
    assert float(clamped.log_normalizer) == pytest.approx(exact, abs=1e-3)
    assert float(clamped.log_normalizer_error) == 0


def test_decorrelated_columns_are_no_first_columns(prior):
    """A standardised column then depends on several coordinates."""
    info = disco.sample_conditional(
        jax.random.key(0), prior, observed={"b": 0.0}, num_samples=100, return_info=True
    )[1]
    assert info.method == "importance"


def test_imputed_entries_are_those_of_the_conditional(diagonal):
    rows = np.array([[np.nan, 1.25]] * 50 + [[0.25, np.nan]] * 50)
    filled = np.asarray(disco.impute(jax.random.key(0), diagonal, rows, num_imputations=20))
    seen = ~np.isnan(rows)
    np.testing.assert_array_equal(filled[:, seen], np.broadcast_to(rows[seen], (20, 100)))
    for half, name, value in ((slice(50), "b", 1.25), (slice(50, None), "a", 0.25)):
        found = steps(filled[:, half, 1 - diagonal.names.index(name)].ravel())
        away = np.abs(found.mean(0) - means_on_the_line(diagonal, name, value))
        assert (away < 5 * found.std(0) / len(found) ** 0.5).all()


def test_the_normaliser_is_known(prior):
    normalized = prior.normalize(jax.random.key(0))
    assert float(normalized.log_normalizer) == 0
    assert float(normalized.log_normalizer_error) == 0


def test_it_is_saved_and_loaded(prior, tmp_path):
    disco.save(tmp_path / "prior.npz", prior)
    loaded, x = disco.load(tmp_path / "prior.npz"), np.zeros((3, 2))
    np.testing.assert_array_equal(loaded.energy(x), prior.energy(x))
    assert jax.tree.structure(loaded) == jax.tree.structure(prior)


@pytest.mark.parametrize("wrong", [(0, 0), (0,), (1, 2)])
def test_an_order_is_a_permutation(wrong):
    with pytest.raises(ValueError, match="a permutation of 2 for `order`"):
        AutoregressiveNetwork(2, order=wrong, rngs=nnx.Rngs(0))
