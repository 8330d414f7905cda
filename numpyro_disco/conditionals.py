"""Draws of conditionals, without a model around them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco._checks import check_count, check_key, observed_values
from numpyro_disco._typing import Array
from numpyro_disco.distributions import EnergyDistribution, check_prior
from numpyro_disco.sampling import MIN_PARTICLES, poisoned
from numpyro_disco.tempering_settings import TemperingSettings

MIN_IMPUTE_PARTICLES = 256
"""Particles for a row of which fewer imputations are asked for."""


def sample_conditional(
    rng_key: Array,
    prior: EnergyDistribution,
    observed: Any,
    num_samples: int = 1000,
    *,
    num_particles: int | None = None,
    batch_size: int = 64,
) -> Array:
    """Draws of a learned density given some coordinates, by tempered SMC.

    Each row has a run of its own, from the reference given the same coordinates, and finds its own
    path; all rows are one compiled program, which other values and other holes do not compile
    again. Asymptotically exact for the density of `prior` as `num_particles` grows.

    Args:
        rng_key: random key.
        prior: the `EnergyDistribution`.
        observed: mapping from names to numbers (or to arrays of one length, one entry a row); or an
            array (D,) or (rows, D), or a DataFrame, with NaN for what is free.
        num_samples: draws for each row.
        num_particles: particles of each run; by default `num_samples`, and at least 1024.
        batch_size: rows that are run side by side; bounds memory.

    Returns:
        Array (num_samples, D), or (num_samples, rows, D): whole vectors, observed coordinates at
        their values.

    Raises:
        ValueError: unknown names or shapes that do not fit.
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
    elif check_count(num_particles, "num_particles", minimum=2) < num_samples:
        raise ValueError(
            f"Expected at least `num_samples` = {num_samples} particles; got {num_particles}."
        )
    values, mask = observed_values(observed, prior.names)
    prior._check_inside(values, mask)
    values = jnp.asarray(values, prior.loc.dtype)
    if prior.values is not None:
        clamped = np.asarray(prior.observed)
        values, mask = jnp.where(clamped & ~mask, prior.values, values), mask | clamped
    values, mask = jnp.broadcast_arrays(values, mask)
    if values.ndim > 2:
        raise ValueError(f"Expected (D,) or (rows, D) for `observed`; got shape {values.shape}.")
    rows, masks = jnp.atleast_2d(values), jnp.atleast_2d(mask)
    if len(rows) == 0:
        return jnp.zeros((num_samples, 0, len(prior.names)), values.dtype)
    draws, result = prior._draw(
        jax.random.split(rng_key, len(rows)),
        rows,
        masks,
        num_samples,
        TemperingSettings(num_particles=num_particles),
        check_count(batch_size, "batch_size"),
    )
    draws = poisoned(draws, result, axis=1)
    return draws[:, 0] if values.ndim == 1 else draws


def impute(
    rng_key: Array,
    prior: EnergyDistribution,
    table: Any,
    num_imputations: int = 20,
    *,
    num_particles: int | None = None,
    batch_size: int = 64,
) -> Array:
    """Completed copies of a table: holes drawn from the learned density given what is there.

    Rows are independent given the prior; within a row, holes are drawn jointly. This is multiple
    imputation: analyse each copy, and pool. To let a model's own likelihood inform the holes as
    well, use `numpyro_disco.sample(name, prior, obs=table)` inside it.

    Args:
        rng_key: random key.
        prior: the `EnergyDistribution`.
        table: array (rows, D) with NaN where missing, a DataFrame, or a dict of columns.
        num_imputations: how many completed copies.
        num_particles: particles of each row's run; by default `num_imputations`, and at least 256:
            few draws of each row are kept.
        batch_size: as for `sample_conditional`.

    Returns:
        Array (num_imputations, rows, D); entries that are there come back as they were.

    Raises:
        ValueError: unknown names or shapes that do not fit.
        RuntimeError: the particles of some row did not reach its conditional.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro_disco as disco
        >>> q = disco.GaussianReference(jnp.zeros(2), 9 * jnp.eye(2))
        >>> prior = disco.EnergyDistribution(lambda x: 0.5 * (x @ x), q, names=("a", "b"))
        >>> table = jnp.array([[0.1, jnp.nan], [jnp.nan, 2.0], [0.5, 0.7]])
        >>> disco.impute(jax.random.key(0), prior, table, num_imputations=4).shape
        (4, 3, 2)
    """
    check_prior(prior, "Give its `distribution`.")
    check_count(num_imputations, "num_imputations")
    values, mask = observed_values(table, prior.names, "table")
    if values.ndim != 2:
        raise ValueError(f"Expected shape (rows, D) for `table`; got {values.shape}.")
    if num_particles is None:
        num_particles = max(num_imputations, MIN_IMPUTE_PARTICLES)
    return sample_conditional(
        rng_key,
        prior,
        jnp.where(mask, values, jnp.nan),
        num_imputations,
        num_particles=num_particles,
        batch_size=batch_size,
    )
