"""Draws of conditionals, without a model around them."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco._checks import check_count, check_key, observed_values, row_labels
from numpyro_disco._statistics import log_mean
from numpyro_disco._typing import Array
from numpyro_disco.energy.distribution import EnergyDistribution, check_prior
from numpyro_disco.energy.sampling import MIN_PARTICLES, poisoned
from numpyro_disco.tempering.settings import TemperingSettings

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
    rows, masks, single = given_rows(prior, observed, "observed")
    if len(rows) == 0:
        return jnp.zeros((num_samples, 0, len(prior.names)), rows.dtype)
    draws, result = prior.draw_conditionals(
        jax.random.split(rng_key, len(rows)),
        rows,
        masks,
        num_samples,
        TemperingSettings(num_particles=num_particles),
        check_count(batch_size, "batch_size"),
    )
    draws = poisoned(draws, result, axis=1)
    return draws[:, 0] if single else draws


def given_rows(
    prior: EnergyDistribution, observed: Any, argument: str
) -> tuple[Array, Array, bool]:
    """Values and which are observed, (rows, D) each, and whether it was one row without an axis.

    What `prior` has clamped is observed in every row.
    """
    values, mask = observed_values(observed, prior.names, argument)
    prior.check_inside(values, mask, argument)
    values = jnp.asarray(values, prior.loc.dtype)
    if prior.values is not None:
        clamped = np.asarray(prior.observed)
        values, mask = jnp.where(clamped & ~mask, prior.values, values), mask | clamped
    values, mask = jnp.broadcast_arrays(values, mask)
    if values.ndim > 2:
        raise ValueError(f"Expected (D,) or (rows, D) for `{argument}`; got shape {values.shape}.")
    return jnp.atleast_2d(values), jnp.atleast_2d(mask), values.ndim == 1


def refuse_empty_rows(seen: np.ndarray) -> None:
    """Refuse rows (rows, D) of which nothing is observed."""
    some = seen.any(axis=1)
    if not some.all():
        raise ValueError(
            "Expected at least one number in every row of `observed`; row "
            f"{int(np.argmin(some))} has none."
        )


class LogMarginal(NamedTuple):
    """Log densities of what is observed in each row, the rest integrated out."""

    log_density: Array
    """Nats, in the user's units, shape (rows,), or () for one row."""
    error: Array
    """Standard error, that of the shared log Z included."""
    shared_error: Array
    """That of log Z, shape (): the same for all rows, it cancels in their differences."""


