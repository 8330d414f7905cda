"""Learned priors as sample sites of a NumPyro model.

`sample(name, prior)` makes one scalar site for each coordinate, "name.a", "name.b", ..., which
NumPyro's handlers treat like any other site, and one factor, "name.log_prob", which holds the joint
log density. `sample(name, prior, obs=table)` makes the missing entries of a table latent.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro

from numpyro_disco._checks import is_traced, known_constant, unused_name
from numpyro_disco._numpyro import (
    active_handlers,
    active_plates,
    handlers_that_observe,
    only_handlers,
)
from numpyro_disco._typing import Array, ArrayLike
from numpyro_disco.energy.distribution import EnergyDistribution
from numpyro_disco.energy.guard import not_latent
from numpyro_disco.energy.pattern import Pattern
from numpyro_disco.models.coordinate import PriorPart
from numpyro_disco.models.discrete import DiscreteCoordinate, RowLevels, refuse_scales
from numpyro_disco.models.missing import MissingEntries, PaddedEntries
from numpyro_disco.models.variables import (
    check_number,
    join,
    part_values,
    parts_of,
    refuse_elements,
    site_names,
    whole_variables,
)


def sample(
    name: str,
    prior: EnergyDistribution,
    *,
    obs: Any = None,
    padded: bool | None = None,
    deterministic: bool = False,
) -> Any:
    """Sample a vector from a learned prior, with one site for each coordinate.

    The sites are called "name.coordinate", where coordinates are called "0", "1", ... by default.
    NumPyro's `condition`, `substitute`, `block`, `do` and `Predictive` work on them, and so do
    plates, which have one vector for each member. A clamped coordinate has no site. The joint log
    density is the factor "name.log_prob", or `"name.log_prob_"` beside a coordinate "log_prob".
    An energy has no direction, so `do` on a coordinate does what `condition` does.

    A prior learned from draws of variables (`fit` on an `MCMC`, `TemperedSMC`, ArviZ object or dict
    of arrays) has one site for each variable, "name.b", of the variable's shape and support.
    `condition` and `do` also take single elements, "name.b[0]", unless the support couples them;
    the free elements of such a variable are then sites of their own, "name.b[1]".

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
        deterministic: also record the whole vectors as the deterministic site "name"; for a prior
            over variables, those variables that have no site of their own shape.

    Returns:
        The vector, shape (..., D), plate axes first, and before these an axis for each discrete
        site that NumPyro sums out, so take coordinates as ``x[..., 0]``; for a prior over
        variables a dict of arrays (...) + shape. With `obs`, the completed table.

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
    if obs is not None:
        values = prior.from_vectors(_sample_table(name, prior, obs, padded))
    elif len(prior.event_shape) > 1:
        refuse_elements(name)
        return numpyro.sample(name, prior)
    else:
        values = _sample_vector(name, prior)
    if not deterministic:
        return values
    if not isinstance(values, dict):
        return numpyro.deterministic(name, values)
    sites = {part.name for part in parts_of(prior, _given(name))} if obs is None else ()
    for variable in sorted(set(values) - set(sites)):
        numpyro.deterministic(f"{name}.{variable}", values[variable])
    return values


def site_values(name: str, prior: EnergyDistribution, x: ArrayLike) -> dict[str, Array]:
    """Split vectors into a dict of coordinate sites.

    The dict is what `Predictive`, `substitute` and `init_to_value` take.

    Args:
        name: the name given to `sample`.
        prior: the distribution given to `sample`.
        x: array of shape (..., D).

    Returns:
        A dict from "name.coordinate" to an array of shape (...), without clamped coordinates; for
        a prior over arrays, from "name" to arrays (...) + `event_shape`.

    Example:
        >>> import jax.numpy as jnp, numpyro_disco as disco
        >>> q = disco.GaussianReference(jnp.zeros(2), 9 * jnp.eye(2))
        >>> prior = disco.EnergyDistribution(lambda x: 0.5 * (x @ x), q, names=("a", "b"))
        >>> {key: v.shape for key, v in disco.site_values("x", prior, jnp.ones((5, 2))).items()}
        {'x.a': (5,), 'x.b': (5,)}
    """
    if len(prior.event_shape) > 1:
        return {name: prior.from_vectors(prior.points(x))}
    return {f"{name}.{part}": value for part, value in part_values(prior, x).items()}


# -- one vector --------------------------------------------------------------------------------


