"""Conditional draws and marginal densities of a learned prior, without a model around it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco._checks import check_count, check_key
from numpyro_disco._statistics import log_mean
from numpyro_disco._typing import Array
from numpyro_disco.energy.distribution import EnergyDistribution, check_prior
from numpyro_disco.energy.pattern import Pattern, check_some_observed
from numpyro_disco.energy.sampling import MIN_PARTICLES, require_convergence
from numpyro_disco.tempering.settings import TemperingSettings


def sample_conditional(
    rng_key: Array,
    prior: EnergyDistribution,
    observed: Any,
    num_samples: int = 1000,
    *,
    num_particles: int | None = None,
    rows_at_once: int = 64,
) -> Array:
    """Draw from a learned density given some of its coordinates, by tempered SMC.

    Each row has a run of its own, which starts from the reference given the same coordinates and
    chooses its own temperatures. All rows are one compiled program, which new values and other
    patterns of missing entries do not compile again. Asymptotically exact for the density of
    `prior` as `num_particles` grows.

    Args:
        rng_key: random key.
        prior: the `EnergyDistribution`.
        observed: mapping from names to numbers (or to arrays of one length, one entry a row); or an
            array (D,) or (rows, D), or a DataFrame, with NaN for what is free.
        num_samples: draws for each row.
        num_particles: particles of each run; by default `num_samples`, and at least 1024.
        rows_at_once: number of rows that run side by side; bounds memory.

    Returns:
        Array (num_samples, D), or (num_samples, rows, D), of whole vectors, with observed
        coordinates at their values.

    Raises:
        ValueError: unknown names, shapes that do not fit, or values outside their supports.
        RuntimeError: the particles of some row did not reach its conditional.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro_disco as disco
        >>> q = disco.GaussianReference(jnp.zeros(2), 9 * jnp.eye(2))
        >>> prior = disco.EnergyDistribution(lambda x: 0.5 * (x @ x), q, names=("a", "b"))
        >>> disco.sample_conditional(jax.random.key(0), prior, {"a": 0.3}, num_samples=10).shape
        (10, 2)
    """
    rng_key = check_key(rng_key)
    check_prior(prior, "Give its `distribution`.")
    num_samples = check_count(num_samples, "num_samples")
    if num_particles is None:
        num_particles = max(num_samples, MIN_PARTICLES)
    given = prior.with_clamped(prior.pattern(observed))
    rows = given.as_rows("observed")
    draws = conditional_draws(rng_key, prior, rows, num_samples, num_particles, rows_at_once)
    return draws[:, 0] if given.is_single else draws


def conditional_draws(
    rng_key: Array,
    prior: EnergyDistribution,
    rows: Pattern,
    num_samples: int,
    num_particles: int,
    rows_at_once: int = 64,
) -> Array:
    """Draw from the conditional of each row of a `Pattern`.

    Args:
        rng_key: random key.
        prior: the `EnergyDistribution`.
        rows: what is observed, clamped coordinates included, shape (rows, D).
        num_samples: draws for each row.
        num_particles: particles of each run, at least `num_samples`.
        rows_at_once: as for `sample_conditional`.

    Returns:
        Array (num_samples, rows, D).
    """
    check_count(rows_at_once, "rows_at_once")
    if check_count(num_particles, "num_particles", minimum=2) < num_samples:
        raise ValueError(
            f"Expected at least as many `num_particles` as draws, which are {num_samples}; got "
            f"{num_particles}."
        )
    num_rows, dimension = rows.values.shape
    if num_rows == 0:
        return jnp.zeros((num_samples, 0, dimension), prior.loc.dtype)
    keys = jax.random.split(rng_key, num_rows)
    settings = TemperingSettings(num_particles=num_particles)
    draws, result = prior.draw_conditionals(keys, rows, num_samples, settings, rows_at_once)
    return require_convergence(draws, result, axis=1)


class LogMarginal(NamedTuple):
    """Log density of the observed part of each row, with the free coordinates integrated out."""

    log_density: Array
    """Log density in nats, in the user's units, shape (rows,), or () for one row."""
    error: Array
    """Standard error of `log_density`, including that of the shared log Z."""
    shared_error: Array
    """Standard error of log Z, shape (). All rows share it, so it cancels in their differences."""


