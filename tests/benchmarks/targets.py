"""Targets for samplers: NumPyro models with their log evidence and posterior moments, if known.

The truth comes from closed forms for the first three, and from quadrature in float64 for the
hierarchical ones. Where neither exists (`truth=None`), the benchmark pools long runs of two
independent implementations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import logsumexp
from learned_priors import learned_prior
from scipy.special import gammaln
from scipy.special import logsumexp as logsumexp64
from scipy.stats import norm

import numpyro_disco as disco

NUM_EXACT = 200_000
"""Exact draws, for moments without a closed form and for the distance W1."""


class Truth(NamedTuple):
    """The known log evidence and moments of a target."""

    log_evidence: float
    """Log of the integral of the target density."""
    mean: np.ndarray
    """Posterior means, shape (K,)."""
    deviation: np.ndarray
    """Posterior standard deviations, shape (K,)."""
    exact: np.ndarray | None = None
    """Independent draws of the coordinate `marginal`, shape (M,)."""
    mode_mass: np.ndarray | None = None
    """Mass of each mode, shape (modes,)."""
    covariance: np.ndarray | None = None
    """Posterior covariance of the flat unconstrained vector u, if known, shape (d, d)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """A target.

    Attributes:
        name: name in the tables.
        model: a NumPyro model without arguments.
        coordinates: from samples by site, with any leading axes, to an array (..., K).
        truth: the known truth; None if it has to be pooled from long runs.
        marginal: index of the coordinate whose draws are compared with exact ones.
        mode: from coordinates (..., K) to the index of the nearest mode.
        log_density: the log target in float64, written independently of NumPyro.
        correlated: whether a careful user would choose a dense mass matrix.
        num_particles: particles of each run, for all methods.
    """

    name: str
    model: Callable[[], None]
    coordinates: Callable[[dict], np.ndarray]
    truth: Truth | None
    marginal: int = 0
    mode: Callable[[np.ndarray], np.ndarray] | None = None
    log_density: Callable[[np.ndarray], np.ndarray] | None = None
    correlated: bool = False
    num_particles: int = 1024


def _only_x(samples: dict) -> np.ndarray:
    return np.asarray(samples["x"], np.float64)


def _normal_tilted(loc: float, scale: float, dimension: int, log_density: Callable) -> Callable:
    """A model with prior Normal(loc, scale) and a factor that makes the joint `log_density`."""

    def model() -> None:
        prior = dist.Normal(loc, scale).expand([dimension]).to_event(1)
        x = numpyro.sample("x", prior)
        numpyro.factor("tilt", log_density(x) - prior.log_prob(x))

    return model


def eight_modes() -> Target:
    """Eight separated Gaussians of unequal weight and width in 10-D, under Normal(0, 3)."""
    dimension, log_evidence = 10, 2.0
    weights = np.array([0.03, 0.05, 0.07, 0.10, 0.12, 0.15, 0.18, 0.30])
    rng = np.random.default_rng(0)
    # Near corners of a cube that differ from each other in at least four signs.
    code = np.array([[(k >> i) & 1 for i in range(3)] for k in range(8)])
    corners = 1 - 2 * ((code @ rng.permutation(np.tile(np.eye(3, dtype=int), 4), axis=1)) % 2)
    means = 3.5 * corners[:, :dimension] + rng.uniform(-1, 1, (8, dimension))
    deviations = rng.permutation(np.linspace(0.4, 0.6, 8))
    constants = np.log(weights) - dimension * np.log(deviations * np.sqrt(2 * np.pi)) + log_evidence

    def log_density(x: jax.Array) -> jax.Array:
        square = ((x - means) ** 2).sum(-1) / deviations**2
        return logsumexp(constants - 0.5 * square)

    def components(x: np.ndarray) -> np.ndarray:
        # |x|^2 - 2 x.m + |m|^2 needs no array (..., modes, dimension) for the draws of all runs.
        square = (x**2).sum(-1, keepdims=True) - 2 * x @ means.T + (means**2).sum(-1)
        return constants - 0.5 * square / deviations**2

    mode = rng.choice(8, NUM_EXACT, p=weights)
    exact = means[mode] + deviations[mode, None] * rng.standard_normal((NUM_EXACT, dimension))
    mean = weights @ means
    variance = weights @ (means**2 + deviations[:, None] ** 2) - mean**2
    return Target(
        name="eight_modes",
        model=_normal_tilted(0.0, 3.0, dimension, log_density),
        coordinates=_only_x,
        truth=Truth(log_evidence, mean, np.sqrt(variance), exact[:, 0], weights),
        mode=lambda x: components(x).argmax(-1),
        log_density=lambda x: logsumexp64(components(np.asarray(x, np.float64)), axis=-1),
        # Half way along the path the smallest mode has about 0.3 % of the mass: three particles in
        # a thousand, which any method can lose by chance.
        num_particles=4096,
    )


