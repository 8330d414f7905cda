"""Posteriors of a first half of data, and models of the second whose answers are exact.

Each `Update` has independent draws of the exact posterior of the first half. With a prior learned
from them, the posterior of the second half is that of all data, and its evidence the ratio of two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import xarray
from numpyro.distributions import constraints
from scipy import special, stats

import numpyro_disco as disco


class Update(NamedTuple):
    """One problem."""

    draws: dict[str, np.ndarray]
    """Draws given the first half, by variable."""
    supports: dict[str, Any]
    """Supports of the variables that are not real."""
    model: Callable[[Any], None]
    """Model of the second half; takes the prior."""
    statistics: Callable[[dict], np.ndarray]
    """Statistics of draws of the variables, shape (n, k)."""
    mean: np.ndarray
    """Their exact means given all data, shape (k,)."""
    deviation: np.ndarray
    """Their exact standard deviations, shape (k,)."""
    log_evidence: float
    """Exact log evidence of the second half given the first."""


def as_dataset(draws):
    """Draws as the posterior of one chain, an xarray dataset."""

    def labelled(name, values):
        dims = [f"{name}_dim_{axis}" for axis in range(values.ndim - 1)]
        return ("chain", "draw", *dims), values[None]

    return xarray.Dataset({name: labelled(name, values) for name, values in draws.items()})


def run_second_half(rng_key, update, prior, **settings):
    """Errors of means and of deviations in deviations, and of the evidence in nats.

    Returns:
        Errors of the means (k,), relative errors of the deviations (k,), standard errors of the
        means in deviations (k,), error of the log evidence (), and its standard error ().
    """
    smc = disco.TemperedSMC(update.model, progress_bar=False, **settings)
    smc.run(rng_key, prior)
    draws = smc.get_samples(group_by_chain=True)
    values = []
    for chain in range(smc.num_chains):
        one = {name.removeprefix("theta."): np.asarray(v[chain]) for name, v in draws.items()}
        values.append(update.statistics(one))
    stacked = np.asarray(values, np.float64)
    together = stacked.reshape(-1, stacked.shape[-1])
    means = stacked.mean(1)
    errors = means.std(0, ddof=1) / np.sqrt(len(means))
    log_evidence = special.logsumexp(smc.log_normalizer) - np.log(smc.num_chains)
    return (
        (together.mean(0) - update.mean) / update.deviation,
        together.std(0) / update.deviation - 1,
        errors / update.deviation,
        log_evidence - update.log_evidence,
        float(np.hypot(smc.log_normalizer_error, prior.log_normalizer_error)),
    )


def regression(num_draws):
    """A conjugate regression: normal slopes and an inverse-gamma variance."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 2))
    y = x @ [1.0, -0.5] + 0.7 * rng.normal(size=40)

    def update(n):
        precision = np.eye(2) / 10 + x[:n].T @ x[:n]
        mean = np.linalg.solve(precision, x[:n].T @ y[:n])
        shape, rate = 3 + n / 2, 2 + 0.5 * (y[:n] @ y[:n] - mean @ precision @ mean)
        log_evidence = (
            -0.5 * n * np.log(2 * np.pi)
            - 0.5 * (np.linalg.slogdet(precision)[1] - 2 * np.log(0.1))
            + (3 * np.log(2) - shape * np.log(rate))
            + (special.gammaln(shape) - special.gammaln(3))
        )
        return mean, np.linalg.inv(precision), shape, rate, log_evidence

    mean, covariance, shape, rate, before = update(20)
    s2 = stats.invgamma.rvs(shape, scale=rate, size=num_draws, random_state=rng)
    noise = rng.multivariate_normal(np.zeros(2), covariance, num_draws)
    draws = {"b": mean + np.sqrt(s2)[:, None] * noise, "s2": s2}

    def model(prior):
        theta = disco.sample("theta", prior)
        scale = jnp.sqrt(theta["s2"])
        numpyro.sample("y", dist.Normal(jnp.asarray(x[20:]) @ theta["b"], scale), obs=y[20:])

    mean, covariance, shape, rate, after = update(40)
    variance = np.append(rate / (shape - 1) * np.diag(covariance), special.polygamma(1, shape))
    return Update(
        draws,
        {"s2": constraints.positive},
        model,
        lambda v: np.column_stack([v["b"], np.log(v["s2"])]),
        np.append(mean, np.log(rate) - special.digamma(shape)),
        np.sqrt(variance),
        after - before,
    )