def log_marginal(
    rng_key: Array,
    prior: EnergyDistribution,
    observed: Any,
    *,
    num_particles: int = 512,
    num_runs: int = 8,
    batch_size: int = 64,
) -> LogMarginal:
    r"""Log density of the observed part of each row, by tempered SMC.

    log p(x_o) = log \int exp(-E(x_o, x_f)) dx_f - log Z, both by independent tempered runs from
    the reference, whose own integral is known. Consistent as particles grow; the error comes from
    the spread of the runs. Differences between rows compare them (outliers, Bayes factors); with
    one row, twice, log p(a | b) = log p(a, b) - log p(b).

    Args:
        rng_key: random key.
        prior: the `EnergyDistribution`. Once normalised, its log Z is taken; otherwise it is
            estimated here. Of a clamped one, the density given what is clamped.
        observed: as for `sample_conditional`, at least one number in every row.
        num_particles: particles of each run.
        num_runs: independent runs for each row, at least 2.
        batch_size: as for `sample_conditional`.

    Returns:
        A `LogMarginal`.

    Raises:
        ValueError: unknown names, shapes that do not fit, or a row without an observation.
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
    check_count(num_runs, "num_runs", minimum=2)
    rows, masks, single = given_rows(prior, observed, "observed")
    if prior.batch_shape != ():
        raise ValueError(
            f"Expected a `prior` of one vector; got one clamped to a batch of {prior.batch_shape}. "
            "Give all that is known in `observed`."
        )
    new = np.asarray(masks) & ~np.asarray(prior.observed)
    refuse_empty_rows(new)
    row_key, normalizer_key = jax.random.split(rng_key)
    if prior.log_normalizer is None:
        prior = prior.normalize(normalizer_key, num_particles=max(num_particles, MIN_PARTICLES))
    assert prior.log_normalizer is not None and prior.log_normalizer_error is not None
    integral, error = log_integrals(
        row_key, prior, rows, masks, num_particles, num_runs, check_count(batch_size, "batch_size")
    )
    # The integral is over unconstrained coordinates, and a density of those observed in them.
    shared = prior.log_normalizer_error
    log_density = integral - prior.log_dets(rows, new) - prior.log_normalizer
    result = LogMarginal(log_density, jnp.hypot(error, shared), shared)
    return LogMarginal(result[0][0], result[1][0], shared) if single else result


def log_integrals(
    rng_key: Array,
    prior: EnergyDistribution,
    rows: Array,
    observed: Array,
    num_particles: int,
    num_runs: int,
    batch_size: int = 64,
) -> tuple[Array, Array]:
    """Log of the integral of exp(-E) over what is free in each row, and its standard error.

    Over unconstrained coordinates; the error of one run is NaN.
    """
    rows, observed = (jnp.repeat(array, num_runs, axis=0) for array in (rows, observed))
    settings = TemperingSettings(num_particles=num_particles)
    keys = jax.random.split(rng_key, len(rows))
    _, result = prior.draw_conditionals(keys, rows, observed, 1, settings, batch_size)
    estimates = poisoned(result.log_normalizer, result, axis=0).reshape(-1, num_runs)
    return log_mean(estimates)


def impute(
    rng_key: Array,
    prior: EnergyDistribution,
    table: Any,
    num_imputations: int = 20,
    *,
    num_particles: int | None = None,
    batch_size: int = 64,
    like: Any = None,
) -> Any:
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
        like: what to return: by default an array; a DataFrame for a list of DataFrames with its
            index and its columns, those that the prior does not know left as they are; "arviz" for
            an ArviZ object that holds the variable "table" with labelled rows and columns.

    Returns:
        Array (num_imputations, rows, D), or as `like` says; entries that are there come back as
        they were.

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
    if isinstance(like, str) and like != "arviz":
        raise ValueError(f"Expected a DataFrame or 'arviz' for `like`; got {like!r}.")
    if like is not None and not isinstance(like, str):
        _check_frame(like, prior, values)
    filled = sample_conditional(
        rng_key,
        prior,
        jnp.where(mask, values, jnp.nan),
        num_imputations,
        num_particles=num_particles,
        batch_size=batch_size,
    )
    if isinstance(like, str):
        from numpyro_disco._arviz import tables_to_arviz

        return tables_to_arviz(filled, prior.names, row_labels(table))
    if like is None:
        return filled
    labels, frames = {str(label): label for label in like.columns}, []
    for one in np.asarray(filled):
        completed = like.copy()
        for name, column, seen, known in zip(prior.names, one.T, mask.T, values.T, strict=True):
            # What was there comes back to the last bit, also where draws are in single precision.
            completed[labels[name]] = np.where(seen, known, column)
        frames.append(completed)
    return frames


def _check_frame(like: Any, prior: EnergyDistribution, values: np.ndarray) -> None:
    """Refuse what is no DataFrame into which completed tables fit."""
    if not (hasattr(like, "columns") and hasattr(like, "index")):
        raise ValueError(f"Expected a DataFrame or 'arviz' for `like`; got {type(like).__name__}.")
    unknown = sorted(set(prior.names) - {str(column) for column in like.columns})
    if unknown or len(like) != len(values):
        raise ValueError(
            f"Expected a DataFrame `like` the table, {len(values)} rows with the columns "
            f"{prior.names}; got {len(like)} rows" + (f", without {unknown}." if unknown else ".")
        )
