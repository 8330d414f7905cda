"""The mixture fitted to particles: its draws, its density, and the quality of the fit."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.statistics import Mixture, assert_within, mean_and_error, moments

from numpyro_disco.tempering.proposals import INFLATION, WIDE, WIDE_SHARE, Proposal, fit_proposal
from numpyro_disco.tempering.proposals import num_components as components_for

pytestmark = pytest.mark.statistics

NUM_DRAWS = 40_000
GAUSSIAN = Mixture([1.0], [[1.0, -2.0, 30.0]], [[[0.04, 0.1, 0], [0.1, 1.0, 0.0], [0, 0, 25.0]]])
WEIGHTS = np.array([0.27, 0.2, 0.15, 0.12, 0.09, 0.07, 0.05, 0.05])
CORNERS = np.array([[x, y, z] for x in (-3, 3) for y in (-4, 3) for z in (-2, 5)], float)
SCALES = np.array([1.0, 0.3, 0.6, 0.2, 0.5, 1.0, 0.1, 0.4])
EIGHT = Mixture(WEIGHTS, CORNERS, SCALES[:, None, None] ** 2 * np.eye(3))
TARGETS = {"gaussian": GAUSSIAN, "eight modes": EIGHT}
EVERY = np.ones(3, np.float32)
SOME = np.array([1, 0, 1], np.float32)


@jax.jit
def fitted(key, position, free):
    """Fit a proposal, draw from it, and compute its log density at draws and particles."""
    proposal = fit_proposal(position, free)
    draws, _ = proposal.draw(key, NUM_DRAWS)
    return proposal, draws, proposal.log_prob(draws), proposal.log_prob(position)


def fit(target, free=EVERY, seed=1, num_particles=2000):
    rng = np.random.default_rng(seed)
    if free is SOME:
        rest = target.condition([1], [CLAMPED])
        position = np.insert(rest.draw(rng, num_particles), 1, CLAMPED, axis=1)
    else:
        position = target.draw(rng, num_particles)
    # Keys of this kind compile in half the time.
    return fitted(jax.random.key(seed, impl="rbg"), position.astype(np.float32), free)


CLAMPED = 0.75


def as_mixture(proposal):
    """The proposal's parameters as a float64 mixture over its free coordinates."""
    log_weights, means, factors, free = (np.asarray(leaf, np.float64) for leaf in proposal)
    covariances = factors @ factors.transpose(0, 2, 1)
    weights = np.exp(log_weights)
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-5)
    kept = np.flatnonzero(free)
    return Mixture(
        np.concatenate([(1 - WIDE_SHARE) * weights, WIDE_SHARE * weights]),
        np.concatenate([means, means]),
        np.concatenate([covariances, WIDE * covariances]),
    ).marginal(kept)


def check_mass(target, draws, log_prob):
    """Check that weights target / q of draws of q have mean 1."""
    weights = np.exp(target.log_prob(draws) - np.asarray(log_prob, np.float64))
    mean, error = mean_and_error(weights)
    assert_within(mean, 1.0, error, resolution=0.06, label="mass")
    return weights


@pytest.mark.parametrize("name", TARGETS)
def test_weights_of_draws_have_mean_one(name):
    target = TARGETS[name]
    _, draws, log_prob, _ = fit(target)
    weights = check_mass(target, draws, log_prob)
    share = weights.sum() ** 2 / (weights**2).sum() / NUM_DRAWS
    if name == "gaussian":
        # The fit is good, and the wide copies bound the weights where it is not.
        assert weights.max() < 30
        assert share > 0.6
    else:
        # With as many modes as components, some share one. The mass of each is right even so.
        assert share > 0.1
        mode = np.argmax(target._joint(draws), axis=1)
        inside = weights[:, None] * (mode[:, None] == np.arange(8))
        truth = np.argmax(target._joint(target.draw(np.random.default_rng(0), 400_000)), axis=1)
        mean, error = mean_and_error(inside)
        share = np.bincount(truth, minlength=8) / 400_000
        error = np.sqrt(error**2 + share / 400_000)
        assert_within(mean, share, error, resolution=0.05, label="mass of a mode")


