"""Reference problems: NumPyro models with their exact posterior moments and log evidence.

The truth is computed in float64 without the library, in closed form or by quadrature. Constants
that a test breaks on purpose are arguments of the model, so that the broken model runs in the
program compiled for the right one.

References:
    Lueckmann et al. 2021, "Benchmarking simulation-based inference": the first three.
    Sountsov, Radul & contributors 2020, "Inference Gym": the other two.
    Greenberg, Nonnenmacher & Macke 2019: the two moons.
    Rubin 1981: the eight schools.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy.special import logsumexp
from scipy.stats import norm


class Truth(NamedTuple):
    """Exact results of one problem."""

    log_evidence: float
    mean: dict
    """Posterior means by site."""
    deviation: dict
    """Posterior standard deviations by site."""


# -- a Gaussian prior and a Gaussian likelihood, both with variance 0.1, in ten dimensions ---------

LINEAR_OBSERVATION = np.array(
    [
        *(1.0471346, 0.5566712, -0.23618454, 0.027879834, -1.0051446),
        *(-0.007930746, 0.06117077, -0.29286885, -0.38539964, 0.2449614),
    ]
)


def gaussian_linear(x, noise_variance):
    theta = numpyro.sample("theta", dist.Normal(0.0, 0.1**0.5).expand([10]).to_event(1))
    numpyro.sample("x", dist.Normal(theta, jnp.sqrt(noise_variance)).to_event(1), obs=x)


def gaussian_linear_truth(x):
    """With equal variances the posterior is N(x / 2, 0.05) and x has density N(0, 0.2)."""
    deviation = np.full(len(x), 0.05**0.5)
    return Truth(norm.logpdf(x, scale=0.2**0.5).sum(), {"theta": x / 2}, {"theta": deviation})


# -- two Gaussians with one mean and very different spreads --------------------------------------

MIXTURE_OBSERVATION = np.array([-9.472713, -1.4950509])
MIXTURE_SCALES = np.array([1.0, 0.1])


def gaussian_mixture(x, scales):
    theta = numpyro.sample("theta", dist.Uniform(-10.0, 10.0).expand([2]).to_event(1))
    components = dist.Normal(theta, scales[:, None] * jnp.ones(2)).to_event(1)
    halves = dist.Categorical(probs=jnp.full(2, 0.5))
    numpyro.sample("x", dist.MixtureSameFamily(halves, components), obs=x)


def gaussian_mixture_log_evidence(x):
    """Mean of the components' masses inside the prior's box, divided by the area of the box."""
    inside = np.diff(norm.cdf([-10, 10], x[:, None, None], MIXTURE_SCALES[:, None]))[..., 0]
    return np.log(inside.prod(0).mean() / 400)


def gaussian_mixture_draws(rng, x, num_draws):
    """Exact draws: x plus noise of either scale, rejected outside the prior's box."""
    kept = np.empty((0, 2))
    while len(kept) < num_draws:
        scale = rng.choice(MIXTURE_SCALES, (num_draws, 1))
        theta = x + scale * rng.standard_normal((num_draws, 2))
        kept = np.concatenate([kept, theta[(np.abs(theta) <= 10).all(1)]])
    return kept[:num_draws]


# -- two moons: a crescent, seen through a map that folds the plane -------------------------------

MOONS_OBSERVATION = np.array([-0.6396706, 0.16234657])
MOONS_RADIUS, MOONS_WIDTH, MOONS_SHIFT = 0.1, 0.01, 0.25


def crescent_log_density(p, radius):
    """Log density of p = (r cos a + 1/4, r sin a), a uniform on (-pi/2, pi/2), r normal.

    In polar coordinates area is r dr da, hence the density of (r, a), N(r) / pi, over r.
    """
    u, v = p[..., 0] - MOONS_SHIFT, p[..., 1]
    r = jnp.hypot(u, v)
    log_density = dist.Normal(radius, MOONS_WIDTH).log_prob(r) - jnp.log(jnp.pi * r)
    return jnp.where(u > 0, log_density, -jnp.inf)


def two_moons(x, radius):
    """The model x = p + (-|t0 + t1|, t1 - t0) / sqrt(2), whose posterior is two crescents in t."""
    theta = numpyro.sample("theta", dist.Uniform(-1.0, 1.0).expand([2]).to_event(1))
    along, across = theta[0] + theta[1], theta[1] - theta[0]
    p = x - jnp.stack([-jnp.abs(along), across]) / 2**0.5
    numpyro.factor("x", crescent_log_density(p, radius))


def two_moons_draws(rng, x, num_draws):
    """Exact draws, as long as both crescents lie in the prior's square, which is asserted."""
    angle = rng.uniform(-np.pi / 2, np.pi / 2, num_draws)
    r = rng.normal(MOONS_RADIUS, MOONS_WIDTH, num_draws)
    along = r * np.cos(angle) + MOONS_SHIFT - x[0]
    across = x[1] - r * np.sin(angle)
    assert (along > 0).all()
    along *= rng.choice([-1, 1], num_draws)
    theta = np.stack([along - across, along + across], axis=1) / 2**0.5
    assert (np.abs(theta) < 1).all()
    return theta


def two_moons_log_evidence(x):
    """Log evidence of two crescents of mass 1 each, under a prior density of 1/4."""
    two_moons_draws(np.random.default_rng(0), x, 100_000)
    return np.log(2 / 4)


# -- a random walk observed at its two ends ------------------------------------------------------

