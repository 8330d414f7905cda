"""The scale of weighted particles, and maps to and from whitened coordinates."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.statistics import Mixture

from numpyro_disco.tempering.whitening import spread, unwhiten, whiten, whiten_gradient

pytestmark = pytest.mark.statistics

WIDE = [[1.0, 0.6, 0.0], [0.6, 0.8, -0.2], [0.0, -0.2, 1.2]]
MIXTURE = Mixture([0.7, 0.3], [[-0.5, 0.3, 0.0], [0.8, -0.4, 0.5]], [WIDE, 0.01 * np.eye(3)])
EVERY = np.ones(3, np.float32)
SOME = np.array([1, 0, 1], np.float32)

factor_of = jax.jit(spread, static_argnums=3)


@pytest.mark.parametrize("dense", [True, False])
def test_maps_between_coordinates(dense):
    rng = np.random.default_rng(0)
    factor = np.tril(rng.normal(size=(3, 3)) + 3 * np.eye(3)).astype(np.float32)
    matrix, factor = (factor, factor) if dense else (np.diag(np.diag(factor)), np.diag(factor))
    v, factor = rng.normal(size=(5, 3)).astype(np.float32), jnp.asarray(factor)
    np.testing.assert_allclose(unwhiten(v, factor), v @ matrix.T, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(whiten(unwhiten(v, factor), factor), v, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(whiten_gradient(v, factor), v @ matrix, rtol=1e-5, atol=1e-6)


def weighted_covariance(position, weights):
    return np.cov(np.asarray(position, np.float64), rowvar=False, aweights=weights, bias=True)


@pytest.mark.parametrize("free", [EVERY, SOME], ids=["all free", "one clamped"])
def test_spread_is_the_covariance(free):
    rng = np.random.default_rng(7)
    position = (MIXTURE.draw(rng, 3000) * [1.0, 30.0, 0.01] + [0.0, 5.0, 3.0]).astype(np.float32)
    weights = rng.exponential(size=3000)
    weights = (weights / weights.sum()).astype(np.float32)
    expected = weighted_covariance(position, weights)
    factor = np.asarray(factor_of(position, weights, free, True), np.float64)
    np.testing.assert_array_equal(factor, np.tril(factor))
    assert (np.diagonal(factor) > 0).all()
    scale = np.sqrt(np.diagonal(expected))
    expected = np.where(np.outer(free, free) > 0, expected, np.eye(3))
    scale = np.where(free > 0, scale, 1.0)
    correlation = expected / np.outer(scale, scale)
    np.testing.assert_allclose(factor @ factor.T / np.outer(scale, scale), correlation, atol=1e-4)
    deviation = factor_of(position, weights, free, False)
    np.testing.assert_allclose(deviation, scale, rtol=1e-4)
    # The weights matter: without them the covariance differs.
    equal = np.asarray(factor_of(position, np.full(3000, 1 / 3000, np.float32), free, True))
    assert np.abs((equal - factor) / scale).max() > 5e-3


def test_spread_of_few_particles_shrinks_to_the_diagonal():
    rng = np.random.default_rng(8)
    position = rng.standard_normal((40, 3)).astype(np.float32)
    position[:, 1] = position[:, 0]
    weights = np.zeros(40, np.float32)
    weights[:3] = 1 / 3
    factor = np.asarray(factor_of(position, weights, EVERY, True))
    deviation = np.asarray(factor_of(position, weights, EVERY, False))
    np.testing.assert_allclose(factor, np.diag(deviation), rtol=1e-5, atol=1e-6)


def singular(kind, count, dimension):
    rng = np.random.default_rng(9)
    x = rng.standard_normal((count, dimension))
    if kind == "constant columns":
        x[:, 1:] = [0.0, 0.1, 3e4][: dimension - 1]
    elif kind == "one place":
        x[:] = x[0]
    elif kind == "two places":
        x = x[np.arange(count) % 2]
    elif kind == "tiny":
        x *= 1e-15
    elif kind == "narrow pair":
        x[:, 1] = x[:, 0] + 1e-3 * x[:, 1]
    elif kind == "narrow ridge":
        x = x[:, :1] * rng.standard_normal(dimension) + 1e-3 * x
    return x.astype(np.float32)


@pytest.mark.parametrize(
    "kind, count, dimension",
    [
        ("constant columns", 1000, 4),
        ("tiny", 1000, 4),
        ("narrow pair", 100, 4),
        ("narrow ridge", 100, 10),
        ("regular", 8, 10),
        ("regular", 2, 10),
        ("one place", 8000, 10),
        ("two places", 8000, 10),
        ("narrow pair", 8000, 10),
        ("narrow ridge", 8000, 10),
    ],
)
def test_spread_of_nearly_singular_positions_is_finite(kind, count, dimension):
    position = singular(kind, count, dimension)
    free = np.ones(dimension, np.float32)
    for seed in range(5):
        weights = np.random.default_rng(seed).exponential(size=count)
        weights = (weights / weights.sum()).astype(np.float32)
        deviation = factor_of(position, weights, free, False)
        assert np.isfinite(deviation).all() and (np.asarray(deviation) > 0).all()
        factor = np.asarray(factor_of(position, weights, free, True))
        assert np.isfinite(factor).all()
        assert (np.diagonal(factor) > 0).all()
