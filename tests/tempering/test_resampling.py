"""Resampling: unbiased counts of known variance, exact where the scheme is, safe in float32."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.statistics import assert_within

from numpyro_disco.tempering import resampling
from numpyro_disco.tempering.resampling import SCHEMES, cumulative_sum, systematic

pytestmark = pytest.mark.statistics

many = jax.jit(jax.vmap(systematic))
SIZES = (1, 7, 500)


def weight_vectors(num_particles):
    """Log weights (64, n), from equal to very skewed; a fifth of the skewed ones are -inf."""
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


def counts_of(ancestors, num_particles):
    """Number of times that each particle is an ancestor, (R, n) from (R, m)."""
    return np.stack([np.bincount(a, minlength=num_particles) for a in np.asarray(ancestors)])


def check_counts(ancestors, log_weights):
    """Check that counts of ancestors (R, m) are floor or ceiling of m W, up to rounding."""
    num_draws, num_particles = ancestors.shape[1], log_weights.shape[1]
    assert ((ancestors >= 0) & (ancestors < num_particles)).all(), "an ancestor out of range"
    expected = num_draws * exact_weights(log_weights)
    excess = np.abs(counts_of(ancestors, num_particles) - expected).max()
    rounding = num_draws * 2e-6  # of a cumulative sum in float32, in particles
    assert excess < 1 + rounding, f"a count is {excess:.4f} from m W"


def check_floors(ancestors, log_weights):
    """Check that counts of residual resampling are at least floor(m W), up to rounding."""
    num_draws, num_particles = ancestors.shape[1], log_weights.shape[1]
    expected = num_draws * exact_weights(log_weights)
    least = np.floor(expected - num_draws * 2e-6)
    lack = (least - counts_of(ancestors, num_particles)).max()
    assert lack <= 0, f"a count is {lack:.0f} below the whole part of m W"


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


@pytest.mark.parametrize("count", [1, 2, 7, 100, 1000])
def test_cumulative_sums_never_fall(count):
    rng = np.random.default_rng(count)
    x = (rng.random(count) ** 8 * (rng.random(count) < 0.7)).astype(np.float32)
    sums = np.asarray(jax.jit(cumulative_sum)(x))
    np.testing.assert_allclose(sums, np.cumsum(x, dtype=np.float64), rtol=1e-5)
    assert (np.diff(sums) >= 0).all()
    assert (np.diff(sums)[x[1:] == 0] == 0).all()


def test_sorted_multinomial_fails_the_counts():
    log_weights = weight_vectors(500)
    keys = jax.random.split(jax.random.key(0), len(log_weights))
    draw = jax.vmap(lambda key, w: jnp.sort(jax.random.categorical(key, w, shape=w.shape)))
    with pytest.raises(AssertionError, match="from m W"):
        check_counts(np.asarray(draw(keys, log_weights)), log_weights)


@cache
def repeated(scheme, num_draws):
    """Compile a map from R keys and log weights to independent resamplings (R, m), once."""
    draw = partial(SCHEMES[scheme], num_draws=num_draws)
    return jax.jit(jax.vmap(draw))


def split(seed, num_keys):
    # Keys of this kind compile in half the time.
    return jax.random.split(jax.random.key(seed, impl="rbg"), num_keys)


@pytest.mark.parametrize("num_draws", [4, 37])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_any_number_of_draws(scheme, num_draws):
    log_weights = np.tile(weight_vectors(10), (63, 1))[:4000]
    ancestors = np.asarray(repeated(scheme, num_draws)(split(2, 4000), log_weights))
    assert ancestors.shape == (4000, num_draws)
    assert np.issubdtype(ancestors.dtype, np.integer)
    assert ((ancestors >= 0) & (ancestors < 10)).all()
    assert (np.diff(ancestors, axis=1) >= 0).all(), "ancestors out of order"
    assert (np.take_along_axis(log_weights, ancestors, axis=1) > -np.inf).all()
    if scheme == "systematic":
        check_counts(ancestors, log_weights)
    elif scheme == "residual":
        check_floors(ancestors, log_weights)
    if scheme == "multinomial":
        # This scheme guarantees neither, so the checks can fail.
        with pytest.raises(AssertionError, match="from m W"):
            check_counts(ancestors, log_weights)
        with pytest.raises(AssertionError, match="below the whole part"):
            check_floors(ancestors, log_weights)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_one_heavy_particle_and_whole_numbers(scheme):
    place = np.arange(4000) % 10
    rest = np.where(np.arange(4000) < 2000, -200.0, -np.inf)[:, None]
    log_weights = np.where(np.arange(10) == place[:, None], 500.0, rest).astype(np.float32)
    for num_draws in (4, 37):
        ancestors = repeated(scheme, num_draws)(split(3, 4000), log_weights)
        np.testing.assert_array_equal(ancestors, np.repeat(place[:, None], num_draws, axis=1))
    # With expected counts that are whole numbers, the residual scheme has nothing to draw.
    copies = np.zeros((4000, 10))
    copies[:2000, [1, 2, 5, 9]], copies[2000:, [0, 7]] = 1, 2
    with np.errstate(divide="ignore"):
        log_weights = np.log(copies).astype(np.float32)
    ancestors = repeated(scheme, 4)(split(4, 4000), log_weights)
    if scheme != "multinomial":
        np.testing.assert_array_equal(counts_of(ancestors, 10), copies)


def test_as_many_draws_as_particles_by_default():
    log_weights = weight_vectors(10)[20]
    for draw in SCHEMES.values():
        by_default, ten = jax.jit(draw), jax.jit(partial(draw, num_draws=10))
        ancestors = by_default(jax.random.key(0), log_weights)
        np.testing.assert_array_equal(ancestors, ten(jax.random.key(0), log_weights))


def naive(rng_key, log_weights, side):
    """Systematic resampling as often written: it assumes that the weights sum to one."""
    num_particles = len(log_weights)
    cumulative = jnp.cumsum(jax.nn.softmax(log_weights))
    positions = (jnp.arange(num_particles) + jax.random.uniform(rng_key)) / num_particles
    return jnp.searchsorted(cumulative, positions, side=side)


def ends(resample):
    """Resample at both ends of [0, 1), from weights with and without zeros at the ends."""
    key, resample = jax.random.key(0), jax.jit(resample)
    for num_particles in (2, 499, 4093):
        plain = np.zeros(num_particles, np.float32)
        gaps = np.where(np.arange(num_particles) % 5 == 2, 0.0, -np.inf).astype(np.float32)
        one = np.full(num_particles, -np.inf, np.float32)
        one[num_particles // 2] = 80.0
        tiny = np.where(np.arange(num_particles) == 1, 0.0, -17.0).astype(np.float32)
        for log_weights in (plain, gaps if num_particles > 2 else plain, one, tiny):
            ancestors = np.asarray(resample(key, log_weights))
            inside = (ancestors >= 0) & (ancestors < num_particles)
            assert inside.all(), "an ancestor out of range"
            assert (log_weights[ancestors] > -np.inf).all(), "an ancestor of weight zero"


@pytest.mark.parametrize("u", [0.0, float(np.nextafter(np.float32(1), np.float32(0)))])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_never_a_particle_of_weight_zero(monkeypatch, scheme, u):
    # The two ends of the range of `uniform`: at 0 a tie with leading zeros; near 1 a position that
    # rounds past a cumulative sum that ends below one.
    def uniform(rng_key, shape=(), dtype=jnp.float32):
        return jnp.full(shape, u, dtype)

    def exponential(rng_key, shape, dtype=jnp.float32):
        # All sorted uniforms at one end, or as close to it as they can be.
        return jnp.zeros(shape, dtype).at[-1 if u == 0 else 0].set(1.0)

    monkeypatch.setattr(jax.random, "uniform", uniform)
    monkeypatch.setattr(jax.random, "exponential", exponential)
    ends(SCHEMES[scheme])
    if scheme == "systematic":
        side = "left" if u == 0 else "right"
        with pytest.raises(AssertionError, match="an ancestor"):
            ends(lambda key, log_weights: naive(key, log_weights, side))


with np.errstate(divide="ignore"):
    SKEWED = np.log([1e-7, 0.47, 0.003, 0.23, 0.0501, 0.08, 0.001, 0.15, 0.0159, 0.0])


def exact_variance(scheme, weights, num_draws):
    """Variance of each particle's count."""
    expected = num_draws * weights
    fraction = expected % 1
    if scheme == "systematic":  # its floor plus a coin with the fraction as its probability
        return fraction * (1 - fraction)
    if scheme == "residual":
        left = max(fraction.sum(), 1e-30)
        return fraction * (1 - fraction / left)
    if scheme == "multinomial":
        return expected * (1 - weights)
    # Stratified: one coin for each m-th part, with the share of it that is the particle's.
    edges = num_draws * np.concatenate([[0.0], np.cumsum(weights)])
    parts = np.arange(num_draws)[:, None]
    coin = np.clip(edges[1:] - parts, 0, 1) - np.clip(edges[:-1] - parts, 0, 1)
    return (coin * (1 - coin)).sum(0)