def _sample_vector(name: str, prior: EnergyDistribution) -> Any:
    """One site for each free coordinate or variable, and their joint factor."""
    known = site_names(prior)
    parts = [p for v in prior.variables or () for p in v.elements + v.coordinates] or prior.names
    _check_handlers(name, known, set(parts) - set(known), prior)
    values = [
        (part, _sample_part(f"{name}.{part.name}", part)) for part in parts_of(prior, _given(name))
    ]
    x = join(prior, values)
    factor = f"{name}.{unused_name('log_prob', {*prior.names, *known})}"
    if prior.variables is None:
        numpyro.factor(factor, prior.log_prob(x))
        return x
    # Sites that hold variables have their Jacobians, those that hold coordinates have none.
    log_det: Any = sum(part.log_det(x[..., part.indices]) for part, _ in values if part.event_dim)
    numpyro.factor(factor, prior.log_prob(x) - log_det)
    return whole_variables(prior, x, values)


def _given(name: str) -> set[str]:
    """Names, without the prefix, of the parts that `condition` or `do` gives."""
    return {
        site.removeprefix(f"{scoped}.")
        for handler, scoped in handlers_that_observe(name)
        for site in handler.data
        if site.startswith(f"{scoped}.")
    }


def _sample_part(site: str, part: PriorPart) -> Any:
    """The value of a part's site, which is latent or given by `condition` or `do`."""
    given = [(h, scoped) for h, scoped in handlers_that_observe(site) if scoped in h.data]
    for handler, scoped in given:
        check_number(site, part, handler.data[scoped])
    # `do` keeps the site itself as a latent on which nothing depends. That is harmless for a site
    # with a density, but a coordinate has none: the latent would be flat and cannot be sampled.
    done = [h.data[scoped] for h, scoped in given if isinstance(h, numpyro.handlers.do)]
    if isinstance(part, DiscreteCoordinate) and not given:
        refuse_scales(site)
    value = numpyro.sample(site, part, obs=done[0] if done else None)
    if not given:
        return value
    # Not the handler's own value: along a `scan`, each step has a part of it.
    _check_given_shape(site, part, value)
    if not is_traced(value):
        with jax.ensure_compile_time_eval():
            inside = part.support(jnp.asarray(value)).all()
        if not bool(inside):
            raise ValueError(
                f"Expected finite numbers inside the support of {site!r}, "
                f"{part.support!r}; got {value}. Leave out what is not known, or give rows "
                "with missing entries to `sample(name, prior, obs=rows)`."
            )
    # Conditioning on something inferred would need the normaliser of the remaining coordinates.
    return not_latent(jnp.asarray(value, part.prior.loc.dtype))


def _check_given_shape(site: str, part: PriorPart, value: Any) -> None:
    """Refuse many vectors outside of a plate, and arrays that are not those of the variable."""
    shape, event = jnp.shape(value), part.event_shape
    if len(shape) > len(part.batch_shape) + len(event) and not active_plates():
        raise ValueError(
            f"Expected one {'array of shape ' + str(event) if event else 'number'} for {site!r}; "
            f"got an array of shape {shape}. For many vectors put `sample` into a plate of that "
            "size, or give it a table, `obs=`."
        )
    if event and shape[-len(event) :] != event:
        raise ValueError(f"Expected an array of shape {event} for {site!r}; got shape {shape}.")


def _check_handlers(
    name: str,
    known: Collection[str],
    unobservable: Collection[str],
    prior: EnergyDistribution | None = None,
) -> None:
    """Refuse a handler that names a coordinate without a site, which NumPyro would ignore.

    Of other names that look like sites of `name`, a warning is given: they may be sites of the
    user's own. Only `condition` and `do` hold what a user observes. `substitute` also holds what
    NumPyro puts there itself, such as the parameters of guides and deterministic sites.

    Args:
        name: the name given to `sample`.
        known: names of its sites after "name.".
        unobservable: names of coordinates that have no site.
        prior: the prior, if single elements of its variables may be named.
    """
    for handler, scoped in handlers_that_observe(name):
        sites = {f"{scoped}.{site}" for site in known}
        for site in handler.data:
            if site in sites or not (site == scoped or site.startswith(f"{scoped}.")):
                continue
            message = (
                f"`{type(handler).__name__}` names {site!r}, which is not a site of {name!r}: its "
                f"sites are {sorted(sites)}"
            )
            part = site.removeprefix(f"{scoped}.")
            if part in unobservable and prior is not None and prior.variables is not None:
                prior.variables.check_element(part, type(handler).__name__)
            if site == scoped or part in unobservable:
                raise ValueError(f"{message}, one for each free coordinate.")
            warnings.warn(
                f"{message}. Unless the model has a site of its own with this name, the value is "
                "ignored.",
                stacklevel=4,
            )