def log_marginal(
    rng_key: Array,
    prior: EnergyDistribution,
    observed: Any,
    *,
    num_particles: int = 512,
    num_chains: int = 8,
    rows_at_once: int = 64,
) -> LogMarginal:
    r"""Log density of the observed part of each row, by tempered SMC.

    .. math:: \log p(x_o) = \log \int \exp(-E(x_o, x_f)) \, dx_f - \log Z

    with x_o the observed and x_f the free coordinates. Both terms are estimated by independent
    tempered runs from the reference, whose own integral is known. Consistent as the number of
    particles grows; the standard error comes from the spread between runs. Differences between rows
    compare them (outliers, Bayes factors), and two calls with one row give
    log p(a | b) = log p(a, b) - log p(b).

    Args:
        rng_key: random key.
        prior: the `EnergyDistribution`. Its log Z is used if it is normalised, and estimated here
            otherwise. For a clamped prior, the result is the density given what is clamped.
        observed: as for `sample_conditional`, with at least one number in every row.
        num_particles: particles of each run.
        num_chains: independent runs for each row, at least 2.
        rows_at_once: as for `sample_conditional`.

    Returns:
        A `LogMarginal`.

    Raises:
        ValueError: unknown names, shapes that do not fit, values outside their supports, or a row
            without an observation.
        RuntimeError: the particles of some row did not reach its conditional.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro_disco as disco
        >>> q = disco.GaussianReference(jnp.zeros(2), 9 * jnp.eye(2))
        >>> prior = disco.EnergyDistribution(lambda x: 0.5 * (x @ x), q, names=("a", "b"))
        >>> disco.log_marginal(jax.random.key(0), prior, {"a": [0.3, 2.0]}).log_density.shape
        (2,)
    """
    rng_key = check_key(rng_key)
    check_prior(prior, "Give its `distribution`.")
    check_count(num_chains, "num_chains", minimum=2)
    check_count(rows_at_once, "rows_at_once")
    given = prior.with_clamped(prior.pattern(observed))
    rows = given.as_rows("observed")
    if prior.batch_shape != ():
        raise ValueError(
            f"Expected a `prior` over one vector; got one clamped to a batch of shape "
            f"{prior.batch_shape}. Give all that is known in `observed`."
        )
    new = np.asarray(rows.observed) & ~np.asarray(prior.observed)
    check_some_observed(new)
    row_key, normalizer_key = jax.random.split(rng_key)
    if prior.log_normalizer is None:
        prior = prior.normalize(normalizer_key, num_particles=max(num_particles, MIN_PARTICLES))
    assert prior.log_normalizer is not None and prior.log_normalizer_error is not None
    integral, error = log_integrals(row_key, prior, rows, num_particles, num_chains, rows_at_once)
    # The integral is a density of the observed coordinates in unconstrained space.
    values = jnp.asarray(rows.values, prior.loc.dtype)
    log_density = integral - prior.log_dets(values, new) - prior.log_normalizer
    error = jnp.hypot(error, prior.log_normalizer_error)
    if given.is_single:
        log_density, error = log_density[0], error[0]
    return LogMarginal(log_density, error, prior.log_normalizer_error)


def log_integrals(
    rng_key: Array,
    prior: EnergyDistribution,
    rows: Pattern,
    num_particles: int,
    num_chains: int,
    rows_at_once: int = 64,
) -> tuple[Array, Array]:
    """Log of the integral of exp(-E) over the free coordinates of each row, and its standard error.

    The integral is over unconstrained coordinates.

    Args:
        rng_key: random key.
        prior: the `EnergyDistribution`.
        rows: what is observed, clamped coordinates included, shape (rows, D).
        num_particles: particles of each run.
        num_chains: independent runs for each row; the error of a single run is NaN.
        rows_at_once: as for `sample_conditional`.

    Returns:
        Two arrays of shape (rows,).
    """
    repeated = rows.select(np.repeat(np.arange(len(rows.values)), num_chains))
    keys = jax.random.split(rng_key, len(repeated.values))
    settings = TemperingSettings(num_particles=num_particles)
    _, result = prior.draw_conditionals(keys, repeated, 1, settings, rows_at_once)
    estimates = require_convergence(result.log_normalizer, result, axis=0)
    return log_mean(estimates.reshape(-1, num_chains))
