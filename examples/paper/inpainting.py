"""Conditional samplers: what an unconditional diffusion is made to say about free coordinates.

`observed` is a boolean array (D,), and `values` (D,) holds the values of observed coordinates at
level 0. The first two samplers are heuristics. The particle filters are exact for the chain of the
ancestral sampler as the number of particles grows; they resample at each level, so particles end
equally weighted. Several independent runs are one `jax.vmap`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm


def replacement(process, step, observed, values):
    """Any sampler, with observed coordinates replaced by noisy values (Song et al. 2021)."""

    def replaced(rng_key, x, t, s):
        noise_key, step_key = jax.random.split(rng_key)
        factor, deviation = process.added(t, 0)
        noisy = factor * values + deviation * jax.random.normal(noise_key, x.shape)
        return step(step_key, jnp.where(observed, noisy, x), t, s)

    return replaced


def log_twist(process, denoise, observed, values, x, t):
    """Log of N(values; denoised point, sigma_t^2) over observed coordinates, and its gradient.

    Returns:
        Log densities (n,), gradients with respect to x (n, D), denoised points (n, D).
    """

    def total(x):
        clean = denoise(x, t)
        each = norm.logpdf(values, clean, process.sigma[t])
        log_density = jnp.where(observed, each, 0.0).sum(-1)
        return log_density.sum(), (log_density, clean)

    (_, (log_density, clean)), gradient = jax.value_and_grad(total, has_aux=True)(x)
    return log_density, gradient, clean


def guided(process, denoise, observed, values):
    """The denoiser of the score plus the gradient of `log_twist` (Ho et al. 2022)."""

    def denoise_guided(x, t):
        _, gradient, clean = log_twist(process, denoise, observed, values, x, t)
        return process.shifted(clean, gradient, t)

    return denoise_guided


def select(rng_key, log_weights, tree):
    """Systematic resampling of the leading axis of a tree."""
    num = len(log_weights)
    cumulative = jnp.cumsum(jax.nn.softmax(log_weights))
    places = (jnp.arange(num) + jax.random.uniform(rng_key)) / num * cumulative[-1]
    index = jnp.searchsorted(cumulative, places).clip(max=num - 1)
    return jax.tree.map(lambda leaf: leaf[index], tree)


class Twisted(NamedTuple):
    """Particles of the twisted diffusion sampler, equally weighted."""

    x: jax.Array
    """Points, shape (n, D)."""
    log_twist: jax.Array
    """Log of the twisting function there, shape (n,)."""
    gradient: jax.Array
    """Its gradient, shape (n, D)."""
    clean: jax.Array
    """Denoised points, shape (n, D)."""


def twisted_start(rng_key, process, denoise, observed, values, x):
    """Particles of `twisted` at the noisiest level, from points (n, D) drawn there."""
    found = Twisted(x, *log_twist(process, denoise, observed, values, x, process.levels[0]))
    return select(rng_key, found.log_twist, found)


def twisted(process, denoise, observed, values):
    """A step of the twisted diffusion sampler (Wu et al. 2023, algorithm 1).

    Proposals are those of `guided`; weights are the transition times the new twisting function,
    over the proposal times the old one. At level 0 observed coordinates are exact: they take their
    values, and the transition density there stands in for the twisting function.
    """

    def step(rng_key, particles, t, s):
        noise_key, select_key = jax.random.split(rng_key)
        mean, deviation = process.backward(particles.x, particles.clean, t, s)
        pulled = process.shifted(particles.clean, particles.gradient, t)
        proposed, _ = process.backward(particles.x, pulled, t, s)
        x = proposed + deviation * jax.random.normal(noise_key, mean.shape)
        exact = observed & (s == 0)
        x = jnp.where(exact, values, x)
        target = norm.logpdf(x, mean, deviation).sum(-1)
        proposal = jnp.where(exact, 0.0, norm.logpdf(x, proposed, deviation)).sum(-1)
        found = log_twist(process, denoise, observed, values, x, s)
        log_weights = target - proposal - particles.log_twist + jnp.where(s == 0, 0.0, found[0])
        return select(select_key, log_weights, Twisted(x, *found))

    return step


def noisy_path(rng_key, process, values):
    """One path of the forward process that starts from `values` at level 0, shape (T, D)."""
    squares = (process.sigma / process.alpha) ** 2
    steps = jnp.sqrt(jnp.diff(squares, prepend=squares[0]))
    noise = jax.random.normal(rng_key, (len(steps), len(values)))
    walk = values / process.alpha[0] + jnp.cumsum(steps[:, None] * noise, axis=0)
    return process.alpha[:, None] * walk


def smc_diff(process, denoise, observed, path):
    """A step of particle filtering with replacement (SMC-Diff, Trippe et al. 2023).

    Observed coordinates follow one noisy path, and particles are weighted by how likely their next
    step along it is. Exact on average over paths if the chain reverses the forward process.
    """

    def step(rng_key, x, t, s):
        select_key, noise_key = jax.random.split(rng_key)
        x = jnp.where(observed, path[t], x)
        mean, deviation = process.backward(x, denoise(x, t), t, s)
        each = norm.logpdf(path[s], mean, deviation)
        mean = select(select_key, jnp.where(observed, each, 0.0).sum(-1), mean)
        moved = mean + deviation * jax.random.normal(noise_key, x.shape)
        return jnp.where(observed, path[s], moved)

    return step


def mcg_start(rng_key, process, observed, values, x):
    """Points (n, D) at the noisiest level times the likelihood of `values`, for `mcg_diff`."""
    factor, noise = process.added(process.levels[0], 0)
    prior = jnp.hypot(process.alpha[-1], process.sigma[-1])
    pulled = _toward(rng_key, jnp.zeros_like(x), prior, factor * values, noise)
    return jnp.where(observed, pulled, x)


def mcg_diff(process, denoise, observed, values):
    """A step of MCGDiff (Cardoso et al. 2024) for coordinates that are observed at level 0.

    Level t has the likelihood N(x_t; factor values, deviation^2) of the forward process over the
    observed coordinates. With it, both the best proposal and its weight are in closed form.
    """

    def step(rng_key, x, t, s):
        select_key, free_key, pull_key = jax.random.split(rng_key, 3)
        mean, deviation = process.backward(x, denoise(x, t), t, s)
        factor, noise = process.added(s, 0)
        old_factor, old_noise = process.added(t, 0)
        new = norm.logpdf(factor * values, mean, jnp.hypot(deviation, noise))
        old = norm.logpdf(x, old_factor * values, old_noise)
        mean = select(select_key, jnp.where(observed, new - old, 0.0).sum(-1), mean)
        free = mean + deviation * jax.random.normal(free_key, mean.shape)
        pulled = _toward(pull_key, mean, deviation, factor * values, noise)
        return jnp.where(observed, pulled, free)

    return step


def _toward(rng_key, mean, deviation, center, noise):
    """Draws of N(mean, deviation^2) times N(center, noise^2), normalised."""
    gain = deviation**2 / (deviation**2 + noise**2)
    draw = jax.random.normal(rng_key, mean.shape)
    return mean + gain * (center - mean) + jnp.sqrt(gain) * noise * draw


def rotated(denoise, matrix, observation):
    """A linear observation matrix @ x = observation, as coordinates that are observed.

    With the singular values S and V of matrix = U S V^T, the coordinates V^T x have isotropic noise
    as well, and the first K of them are observed: S^-1 U^T observation.

    Args:
        denoise: denoiser of x.
        matrix: shape (K, D), of rank K.
        observation: shape (K,).

    Returns:
        The denoiser of V^T x, `observed` and `values` for it, and V, shape (D, D).
    """
    u, singular, vt = jnp.linalg.svd(matrix)
    num, dimension = matrix.shape
    values = jnp.zeros(dimension).at[:num].set(u.T @ observation / singular)

    def denoise_rotated(x, t):
        return denoise(x @ vt, t) @ vt.T

    return denoise_rotated, jnp.arange(dimension) < num, values, vt.T
