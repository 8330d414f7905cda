"""Noise processes x_t = alpha_t x_0 + sigma_t eps, at levels t = 0, ..., T - 1 of growing noise.

Samplers end at level 0, so what they draw are rows smoothed by sigma_0, which is what DISCO learns.
All processes are Gaussian and Markov: alpha and sigma at the levels are all that defines them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Process(NamedTuple):
    """A noise process."""

    alpha: jax.Array
    """Factor of the row, shape (T,)."""
    sigma: jax.Array
    """Standard deviation of the noise, shape (T,); all positive."""

    @property
    def levels(self):
        """All levels, the noisiest first, shape (T,)."""
        return jnp.arange(len(self.sigma))[::-1]

    def start(self, rng_key, num_draws, dimension):
        """Draws at the noisiest level, for rows with mean 0 and variance 1, shape (n, D)."""
        deviation = jnp.hypot(self.alpha[-1], self.sigma[-1])
        return deviation * jax.random.normal(rng_key, (num_draws, dimension))

    def added(self, t, s):
        """Noise from level s to level t > s: x_t = factor x_s + deviation eps."""
        factor = self.alpha[t] / self.alpha[s]
        # The difference of squares as a product: neighbouring levels nearly cancel.
        least = factor * self.sigma[s]
        return factor, jnp.sqrt((self.sigma[t] - least) * (self.sigma[t] + least))

    def backward(self, x, clean, t, s):
        """The law of x_s given x_t = x and x_0 = clean, for s < t.

        Returns:
            Its mean, of the shape of x, and its standard deviation, shape ().
        """
        factor, noise = self.added(t, s)
        kept = factor * (self.sigma[s] / self.sigma[t]) ** 2
        mean = kept * x + self.alpha[s] * (noise / self.sigma[t]) ** 2 * clean
        return mean, noise * self.sigma[s] / self.sigma[t]

    def score(self, x, clean, t):
        """The score of x_t that belongs to the denoised point E[x_0 | x_t = x]."""
        return (self.alpha[t] * clean - x) / self.sigma[t] ** 2

    def shifted(self, clean, gradient, t):
        """The denoised point when `gradient` is added to the score."""
        return clean + self.sigma[t] ** 2 / self.alpha[t] * gradient

    def noisy(self, rng_key, rows, t):
        """Rows (n, D) with the noise of level t, a number or shape (n,); and the noise itself."""
        noise = jax.random.normal(rng_key, rows.shape)
        alpha, sigma = (jnp.broadcast_to(a[t], len(rows))[:, None] for a in self)
        return alpha * rows + sigma * noise, noise


def variance_exploding(num_levels, smallest=0.1, largest=2.0):
    """Song et al. 2021, with geometric levels."""
    return Process(jnp.ones(num_levels), jnp.geomspace(smallest, largest, num_levels))


def variance_preserving(num_levels, smallest=0.1):
    """Song et al. 2021: alpha^2 + sigma^2 = 1, with noise that grows linearly in time."""
    alpha = _decay(num_levels, lambda alpha: jnp.sqrt(1 - alpha**2), smallest)
    return Process(alpha, jnp.sqrt(1 - alpha**2))


def sub_variance_preserving(num_levels, smallest=0.1):
    """Song et al. 2021: the same alpha, and sigma = 1 - alpha^2."""
    alpha = _decay(num_levels, lambda alpha: 1 - alpha**2, smallest)
    return Process(alpha, 1 - alpha**2)


def _decay(num_levels, sigma, smallest):
    """alpha = exp(-t^2 (b - a) / 4 - t a / 2), a = 0.1, b = 20, from sigma = smallest to t = 1."""
    times = jnp.linspace(0, 1, 10_001)[1:]
    alpha = jnp.exp(-(times**2) * 19.9 / 4 - times * 0.1 / 2)
    first = jnp.interp(smallest, sigma(alpha), times)
    return jnp.interp(jnp.linspace(first, 1, num_levels), times, alpha)


def ddpm(num_levels, smallest=1e-4, largest=0.02, length=1000):
    """Ho, Jain & Abbeel 2020: a chain of steps sqrt(1 - b) x + sqrt(b) eps with linear b.

    The b are scaled by length / num_levels, so that short chains end in noise as well. Its
    sampler is `ancestral`, whose deviation is the smaller of the two in their section 3.2.
    """
    b = jnp.linspace(smallest, largest, num_levels) * length / num_levels
    squared = jnp.cumprod(1 - b)
    return Process(jnp.sqrt(squared), jnp.sqrt(1 - squared))


def straight(num_levels, smallest=0.1):
    """Flow matching with straight paths, Lipman et al. 2023: x_t = (1 - t) x_0 + t eps.

    The velocity eps - x_0 has the mean (x_t - clean) / t. An Euler step along it from t to s is
    `probability_flow`: both give (s / t) x_t + (1 - s / t) clean.
    """
    times = jnp.linspace(smallest, 1, num_levels)
    return Process(1 - times, times)
