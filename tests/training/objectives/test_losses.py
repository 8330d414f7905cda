"""Score-matching losses and the held-out loss against exact scores and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.statistics import Mixture, assert_within, mean_and_error

from numpyro_disco.training.objectives.losses import (
    denoising_loss,
    density_loss,
    diffusion_loss,
    disco_loss,
    hutchinson_loss,
    implicit_loss,
    sliced_loss,
)
from numpyro_disco.training.objectives.noise import geometric_noise_scales
from numpyro_disco.training.rows.row_posterior import row_posterior

SIGMA = 0.5
ROWS = np.float32(
    [[0.0, 0.0], [1.0, 0.5], [1.2, 0.2], [-0.7, 2.0], [0.1, 2.2], [3.0, -1.0], [0.4, 0.3]]
)


def rows_energy(x):
    """Minus the log density of ROWS smoothed by SIGMA, up to a constant."""
    return -jax.nn.logsumexp(-0.5 * ((x - ROWS) ** 2).sum(-1) / SIGMA**2)


def wrong_energy(parameters, x):
    """A skewed energy, linear in two of its parameters and not in the third."""
    a, b, c = parameters
    return 0.5 * a * (x**2).sum() + b * x[0] + jnp.sin(c * x[0] + x[1])


PARAMETERS = jnp.float32([0.6, 0.3, 1.1])


def score_of(energy_fn):
    return lambda x: -jax.grad(energy_fn)(x)


def proposals(num_points):
    """Noisy points (n, 2) from all noise levels, and the noise level (n,) of each."""
    rng = np.random.default_rng(0)
    scales = rng.choice(geometric_noise_scales(SIGMA, 2.0, 4), size=num_points)
    rows = ROWS[rng.integers(len(ROWS), size=num_points)]
    points = rows + scales[:, None] * rng.normal(size=(num_points, 2))
    return np.float32(points), np.float32(scales)


def test_disco_loss_is_zero_for_the_exact_score():
    points, scales = proposals(200)

    @jax.jit
    def losses(points, scales):
        target = row_posterior(jax.random.key(0), points, jnp.asarray(ROWS), SIGMA).mean
        exact, zero, flipped = (
            jax.vmap(lambda x, m, s, f=f: disco_loss(score_of(f), x, m, s, SIGMA))(
                points, target, scales
            )
            for f in (rows_energy, lambda x: 0.0 * x.sum(), lambda x: -rows_energy(x))
        )
        return exact, zero, flipped

    exact, zero, flipped = losses(points, scales)
    assert float(exact.max()) < 1e-9
    assert float(zero.mean()) > 0.05
    # With the sign of the score flipped the error doubles, and its square is four times as large.
    np.testing.assert_allclose(flipped, 4 * zero, rtol=1e-3)


def test_disco_loss_equals_its_formula():
    points, scales = proposals(20)
    targets = np.float32(np.random.default_rng(1).normal(size=(20, 2)))

    def energy(x):
        return wrong_energy(PARAMETERS, x)

    @jax.jit
    def both(points, targets, scales):
        loss = jax.vmap(lambda x, m, s: disco_loss(score_of(energy), x, m, s, SIGMA))
        return loss(points, targets, scales), -jax.vmap(jax.grad(energy))(points)

    got, score = both(points, targets, scales)
    score = np.asarray(score, np.float64)
    error = (targets.astype(np.float64) - points) / SIGMA**2 - score
    expected = SIGMA**4 / scales.astype(np.float64) ** 2 * (error**2).mean(-1)
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_density_loss_is_lowest_at_the_log_density():
    """The slope along each parameter of an energy is zero at minus the log density only."""
    points, _ = proposals(200)
    posterior = row_posterior(jax.random.key(0), points, jnp.asarray(ROWS), SIGMA)
    constant = np.log(len(ROWS)) + np.log(2 * np.pi * SIGMA**2)

    def loss(change, offset):
        def energy(x):
            return rows_energy(x) + offset + change @ jnp.array([1.0, x[0], jnp.sin(x[1])])

        energies = jax.vmap(energy)(jnp.asarray(points))
        depth = posterior.log_density.max() - posterior.log_density
        losses = jax.vmap(density_loss)(energies, posterior.log_density, depth, posterior.largest)
        return losses.sum()

    slope = jax.jit(jax.value_and_grad(loss))
    lowest, at_truth = slope(jnp.zeros(3), constant)
    assert lowest < 1e-6 and np.abs(at_truth).max() < 1e-3
    _, at_another = slope(jnp.zeros(3), constant + 0.1)
    assert np.abs(at_another).max() > 0.1
    # The loss is quadratic in small errors, divides them by 1 + depth, and is linear in large ones.
    loss_of = lambda *numbers: float(density_loss(*map(jnp.asarray, numbers)))  # noqa: E731
    one = loss_of(2.1, -2.0, 0.0, 0.0)
    assert loss_of(2.2, -2.0, 0.0, 0.0) == pytest.approx(4 * one, rel=1e-3)
    assert loss_of(2.2, -2.0, 1.0, 0.0) == pytest.approx(one, rel=1e-3)
    assert loss_of(80.0, 0.0, 0.0, 0.0) == pytest.approx(79.5, rel=1e-3)
    # Points whose posterior is on a single row have no weight.
    assert loss_of(5.0, -2.0, 0.0, 0.5) == pytest.approx(loss_of(5.0, -2.0, 0.0, 0.0) / 2)
    assert loss_of(5.0, -2.0, 0.0, 1.0) == 0


def check_gradients_agree(difference, mean_gradient):
    estimate, error = mean_and_error(difference)
    resolution = 0.25 * np.abs(mean_gradient).max()
    assert_within(estimate, 0.0, error, resolution=resolution, label="gradient, draw minus mean")


def test_draw_and_mean_targets_have_the_same_expected_gradient():
    points, scales = proposals(40_000)

    @jax.jit
    def gradients(key, points, scales):
        def loss(parameters, x, target, scale):
            score_fn = score_of(lambda x: wrong_energy(parameters, x))
            return disco_loss(score_fn, x, target, scale, SIGMA)

        gradient = jax.vmap(jax.grad(loss), (None, 0, 0, 0))
        posterior = row_posterior(key, points, jnp.asarray(ROWS), SIGMA)
        wider = row_posterior(key, points, jnp.asarray(ROWS), 2 * SIGMA)
        targets = (posterior.draw, posterior.mean, wider.draw)
        return [gradient(PARAMETERS, points, target, scales) for target in targets]

    draw, mean, wrong = (np.asarray(g) for g in gradients(jax.random.key(0), points, scales))
    assert np.abs(draw - mean).max() > 0.1  # they differ point by point
    check_gradients_agree(draw - mean, mean.mean(0))
    # The broken twin draws from the posterior at another noise level.
    with pytest.raises(AssertionError, match="is off"):
        check_gradients_agree(wrong - mean, mean.mean(0))


def test_draw_targets_give_the_zero_score_a_loss_of_one():
    # The row behind x and a draw from the posterior at x have the same distribution, so the zero
    # score has a loss of E|r - x|^2 / (D sigma_0^2) = 1.
    rng = np.random.default_rng(3)
    rows = ROWS[rng.integers(len(ROWS), size=20_000)]
    points = np.float32(rows + SIGMA * rng.normal(size=rows.shape))

    @jax.jit
    def losses(points, weight):
        target = row_posterior(jax.random.key(0), points, jnp.asarray(ROWS), SIGMA).draw
        return jax.vmap(lambda x, m: disco_loss(lambda x: 0.0 * x, x, m, weight, SIGMA))(
            points, target
        )

    estimate, error = mean_and_error(losses(points, SIGMA))
    assert_within(estimate, 1.0, error, resolution=0.05, label="loss of the zero score")
    estimate, error = mean_and_error(losses(points, np.sqrt(SIGMA)))
    with pytest.raises(AssertionError, match="is off"):
        assert_within(estimate, 1.0, error, resolution=0.05, label="weight 1 / sigma(t)")


# --- the held-out loss

GAUSSIAN = Mixture([1.0], [[0.5, -1.0]], [[[1.0, 0.6], [0.6, 0.8]]])
# Precision matrices and means of two candidate Gaussian energies, neither of them right.
CANDIDATES = [
    (np.array([[0.9, -0.2], [-0.2, 1.1]]), np.array([0.4, -0.7])),
    (np.array([[0.5, 0.1], [0.1, 0.4]]), np.array([-0.2, -0.4])),
]


def fisher_divergence(precision, mean):
    """E|s - s_0|^2 / D for s(x) = -precision (x - mean), and s_0 the score of GAUSSIAN smoothed."""
    smooth = GAUSSIAN.smoothed(SIGMA)
    covariance = smooth.covariances[0]
    excess = precision - np.linalg.inv(covariance)
    shift = precision @ (mean - smooth.means[0])
    return (np.trace(excess @ covariance @ excess) + shift @ shift) / 2


def quadratic(precision, mean):
    precision, mean = jnp.float32(precision), jnp.float32(mean)
    return lambda x: 0.5 * (x - mean) @ precision @ (x - mean)


def flipped_held_out_loss(score_fn, row, noise, noise_scale):
    """The held-out loss with the wrong sign of its linear term."""

    def one(epsilon):
        score = score_fn(row + noise_scale * epsilon)
        return (score**2 - 2 * score * epsilon / noise_scale).mean()

    return 0.5 * (one(noise) + one(-noise))


def held_out(loss, energy_fn, rows, noise):
    mapped = jax.jit(jax.vmap(lambda row, noise: loss(score_of(energy_fn), row, noise, SIGMA)))
    return np.asarray(mapped(np.float32(rows), np.float32(noise)), np.float64)


def test_held_out_loss_ranks_by_fisher_divergence():
    rng = np.random.default_rng(0)
    rows, noise = GAUSSIAN.draw(rng, 40_000), rng.normal(size=(40_000, 2))
    truth = fisher_divergence(*CANDIDATES[0]) - fisher_divergence(*CANDIDATES[1])

    def check(loss):
        one, other = (held_out(loss, quadratic(*c), rows, noise) for c in CANDIDATES)
        estimate, error = mean_and_error(one - other)
        assert_within(
            estimate, truth, error, resolution=0.3 * abs(truth), label="difference of losses"
        )

    check(denoising_loss)
    with pytest.raises(AssertionError, match="is off"):
        check(flipped_held_out_loss)


def test_held_out_loss_is_unbiased_on_a_skewed_density():
    # The expected loss is E|s - s_0|^2 - E|s_0|^2, for any score and any density.
    target = Mixture(
        [0.7, 0.2, 0.1],
        [[0.0, 0.0], [2.0, 1.0], [-1.0, 3.0]],
        [0.3 * np.eye(2), [[0.5, 0.3], [0.3, 0.4]], [[0.1, 0.0], [0.0, 0.9]]],
    )
    rng = np.random.default_rng(1)
    rows, noise = target.draw(rng, 40_000), rng.normal(size=(40_000, 2))
    x = rows + SIGMA * noise
    exact = target.smoothed(SIGMA).score(x)

    def energy(x):
        return wrong_energy(PARAMETERS, x)

    score = -np.asarray(jax.jit(jax.vmap(jax.grad(energy)))(np.float32(x)), np.float64)
    truth = ((score - exact) ** 2 - exact**2).mean(-1)

    def check(loss):
        estimate, error = mean_and_error(held_out(loss, energy, rows, noise) - truth)
        assert_within(estimate, 0.0, error, resolution=0.1, label="held-out loss")

    check(denoising_loss)
    with pytest.raises(AssertionError, match="is off"):
        check(flipped_held_out_loss)


def test_held_out_loss_of_the_zero_score_is_zero():
    row, noise = jnp.float32([1.0, 2.0]), jnp.float32([0.3, -0.4])
    loss = jax.jit(lambda row, noise: denoising_loss(lambda x: 0.0 * x, row, noise, SIGMA))
    assert loss(row, noise) == 0


def test_held_out_loss_is_even_in_the_noise():
    row, noise = jnp.float32([1.0, 2.0]), jnp.float32([0.3, -0.4])
    loss = jax.jit(lambda row, noise: denoising_loss(score_of(rows_energy), row, noise, SIGMA))
    one, other = loss(row, noise), loss(row, -noise)
    np.testing.assert_allclose(one, other, rtol=1e-6)


# --- related losses: each is minimal at the score that its docstring names

SKEWED = Mixture(
    [0.7, 0.2, 0.1],
    [[0.0, 0.0], [2.0, 1.0], [-1.0, 3.0]],
    [0.3 * np.eye(2), [[0.5, 0.3], [0.3, 0.4]], [[0.1, 0.0], [0.0, 0.9]]],
)
SCALES = np.float32(geometric_noise_scales(SIGMA, 2.0, 5))


def smoothed_densities(x):
    """Log densities and scores at x (2,) of SKEWED smoothed by each of SCALES: (5,) and (5, 2)."""
    weights, means = jnp.float32(SKEWED.weights), jnp.float32(SKEWED.means)

    def log_density(x, scale):
        covariances = jnp.float32(SKEWED.covariances) + scale**2 * jnp.eye(2)
        residual = x - means
        white = jnp.linalg.solve(covariances, residual[..., None])[..., 0]
        log_dets = jnp.linalg.slogdet(covariances)[1]
        return jax.nn.logsumexp(jnp.log(weights) - 0.5 * log_dets - 0.5 * (residual * white).sum(1))

    return jax.vmap(jax.value_and_grad(log_density), (None, 0))(x, jnp.asarray(SCALES))


def score_at_smallest(x):
    return smoothed_densities(x)[1][0]


def score_of_rows(x):
    """Score of SKEWED at x (2,), without smoothing."""

    def log_density(x):
        residual = x - jnp.float32(SKEWED.means)
        precisions = jnp.float32(np.linalg.inv(SKEWED.covariances))
        log_dets = jnp.float32(np.linalg.slogdet(SKEWED.covariances)[1])
        squares = jnp.einsum("ki,kij,kj->k", residual, precisions, residual)
        log_weights = jnp.log(jnp.float32(SKEWED.weights))
        return jax.nn.logsumexp(log_weights - 0.5 * log_dets - 0.5 * squares)

    return jax.grad(log_density)(x)


def averaged_score(x, *, power, factor):
    """Scores of all levels times (sigma / sigma_0)^factor, weighted by sigma^power p_t(x)."""
    log_densities, scores = smoothed_densities(x)
    weights = jax.nn.softmax(log_densities + power * jnp.log(SCALES))
    return ((weights * (SCALES / SIGMA) ** factor)[:, None] * scores).sum(0)


def multiscale_score(x):
    # E.2, with lambda = 1 / sigma^2 as part of the weight of a level.
    return averaged_score(x, power=-2, factor=2)


def diffusion_score(x):
    # E.3, with lambda = sigma^2.
    return averaged_score(x, power=2, factor=0)


def _at(scale):
    def loss(score_fn, row, noise, level, signs):
        scale_ = level if scale is None else jnp.float32(scale)
        return disco_loss(score_fn, row + scale_ * noise, row, scale_, SIGMA)

    return loss


RELATED = {
    "denoising": (_at(SIGMA), score_at_smallest, score_of_rows),
    "multiscale": (_at(None), multiscale_score, score_at_smallest),
    "diffusion": (
        lambda s, r, e, t, v: diffusion_loss(s, r, e, t),
        diffusion_score,
        score_at_smallest,
    ),
    "implicit": (lambda s, r, e, t, v: implicit_loss(s, r), score_of_rows, score_at_smallest),
    "hutchinson": (
        lambda s, r, e, t, v: hutchinson_loss(s, r, v),
        score_of_rows,
        score_at_smallest,
    ),
    "sliced": (lambda s, r, e, t, v: sliced_loss(s, r, e), score_of_rows, score_at_smallest),
}


@pytest.mark.parametrize("name", RELATED)
def test_each_related_loss_is_stationary_at_its_minimiser_only(name):
    """The slopes along four changes of the score are zero at the minimiser and not elsewhere."""
    loss, minimiser, another = RELATED[name]
    rng = np.random.default_rng(4)
    count = 40_000
    rows, noise = np.float32(SKEWED.draw(rng, count)), np.float32(rng.normal(size=(count, 2)))
    levels = rng.choice(SCALES, count)
    signs = np.float32(rng.choice([-1, 1], (count, 2)))

    def slopes(score_fn):
        def changed(change, *example):
            def score(x):
                extra = jnp.array([jnp.sin(x[0]), jnp.cos(2 * x[1]), x[0] * x[1] / 4, 1.0])
                return score_fn(x) + jnp.stack([change[:2] @ extra[:2], change[2:] @ extra[2:]])

            return loss(score, *example)

        gradient = jax.jit(jax.vmap(jax.grad(changed), (None, 0, 0, 0, 0)))
        return np.asarray(gradient(jnp.zeros(4), rows, noise, levels, signs), np.float64)

    def check(score_fn):
        estimate, error = mean_and_error(slopes(score_fn))
        assert_within(estimate, 0.0, error, resolution=0.4, label=f"slope of {name}")

    check(minimiser)
    with pytest.raises(AssertionError, match="is off"):
        check(another)


def test_exact_and_estimated_traces_agree():
    rng = np.random.default_rng(5)
    x, signs = np.float32([0.3, -0.7]), np.float32(rng.choice([-1, 1], (20_000, 2)))
    score = score_of(lambda x: wrong_energy(PARAMETERS, x))
    trace = jax.jit(lambda x: implicit_loss(score, x))
    exact, elsewhere = float(trace(x)), float(trace(x + 1))
    estimates = jax.jit(jax.vmap(lambda v: hutchinson_loss(score, x, v)))(signs)
    estimate, error = mean_and_error(np.asarray(estimates, np.float64))
    assert_within(estimate, exact, error, resolution=0.1, label="estimated trace")
    with pytest.raises(AssertionError, match="is off"):
        assert_within(estimate, elsewhere, error, resolution=0.1, label="another point")
