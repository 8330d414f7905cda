"""Gaussian mixtures: laws at all noise levels, conditionals and denoisers in closed form."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

PRECISE = jax.lax.Precision.HIGHEST
"""Products in single precision on GPUs as well."""


class Mixture(NamedTuple):
    """A mixture of K Gaussians in D dimensions, as eigenvalues and eigenvectors."""

    log_weights: jax.Array
    """Shape (K,)."""
    means: jax.Array
    """Shape (K, D)."""
    values: jax.Array
    """Eigenvalues of the covariances, shape (K, D)."""
    vectors: jax.Array
    """Eigenvectors of the covariances, in columns, shape (K, D, D)."""

    @classmethod
    def of(cls, weights, means, covariances):
        """The mixture with these weights (K,), means (K, D) and covariances (K, D, D)."""
        values, vectors = np.linalg.eigh(np.asarray(covariances, np.float64))
        arrays = np.log(weights / np.sum(weights)), means, values, vectors
        return cls(*(jnp.asarray(array, jnp.float32) for array in arrays))

    def component_log_probs(self, x, alpha=1.0, sigma=0.0):
        """Log of weight times density of each component of alpha x_0 + sigma eps, (K,) at (D,)."""
        variances = alpha**2 * self.values + sigma**2
        offsets = jnp.einsum("kde,kd->ke", self.vectors, x - alpha * self.means, precision=PRECISE)
        terms = offsets**2 / variances + jnp.log(2 * jnp.pi * variances)
        return self.log_weights - 0.5 * terms.sum(-1)

    def log_prob(self, x, alpha=1.0, sigma=0.0):
        """Log density of alpha x_0 + sigma eps at one point (D,), shape ()."""
        return jax.nn.logsumexp(self.component_log_probs(x, alpha, sigma))

    def denoiser(self, process):
        """The exact denoiser under a process."""

        def denoise(x, t):
            alpha, sigma = process.alpha[t], process.sigma[t]

            def one(x):
                share = jax.nn.softmax(self.component_log_probs(x, alpha, sigma))
                offsets = jnp.einsum(
                    "kde,kd->ke", self.vectors, x - alpha * self.means, precision=PRECISE
                )
                gains = alpha * self.values / (alpha**2 * self.values + sigma**2)
                rotated = jnp.einsum("kde,ke->kd", self.vectors, gains * offsets, precision=PRECISE)
                found = self.means + rotated
                return share @ found

            return jax.vmap(one)(x)

        return denoise

    def draw(self, rng, num_draws):
        """Independent draws (n, D) by a `numpy.random.Generator`."""
        log_weights, means, values, vectors = (np.asarray(a, np.float64) for a in self)
        weights = np.exp(log_weights)
        component = rng.choice(len(weights), num_draws, p=weights / weights.sum())
        noise = rng.standard_normal((num_draws, means.shape[1])) * np.sqrt(values[component])
        draws = means[component]
        for k in range(len(weights)):
            draws[component == k] += noise[component == k] @ vectors[k].T
        return draws

    def last_given_rest(self, x, sigma=0.0):
        """Mixture in one dimension: the last coordinate given the others of x (D,), smoothed.

        Returns:
            Weights, means and standard deviations of its components, shape (K,) each, in double
            precision.
        """
        log_weights, means, values, vectors = (np.asarray(a, np.float64) for a in self)
        covariances = np.einsum("kde,ke,kfe->kdf", vectors, values + sigma**2, vectors)
        offsets = np.asarray(x, np.float64)[:-1] - means[:, :-1]
        inner, cross = covariances[:, :-1, :-1], covariances[:, :-1, -1]
        solved = np.linalg.solve(inner, np.stack([offsets, cross], axis=-1))
        logits = log_weights - 0.5 * (
            np.einsum("kd,kd->k", offsets, solved[..., 0]) + np.linalg.slogdet(inner)[1]
        )
        weights = np.exp(logits - logits.max())
        center = means[:, -1] + np.einsum("kd,kd->k", cross, solved[..., 0])
        variance = covariances[:, -1, -1] - np.einsum("kd,kd->k", cross, solved[..., 1])
        return weights / weights.sum(), center, np.sqrt(variance)


def draw_mixture(rng, weights, means, deviations, num_draws):
    """Draws of a mixture in one dimension, shape (n,)."""
    component = rng.choice(len(weights), num_draws, p=weights)
    return means[component] + deviations[component] * rng.standard_normal(num_draws)


def draw_tempered(rng, weights, means, deviations, inverse_temperature, num_draws):
    """Draws of a power of the density of a mixture in one dimension, from a grid, shape (n,)."""
    grid = np.linspace((means - 9 * deviations).min(), (means + 9 * deviations).max(), 20_001)
    squares = ((grid[:, None] - means) / deviations) ** 2
    density = np.exp(-0.5 * squares) @ (weights / deviations)
    mass = np.cumsum(density**inverse_temperature)
    return np.interp(rng.uniform(0, mass[-1], num_draws), mass, grid)


def paper_mixture(dimension, seed=0):
    """The paper's twenty Gaussians, standardised by the mean and deviation of 10,000 draws.

    References:
        Wedenig & Peharz 2025, section D.1.
    """
    rng = np.random.default_rng(seed)
    means = rng.uniform(-4, 4, (20, dimension))
    factors = rng.standard_normal((20, dimension, dimension))
    covariances = factors @ np.swapaxes(factors, 1, 2) / 10
    weights = rng.uniform(size=20)
    sample = Mixture.of(weights, means, covariances).draw(rng, 10_000)
    loc, scale = sample.mean(0), sample.std(0)
    return Mixture.of(weights, (means - loc) / scale, covariances / np.multiply.outer(scale, scale))


def wasserstein(draws, others):
    """W1 distance between equally many draws in one dimension."""
    return float(np.abs(np.sort(draws) - np.sort(others)).mean())