@pytest.mark.parametrize("free", [EVERY, SOME], ids=["all free", "one clamped"])
@pytest.mark.parametrize("name", TARGETS)
def test_draws_and_density_are_those_of_the_mixture(name, free):
    proposal, draws, log_prob, _ = fit(TARGETS[name], free)
    density = as_mixture(proposal)
    kept = np.flatnonzero(free)
    expected = density.log_prob(draws[:, kept])
    np.testing.assert_allclose(log_prob, expected, rtol=1e-4, atol=2e-3)
    # In units in which the fitted mixture has mean 0 and deviation 1.
    loc, scale = density.mean, np.sqrt(np.diagonal(density.covariance))
    mean, error = mean_and_error(moments((np.asarray(draws)[:, kept] - loc) / scale))
    truth = density.standardize(loc, scale).moments
    resolution = np.full(len(mean), 0.2)
    resolution[-len(kept) :] = 1.5  # of cubes
    assert_within(mean, truth, error, resolution=resolution, label="moments of draws")
    np.testing.assert_array_equal(proposal.free, free)
    if free is SOME:
        assert np.ptp(draws[:, 1]) == 0
        np.testing.assert_allclose(draws[:, 1], CLAMPED, rtol=1e-6)


def test_uniforms_beside_draws_are_uniform_and_independent_of_them():
    proposal, draws, log_prob, _ = fit(EIGHT)
    again, uniform = jax.jit(Proposal.draw, static_argnums=2)(
        proposal, jax.random.key(1, impl="rbg"), NUM_DRAWS
    )
    np.testing.assert_allclose(again, draws, rtol=1e-4, atol=1e-4)
    assert (uniform >= 0).all() and (uniform <= 1).all()
    functions = np.concatenate([draws, draws**2, np.asarray(log_prob)[:, None]], axis=1)
    functions = (functions - functions.mean(0)) / functions.std(0)

    def check(uniform):
        u = uniform[:, None]
        mean, error = mean_and_error(np.concatenate([u, u**2, u < 0.01, u > 0.99], axis=1))
        assert_within(mean, [0.5, 1 / 3, 0.01, 0.01], error, resolution=0.01, label="uniforms")
        mean, error = mean_and_error(functions * (u - 0.5))
        assert_within(mean, 0.0, error, resolution=0.02, label="product with draws")

    u = np.asarray(uniform, np.float64)
    check(u)
    # Broken twins: numbers that are no longer uniform, and the same numbers in another order.
    with pytest.raises(AssertionError, match="uniforms is off"):
        check(u**1.1)
    with pytest.raises(AssertionError, match="product with draws is off"):
        check(np.sort(u)[functions[:, -1].argsort().argsort()])


def test_clamped_coordinates_do_not_change_the_density():
    proposal, draws, log_prob, _ = fit(EIGHT, SOME)
    elsewhere = draws.at[:, 1].add(1000.0)
    np.testing.assert_array_equal(jax.jit(Proposal.log_prob)(proposal, elsewhere), log_prob)
    rest = EIGHT.condition([1], [CLAMPED])
    check_mass(rest, draws[:, [0, 2]], log_prob)


def without_normalizer(proposal, position):
    """The log density without the normaliser of its wide copies."""
    dimension = float(np.sum(proposal.free))
    density = as_mixture(proposal)
    joint = density._joint(position)
    half = joint.shape[1] // 2
    joint[:, half:] += 0.5 * dimension * math.log(WIDE)
    return np.logaddexp.reduce(joint, axis=1)


@pytest.mark.parametrize("name", TARGETS)
def test_a_density_without_the_normalizer_of_wide_copies_fails(name):
    proposal, draws, *_ = fit(TARGETS[name])
    wrong = without_normalizer(proposal, np.asarray(draws, np.float64))
    with pytest.raises(AssertionError, match="mass is off"):
        check_mass(TARGETS[name], draws, wrong)


def test_fit_to_a_gaussian_has_its_moments():
    proposal, *_ = fit(GAUSSIAN)
    log_weights, means, factors, _ = (np.asarray(leaf, np.float64) for leaf in proposal)
    core = Mixture(np.exp(log_weights), means, factors @ factors.transpose(0, 2, 1) / INFLATION)
    scale = np.sqrt(np.diagonal(GAUSSIAN.covariance))
    found = core.standardize(GAUSSIAN.mean, scale)
    np.testing.assert_allclose(found.mean, 0, atol=0.1)
    exact = GAUSSIAN.covariance / np.outer(scale, scale)
    np.testing.assert_allclose(found.covariance, exact, atol=0.15)