BROWNIAN_SEEN = np.r_[0:10, 20:30]
BROWNIAN_OBSERVATION = np.array(
    [
        *(0.21592641, 0.118771404, -0.07945447, 0.037677474, -0.27885845),
        *(-0.1484156, -0.3250906, -0.22957903, -0.44110894, -0.09830782),
        *(-0.8786016, -0.83736074, -0.7384849, -0.8939254, -0.7774566),
        *(-0.70238715, -0.87771565, -0.51853573, -0.6948214, -0.6202789),
    ]
)
BROWNIAN_SCALES = 0.1, 0.15


def brownian_motion(y, scales=None):
    """A walk of 30 steps; both scales are given, or have priors LogNormal(0, 2)."""
    if scales is None:
        prior = dist.LogNormal(0.0, 2.0)
        step, noise = numpyro.sample("step", prior), numpyro.sample("noise", prior)
    else:
        step, noise = scales
    walk = numpyro.sample("walk", dist.GaussianRandomWalk(step, num_steps=30))
    numpyro.sample("y", dist.Normal(walk[BROWNIAN_SEEN], noise).to_event(1), obs=y)


def brownian_motion_truth(y, scales=None, grid=200):
    """Integrate the walk in closed form, and the two scales by the trapezoidal rule on their logs.

    cov(y) = s^2 K + t^2 I with K_ij = min(i, j), so the eigenvectors of K serve all scales. Given
    them, E[walk | y] = C Q diag(h) Q'y, h_i = s^2 / (s^2 k_i + t^2), C the observed columns of min.
    """
    times = np.arange(1.0, 31)
    every = np.minimum.outer(times, times)
    eigenvalues, vectors = np.linalg.eigh(every[np.ix_(BROWNIAN_SEEN, BROWNIAN_SEEN)])
    rotated = vectors.T @ y
    if scales is None:
        axis = np.linspace(-12, 6, grid)
        log_step, log_noise = (a.ravel() for a in np.meshgrid(axis, axis, indexing="ij"))
        # The log of a LogNormal(0, 2) variable is N(0, 2).
        log_prior = norm.logpdf(log_step, scale=2) + norm.logpdf(log_noise, scale=2)
        log_prior += 2 * np.log(axis[1] - axis[0])
    else:
        log_step, log_noise = np.log(scales).reshape(2, 1)
        log_prior = np.zeros(1)
    step, noise = np.exp(log_step), np.exp(log_noise)
    variance = step**2 * eigenvalues[:, None] + noise**2
    log_joint = log_prior + norm.logpdf(rotated[:, None], scale=np.sqrt(variance)).sum(0)
    log_evidence = logsumexp(log_joint)
    weight = np.exp(log_joint - log_evidence)

    h = step**2 / variance
    loading = every[:, BROWNIAN_SEEN] @ vectors
    # The law of total variance: moments of the conditional mean, and the mean of the variances.
    mean = loading @ (h @ weight * rotated)
    second = np.outer(rotated, rotated) * ((h * weight) @ h.T) - np.diag((h * step**2) @ weight)
    second = np.einsum("ij,jk,ik->i", loading, second, loading) + (step**2 @ weight) * times
    means, deviations = {"walk": mean}, {"walk": np.sqrt(second - mean**2)}
    if scales is None:
        for name, value in ("step", step), ("noise", noise):
            means[name] = value @ weight
            deviations[name] = np.sqrt(value**2 @ weight - means[name] ** 2)
    return Truth(log_evidence, means, deviations)


# -- eight schools, in the centred form whose prior is a funnel ----------------------------------

SCHOOL_EFFECTS = np.array([28.0, 8, -3, 7, -1, 1, 18, 12])
SCHOOL_ERRORS = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])


def eight_schools(y, errors):
    average = numpyro.sample("average", dist.Normal(0.0, 10.0))
    log_spread = numpyro.sample("log_spread", dist.Normal(5.0, 1.0))
    effects = dist.Normal(average, jnp.exp(log_spread)).expand([8]).to_event(1)
    effects = numpyro.sample("effects", effects)
    numpyro.sample("y", dist.Normal(effects, errors).to_event(1), obs=y)


def eight_schools_truth(y, errors, grid=200):
    """Integrate the effects in closed form, and the average and log spread on a grid."""
    average, log_spread = np.linspace(-60, 70, grid), np.linspace(-3, 13, grid)
    log_cell = np.log((average[1] - average[0]) * (log_spread[1] - log_spread[0]))
    average, log_spread = (a.ravel() for a in np.meshgrid(average, log_spread, indexing="ij"))
    between = np.exp(2 * log_spread)
    within = errors[:, None] ** 2
    log_joint = norm.logpdf(average, scale=10) + norm.logpdf(log_spread, loc=5) + log_cell
    log_joint += norm.logpdf(y[:, None], average, np.sqrt(within + between)).sum(0)
    log_evidence = logsumexp(log_joint)
    weight = np.exp(log_joint - log_evidence)

    share = between / (within + between)
    given = share * y[:, None] + (1 - share) * average
    conditional = {"average": average, "log_spread": log_spread, "effects": given}
    spread = {"average": 0.0, "log_spread": 0.0, "effects": share * within}
    mean = {name: value @ weight for name, value in conditional.items()}
    second = {name: (value**2 + spread[name]) @ weight for name, value in conditional.items()}
    deviation = {name: np.sqrt(second[name] - mean[name] ** 2) for name in mean}
    return Truth(log_evidence, mean, deviation)