# -- tables ------------------------------------------------------------------------------------


def _sample_table(name: str, prior: EnergyDistribution, obs: Any, padded: bool | None) -> Array:
    """The missing entries of a table as one site, and the completed table."""
    pattern = prior.pattern(_known(obs), "obs")
    if prior.variables is not None and any(v.joint_support for v in prior.variables):
        joint = [v.name for v in prior.variables if v.joint_support]
        raise ValueError(
            f"Expected a prior whose variables have no joint supports with `obs`; {joint} have. "
            "Condition on them with `clamp`, or with NumPyro's `condition`."
        )
    if any(prior.observed):
        raise ValueError("Expected an unclamped prior with `obs`: put the values into the table.")
    prior, observed = prior.as_vector, pattern.observed
    own = ["missing", "levels"] if prior.coordinate_supports.discrete.any() else ["missing"]
    _check_handlers(name, own, prior.names)
    # Under `jit` a conversion by JAX would trace concrete values.
    convert = jnp.asarray if is_traced(pattern.values) else np.asarray
    values: Any = convert(pattern.values, prior.loc.dtype)
    traced = is_traced(observed)
    subsampled = any(plate.subsample_size != plate.size for plate in active_plates())
    if padded is False and (traced or subsampled):
        raise ValueError(
            "Expected a concrete table for `obs`, outside subsampling plates, with "
            "`padded=False`: compiled code has to know which entries are missing."
        )
    if padded or traced or subsampled:
        rows = PaddedEntries(prior, values, jnp.asarray(observed))
        complete = partial(_sample_padded, name, rows, padded)
        # Any discrete entry may be missing, as far as compiled code knows.
        if prior.coordinate_supports.discrete.any():
            return _sample_levels(name, prior, values, observed, complete)
        return complete()
    _check_plates(values.shape, prior)
    complete = partial(_sample_missing, name, prior, values, pattern)
    if (~observed & prior.coordinate_supports.discrete).any():
        return _sample_levels(name, prior, values, observed, complete)
    return complete()


def _known(obs: Any) -> Any:
    """A table, or a dict of columns, with what is known of it although it is traced."""
    if isinstance(obs, dict):
        return {name: known_constant(column) for name, column in obs.items()}
    return known_constant(obs)


def _sample_missing(name: str, prior: EnergyDistribution, values: Array, pattern: Pattern) -> Array:
    """The missing continuous entries of all rows, and the table with them.

    They are one vector, which belongs to no plate: rows differ in how many they have.
    """
    with _outside_plates():
        if np.all(pattern.observed):
            numpyro.factor(f"{name}.log_prob", prior.log_prob(values).sum())
            return jnp.asarray(values)
        fn = MissingEntries(prior, values, pattern.observed, pattern.labels)
        return fn.complete(numpyro.sample(f"{name}.missing", fn)) if fn.places else values


def _sample_levels(
    name: str,
    prior: EnergyDistribution,
    values: Array,
    observed: Any,
    complete: Callable[[], Array],
) -> Array:
    """A table with missing discrete entries: a number of a combination of levels for each row.

    They are summed out row by row, so each row has to be a member of a plate.

    Args:
        name: the name given to `sample`.
        prior: the prior of a row.
        values: the table.
        observed: which of its entries are observed.
        complete: makes the site of the missing continuous entries, and fills them.
    """
    if not active_plates():
        discrete = prior.coordinate_supports.discrete
        raise ValueError(
            f"Expected a plate around the table of {name!r}, whose discrete columns "
            f"{[prior.names[place] for place in np.flatnonzero(discrete)]} have missing entries, "
            "or may have some: these are summed out row by row. Put `sample` and all that depends "
            f"on its rows inside of `with numpyro.plate('rows', {len(values)}):`."
        )
    refuse_scales(name)
    levels = RowLevels(prior, values, observed)
    # A mask would hide which combinations are impossible, and count these as well.
    unmasked = [h for h in active_handlers() if not isinstance(h, numpyro.handlers.mask)]
    with only_handlers(unmasked):
        combination = numpyro.sample(f"{name}.levels", levels)
    rows = levels.complete(combination, complete())
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