def skewed() -> Target:
    """The log of a Gamma variable, and two modes of unequal weight and width shifted by it."""
    shape, log_evidence = 2.5, 3.7
    weights, means, deviations = [np.array(a) for a in ([0.25, 0.75], [-2.5, 1.5], [0.4, 0.7])]

    def log_density(x: jax.Array) -> jax.Array:
        u, v = x[0], x[1] - 0.3 * x[0]
        log_gamma = shape * u - jnp.exp(u) - gammaln(shape)
        modes = logsumexp(jnp.log(weights) + dist.Normal(means, deviations).log_prob(v))
        return log_evidence + log_gamma + modes

    def components(x: np.ndarray) -> np.ndarray:
        v = (x[..., 1] - 0.3 * x[..., 0])[..., None]
        return np.log(weights) + norm.logpdf(v, means, deviations)

    def log_density64(x: np.ndarray) -> np.ndarray:
        x = np.asarray(x, np.float64)
        log_gamma = shape * x[..., 0] - np.exp(x[..., 0]) - gammaln(shape)
        return log_evidence + log_gamma + logsumexp64(components(x), axis=-1)

    rng = np.random.default_rng(0)
    u = np.log(rng.gamma(shape, size=NUM_EXACT))
    mode = rng.choice(2, NUM_EXACT, p=weights)
    v = means[mode] + deviations[mode] * rng.standard_normal(NUM_EXACT) + 0.3 * u
    exact = np.stack([u, v], axis=-1)
    return Target(
        name="skewed",
        model=_normal_tilted(0.5, 3.0, 2, log_density),
        coordinates=_only_x,
        truth=Truth(log_evidence, exact.mean(0), exact.std(0), v, weights),
        marginal=1,
        mode=lambda x: components(x).argmax(-1),
        log_density=log_density64,
    )


def gaussian_50() -> Target:
    """A rotated Gaussian in 50-D, condition number 1e4, under Normal(0, 5)."""
    dimension, log_evidence = 50, -1.5
    rng = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(rng.standard_normal((dimension, dimension)))
    deviations = np.geomspace(0.02, 2.0, dimension)
    mean = rng.uniform(-2, 2, dimension)
    whiten = rotation / deviations  # (x - mean) @ whiten is standard normal
    constant = log_evidence - np.log(deviations).sum() - 0.5 * dimension * np.log(2 * np.pi)

    def log_density(x: jax.Array) -> jax.Array:
        return constant - 0.5 * (((x - mean) @ whiten) ** 2).sum(-1)

    covariance = (rotation * deviations**2) @ rotation.T
    deviation = np.sqrt(np.diagonal(covariance))
    exact = mean[0] + deviation[0] * rng.standard_normal(NUM_EXACT)
    return Target(
        name="gaussian_50",
        model=_normal_tilted(0.0, 5.0, dimension, log_density),
        coordinates=_only_x,
        truth=Truth(log_evidence, mean, deviation, exact, covariance=covariance),
        log_density=lambda x: (
            constant - 0.5 * (((np.asarray(x, np.float64) - mean) @ whiten) ** 2).sum(-1)
        ),
        correlated=True,
    )


