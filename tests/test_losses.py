"""The DISCO loss and the held-out loss, against exact scores and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from statistics_tools import Mixture, assert_within, mean_and_error

from numpyro_disco.losses import disco_loss, energy_and_score, held_out_loss
from numpyro_disco.noise import geometric_noise_scales
from numpyro_disco.posterior import row_posterior

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


def proposals(num_points):
    """Noisy points (n, 2) from all noise levels, with the noise (n,) that made each."""
    rng = np.random.default_rng(0)
    scales = rng.choice(geometric_noise_scales(SIGMA, 2.0, 4), size=num_points)
    rows = ROWS[rng.integers(len(ROWS), size=num_points)]
    points = rows + scales[:, None] * rng.normal(size=(num_points, 2))
    return np.float32(points), np.float32(scales)


def test_energy_and_score():
    x = jnp.float32([0.4, 1.0])
    energy, score = jax.jit(lambda x: energy_and_score(rows_energy, x))(x)
    np.testing.assert_allclose(energy, rows_energy(x), rtol=1e-5)
    truth = Mixture(np.ones(7), ROWS, np.zeros((7, 2, 2))).smoothed
    np.testing.assert_allclose(score, truth(SIGMA).score(x), rtol=1e-5)


def test_disco_loss_is_zero_for_the_exact_score():
    points, scales = proposals(200)

    @jax.jit
    def losses(points, scales):
        target = row_posterior(jax.random.key(0), points, jnp.asarray(ROWS), SIGMA).mean
        exact, zero, flipped = (
            jax.vmap(lambda x, m, s, f=f: disco_loss(f, x, m, s, SIGMA))(points, target, scales)
            for f in (rows_energy, lambda x: 0.0 * x.sum(), lambda x: -rows_energy(x))
        )
        return exact, zero, flipped

    exact, zero, flipped = losses(points, scales)
    assert float(exact.max()) < 1e-9
    assert float(zero.mean()) > 0.05
    # With the sign of the score flipped the error doubles, and its square is four times as large.
    np.testing.assert_allclose(flipped, 4 * zero, rtol=1e-3)


def test_disco_loss_is_the_formula():
    points, scales = proposals(20)
    targets = np.float32(np.random.default_rng(1).normal(size=(20, 2)))

    def energy(x):
        return wrong_energy(PARAMETERS, x)

    @jax.jit
    def both(points, targets, scales):
        loss = jax.vmap(lambda x, m, s: disco_loss(energy, x, m, s, SIGMA))
        return loss(points, targets, scales), -jax.vmap(jax.grad(energy))(points)

    got, score = both(points, targets, scales)
    score = np.asarray(score, np.float64)
    error = (targets.astype(np.float64) - points) / SIGMA**2 - score
    expected = SIGMA**4 / scales.astype(np.float64) ** 2 * (error**2).mean(-1)
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def check_gradients_agree(difference, mean_gradient):
    estimate, error = mean_and_error(difference)
    resolution = 0.25 * np.abs(mean_gradient).max()
    assert_within(estimate, 0.0, error, resolution=resolution, label="gradient, draw minus mean")


def test_draw_and_mean_have_the_same_gradient():
    points, scales = proposals(40_000)

    @jax.jit
    def gradients(key, points, scales):
        def loss(parameters, x, target, scale):
            return disco_loss(lambda x: wrong_energy(parameters, x), x, target, scale, SIGMA)

        gradient = jax.vmap(jax.grad(loss), (None, 0, 0, 0))
        posterior = row_posterior(key, points, jnp.asarray(ROWS), SIGMA)
        wider = row_posterior(key, points, jnp.asarray(ROWS), 2 * SIGMA)
        targets = (posterior.draw, posterior.mean, wider.draw)
        return [gradient(PARAMETERS, points, target, scales) for target in targets]

    draw, mean, wrong = (np.asarray(g) for g in gradients(jax.random.key(0), points, scales))
    assert np.abs(draw - mean).max() > 0.1  # they differ point by point
    check_gradients_agree(draw - mean, mean.mean(0))
    # Draws from the posterior at another noise level.
    with pytest.raises(AssertionError, match="is off"):
        check_gradients_agree(wrong - mean, mean.mean(0))


def test_draw_targets_make_one_at_the_smallest_noise():
    # The row behind x and a draw from the posterior at x have one distribution: so the zero score
    # has a loss of E|r - x|^2 / (D sigma_0^2) = 1.
    rng = np.random.default_rng(3)
    rows = ROWS[rng.integers(len(ROWS), size=20_000)]
    points = np.float32(rows + SIGMA * rng.normal(size=rows.shape))

    @jax.jit
    def losses(points, weight):
        target = row_posterior(jax.random.key(0), points, jnp.asarray(ROWS), SIGMA).draw
        return jax.vmap(lambda x, m: disco_loss(lambda x: 0.0 * x.sum(), x, m, weight, SIGMA))(
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


def flipped_held_out_loss(energy_fn, row, noise, noise_scale):
    """The held-out loss with the wrong sign of its linear term."""

    def one(epsilon):
        _, score = energy_and_score(energy_fn, row + noise_scale * epsilon)
        return (score**2 - 2 * score * epsilon / noise_scale).mean()

    return 0.5 * (one(noise) + one(-noise))


def held_out(loss, energy_fn, rows, noise):
    mapped = jax.jit(jax.vmap(lambda row, noise: loss(energy_fn, row, noise, SIGMA)))
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

    check(held_out_loss)
    with pytest.raises(AssertionError, match="is off"):
        check(flipped_held_out_loss)


def test_held_out_loss_on_a_skewed_density():
    # Its expectation is E|s - s_0|^2 - E|s_0|^2, for any score and any density.
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

    check(held_out_loss)
    with pytest.raises(AssertionError, match="is off"):
        check(flipped_held_out_loss)


def test_held_out_loss_of_the_zero_score_is_zero():
    row, noise = jnp.float32([1.0, 2.0]), jnp.float32([0.3, -0.4])
    loss = jax.jit(lambda row, noise: held_out_loss(lambda x: 0.0 * x.sum(), row, noise, SIGMA))
    assert loss(row, noise) == 0


def test_held_out_loss_is_even_in_the_noise():
    row, noise = jnp.float32([1.0, 2.0]), jnp.float32([0.3, -0.4])
    loss = jax.jit(lambda row, noise: held_out_loss(rows_energy, row, noise, SIGMA))
    one, other = loss(row, noise), loss(row, -noise)
    np.testing.assert_allclose(one, other, rtol=1e-6)


# --- noise levels


def test_noise_scales():
    scales = geometric_noise_scales(0.05, 3.0, 20)
    assert scales.shape == (20,)
    np.testing.assert_allclose(scales[[0, -1]], [0.05, 3.0])
    np.testing.assert_allclose(np.diff(np.log(scales)), np.log(60) / 19)
    with pytest.raises(ValueError, match="Expected `max_noise_scale` above `noise_scale`; got 0.1"):
        geometric_noise_scales(0.2, 0.1)
    with pytest.raises(ValueError, match="`noise_scale`; got -1"):
        geometric_noise_scales(-1, 0.1)
    with pytest.raises(ValueError, match="`num_noise_scales`; got 1"):
        geometric_noise_scales(0.1, 1.0, 1)
