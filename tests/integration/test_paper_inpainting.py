"""The conditional samplers of examples/paper on the Gaussian with covariance ((1, 1.5), (1.5, 5)).

The heuristics have a known, biased law; the particle filters draw the conditional of their chain.
"""

import inpainting
import jax
import jax.numpy as jnp
import numpy as np
import processes
import pytest
import samplers
from exact import Mixture
from helpers.linear_gaussian import Affine, GaussianRows, condition
from helpers.statistics import assert_within, mean_and_error

MEAN = np.array([0.5, -1.0])
COVARIANCE = np.array([[1.0, 1.5], [1.5, 5.0]])
VALUE = 2.0
OBSERVED, VALUES = jnp.array([True, False]), jnp.array([VALUE, 0.0])
NUM_RUNS, NUM_PARTICLES = 200, 400

PROCESSES = {
    "variance exploding": processes.variance_exploding(8, 0.2, 3.0),
    "variance preserving": processes.variance_preserving(8, 0.2),
}
EXPLODING, PRESERVING = PROCESSES.values()


def rows_under(process):
    rows = GaussianRows(MEAN, COVARIANCE, *(np.asarray(a, np.float64) for a in process))
    return rows, Mixture.of(np.ones(1), MEAN[None], COVARIANCE[None]).denoiser(process)


def pairs(process):
    levels = np.asarray(process.levels)
    return list(zip(levels[:-1], levels[1:], strict=True))


def runs(run, num_runs=NUM_RUNS):
    """Free coordinates of independent runs, shape (num_runs, NUM_PARTICLES)."""
    keys = jax.random.split(jax.random.key(0), num_runs)
    return np.asarray(jax.jit(jax.vmap(run))(keys)[..., 1], np.float64)


def heuristic(process, step):
    def run(rng_key):
        start_key, key = jax.random.split(rng_key)
        x = process.start(start_key, NUM_PARTICLES, 2)
        return samplers.descend(key, step, x, process.levels)

    return runs(run)


def assert_free_law(draws, mean, variance, resolution=0.12):
    """Assert the mean and the variance, with standard errors from independent runs."""
    whitened = (draws - mean) / np.sqrt(variance)
    estimate, error = mean_and_error(np.stack([whitened.mean(1), (whitened**2).mean(1)], axis=-1))
    assert_within(estimate, [0.0, 1.0], error, resolution=resolution)


def ancestral_steps(rows, process):
    return [rows.backward(rows.denoiser(t), t, s) for t, s in pairs(process)]


def exact_conditional(mean, covariance):
    _, mean, rest = condition(mean, covariance, np.array([0]), np.array([VALUE]))
    return mean[0], rest[0, 0]


def replacement_law(rows, process):
    """Law of the free coordinate: fresh noise around the value at every level."""

    def replaced(t):
        factor = rows.alpha[t] / rows.alpha[0]
        variance = rows.sigma[t] ** 2 - factor**2 * rows.sigma[0] ** 2
        return Affine(np.diag([0.0, 1.0]), np.array([factor * VALUE, 0]), np.diag([variance, 0.0]))

    steps = ancestral_steps(rows, process)
    levels = [t for t, _ in pairs(process)]
    mean, covariance = rows.law(
        step.after(replaced(t)) for t, step in zip(levels, steps, strict=True)
    )
    return mean[1], covariance[1, 1]


def guided_law(rows, process):
    """Law of the free coordinate: the denoiser plus its gradient times the error of the value."""

    def pulled(t):
        clean = rows.denoiser(t)
        pull = clean.matrix[0][:, None] / rows.alpha[t]
        return Affine(
            clean.matrix - pull @ clean.matrix[:1],
            clean.shift + pull[:, 0] * (VALUE - clean.shift[0]),
        )

    mean, covariance = rows.law(rows.backward(pulled(t), t, s) for t, s in pairs(process))
    return mean[1], covariance[1, 1]


@pytest.mark.parametrize("name", PROCESSES)
def test_replacement(name):
    process = PROCESSES[name]
    rows, denoise = rows_under(process)
    step = inpainting.replacement(process, samplers.ancestral(process, denoise), OBSERVED, VALUES)
    draws = heuristic(process, step)
    assert_free_law(draws, *replacement_law(rows, process))
    with pytest.raises(AssertionError, match="is off"):
        assert_free_law(draws, *exact_conditional(*rows.at(0)))


def test_replacement_stays_biased_with_many_levels():
    """The conditional of the slides: mean 1.5 y and variance 2.75, for y = 2 and mean zero."""
    process = processes.variance_exploding(4000, 0.01, 20.0)
    rows = GaussianRows(np.zeros(2), COVARIANCE, *(np.asarray(a, np.float64) for a in process))
    truth = exact_conditional(*rows.at(0))
    np.testing.assert_allclose(truth, (3.0, 2.75), atol=2e-3)
    exact_chain = exact_conditional(*rows.law(ancestral_steps(rows, process)))
    np.testing.assert_allclose(exact_chain, truth, rtol=0.02)
    mean, variance = replacement_law(rows, process)
    assert abs(mean - 3.0) > 0.2 or abs(variance - 2.75) > 0.2


