"""Conditional draws and marginal densities of a learned prior, without a model around it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco._checks import check_count, check_key
from numpyro_disco._typing import Array
from numpyro_disco.energy.distribution import EnergyDistribution, check_prior
from numpyro_disco.energy.drawing import (
    MIN_PARTICLES,
    DrawInfo,
    Request,
    RowDraws,
    particles_for,
)
from numpyro_disco.energy.pattern import Pattern, check_some_observed


def sample_conditional(
    rng_key: Array,
    prior: EnergyDistribution,
    observed: Any,
    num_samples: int = 1000,
    *,
    num_particles: int | None = None,
    rows_at_once: int = 64,
    return_info: bool = False,
) -> Any:
    """Draw from a learned density given some of its coordinates.

    Each row is drawn by the quickest way that is exact enough:

    - *exact*: independent draws, if nothing is observed and the energy was learned by
      `Likelihood`, a normalised density;
    - *importance*: points of the reference given the same coordinates are weighted by the energy
      and resampled, if their effective number is at least twice `num_samples`, and at least 200;
      their Pareto k is at most 0.7 (with free discrete coordinates, it is enough that the ten
      largest hold at most 10 % of the sum of squares); and at most 1 % of the draws are expected to
      be copies of another.
    - *tempering*: otherwise by tempered SMC from the reference, one run for each row, which chooses
      its own temperatures.

    All rows are one compiled program, which new values, other patterns of missing entries and
    other numbers of rows do not compile again; tempering, if some row needs it, is a second one.
    Asymptotically exact for the density of `prior` as the number of points and particles grows.

    Args:
        rng_key: random key.
        prior: the `EnergyDistribution`.
        observed: mapping from names to numbers (or to arrays of one length, one entry a row); or an
            array (D,) or (rows, D), or a DataFrame, with NaN for what is free. For a prior over
            variables, a mapping from names of variables to arrays of their shape, or (rows,) +
            shape, or from names of elements, "b[0]", to numbers.
        num_samples: draws for each row.
        num_particles: particles of each tempered run, and the scale of the number of points, of
            which there are at most 64 times as many; by default `num_samples`, rounded up to
            1024 times a power of two.
        rows_at_once: number of rows that are worked on together; bounds memory.
        return_info: also return a `DrawInfo`.

    Returns:
        Array (num_samples, D), or (num_samples, rows, D), of whole vectors, with observed
        coordinates at their values; for a prior over variables a dict of arrays
        (num_samples,) + shape, or (num_samples, rows) + shape. With `return_info`, a pair of these
        draws and a `DrawInfo`: how each row was drawn, and how many of its draws are distinct.
        Inside a compiled function every row is tempered, and the second is None.

    Raises:
        ValueError: unknown names, shapes that do not fit, or values outside their supports.
        RuntimeError: the particles of some row did not reach its conditional.

    References:
        Rubin 1988 (sampling importance resampling); Vehtari et al. 2024 (Pareto k).

    Example:
        >>> import jax, jax.numpy as jnp, numpyro_disco as disco
        >>> q = disco.GaussianReference(jnp.zeros(2), 9 * jnp.eye(2))
        >>> prior = disco.EnergyDistribution(lambda x: 0.5 * (x @ x), q, names=("a", "b"))
        >>> disco.sample_conditional(jax.random.key(0), prior, {"a": 0.3}, num_samples=10).shape
        (10, 2)
    """
    rng_key = check_key(rng_key)
    check_prior(prior)
    num_samples = check_count(num_samples, "num_samples")
    if num_particles is None:
        num_particles = particles_for(num_samples)
    given = prior.with_clamped(prior.pattern(observed))
    rows = given.as_rows("observed")
    result = draw_conditionals(rng_key, prior, rows, num_samples, num_particles, rows_at_once)
    draws: Any = result.draws[:, 0] if given.is_single else result.draws
    draws = prior.from_vectors(draws)
    return (draws, result.info) if return_info else draws


def draw_conditionals(
    rng_key: Array,
    prior: EnergyDistribution,
    rows: Pattern,
    num_samples: int,
    num_particles: int,
    rows_at_once: int = 64,
) -> RowDraws:
    """Draw from the conditional of each row of a `Pattern`.

    Args:
        rng_key: random key.
        prior: the `EnergyDistribution`.
        rows: what is observed, clamped coordinates included, shape (rows, D).
        num_samples: draws for each row.
        num_particles: particles of each tempered run, at least `num_samples`.
        rows_at_once: as for `sample_conditional`.
    """
    check_count(rows_at_once, "rows_at_once")
    if check_count(num_particles, "num_particles", minimum=2) < num_samples:
        raise ValueError(
            f"Expected at least as many `num_particles` as draws, which are {num_samples}; got "
            f"{num_particles}."
        )
    request = Request(num_samples, num_particles, rows_at_once=rows_at_once)
    return prior.draw_rows(rng_key, rows, request)


class LogMarginal(NamedTuple):
    """Log density of the observed part of each row, with the free coordinates integrated out."""

    log_density: Array
    """Log density in nats, in the user's units, shape (rows,), or () for one row."""
    error: Array
    """Standard error of `log_density`, including that of the shared log Z."""
    shared_error: Array
    """Standard error of log Z, shape (). All rows share it, so it cancels in their differences."""
    info: DrawInfo | None
    """Method by which each integral was estimated; None inside a compiled function."""


def log_marginal(
    rng_key: Array,
    prior: EnergyDistribution,
    observed: Any,
    *,
    num_particles: int = 512,
    num_chains: int = 8,
    rows_at_once: int = 64,
) -> LogMarginal:
    r"""Log density of the observed part of each row.

    .. math:: \log p(x_o) = \log \int \exp(-E(x_o, x_f)) \, dx_f - \log Z

    with x_o the observed and x_f the free coordinates; free discrete coordinates are summed over,
    and observed ones contribute a mass. Both terms are the mean weights of draws of
    the reference, whose own integral is known, where as many of them are effective as there are
    particles in all runs, and are estimated by independent tempered runs otherwise. Consistent as
    the number of particles grows; the standard error comes from the spread between runs, or between
    as many independent parts of the weighted draws. Differences between rows
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
    check_prior(prior)
    check_count(num_particles, "num_particles", minimum=2)
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
    request = Request(0, num_particles, num_chains, rows_at_once)
    result = prior.draw_rows(row_key, rows, request)
    # The integral is a density of the observed coordinates in unconstrained space.
    values = jnp.asarray(rows.values, prior.loc.dtype)
    log_density = result.log_integral - prior.log_dets(values, new) - prior.log_normalizer
    error = jnp.hypot(result.error, prior.log_normalizer_error)
    if given.is_single:
        log_density, error = log_density[0], error[0]
    return LogMarginal(log_density, error, prior.log_normalizer_error, result.info)