def test_small_modes_have_a_component():
    two = Mixture([0.95, 0.05], [[0, 0, 0], [6, 6, 6]], [np.eye(3), 0.01 * np.eye(3)])
    four = Mixture([0.6, 0.25, 0.1, 0.05], CORNERS[[0, 3, 5, 6]], EIGHT.covariances[[0, 3, 5, 6]])
    for target in (two, four):
        for seed in range(5):
            proposal, draws, log_prob, _ = fit(target, seed=seed)
            near = np.linalg.norm(np.asarray(proposal.means) - target.means[-1], axis=1) < 0.3
            found = np.exp(proposal.log_weights)[near].sum()
            # Binomial noise of 2000 particles, and the one particle that each component adds.
            np.testing.assert_allclose(found, 0.05, atol=5 * 0.005, err_msg=f"seed {seed}")
            check_mass(target, draws, log_prob)


def test_number_of_components():
    assert components_for(1, 1) == 1
    assert components_for(10, 50) == 1
    assert components_for(1000, 3) == 8
    assert components_for(1000, 20) == 2
    assert components_for(10**6, 20) == 8


def nearly_singular(kind, count, dimension):
    x = np.random.default_rng(2).standard_normal((count, dimension))
    if kind == "constant columns":
        x[:, 1:] = ([0.0, 0.1, 3e4] * dimension)[: dimension - 1]
    elif kind == "one place":
        x[:] = x[0]
    elif kind == "tiny":
        x *= 1e-12
    elif kind == "far":
        x = 1e4 + 0.1 * x
    elif kind == "ridge":
        x = x[:, :1] * np.arange(1, dimension + 1)
    elif kind == "narrow ridge":
        x = x[:, :1] * np.arange(1, dimension + 1) + 1e-2 * x
    return x.astype(np.float32)


@jax.jit
def fit_and_draw(key, position, free):
    proposal = fit_proposal(position, free)
    draws, _ = proposal.draw(key, 100)
    return proposal, draws, proposal.log_prob(draws), proposal.log_prob(position)


@pytest.mark.parametrize(
    "kind, count, dimension",
    [
        ("regular", 10, 50),
        ("regular", 2, 4),
        ("constant columns", 500, 4),
        ("tiny", 500, 4),
        ("far", 500, 4),
        ("narrow ridge", 500, 4),
        ("one place", 500, 4),
        ("ridge", 2000, 30),
    ],
)
def test_fits_to_nearly_singular_particles_are_finite(kind, count, dimension):
    position = nearly_singular(kind, count, dimension)
    key = jax.random.key(3, impl="rbg")
    result = fit_and_draw(key, position, np.ones(dimension, np.float32))
    for leaf in jax.tree.leaves(result):
        assert np.isfinite(leaf).all()


def test_clamped_coordinates_stay_exactly_where_they_are():
    position = nearly_singular("regular", 500, 4)
    position[:, 1] = 0.1
    free = np.array([1, 0, 1, 1], np.float32)
    _, draws, *_ = fit_and_draw(jax.random.key(3, impl="rbg"), position, free)
    np.testing.assert_array_equal(draws[:, 1], position[:100, 1])


def test_units_do_not_change_the_fit():
    """A change of units maps the whole mixture: the log density changes by -log |scale|."""
    position = nearly_singular("regular", 500, 4)
    key, every = jax.random.key(3, impl="rbg"), np.ones(4, np.float32)
    loc, scale = np.array([4.0, 0, 0, -8]), np.array([2.0, 1, 0.25, 8])
    plain, draws, _, log_prob = fit_and_draw(key, position, every)
    changed = fit_and_draw(key, (loc + scale * position).astype(np.float32), every)
    np.testing.assert_allclose(changed[3], log_prob - np.log(scale).sum(), atol=0.02)
    np.testing.assert_allclose((changed[1] - loc) / scale, draws, atol=0.02)
    assert isinstance(plain, Proposal) and jnp.issubdtype(draws.dtype, jnp.float32)