def shares_and_correlation(num_draws):
    """A simplex with counts, and the Cholesky factor of a correlation with pairs of numbers."""
    rng = np.random.default_rng(2)
    first, second = np.array([12.0, 7.0, 3.0]), np.array([5.0, 10.0, 4.0])
    rows = rng.multivariate_normal(np.zeros(2), [[1, 0.6], [0.6, 1]], 40)
    grid = np.linspace(-1, 1, 20_003)[1:-1]

    def log_likelihood(rows):
        products, squares = (rows[:, 0] * rows[:, 1]).sum(), (rows**2).sum()
        rest = len(rows) * (np.log(2 * np.pi) + 0.5 * np.log1p(-(grid**2)))
        return -0.5 * (squares - 2 * grid * products) / (1 - grid**2) - rest

    half, whole = log_likelihood(rows[:20]), log_likelihood(rows)
    weights = special.softmax(half)
    r = rng.choice(grid, num_draws, p=weights) + (grid[1] - grid[0]) * (rng.random(num_draws) - 0.5)
    factor = np.zeros((num_draws, 2, 2))
    factor[:, 0, 0], factor[:, 1, 0], factor[:, 1, 1] = 1, r, np.sqrt(1 - r**2)
    draws = {"p": rng.dirichlet(1 + first, num_draws), "L": factor}

    def model(prior):
        theta = disco.sample("theta", prior)
        numpyro.factor("counts", jnp.log(theta["p"]) @ second)
        normal = dist.MultivariateNormal(jnp.zeros(2), scale_tril=theta["L"])
        numpyro.sample("rows", normal, obs=rows[20:])

    def log_beta(alpha):
        return special.gammaln(alpha).sum() - special.gammaln(alpha.sum())

    alpha, weights = 1 + first + second, special.softmax(whole)
    mean = np.append(alpha / alpha.sum(), weights @ grid)
    variance = np.append(stats.dirichlet.var(alpha), weights @ (grid - weights @ grid) ** 2)
    of_shares = log_beta(alpha) - log_beta(1 + first)
    return Update(
        draws,
        {"p": constraints.simplex, "L": constraints.corr_cholesky},
        model,
        lambda v: np.column_stack([v["p"], v["L"][:, 1, 0]]),
        mean,
        np.sqrt(variance),
        of_shares + special.logsumexp(whole) - special.logsumexp(half),
    )


def eight_schools(num_draws):
    """The hyperparameters of eight schools, learned from four of them."""
    y = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    s = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
    mu, log_tau = np.linspace(-25, 30, 401), np.linspace(-8, 5, 521)
    grid_mu, grid_tau = np.meshgrid(mu, log_tau, indexing="ij")
    tau = np.exp(grid_tau)
    prior = stats.norm.logpdf(grid_mu, 0, 5) + stats.halfcauchy.logpdf(tau, scale=5) + grid_tau

    def log_joint(n):
        each = stats.norm.logpdf(
            y[:n, None, None], grid_mu, np.sqrt(tau**2 + s[:n, None, None] ** 2)
        )
        return prior + each.sum(0)

    rng = np.random.default_rng(3)
    half, whole = log_joint(4), log_joint(8)
    chosen = rng.choice(half.size, num_draws, p=special.softmax(half.ravel()))
    jitter = rng.random((2, num_draws)) - 0.5
    drawn_mu = grid_mu.ravel()[chosen] + jitter[0] * (mu[1] - mu[0])
    drawn_tau = np.exp(grid_tau.ravel()[chosen] + jitter[1] * (log_tau[1] - log_tau[0]))

    def model(prior):
        theta = disco.sample("theta", prior)
        with numpyro.plate("schools", 4):
            effect = numpyro.sample("effect", dist.Normal(0, 1))
            mean = theta["mu"] + theta["tau"] * effect
            numpyro.sample("y", dist.Normal(mean, s[4:]), obs=y[4:])

    weights = special.softmax(whole)
    values = np.stack([grid_mu, grid_tau])
    mean = (weights * values).sum((1, 2))
    variance = (weights * (values - mean[:, None, None]) ** 2).sum((1, 2))
    return Update(
        {"mu": drawn_mu, "tau": drawn_tau},
        {"tau": constraints.positive},
        model,
        lambda v: np.column_stack([v["mu"], np.log(v["tau"])]),
        mean,
        np.sqrt(variance),
        special.logsumexp(whole) - special.logsumexp(half),
    )


UPDATES = {
    "regression": regression,
    "shares and correlation": shares_and_correlation,
    "eight schools": eight_schools,
}
