"""Learned priors as sample sites of a NumPyro model.

`sample(name, prior)` makes one scalar site for each coordinate, "name.a", "name.b", ..., which
NumPyro's handlers treat like any other site, and one factor, "name.log_prob", which holds the joint
log density. `sample(name, prior, obs=table)` makes the missing entries of a table latent.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro

from numpyro_disco._numpyro import (
    active_handlers,
    active_plates,
    handlers_that_observe,
    only_handlers,
)
from numpyro_disco._typing import Array, ArrayLike
from numpyro_disco.energy.distribution import EnergyDistribution
from numpyro_disco.energy.guard import not_latent
from numpyro_disco.models.coordinate import Coordinate
from numpyro_disco.models.discrete import DiscreteCoordinate, RowLevels
from numpyro_disco.models.missing import MissingEntries, PaddedEntries


def sample(
    name: str,
    prior: EnergyDistribution,
    *,
    obs: Any = None,
    padded: bool | None = None,
    deterministic: bool = False,
) -> Array:
    """Sample a vector from a learned prior, with one site for each coordinate.

    The sites are called "name.coordinate", where coordinates are called "0", "1", ... by default.
    NumPyro's `condition`, `substitute`, `block`, `do` and `Predictive` work on them, and so do
    plates, which have one vector for each member. A clamped coordinate has no site. The joint log
    density is the factor "name.log_prob". An energy has no direction, so `do` on a coordinate does
    what `condition` does.

    With `obs`, each row of the table is an observation of the prior and each missing entry (NaN) is
    latent. All missing entries form one vector site, "name.missing", in the order of the table.
    `numpyro_disco.to_arviz` labels them by row and column.

    In compiled code (`TemperedSMC` compiles the arguments of a model, `MCMC` does so with
    `jit_model_args=True`) and under a subsampling plate, neither the values of a table nor the
    positions of its missing entries are known. There "name.missing" has a value for *every* entry.
    The values for observed entries are padding: independent standardised normals, which change
    neither the evidence nor the posterior of anything else. Tables with other missing entries do
    not compile again.

    Args:
        name: prefix of the names of the sites.
        prior: an `EnergyDistribution` over D coordinates.
        obs: an array of shape (..., D) with NaN where entries are missing, a DataFrame, or a dict
            of columns. The axes before the last are independent rows, inside plates of that shape
            or outside any plate.
        padded: True pads "name.missing". By default it is padded if the table is traced or a plate
            subsamples. Pass True if the model runs with a concrete table first and with a traced
            one later, as under `MCMC(..., jit_model_args=True)`.
        deterministic: also record the whole vectors as the deterministic site "name".

    Returns:
        The vector, shape (..., D), plate axes first. With `obs`, the completed table.

    Raises:
        ValueError: A handler names a site that does not exist, or `obs` does not fit the plates
            around it or the supports of the prior.
        NotImplementedError: The model is run forward, and a coordinate would have to be drawn.

    Example:
        >>> import jax.numpy as jnp, numpyro_disco as disco
        >>> q = disco.GaussianReference(jnp.zeros(2), 9 * jnp.eye(2))
        >>> prior = disco.EnergyDistribution(lambda x: 0.5 * (x @ x), q, names=("a", "b"))
        >>> disco.sample("x", prior, obs=jnp.array([[0.1, 0.2]])).shape
        (1, 2)
    """
    if not isinstance(prior, EnergyDistribution):
        raise ValueError(
            f"Expected an `EnergyDistribution` for `prior`; got {type(prior).__name__}. For other "
            "distributions use `numpyro.sample`."
        )
    if deterministic:
        return numpyro.deterministic(name, sample(name, prior, obs=obs, padded=padded))
    if obs is not None:
        return _sample_table(name, prior, obs, padded)
    return _sample_vector(name, prior)


def site_values(name: str, prior: EnergyDistribution, x: ArrayLike) -> dict[str, Array]:
    """Split vectors into a dict of coordinate sites.

    The dict is what `Predictive`, `substitute` and `init_to_value` take.

    Args:
        name: the name given to `sample`.
        prior: the distribution given to `sample`.
        x: array of shape (..., D).

    Returns:
        A dict from "name.coordinate" to an array of shape (...), without clamped coordinates.

    Example:
        >>> import jax.numpy as jnp, numpyro_disco as disco
        >>> q = disco.GaussianReference(jnp.zeros(2), 9 * jnp.eye(2))
        >>> prior = disco.EnergyDistribution(lambda x: 0.5 * (x @ x), q, names=("a", "b"))
        >>> {key: v.shape for key, v in disco.site_values("x", prior, jnp.ones((5, 2))).items()}
        {'x.a': (5,), 'x.b': (5,)}
    """
    x = prior.points(x)
    return {
        f"{name}.{coordinate}": x[..., index]
        for index, coordinate in enumerate(prior.names)
        if not prior.observed[index]
    }


# -- one vector --------------------------------------------------------------------------------


def _sample_vector(name: str, prior: EnergyDistribution) -> Array:
    """One site for each free coordinate, and their joint factor."""
    free = [c for c, clamped in zip(prior.names, prior.observed, strict=True) if not clamped]
    _check_handlers(name, [f"{name}.{coordinate}" for coordinate in free])
    values: list[Any] = []
    for index, (coordinate, clamped) in enumerate(zip(prior.names, prior.observed, strict=True)):
        if clamped:
            assert prior.values is not None
            values.append(prior.values[..., index])
        else:
            values.append(_sample_coordinate(f"{name}.{coordinate}", prior, index))
    x = jnp.stack(jnp.broadcast_arrays(*values), axis=-1)
    numpyro.factor(f"{name}.log_prob", prior.log_prob(x))
    return x


def _sample_coordinate(site: str, prior: EnergyDistribution, index: int) -> Any:
    """The value of a coordinate's site, which is latent or given by `condition` or `do`."""
    given = [(h, scoped) for h, scoped in handlers_that_observe(site) if scoped in h.data]
    discrete = bool(prior.coordinate_supports.discrete[index])
    # An observed level has no need to be one that can be enumerated.
    coordinate = (
        DiscreteCoordinate(prior, index, latent=not given) if discrete else Coordinate(prior, index)
    )
    # `do` keeps the site itself as a latent on which nothing depends. That is harmless for a site
    # with a density, but a coordinate has none: the latent would be flat and cannot be sampled.
    done = [h.data[scoped] for h, scoped in given if isinstance(h, numpyro.handlers.do)]
    value = numpyro.sample(site, coordinate, obs=done[0] if done else None)
    if not given:
        return value
    if jnp.ndim(value) > len(coordinate.batch_shape) and not active_plates():
        raise ValueError(
            f"Expected one number for {site!r}; got an array of shape {jnp.shape(value)}. For many "
            "vectors put `sample` into a plate of that size, or give it a table, `obs=`."
        )
    if not isinstance(value, jax.core.Tracer):
        with jax.ensure_compile_time_eval():
            inside = coordinate.support(jnp.asarray(value)).all()
        if not bool(inside):
            raise ValueError(
                f"Expected finite numbers inside the support of {site!r}, "
                f"{coordinate.support!r}; got {value}. Leave out what is not known, or give rows "
                "with missing entries to `sample(name, prior, obs=rows)`."
            )
    # Conditioning on something inferred would need the normaliser of the remaining coordinates.
    return not_latent(jnp.asarray(value, coordinate.prior.loc.dtype))


