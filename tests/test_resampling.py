"""Systematic resampling: exact in counts, unbiased on average, safe at the ends of float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from statistics_tools import assert_within

from numpyro_disco.resampling import log_mean_exp, systematic, weight_ess

many = jax.jit(jax.vmap(systematic))
SIZES = (1, 7, 500)


def weight_vectors(num_particles):
    """Log weights (64, n) from flat to very skewed, a fifth of the skewed ones -inf."""
    rng = np.random.default_rng(num_particles)
    spread = np.repeat([0.0, 0.3, 3.0, 100.0], 16)[:, None]
    log_weights = rng.normal(size=(64, num_particles)) * spread + 50 * rng.normal(size=(64, 1))
    dead = (rng.random(log_weights.shape) < 0.2) & (spread > 1)
    dead[:, num_particles // 2] = False
    return np.where(dead, -np.inf, log_weights).astype(np.float32)


def exact_weights(log_weights):
    log_weights = np.asarray(log_weights, np.float64)
    weights = np.exp(log_weights - log_weights.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def counts_of(ancestors):
    ancestors = np.asarray(ancestors)
    return np.stack([np.bincount(a, minlength=len(a)) for a in ancestors])


def check_counts(ancestors, log_weights):
    """Ancestors (R, n) from log weights (R, n): floor or ceiling of n W, up to rounding."""
    num_particles = ancestors.shape[1]
    assert ((ancestors >= 0) & (ancestors < num_particles)).all(), "an ancestor out of range"
    expected = num_particles * exact_weights(log_weights)
    excess = np.abs(counts_of(ancestors) - expected).max()
    rounding = num_particles * 2e-6  # of a cumulative sum in float32, in particles
    assert excess < 1 + rounding, f"a count is {excess:.4f} from n W"


@pytest.mark.parametrize("num_particles", SIZES)
def test_counts_are_within_one(num_particles):
    log_weights = weight_vectors(num_particles)
    for seed in range(5):
        keys = jax.random.split(jax.random.key(seed), len(log_weights))
        ancestors = np.asarray(many(keys, log_weights))
        check_counts(ancestors, log_weights)
        assert (np.diff(ancestors, axis=1) >= 0).all()
        weights = np.take_along_axis(log_weights, ancestors, axis=1)
        assert (weights > -np.inf).all()


def test_sorted_multinomial_fails_the_counts():
    log_weights = weight_vectors(500)
    keys = jax.random.split(jax.random.key(0), len(log_weights))
    draw = jax.vmap(lambda key, w: jnp.sort(jax.random.categorical(key, w, shape=w.shape)))
    with pytest.raises(AssertionError, match="from n W"):
        check_counts(np.asarray(draw(keys, log_weights)), log_weights)


def naive(rng_key, log_weights, side):
    """Systematic resampling as it is often written: it trusts that the weights sum to one."""
    num_particles = len(log_weights)
    cumulative = jnp.cumsum(jax.nn.softmax(log_weights))
    positions = (jnp.arange(num_particles) + jax.random.uniform(rng_key)) / num_particles
    return jnp.searchsorted(cumulative, positions, side=side)


def ends(resample):
    """Resample at both ends of [0, 1), from weights with and without zeros at the ends."""
    key = jax.random.key(0)
    for num_particles in (2, 499, 4093):
        plain = np.zeros(num_particles, np.float32)
        holes = np.where(np.arange(num_particles) % 5 == 2, 0.0, -np.inf).astype(np.float32)
        one = np.full(num_particles, -np.inf, np.float32)
        one[num_particles // 2] = 80.0
        tiny = np.where(np.arange(num_particles) == 1, 0.0, -17.0).astype(np.float32)
        for log_weights in (plain, holes if num_particles > 2 else plain, one, tiny):
            ancestors = np.asarray(resample(key, log_weights))
            inside = (ancestors >= 0) & (ancestors < num_particles)
            assert inside.all(), "an ancestor out of range"
            assert (log_weights[ancestors] > -np.inf).all(), "an ancestor of weight zero"


@pytest.mark.parametrize("u", [0.0, float(np.nextafter(np.float32(1), np.float32(0)))])
def test_never_a_particle_of_weight_zero(monkeypatch, u):
    # The two ends of what `uniform` can return: at 0 a tie with leading zeros, near 1 a position
    # that rounds past a cumulative sum which ends below one.
    monkeypatch.setattr(jax.random, "uniform", lambda *args, **kwargs: jnp.float32(u))
    ends(systematic)
    side = "left" if u == 0 else "right"
    with pytest.raises(AssertionError, match="an ancestor"):
        ends(lambda key, log_weights: naive(key, log_weights, side))


with np.errstate(divide="ignore"):
    SKEWED = np.log([1e-7, 0.5, 0.003, 0.2, 0.0501, 0.08, 0.001, 0.15, 0.0159, 0.0])


def check_unbiased(ancestors):
    expected = 10 * exact_weights(SKEWED)
    # A count is its floor plus a coin with the fraction as its probability.
    fraction = expected % 1
    error = np.sqrt(fraction * (1 - fraction) / len(ancestors))
    mean = counts_of(ancestors).mean(0)
    # Rounding of the positions themselves, far below what is resolved.
    assert_within(mean, expected, error + 1e-6, resolution=0.06, label="mean counts")


def test_counts_are_unbiased():
    keys = jax.random.split(jax.random.key(1), 4000)
    log_weights = np.broadcast_to(SKEWED.astype(np.float32), (4000, 10))
    check_unbiased(many(keys, log_weights))
    # The middle of every step, instead of a random place, keeps each count within one of n W
    # but favours particles by where they stand.
    positions = (np.arange(10) + 0.5) / 10
    fixed = np.searchsorted(np.cumsum(exact_weights(SKEWED)), positions, side="right")
    with pytest.raises(AssertionError, match="is off"):
        check_unbiased(np.broadcast_to(fixed, (4000, 10)))


def test_log_mean_exp():
    log_weights = np.random.default_rng(0).normal(size=50).astype(np.float32)
    expected = np.log(np.exp(log_weights.astype(np.float64)).mean())
    np.testing.assert_allclose(log_mean_exp(log_weights), expected, rtol=1e-5)
    shifted = log_mean_exp(log_weights + np.float32(1000))
    np.testing.assert_allclose(shifted, expected + 1000, rtol=1e-6)
    # Particles of weight zero still count in n.
    half = np.concatenate([log_weights, np.full(50, -np.inf, np.float32)])
    np.testing.assert_allclose(log_mean_exp(half), expected - np.log(2), rtol=1e-5)
    assert log_mean_exp(np.full(3, -np.inf, np.float32)) == -np.inf


def test_weight_ess():
    log_weights = np.random.default_rng(0).normal(size=50).astype(np.float32)
    expected = 1 / (exact_weights(log_weights) ** 2).sum()
    np.testing.assert_allclose(weight_ess(log_weights), expected, rtol=1e-5)
    np.testing.assert_allclose(weight_ess(log_weights - np.float32(500)), expected, rtol=1e-3)
    equal = np.where(np.arange(50) < 20, 3.0, -np.inf).astype(np.float32)
    np.testing.assert_allclose(weight_ess(equal), 20, rtol=1e-5)
    np.testing.assert_allclose(weight_ess(equal[:20]), 20, rtol=1e-5)
    np.testing.assert_allclose(weight_ess(equal[19:]), 1, rtol=1e-6)
    assert weight_ess(np.full(50, -np.inf, np.float32)) == 0