def _grid_truth(
    log_mass: np.ndarray, means: list[np.ndarray], variances: list, exact: np.ndarray
) -> Truth:
    """Truth by quadrature on a grid in two dimensions.

    Args:
        log_mass: log masses of the cells.
        means: mean of each coordinate in each cell.
        variances: variance of each coordinate in each cell.
        exact: the coordinate that W1 compares, in each cell.
    """
    log_evidence = logsumexp64(log_mass)
    share = np.exp(log_mass - log_evidence)
    mean = np.array([(share * m).sum() for m in means])
    second = np.array([(share * (m**2 + v)).sum() for m, v in zip(means, variances, strict=True)])
    cells = np.random.default_rng(0).choice(share.size, NUM_EXACT, p=share.ravel() / share.sum())
    exact = np.broadcast_to(exact, share.shape).ravel()[cells]
    return Truth(float(log_evidence), mean, np.sqrt(second - mean**2), exact)


SCHOOL_EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
SCHOOL_ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def _schools_truth() -> Truth:
    """Quadrature over mu and log tau: y_j is Normal(mu, sqrt(tau^2 + sigma_j^2))."""
    mu = np.linspace(-35, 45, 401)[:, None]
    log_tau = np.linspace(-14, 9, 1501)[None, :]
    tau = np.exp(log_tau)
    cell = (mu[1, 0] - mu[0, 0]) * (log_tau[0, 1] - log_tau[0, 0])
    log_prior = norm.logpdf(mu, 0, 5) + np.log(2 / (5 * np.pi * (1 + (tau / 5) ** 2))) + log_tau
    log_mass = log_prior + np.log(cell)
    means, variances = [mu, log_tau], [0.0, 0.0]
    for y, sigma in zip(SCHOOL_EFFECTS, SCHOOL_ERRORS, strict=True):
        log_mass = log_mass + norm.logpdf(y, mu, np.sqrt(tau**2 + sigma**2))
        share = tau**2 / (tau**2 + sigma**2)
        means.append(share * y + (1 - share) * mu)
        variances.append(share * sigma**2)
    return _grid_truth(log_mass, means, variances, log_tau)


def _schools_coordinates(samples: dict) -> np.ndarray:
    mu, tau, theta = (np.asarray(samples[name], np.float64) for name in ("mu", "tau", "theta"))
    return np.concatenate([mu[..., None], np.log(tau)[..., None], theta], axis=-1)


def eight_schools_centred() -> Target:
    """Eight schools, centred: theta ~ Normal(mu, tau), which has a funnel."""

    def model() -> None:
        mu = numpyro.sample("mu", dist.Normal(0, 5))
        tau = numpyro.sample("tau", dist.HalfCauchy(5))
        theta = numpyro.sample("theta", dist.Normal(mu, tau).expand([8]).to_event(1))
        numpyro.sample("y", dist.Normal(theta, SCHOOL_ERRORS).to_event(1), obs=SCHOOL_EFFECTS)

    return Target(
        name="eight_schools_centred",
        model=model,
        coordinates=_schools_coordinates,
        truth=_schools_truth(),
        marginal=1,
    )


def eight_schools() -> Target:
    """Eight schools, non-centred: theta = mu + tau z."""

    def model() -> None:
        mu = numpyro.sample("mu", dist.Normal(0, 5))
        tau = numpyro.sample("tau", dist.HalfCauchy(5))
        z = numpyro.sample("z", dist.Normal(0, 1).expand([8]).to_event(1))
        theta = numpyro.deterministic("theta", mu + tau * z)
        numpyro.sample("y", dist.Normal(theta, SCHOOL_ERRORS).to_event(1), obs=SCHOOL_EFFECTS)

    return Target(
        name="eight_schools",
        model=model,
        coordinates=_schools_coordinates,
        truth=_schools_truth(),
        marginal=1,
    )


# Brownian motion at 30 times of which the middle ten are unobserved; inference-gym 0.0.5
# (Apache-2.0). The log evidence is 1.1877; with both scales known, 0.1 and 0.15, it is 5.6130.
BROWNIAN_TIMES = np.r_[0:10, 20:30]
BROWNIAN_VALUES = np.array(
    "0.21592641 0.118771404 -0.07945447 0.037677474 -0.27885845 -0.1484156 -0.3250906 -0.22957903 "
    "-0.44110894 -0.09830782 -0.8786016 -0.83736074 -0.7384849 -0.8939254 -0.7774566 -0.70238715 "
    "-0.87771565 -0.51853573 -0.6948214 -0.6202789".split(),
    np.float64,
)