def _check_handlers(name: str, known: list[str]) -> None:
    """Refuse a handler that names a site which does not exist; NumPyro would ignore it.

    Only `condition` and `do` hold what a user observes. `substitute` also holds what NumPyro puts
    there itself, such as the parameters of guides and deterministic sites.
    """
    for handler, scoped in handlers_that_observe(name):
        prefix = scoped.removesuffix(name)
        sites = {prefix + site for site in known}
        for site in handler.data:
            if site not in sites and (site == scoped or site.startswith(f"{scoped}.")):
                raise ValueError(
                    f"`{type(handler).__name__}` names {site!r}, which is not a site of {name!r}: "
                    f"its sites are {sorted(sites)}, one for each free coordinate. If it is a site "
                    f"of your own, give it a name that does not start with '{name}.'."
                )


# -- tables ------------------------------------------------------------------------------------


def _sample_table(name: str, prior: EnergyDistribution, obs: Any, padded: bool | None) -> Array:
    """The missing entries of a table as one site, and the completed table."""
    pattern = prior.pattern(obs, "obs")
    observed = pattern.observed
    if any(prior.observed):
        raise ValueError("Expected an unclamped prior with `obs`: put the values into the table.")
    _check_handlers(name, [f"{name}.missing", f"{name}.levels"])
    # Under `jit` a conversion by JAX would trace concrete values.
    convert = jnp.asarray if isinstance(pattern.values, jax.core.Tracer) else np.asarray
    values: Any = convert(pattern.values, prior.loc.dtype)
    traced = isinstance(observed, jax.core.Tracer)
    subsampled = any(plate.subsample_size != plate.size for plate in active_plates())
    if padded is False and (traced or subsampled):
        raise ValueError(
            "Expected a concrete table for `obs`, outside subsampling plates, with "
            "`padded=False`: compiled code has to know which entries are missing."
        )
    if padded or traced or subsampled:
        if prior.coordinate_supports.discrete.any():
            raise NotImplementedError(
                f"The table of {name!r} has discrete columns, whose missing entries have to be "
                "known when the model is compiled. Give the table as a constant of the model "
                "instead of as an argument, without `padded=True` and subsampling."
            )
        return _sample_padded(name, PaddedEntries(prior, values, jnp.asarray(observed)), padded)
    _check_plates(values.shape, prior)
    if (~observed & prior.coordinate_supports.discrete).any():
        return _sample_mixed_table(name, prior, values, observed, pattern.labels)
    # The missing entries of all rows are one vector, which belongs to no plate: rows differ in how
    # many they have.
    with _outside_plates():
        if observed.all():
            numpyro.factor(f"{name}.log_prob", prior.log_prob(values).sum())
            return jnp.asarray(values)
        fn = MissingEntries(prior, values, observed, pattern.labels)
        return fn.complete(numpyro.sample(f"{name}.missing", fn))


