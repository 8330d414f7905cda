"""Statistical assertions, and a Gaussian mixture whose moments and conditionals are exact."""

from __future__ import annotations

import math
from itertools import combinations_with_replacement

import numpy as np


def assert_within(estimate, truth, standard_error, *, resolution, sigmas=5, label="estimate"):
    """Assert that an estimate agrees with the truth, and that the check is precise enough.

    The first gate, sigmas * standard_error <= resolution, requires a test precise enough to detect
    an error of `resolution`. The second, |error| <= sigmas * standard_error, requires that there is
    none. Both hold for every entry. A broken twin must fail the second: match "is off".
    """
    estimate, truth, standard_error, resolution = np.broadcast_arrays(
        *(np.asarray(a, np.float64) for a in (estimate, truth, standard_error, resolution))
    )
    assert estimate.size, f"{label}: nothing to compare"
    error, allowed = estimate - truth, sigmas * standard_error

    def report(what, bad):
        place = tuple(int(i) for i in np.argwhere(bad)[0])
        return (
            f"{label} {what} in {int(bad.sum())} of {bad.size} entries; the first, at {place}: "
            f"estimate {estimate[place]:.6g}, truth {truth[place]:.6g}, error {error[place]:.3g}, "
            f"standard error {standard_error[place]:.3g} (times {sigmas} is {allowed[place]:.3g}), "
            f"resolution {resolution[place]:.3g}"
        )

    # Written so that NaN fails.
    noisy, off = ~(allowed <= resolution), ~(np.abs(error) <= allowed)
    assert not noisy.any(), report("is too noisy to tell", noisy)
    assert not off.any(), report("is off", off)


def mean_and_error(samples):
    """Mean of independent samples over the first axis, and its standard error."""
    samples = np.asarray(samples, np.float64)
    return samples.mean(0), samples.std(0, ddof=1) / math.sqrt(len(samples))


def moments(x):
    """Coordinates, products of pairs and cubes, concatenated to shape (..., M).

    The cubes detect a skew that means and covariances do not.
    """
    x = np.asarray(x, np.float64)
    pairs = combinations_with_replacement(range(x.shape[-1]), 2)
    products = [x[..., i] * x[..., j] for i, j in pairs]
    return np.concatenate([x, np.stack(products, axis=-1), x**3], axis=-1)


class Mixture:
    """A Gaussian mixture in float64, written as plainly as possible, to compare with."""

    def __init__(self, weights, means, covariances):
        self.weights = np.asarray(weights, np.float64) / np.sum(weights, dtype=np.float64)
        self.means = np.asarray(means, np.float64)
        self.covariances = np.asarray(covariances, np.float64)
        self.dimension = self.means.shape[1]

    def draw(self, rng, num_draws):
        """Independent draws, shape (num_draws, D), from a `numpy.random.Generator`."""
        component = rng.choice(len(self.weights), size=num_draws, p=self.weights)
        factors = np.linalg.cholesky(self.covariances)[component]
        noise = rng.standard_normal((num_draws, self.dimension))
        return self.means[component] + np.einsum("nij,nj->ni", factors, noise)

    def _joint(self, x):
        """log(weight_k N(x; component k)), shape (..., K)."""
        residual = np.asarray(x, np.float64)[..., None, :] - self.means
        precision = np.linalg.inv(self.covariances)
        square = np.einsum("...ki,kij,...kj->...k", residual, precision, residual)
        log_det = np.linalg.slogdet(self.covariances)[1]
        with np.errstate(divide="ignore"):
            log_weights = np.log(self.weights)
        return log_weights - 0.5 * (square + log_det + self.dimension * math.log(2 * math.pi))

    def log_prob(self, x):
        """Log density, shape (...) from (..., D)."""
        joint = self._joint(x)
        top = joint.max(-1, keepdims=True)
        return (top + np.log(np.exp(joint - top).sum(-1, keepdims=True)))[..., 0]

    def score(self, x):
        """Gradient of the log density, shape (..., D)."""
        joint = self._joint(x)
        share = np.exp(joint - self.log_prob(x)[..., None])
        residual = np.asarray(x, np.float64)[..., None, :] - self.means
        pull = -np.einsum("kij,...kj->...ki", np.linalg.inv(self.covariances), residual)
        return (share[..., None] * pull).sum(-2)

    def smoothed(self, sigma):
        """This mixture convolved with N(0, sigma^2 I)."""
        noise = sigma**2 * np.eye(self.dimension)
        return Mixture(self.weights, self.means, self.covariances + noise)

    def standardize(self, loc, scale):
        """The distribution of (x - loc) / scale."""
        loc, scale = np.asarray(loc, np.float64), np.asarray(scale, np.float64)
        covariances = self.covariances / np.multiply.outer(scale, scale)
        return Mixture(self.weights, (self.means - loc) / scale, covariances)

    def marginal(self, kept):
        """The distribution of some coordinates alone."""
        kept = list(kept)
        return Mixture(self.weights, self.means[:, kept], self.covariances[:, kept][:, :, kept])

    def condition(self, observed, values):
        """The distribution of the other coordinates, in order, given those in `observed`."""
        observed, values = list(observed), np.asarray(values, np.float64)
        free = [i for i in range(self.dimension) if i not in observed]
        if not observed:
            return self
        logits = self.marginal(observed)._joint(values)
        means, covariances = [], []
        for mean, covariance in zip(self.means, self.covariances, strict=True):
            gain = covariance[np.ix_(free, observed)] @ np.linalg.inv(
                covariance[np.ix_(observed, observed)]
            )
            means.append(mean[free] + gain @ (values - mean[observed]))
            covariances.append(
                covariance[np.ix_(free, free)] - gain @ covariance[np.ix_(observed, free)]
            )
        return Mixture(np.exp(logits - logits.max()), means, covariances)

    @property
    def mean(self):
        """Mean, shape (D,)."""
        return self.weights @ self.means

    @property
    def covariance(self):
        """Covariance, shape (D, D)."""
        spread = self.means - self.mean
        within = np.einsum("k,kij->ij", self.weights, self.covariances)
        return within + np.einsum("k,ki,kj->ij", self.weights, spread, spread)

    @property
    def moments(self):
        """Exact expectation of `moments(x)`."""
        variance = np.diagonal(self.covariances, axis1=1, axis2=2)
        second = self.covariance + np.outer(self.mean, self.mean)
        pairs = combinations_with_replacement(range(self.dimension), 2)
        cubes = self.weights @ (self.means**3 + 3 * self.means * variance)
        return np.concatenate([self.mean, [second[i, j] for i, j in pairs], cubes])