def test_guidance():
    process = PRESERVING
    rows, denoise = rows_under(process)
    pulled = inpainting.guided(process, denoise, OBSERVED, VALUES)
    draws = heuristic(process, samplers.ancestral(process, pulled))
    assert_free_law(draws, *guided_law(rows, process))
    with pytest.raises(AssertionError, match="is off"):
        assert_free_law(draws, *exact_conditional(*rows.at(0)))


def twisted_run(process, denoise):
    step = inpainting.twisted(process, denoise, OBSERVED, VALUES)

    def run(rng_key):
        start_key, select_key, key = jax.random.split(rng_key, 3)
        x = process.start(start_key, NUM_PARTICLES, 2)
        particles = inpainting.twisted_start(select_key, process, denoise, OBSERVED, VALUES, x)
        return samplers.descend(key, step, particles, process.levels).x

    return run


def mcg_run(process, denoise):
    step = inpainting.mcg_diff(process, denoise, OBSERVED, VALUES)

    def run(rng_key):
        start_key, pull_key, key = jax.random.split(rng_key, 3)
        x = process.start(start_key, NUM_PARTICLES, 2)
        x = inpainting.mcg_start(pull_key, process, OBSERVED, VALUES, x)
        return samplers.descend(key, step, x, process.levels)

    return run


@pytest.mark.parametrize("make_run", [twisted_run, mcg_run])
def test_particle_filters_draw_the_conditional_of_the_chain(make_run):
    process = PRESERVING
    rows, denoise = rows_under(process)
    draws = runs(make_run(process, denoise))
    assert_free_law(draws, *exact_conditional(*rows.law(ancestral_steps(rows, process))))
    with pytest.raises(AssertionError, match="is off"):
        assert_free_law(draws, *replacement_law(rows, process), resolution=1.0)


def chain_law(rows, process):
    """Mean and covariance of the whole chain, the noisiest level first, shape (2 T,)."""
    mean, covariance = rows.law([])
    for step in ancestral_steps(rows, process):
        last = covariance[-2:]
        cross = step.matrix @ last
        corner = step.push(mean[-2:], last[:, -2:])
        mean = np.concatenate([mean, corner[0]])
        covariance = np.block([[covariance, cross.T], [cross, corner[1]]])
    return mean, covariance


def smc_diff_law(rows, process):
    """Kalman's law given a path of the observed coordinate, averaged over forward paths."""
    mean, covariance = chain_law(rows, process)
    num_levels = len(rows.sigma)
    ratio, squares = rows.alpha / rows.alpha[0], (rows.sigma / rows.alpha) ** 2
    squares = squares - squares[0]
    path = np.minimum.outer(squares, squares) * np.outer(rows.alpha, rows.alpha)
    values, noise = (ratio * VALUE)[::-1], path[::-1, ::-1]
    gain, center, rest = condition(mean, covariance, 2 * np.arange(num_levels), values)
    return center[-1], rest[-1, -1] + gain[-1] @ noise @ gain[-1]


def test_smc_diff():
    process = EXPLODING
    rows, denoise = rows_under(process)

    def run(rng_key):
        start_key, path_key, key = jax.random.split(rng_key, 3)
        x = process.start(start_key, NUM_PARTICLES, 2)
        path = inpainting.noisy_path(path_key, process, VALUES)
        step = inpainting.smc_diff(process, denoise, OBSERVED, path)
        return samplers.descend(key, step, x, process.levels)

    # The paths differ between runs, so that many of them are needed.
    draws = runs(run, 600)
    assert_free_law(draws, *smc_diff_law(rows, process))
    with pytest.raises(AssertionError, match="is off"):
        assert_free_law(draws, *replacement_law(rows, process), resolution=1.0)


def test_linear_observation():
    """MCGDiff given a sum of coordinates: the conditional of the chain in rotated coordinates."""
    rows, denoise = rows_under(EXPLODING)
    matrix, observation = np.array([[2.0, 1.0]]), np.array([3.0])
    turned, observed, values, vectors = inpainting.rotated(
        denoise, jnp.asarray(matrix), jnp.asarray(observation)
    )
    step = inpainting.mcg_diff(EXPLODING, turned, observed, values)

    def run(rng_key):
        start_key, pull_key, key = jax.random.split(rng_key, 3)
        x = EXPLODING.start(start_key, NUM_PARTICLES, 2)
        x = inpainting.mcg_start(pull_key, EXPLODING, observed, values, x)
        return samplers.descend(key, step, x, EXPLODING.levels) @ vectors.T

    draws = runs(run)
    mean, covariance = rows.law(ancestral_steps(rows, EXPLODING))
    cross = covariance @ matrix.T / (matrix @ covariance @ matrix.T)
    center = mean + cross[:, 0] * (observation - matrix @ mean)[0]
    variance = covariance - cross @ matrix @ covariance
    assert_free_law(draws, center[1], variance[1, 1])


def test_systematic_resampling():
    log_weights = jnp.log(jnp.array([0.1, 0.0, 0.6, 0.3]))
    index = inpainting.select(jax.random.key(0), log_weights, jnp.arange(4))
    counts = np.bincount(index, minlength=4)
    assert counts[1] == 0 and (np.abs(counts - 4 * np.exp(log_weights)) < 1).all()