def _brownian_truth() -> Truth:
    """Quadrature over log a and log b: y is N(0, a^2 K + b^2 I), K_ij = min(i, j) + 1."""
    times = np.arange(30)
    covariance = np.minimum(times[:, None], times) + 1.0
    across = covariance[:, BROWNIAN_TIMES]
    eigenvalues, vectors = np.linalg.eigh(across[BROWNIAN_TIMES])
    data, across = vectors.T @ BROWNIAN_VALUES, across @ vectors
    log_a = np.linspace(-12, 8, 401)[:, None]
    log_b = np.linspace(-14, 8, 441)[None, :]
    cell = (log_a[1, 0] - log_a[0, 0]) * (log_b[0, 1] - log_b[0, 0])
    variance = np.exp(2 * log_a)[..., None] * eigenvalues + np.exp(2 * log_b)[..., None]
    log_mass = norm.logpdf(data, 0, np.sqrt(variance)).sum(-1) + np.log(cell)
    log_mass += norm.logpdf(log_a, 0, 2) + norm.logpdf(log_b, 0, 2)
    gain = np.exp(2 * log_a)[..., None] / variance
    means, variances = [log_a, log_b], [0.0, 0.0]
    for time in times:
        means.append(gain @ (across[time] * data))
        variances.append(np.exp(2 * log_a) * (covariance[time, time] - gain @ across[time] ** 2))
    return _grid_truth(log_mass, means, variances, log_b)


def brownian() -> Target:
    """Brownian motion with unknown scales of its steps and observations, and with a gap."""

    def model() -> None:
        innovation = numpyro.sample("innovation", dist.LogNormal(0, 2))
        noise = numpyro.sample("noise", dist.LogNormal(0, 2))
        path = numpyro.sample("path", dist.GaussianRandomWalk(innovation, 30))
        seen = dist.Normal(path[BROWNIAN_TIMES], noise).to_event(1)
        numpyro.sample("y", seen, obs=BROWNIAN_VALUES)

    def coordinates(samples: dict) -> np.ndarray:
        scales = [np.log(samples[name])[..., None] for name in ("innovation", "noise")]
        return np.concatenate([*scales, samples["path"]], axis=-1).astype(np.float64)

    return Target(
        name="brownian",
        model=model,
        coordinates=coordinates,
        truth=_brownian_truth(),
        marginal=1,
    )


def logistic() -> Target:
    """Bayesian logistic regression on the breast cancer data: 30 columns and an intercept."""
    from sklearn.datasets import load_breast_cancer

    columns, labels = load_breast_cancer(return_X_y=True)
    columns = (columns - columns.mean(0)) / columns.std(0)
    design = np.concatenate([columns, np.ones((len(columns), 1))], axis=1).astype(np.float32)

    def model() -> None:
        x = numpyro.sample("x", dist.Normal(0, 1).expand([design.shape[1]]).to_event(1))
        numpyro.sample("y", dist.Bernoulli(logits=design @ x).to_event(1), obs=labels)

    return Target(name="logistic", model=model, coordinates=_only_x, truth=None)


def learned() -> Target:
    """A learned prior of ten columns, conditioned on every other entry of a held-out row."""
    name, prior, row = learned_prior()
    observed = {f"x.c{i}": row[i] for i in range(0, 10, 2)}
    free = [f"x.c{i}" for i in range(1, 10, 2)]

    def model() -> None:
        disco.sample("x", prior)

    return Target(
        name=f"learned ({name})",
        model=numpyro.handlers.condition(model, observed),
        coordinates=lambda samples: np.stack([samples[f] for f in free], -1).astype(np.float64),
        truth=None,
    )


TARGETS: dict[str, Callable[[], Target]] = {
    "eight_modes": eight_modes,
    "skewed": skewed,
    "gaussian_50": gaussian_50,
    "eight_schools_centred": eight_schools_centred,
    "eight_schools": eight_schools,
    "logistic": logistic,
    "brownian": brownian,
    "learned": learned,
}