def _sample_mixed_table(
    name: str,
    prior: EnergyDistribution,
    values: Array,
    observed: np.ndarray,
    labels: tuple[str, ...] | None,
) -> Array:
    """A table with missing discrete entries: a number of a combination of levels for each row.

    They are summed out row by row, so each row has to be a member of a plate.
    """
    if not active_plates():
        missing = (~observed & prior.coordinate_supports.discrete).reshape(-1, len(prior.names))
        columns = [prior.names[place] for place in np.flatnonzero(missing.any(0))]
        raise ValueError(
            f"Expected a plate around a table whose discrete columns {columns} have missing "
            "entries, since these are summed out row by row: "
            f"`with numpyro.plate('rows', {len(values)}):`, with all that depends on the rows "
            "inside."
        )
    levels = RowLevels(prior, values, observed)
    combination = numpyro.sample(f"{name}.levels", levels)
    with _outside_plates():
        fn = MissingEntries(prior, values, observed, labels)
        table: Any = values
        if fn.places:
            table = fn.complete(numpyro.sample(f"{name}.missing", fn))
    rows = levels.complete(combination, table)
    numpyro.factor(f"{name}.log_prob", prior.log_prob(rows))
    return rows


def _sample_padded(name: str, rows: PaddedEntries, padded: bool | None) -> Array:
    """A value for every entry of a table, and the completed table."""
    # Each member of a plate has a vector of its own. Without plates the rows are one event.
    fn = rows if active_plates() else rows.to_event(len(rows.batch_shape))
    try:
        return rows.complete(numpyro.sample(f"{name}.missing", fn))
    except (TypeError, ValueError) as error:
        if padded is None:
            error.add_note(
                f"The table of {name!r} is traced. If the model was run before with a concrete "
                "one, as under `jit_model_args=True`, give `padded=True` to "
                "`numpyro_disco.sample`."
            )
        raise


def _check_plates(table_shape: tuple[int, ...], prior: EnergyDistribution) -> None:
    """Refuse a table that does not have one row for each member of the plates around it."""
    sizes = {plate.dim: plate.subsample_size for plate in active_plates()}
    shape = tuple(sizes.get(dim, 1) for dim in range(min(sizes, default=0), 0))
    if sizes and table_shape[:-1] != shape:
        raise ValueError(
            f"Expected a table of shape {(*shape, len(prior.names))} for `obs` inside plates of "
            f"shape {shape}, one row for each member; got {table_shape}."
        )


def _outside_plates() -> AbstractContextManager[None]:
    """Make sites in the body belong to no plate."""
    plates = active_plates()
    return only_handlers([handler for handler in active_handlers() if handler not in plates])
