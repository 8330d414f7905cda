"""Laws of affine samplers of one Gaussian, in float64 and by formulas of their own."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Affine(NamedTuple):
    """A step x_s = matrix x_t + shift + N(0, noise), or a map without noise."""

    matrix: np.ndarray
    """Shape (D, D)."""
    shift: np.ndarray
    """Shape (D,)."""
    noise: np.ndarray | float = 0.0
    """Shape (D, D)."""

    def after(self, first):
        """This step after another one."""
        return Affine(
            self.matrix @ first.matrix,
            self.matrix @ first.shift + self.shift,
            self.matrix @ (first.noise * np.eye(len(self.shift))) @ self.matrix.T + self.noise,
        )

    def push(self, mean, covariance):
        """Mean and covariance of the step from a point with this mean and covariance."""
        return (
            self.matrix @ mean + self.shift,
            self.matrix @ covariance @ self.matrix.T + self.noise,
        )


class GaussianRows(NamedTuple):
    """Rows with a Gaussian law under a noise process."""

    mean: np.ndarray
    """Shape (D,)."""
    covariance: np.ndarray
    """Shape (D, D)."""
    alpha: np.ndarray
    """Shape (T,)."""
    sigma: np.ndarray
    """Shape (T,)."""

    def at(self, t):
        """Mean and covariance of the rows at a level."""
        noise = self.sigma[t] ** 2 * np.eye(len(self.mean))
        return self.alpha[t] * self.mean, self.alpha[t] ** 2 * self.covariance + noise

    def denoiser(self, t):
        """The exact denoiser."""
        mean, covariance = self.at(t)
        gain = self.alpha[t] * self.covariance @ np.linalg.inv(covariance)
        return Affine(gain, self.mean - gain @ mean)

    def backward(self, denoiser, t, s):
        """Bayes' rule for x_s, from its prior given x_0 and the likelihood of x_t."""
        ratio = self.alpha[t] / self.alpha[s]
        added = self.sigma[t] ** 2 - ratio**2 * self.sigma[s] ** 2
        variance = 1 / (1 / self.sigma[s] ** 2 + ratio**2 / added)
        clean, noisy = variance * self.alpha[s] / self.sigma[s] ** 2, variance * ratio / added
        one = np.eye(len(self.mean))
        return Affine(clean * denoiser.matrix + noisy * one, clean * denoiser.shift, variance * one)

    def langevin(self, t, size, num_moves):
        """Langevin moves at a level."""
        mean, covariance = self.at(t)
        length, one = size * self.sigma[t] ** 2, np.eye(len(self.mean))
        precision = np.linalg.inv(covariance)
        move = Affine(one - length * precision, length * precision @ mean, 2 * length * one)
        total = move
        for _ in range(num_moves - 1):
            total = move.after(total)
        return total

    def flow(self, t, s):
        """The exact flow from a level to another: it scales the eigendirections."""
        (start, wide), (end, narrow) = self.at(t), self.at(s)
        values, vectors = np.linalg.eigh(wide)
        scale = np.sqrt(np.diagonal(vectors.T @ narrow @ vectors) / values)
        matrix = (vectors * scale) @ vectors.T
        return Affine(matrix, end - matrix @ start)

    def law(self, steps):
        """Mean and covariance at the end of steps, from the start of all samplers."""
        mean = np.zeros(len(self.mean))
        covariance = (self.alpha[-1] ** 2 + self.sigma[-1] ** 2) * np.eye(len(mean))
        for step in steps:
            mean, covariance = step.push(mean, covariance)
        return mean, covariance


def condition(mean, covariance, observed, values):
    """Gain, mean and covariance of the other coordinates given `observed`, an index array."""
    free = np.setdiff1d(np.arange(len(mean)), observed)
    inner = covariance[np.ix_(observed, observed)]
    gain = covariance[np.ix_(free, observed)] @ np.linalg.inv(inner)
    rest = covariance[np.ix_(free, free)] - gain @ covariance[np.ix_(observed, free)]
    return gain, mean[free] + gain @ (values - mean[observed]), rest