def check_moments(ancestors, scheme):
    """Check mean and variance of the counts of many independent resamplings of SKEWED."""
    num_runs, num_draws = ancestors.shape
    weights = exact_weights(SKEWED)
    expected, variance = num_draws * weights, exact_variance(scheme, weights, num_draws)
    counts = counts_of(ancestors, len(weights))
    # The last term is rounding of the positions, far below the resolution.
    error = np.sqrt(variance / num_runs) + 1e-6 * num_draws
    resolution = 0.03 + 0.1 * np.sqrt(variance)
    assert_within(counts.mean(0), expected, error, resolution=resolution, label="mean counts")
    squares = (counts - expected) ** 2
    # At least that of three rare events: an event that never happened shows no variance.
    error = np.sqrt(np.maximum(squares.var(0), 3 / num_runs) / num_runs)
    assert_within(
        squares.mean(0), variance, error, resolution=0.1 + 0.15 * variance, label="variance"
    )


SKEWED_RUNS = np.broadcast_to(SKEWED.astype(np.float32), (4000, 10))


@pytest.mark.parametrize("num_draws", [4, 37])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_counts_are_unbiased_and_of_known_variance(scheme, num_draws):
    ancestors = repeated(scheme, num_draws)(split(1, 4000), SKEWED_RUNS)
    check_moments(np.asarray(ancestors), scheme)


