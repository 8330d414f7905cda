"""Multiple imputation: missing entries of a data set, drawn from a learned prior."""

from __future__ import annotations

from typing import Any

import numpy as np

from numpyro_disco._arviz import tables_to_arviz
from numpyro_disco._checks import check_count, check_key
from numpyro_disco._typing import Array
from numpyro_disco.energy.conditionals import draw_conditionals
from numpyro_disco.energy.distribution import EnergyDistribution, check_prior
from numpyro_disco.energy.drawing import particles_for
from numpyro_disco.energy.pattern import Pattern
from numpyro_disco.tables.reading import by_name, is_frame
from numpyro_disco.tables.writing import Filling, filled_frame

MIN_PARTICLES = 256
"""Fewest particles of a row's tempered run, even if only a few of them are kept as draws."""
OUTPUTS = (None, "array", "arviz")


def impute(
    rng_key: Array,
    prior: EnergyDistribution,
    data: Any,
    num_imputations: int = 20,
    *,
    num_particles: int | None = None,
    rows_at_once: int = 64,
    output: str | None = None,
    return_info: bool = False,
) -> Any:
    """Fill missing entries with draws from the learned density given the entries that are there.

    Rows are independent given the prior; the missing entries of one row are drawn jointly. This is
    multiple imputation: analyse each completed copy, and pool the results. To let the likelihood of
    a model inform the missing entries as well, use `numpyro_disco.sample(name, prior, obs=data)`
    inside it. Rows are drawn as by `sample_conditional`: asymptotically exact for the density of
    `prior` as `num_particles` grows.

    Args:
        rng_key: random key.
        prior: the `EnergyDistribution`.
        data: array (rows, D) with NaN where missing, a DataFrame of pandas, polars or pyarrow, or
            anything else with names, such as a dict of columns. A DataFrame needs a column for each
            coordinate and may have others.
        num_imputations: number of completed copies.
        num_particles: as for `sample_conditional`; by default `num_imputations`, rounded up to 256
            times a power of two.
        rows_at_once: as for `sample_conditional`.
        output: by default a DataFrame gives DataFrames and anything else an array. "array" asks for
            an array, "arviz" for an ArviZ object with the variable "table", whose rows and columns
            are labelled.
        return_info: also return a `DrawInfo`.

    Returns:
        A list of `num_imputations` DataFrames of the same library with the index, the dtypes and
        the columns of `data`, in which only missing entries have changed; or an array
        (num_imputations, rows, D) in the prior's precision, for a prior over variables a dict of
        arrays (num_imputations, rows) + shape; or an ArviZ object. With `return_info`, a pair of
        one of these and a `DrawInfo`: how each row was drawn, and how many of its draws are
        distinct.

    Raises:
        ValueError: unknown names, shapes that do not fit, or values outside their supports.
        RuntimeError: the particles of some row did not reach its conditional.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro_disco as disco
        >>> q = disco.GaussianReference(jnp.zeros(2), 9 * jnp.eye(2))
        >>> prior = disco.EnergyDistribution(lambda x: 0.5 * (x @ x), q, names=("a", "b"))
        >>> data = jnp.array([[0.1, jnp.nan], [jnp.nan, 2.0], [0.5, 0.7]])
        >>> disco.impute(jax.random.key(0), prior, data, num_imputations=4).shape
        (4, 3, 2)
    """
    rng_key = check_key(rng_key)
    check_prior(prior)
    check_count(num_imputations, "num_imputations")
    if output not in OUTPUTS:
        raise ValueError(f"Expected 'array' or 'arviz' for `output`; got {output!r}.")
    given = _known_entries(prior, data)
    if given.values.ndim != 2:
        raise ValueError(f"Expected shape (rows, D) for `data`; got {given.values.shape}.")
    rows = prior.with_clamped(given).as_rows("data")
    if len(rows.values) != len(given.values):
        raise ValueError(
            f"Expected one row of `data` for each of the {len(rows.values)} vectors to which "
            f"`prior` is clamped; got {len(given.values)}. Give all that is known in `data`."
        )
    if num_particles is None:
        num_particles = particles_for(num_imputations, MIN_PARTICLES)
    result = draw_conditionals(rng_key, prior, rows, num_imputations, num_particles, rows_at_once)
    filled: Any
    if output == "arviz":
        filled = tables_to_arviz(result.draws, prior.names, given.labels)
    elif is_frame(data) and output is None:
        filled = [_completed(data, prior, given, one) for one in np.asarray(result.draws)]
    else:
        filled = prior.from_vectors(result.draws)
    return (filled, result.info) if return_info else filled


def _known_entries(prior: EnergyDistribution, data: Any) -> Pattern:
    """The entries of a table; a data frame may have other columns as well."""
    if not is_frame(data):
        return prior.pattern(data, "data")
    named = by_name(data, "data")
    assert named is not None
    missing = sorted(set(prior.names) - set(named.entries))
    if missing:
        raise ValueError(
            f"Expected a DataFrame with the columns {prior.names} for `data`; got one without "
            f"{missing}. Rename its columns, or add a column of NaN for a coordinate that is "
            "missing in every row."
        )
    known = {name: named.entries[name] for name in prior.names}
    return prior.pattern(named._replace(entries=known), "data")


def _completed(frame: Any, prior: EnergyDistribution, given: Pattern, draw: np.ndarray) -> Any:
    """A copy of a data frame whose missing entries are those of `draw` (rows, D)."""
    return filled_frame(
        frame,
        {
            name: Filling(column, ~given.observed[:, place], draw[:, place])
            for place, (name, column) in enumerate(zip(prior.names, prior.columns, strict=True))
        },
    )
