"""The posterior over training rows against brute force in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.statistics import assert_within

from numpyro_disco.training.rows.row_posterior import (
    BOX_SIZE,
    near_row_posterior,
    reads_near_rows,
    row_posterior,
    tree_order,
)

NUM_ROWS, DIMENSION = 300, 3
NOISE_SCALES = (0.01, 0.1, 0.5, 2.0)
posterior = jax.jit(row_posterior, static_argnames="chunk_size")


def make_rows():
    """Two skewed clusters and one distant row, away from the origin, (300, 3)."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(NUM_ROWS, DIMENSION)) * [1.0, 0.3, 0.5] + [1.0, -2.0, 0.5]
    rows[: NUM_ROWS // 4] = rows[: NUM_ROWS // 4] * 0.2 + [2.0, 1.0, 0.0]
    rows[-1] = [4.0, 3.0, -2.0]
    return rows.astype(np.float32)


ROWS = make_rows()


def make_points(noise_scale):
    """Points near rows, between rows, and at distance 10, (64, 3)."""
    rng = np.random.default_rng(1)
    near = ROWS[rng.integers(NUM_ROWS, size=32)] + noise_scale * rng.normal(size=(32, DIMENSION))
    among = ROWS[rng.integers(NUM_ROWS, size=24)] + rng.normal(size=(24, DIMENSION))
    away = rng.normal(size=(8, DIMENSION))
    away = ROWS.mean(0) + 10 * away / np.linalg.norm(away, axis=1, keepdims=True)
    return np.concatenate([near, among, away]).astype(np.float32)


def brute_force(points, rows, noise_scale):
    """Probabilities (B, N), mean (B, D) and log density (B,), computed plainly in float64."""
    points, rows = np.asarray(points, np.float64), np.asarray(rows, np.float64)
    noise_scale = np.float64(np.float32(noise_scale))
    square = ((points[:, None] - rows) ** 2).sum(-1)
    logits = -0.5 * square / noise_scale**2
    top = logits.max(1, keepdims=True)
    weights = np.exp(logits - top)
    total = weights.sum(1, keepdims=True)
    constant = np.log(len(rows)) + 0.5 * rows.shape[1] * np.log(2 * np.pi * noise_scale**2)
    log_density = top[:, 0] + np.log(total[:, 0]) - constant
    return weights / total, weights @ rows / total, log_density


@pytest.mark.parametrize("chunk_size", [100, 128, 512], ids=["divides", "remainder", "one chunk"])
def test_the_posterior_matches_brute_force(chunk_size):
    for noise_scale in NOISE_SCALES:
        points = make_points(noise_scale)
        probabilities, mean, log_density = brute_force(points, ROWS, noise_scale)
        got = posterior(jax.random.key(0), points, ROWS, noise_scale, chunk_size=chunk_size)
        # Logits are |x|^2 / sigma_0^2 in size and carry float32's relative error; so do the
        # shares, and the mean moves by that error times the spread of the rows that compete.
        reach = (np.abs(points - ROWS.mean(0)) ** 2).sum(1) + (ROWS.std(0) ** 2).sum()
        rounding = 4 * np.finfo(np.float32).eps * (reach / noise_scale**2 + 10)
        square = ((ROWS[None] - mean[:, None]) ** 2).sum(-1)
        spread = np.sqrt((probabilities * square).sum(1))
        mean_error = np.abs(np.asarray(got.mean, np.float64) - mean).max(1)
        log_error = np.abs(np.asarray(got.log_density, np.float64) - log_density)
        print(
            f"noise {noise_scale}: mean off by {mean_error[:56].max():.1e} near, "
            f"{mean_error[56:].max():.1e} far; log density by {log_error[:56].max():.1e} near, "
            f"{log_error[56:].max():.1e} far"
        )
        assert (log_error <= rounding).all()
        assert (mean_error <= rounding * spread + 2e-6).all()
        assert (np.abs(got.largest / probabilities.max(1) - 1) <= 2 * rounding).all()
        # Absolute bounds at the distances that occur in training.
        assert mean_error[:32].max() < 1e-4 and log_error[:32].max() < 0.02


def test_the_score_is_the_gradient_of_the_log_density():
    noise_scale, step = 0.3, 1e-5
    points = make_points(noise_scale)[:56]
    got = posterior(jax.random.key(0), points, ROWS, noise_scale, chunk_size=128)
    score = (np.asarray(got.mean, np.float64) - points) / noise_scale**2
    for axis in range(DIMENSION):
        shift = step * np.eye(DIMENSION)[axis]
        above, below = (brute_force(points + s, ROWS, noise_scale)[2] for s in (shift, -shift))
        np.testing.assert_allclose(score[:, axis], (above - below) / (2 * step), atol=2e-3)

    def log_density(x):
        return row_posterior(jax.random.key(0), x, ROWS, noise_scale, chunk_size=128).log_density

    gradient = jax.jit(jax.grad(lambda x: log_density(x).sum()))(points)
    np.testing.assert_allclose(gradient, score, atol=2e-3)


def test_a_single_row_has_all_of_the_posterior():
    row = np.float32([[1.0, 2.0]])
    points = np.float32([[0.0, 0.0], [1.0, 2.0]])
    got = row_posterior(jax.random.key(0), points, row, 0.5)
    np.testing.assert_array_equal(got.mean, np.repeat(row, 2, axis=0))
    np.testing.assert_array_equal(got.draw, np.repeat(row, 2, axis=0))
    np.testing.assert_allclose(got.log_density, brute_force(points, row, 0.5)[2], rtol=1e-6)


# Few enough rows to count the draws of each; the last is far from the others.
FEW = np.float32([[0.0, 0.0], [0.5, 0.2], [1.1, 0.1], [0.2, 0.9], [0.7, 1.4], [1.9, 0.3],
                  [0.1, 2.0], [1.0, 1.0], [-0.6, 0.4], [9.0, 9.0]])  # fmt: skip
PLACES = np.float32([[0.4, 0.3], [1.5, 0.8], [5.0, 4.0]])
DRAWS = 20_000


def check_frequencies(chosen):
    """Check the frequencies of rows, given the indices (3, DRAWS) drawn at each place."""
    exact = brute_force(PLACES, FEW, 0.7)[0]
    frequencies = np.stack([np.bincount(c, minlength=len(FEW)) for c in chosen]) / DRAWS
    error = np.sqrt(exact * (1 - exact) / DRAWS) + 0.1 / DRAWS
    assert_within(frequencies, exact, error, resolution=0.02, label="frequencies")


def index_of(draws):
    distance = np.abs(np.asarray(draws)[:, None] - FEW).max(-1)
    assert distance.min(1).max() < 1e-5, "a draw is not a row"
    return distance.argmin(1).reshape(len(PLACES), DRAWS)


@pytest.mark.parametrize("chunk_size", [3, 5, 10])
def test_rows_are_drawn_with_their_probabilities(chunk_size):
    points = np.repeat(PLACES, DRAWS, axis=0)
    got = posterior(jax.random.key(1), points, FEW, 0.7, chunk_size=chunk_size)
    check_frequencies(index_of(got.draw))


def test_draws_that_ignore_the_mass_of_chunks_fail():
    # Correct within a chunk, but each chunk replaces the previous one with probability 1/2.
    exact, rng = brute_force(PLACES, FEW, 0.7)[0], np.random.default_rng(0)
    chosen = []
    for probabilities in exact:
        blocks = np.array_split(np.arange(len(FEW)), 2)
        picks = [rng.choice(b, DRAWS, p=probabilities[b] / probabilities[b].sum()) for b in blocks]
        chosen.append(np.where(rng.random(DRAWS) < 0.5, *picks))
    with pytest.raises(AssertionError, match="is off"):
        check_frequencies(np.array(chosen))


def test_draws_depend_on_the_key_only():
    points = np.repeat(PLACES, DRAWS, axis=0)
    draw = partial(posterior, points=points, rows=FEW, noise_scale=0.7, chunk_size=5)
    one, same, other = (index_of(draw(jax.random.key(k)).draw) for k in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    # Two independent draws agree with probability sum p^2; the same key twice would always agree.
    exact = (brute_force(PLACES, FEW, 0.7)[0] ** 2).sum(1)
    error = np.sqrt(exact * (1 - exact) / DRAWS)
    agreement = (one == other).mean(1)
    assert_within(agreement, exact, error, resolution=0.02, label="agreement")
    with pytest.raises(AssertionError, match="is off"):
        assert_within((one == same).mean(1), exact, error, resolution=0.02, label="agreement")


def test_whole_weights_count_like_repeated_rows():
    counts = np.random.default_rng(2).integers(1, 5, NUM_ROWS)
    repeated, points = np.repeat(ROWS, counts, axis=0), make_points(0.5)
    _, mean, log_density = brute_force(points, repeated, 0.5)
    for weights in (counts, counts / 7):
        for found in (
            posterior(jax.random.key(0), points, ROWS, 0.5, jnp.float32(weights), chunk_size=128),
            # All boxes are near, so that the answer is exact.
            near_row_posterior(jax.random.key(0), points, ROWS, 0.5, jnp.float32(weights)),
        ):
            np.testing.assert_allclose(found.mean, mean, atol=1e-3)
            np.testing.assert_allclose(found.log_density, log_density, atol=2e-3)
    # The broken twin leaves the weights out.
    twin = posterior(jax.random.key(0), points, ROWS, 0.5, chunk_size=128)
    assert np.abs(twin.mean - mean).max() > 0.01


def test_the_density_of_weighted_near_rows_is_unbiased():
    rng = np.random.default_rng(3)
    rows, weights = np.float32(rng.normal(size=(1000, 2))), rng.integers(1, 9, 1000)
    points = np.float32([[0.0, 0.0], [1.5, 1.0]])
    exact = np.exp(brute_force(points, np.repeat(rows, weights, axis=0), 0.3)[2])

    def check(given):
        found = near_densities(rows, points, jnp.float32(given))
        error = found.std(0) / np.sqrt(len(found))
        assert_within(found.mean(0), exact, error, resolution=0.05 * exact, label="density")

    check(weights)
    with pytest.raises(AssertionError, match="is off"):
        check(np.where(rows[:, 0] > 0, 5, 4))


MANY, SIGMA = 50_000, 0.05
near_posterior = jax.jit(near_row_posterior, static_argnames="num_near")


def make_many(dimension):
    """Correlated rows with two modes, and points at four noise levels, (4, 32, D)."""
    rng = np.random.default_rng(dimension)
    mode = rng.choice([-1.5, 1.5], (MANY, 1), p=[0.3, 0.7])
    rows = mode + rng.normal(size=(MANY, dimension)) @ rng.normal(size=(dimension, dimension))
    rows = np.float32((rows - rows.mean(0)) / rows.std(0))
    levels = np.array([SIGMA, 0.2, 0.7, 2.0])[:, None, None]
    noise = levels * rng.normal(size=(4, 32, dimension))
    return rows, np.float32(rows[rng.integers(MANY, size=(4, 32))] + noise)


def error_of_near_means(rows, points):
    """Root mean squared error of the mean at each noise level, in units of sigma_0."""
    errors = []
    for level in points:
        exact = brute_force(level, rows, SIGMA)[1]
        found = near_posterior(jax.random.key(0), level, rows, SIGMA).mean
        errors.append(np.sqrt(((np.asarray(found) - exact) ** 2).mean()) / SIGMA)
    return np.array(errors)


@pytest.mark.parametrize("dimension", [1, 2, 3])
def test_near_rows_and_a_sample_of_the_others_approximate_all_rows(dimension):
    rows, points = make_many(dimension)
    assert error_of_near_means(rows[tree_order(rows)], points).max() < 0.02


def test_near_rows_give_the_probability_of_the_likeliest_row():
    """A row that represents a box has only its own part of the probability of the box."""
    rows, points = make_many(2)
    points = points.reshape(-1, 2)
    probabilities = brute_force(points, rows, 0.5)[0]
    exact = probabilities.max(1)
    found = near_posterior(jax.random.key(0), points, rows[tree_order(rows)], 0.5)
    np.testing.assert_allclose(found.largest, exact, rtol=0.02)
    # The probability of a whole box is much larger than that of one of its rows.
    boxes = np.add.reduceat(probabilities, np.arange(0, MANY, BOX_SIZE), axis=1)
    assert np.median(boxes.max(1) / exact) > 10


def test_near_rows_are_inaccurate_without_tree_order():
    rows, points = make_many(2)
    assert error_of_near_means(rows, points).min() > 0.02


def near_densities(rows, points, weights=None):
    """Densities at each point from 16,000 samples of the boxes that are not near, (16000, B)."""
    keys = jax.random.split(jax.random.key(2), 16_000)

    def density(key):
        return near_posterior(key, points, rows, 0.3, weights, num_near=2).log_density

    return np.exp(np.asarray(jax.lax.map(density, keys), np.float64))


def test_the_density_of_near_rows_is_unbiased():
    """Rows may be in any order, and the last box need not be full."""
    rng = np.random.default_rng(3)
    rows = np.float32(rng.normal(size=(1000, 2)))
    points = np.float32([[0.0, 0.0], [1.0, -0.5], [1.5, 1.0]])
    exact = np.exp(brute_force(points, rows, 0.3)[2])
    found = near_densities(rows, points)
    error = found.std(0) / np.sqrt(len(found))
    assert_within(found.mean(0), exact, error, resolution=0.05 * exact, label="density")
    # The broken twin reads the first boxes alone, weighted by their share of all rows.
    near_alone = near_densities(rows[tree_order(rows)][:128], points) * 128 / 1000
    with pytest.raises(AssertionError, match="is off"):
        assert_within(near_alone.mean(0), exact, error, resolution=0.05 * exact, label="density")


def test_boxes_whose_weights_are_zero_up_to_rounding_do_not_count():
    rows = np.sort(np.float32(np.random.default_rng(3).normal(size=(4 * BOX_SIZE, 1))), axis=0)
    weights = np.where(np.arange(len(rows)) < 2 * BOX_SIZE, 1.0, 1e-60)
    found = near_posterior(jax.random.key(0), rows[::20], rows, 0.3, weights, num_near=2)
    exact = row_posterior(jax.random.key(0), rows[::20], rows[: 2 * BOX_SIZE], 0.3)
    assert all(np.isfinite(part).all() for part in found)
    assert np.isin(found.draw, rows[: 2 * BOX_SIZE]).all()
    at = slice(0, 1)  # both boxes of positive weight are near to the first point
    np.testing.assert_allclose(found.mean[at], exact.mean[at], rtol=1e-3)


def test_draws_of_near_rows_are_rows_and_have_the_right_mean():
    rows, points = make_many(2)
    rows = rows[tree_order(rows)]
    repeated = np.repeat(points[:, 0], 700, axis=0)
    got = near_posterior(jax.random.key(4), repeated, rows, SIGMA)
    draws = np.asarray(got.draw, np.float64).reshape(4, 700, 2)
    assert set(map(tuple, np.asarray(got.draw))) <= set(map(tuple, rows))
    mean = np.asarray(got.mean).reshape(4, 700, 2)[:, 0]
    # The error is that of the exact posterior: if one row has nearly all of it, all draws may be
    # that row.
    exact, center, _ = brute_force(points[:, 0], rows, SIGMA)
    square = (rows.astype(np.float64) - center[:, None]) ** 2
    error = np.sqrt(np.einsum("pn,pnd->pd", exact, square) / 700)
    assert_within(draws.mean(1), mean, error, resolution=0.2 * SIGMA, label="mean of draws")
    # The broken twin: the points themselves, from which the rows pull the mean away.
    with pytest.raises(AssertionError, match="is off"):
        assert_within(draws.mean(1), points[:, 0], error, resolution=0.2 * SIGMA, label="points")


def test_near_rows_are_the_default_for_many_rows_of_few_columns():
    assert reads_near_rows(None, 1_000_000, 2)
    assert not reads_near_rows(None, 1_000_000, 10) and not reads_near_rows(None, 100_000, 2)
    assert not reads_near_rows(None, 1_000_000, 3)
    assert not reads_near_rows("all", 1_000_000, 2) and not reads_near_rows(512, 1_000_000, 2)
    assert reads_near_rows("near", 10, 3)
    with pytest.raises(ValueError, match="at most 3 columns with `posterior_rows='near'`; got 4"):
        reads_near_rows("near", 10, 4)


def test_the_posterior_has_the_dtype_of_the_points():
    got = jax.eval_shape(
        partial(row_posterior, chunk_size=4), jax.random.key(0), jnp.zeros((2, 2)), FEW, 0.1
    )
    assert {leaf.dtype for leaf in got} == {jnp.dtype("float32")}
    assert got.mean.shape == got.draw.shape == (2, 2) and got.log_density.shape == (2,)