def test_biased_schemes_fail(monkeypatch):
    # The middle of every grid cell, instead of a random place, keeps each count within one of m W
    # but favours particles by their position.
    positions = (np.arange(10) + 0.5) / 10
    fixed = np.searchsorted(np.cumsum(exact_weights(SKEWED)), positions, side="right")
    with pytest.raises(AssertionError, match="mean counts is off"):
        check_moments(np.broadcast_to(fixed, (4000, 10)), "systematic")


def assert_biased(scheme):
    broken = jax.jit(jax.vmap(partial(SCHEMES[scheme], num_draws=4)))  # compiled again
    with pytest.raises(AssertionError, match="mean counts is off"):
        check_moments(np.asarray(broken(split(1, 4000), SKEWED_RUNS)), scheme)


def test_remainder_from_one_end_of_sorted_draws_fails(monkeypatch):
    monkeypatch.setattr(jax.random, "permutation", lambda rng_key, drawn: drawn)
    assert_biased("residual")


@pytest.mark.parametrize("scheme", ["systematic", "stratified"])
def test_offsets_in_half_of_each_step_fail(monkeypatch, scheme):
    uniform = jax.random.uniform
    monkeypatch.setattr(jax.random, "uniform", lambda *args, **kw: 0.5 * uniform(*args, **kw))
    assert_biased(scheme)


def test_one_gap_too_few_fails(monkeypatch):
    exponential = jax.random.exponential
    monkeypatch.setattr(
        jax.random, "exponential", lambda *args, **kw: exponential(*args, **kw).at[-1].set(0)
    )
    assert_biased("multinomial")


def test_the_variance_of_another_scheme_fails():
    ancestors = repeated("systematic", 4)(split(1, 4000), SKEWED_RUNS)
    with pytest.raises(AssertionError, match="variance is off"):
        check_moments(np.asarray(ancestors), "multinomial")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_scheme_is_noisier_than_multinomial(scheme):
    """Variance of a mean over ancestors, for sorted and for unsorted values."""
    weights = exact_weights(SKEWED)
    ancestors = np.asarray(repeated(scheme, 37)(split(5, 4000), SKEWED_RUNS))
    for values in (np.linspace(-1, 2, 10) ** 3, np.random.default_rng(6).normal(size=10)):
        truth = weights @ values
        independent = (weights @ values**2 - truth**2) / 37
        squares = (values[ancestors].mean(1) - truth) ** 2
        error = squares.std() / len(squares) ** 0.5
        if scheme == "multinomial":
            resolution = 0.15 * independent
            assert_within(squares.mean(), independent, error, resolution=resolution)
        else:
            assert squares.mean() + 5 * error < independent, f"{squares.mean()}, {independent}"


def test_log_mean_exp():
    log_mean_exp = jax.jit(resampling.log_mean_exp)
    log_weights = np.random.default_rng(0).normal(size=50).astype(np.float32)
    expected = np.log(np.exp(log_weights.astype(np.float64)).mean())
    np.testing.assert_allclose(log_mean_exp(log_weights), expected, rtol=1e-5)
    shifted = log_mean_exp(log_weights + np.float32(1000))
    np.testing.assert_allclose(shifted, expected + 1000, rtol=1e-6)
    # Particles of weight zero count in n.
    half = np.concatenate([log_weights, np.full(50, -np.inf, np.float32)])
    np.testing.assert_allclose(log_mean_exp(half), expected - np.log(2), rtol=1e-5)
    assert log_mean_exp(np.full(3, -np.inf, np.float32)) == -np.inf


def test_weight_ess():
    weight_ess = jax.jit(resampling.weight_ess)
    log_weights = np.random.default_rng(0).normal(size=50).astype(np.float32)
    expected = 1 / (exact_weights(log_weights) ** 2).sum()
    np.testing.assert_allclose(weight_ess(log_weights), expected, rtol=1e-5)
    np.testing.assert_allclose(weight_ess(log_weights - np.float32(500)), expected, rtol=1e-3)
    equal = np.where(np.arange(50) < 20, 3.0, -np.inf).astype(np.float32)
    np.testing.assert_allclose(weight_ess(equal), 20, rtol=1e-5)
    np.testing.assert_allclose(weight_ess(equal[:20]), 20, rtol=1e-5)
    np.testing.assert_allclose(weight_ess(equal[19:]), 1, rtol=1e-6)
    assert weight_ess(np.full(50, -np.inf, np.float32)) == 0
