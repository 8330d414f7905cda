"""Draws of another run as rows to learn from: dicts of arrays, samplers, ArviZ and xarray objects.

Each site becomes a variable of its own shape. What a variable may be is read off the model where
the draws come with one, and given by `supports` otherwise.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from numpyro.distributions import constraints
from numpyro.infer import MCMC

from numpyro_disco._checks import check_names
from numpyro_disco._numpyro import event_constraint, model_and_arguments
from numpyro_disco._tracing import is_latent, trace_sites
from numpyro_disco.tables.columns import Boolean, Whole
from numpyro_disco.tables.kinds import default_support
from numpyro_disco.tables.reading import aligned, by_name
from numpyro_disco.tables.variable import Variable, double_precision_coordinates, joint_support
from numpyro_disco.tables.variables import Variables

Supports = Mapping[str, constraints.Constraint]


class Draws(NamedTuple):
    """Draws of named variables as rows of D coordinates."""

    columns: dict[str, np.ndarray]
    """Coordinates by name, shape (N,) each, in double precision."""
    supports: dict[str, constraints.Constraint]
    """Supports of single coordinates by name; the others may be any real number."""
    variables: Variables
    """The variables that the coordinates form."""


class _Sites(NamedTuple):
    """Draws as they came."""

    draws: dict[str, Any]
    """Arrays (N, *shape) by name, with everything that may be asked for."""
    latent: tuple[str, ...]
    """Names of those that are taken by default."""
    supports: dict[str, constraints.Constraint | None]
    """Supports by name, as the model has them; None where they depend on other sites."""


def read_draws(data: Any, names: Sequence[str] | None, supports: Supports | None) -> Draws | None:
    """Parse draws of named variables.

    Args:
        data: a mapping from names to arrays (N, *shape), at least one of them with axes besides the
            draws; an `MCMC` or a `TemperedSMC` that has run; an ArviZ object with a posterior; or
            an xarray dataset with the dimensions chain and draw, or sample.
        names: the variables to take, in order; or as many new names.
        supports: NumPyro constraints by name of a variable or of an element.

    Returns:
        The draws, or None if `data` is anything else, such as a table.

    Raises:
        ValueError: names, shapes or supports that do not fit, or draws outside of their support.
    """
    sites = _sites(data)
    if sites is None:
        return None
    chosen = _chosen(sites, names)
    given = dict(supports or {})
    variables: list[Variable] = []
    columns: dict[str, np.ndarray] = {}
    found: dict[str, constraints.Constraint] = {}
    for site, name in chosen.items():
        draws = _numbers(name, sites.draws[site])
        if name in given:
            support = given.pop(name)
        elif site in sites.supports:
            support = sites.supports[site]
        else:
            support = _support_of_values(sites.draws[site], draws)
        if support is None:
            raise ValueError(
                f"Expected a support of {name!r} that does not depend on other sites; the model's "
                f"does. Give one that holds for all draws: `supports={{{name!r}: ...}}`."
            )
        variable = Variable(name, draws.shape[1:], _joint_support(name, draws, support))
        variables.append(variable)
        columns |= _columns(variable, draws)
        if variable.joint_support is None:
            elements = _element_supports(name, variable.shape, support)
            found |= dict(zip(variable.elements, elements, strict=True))
    found |= {name: given.pop(name) for name in list(given) if name in found}
    if given:
        shapes = {variable.name: variable.shape for variable in variables}
        raise ValueError(
            f"`supports` names {sorted(given)}, which are not variables of `data` or elements of "
            f"one; its variables and their shapes are {shapes}."
        )
    _check_lengths(columns)
    _check_constants(variables, columns)
    bounded = {name: s for name, s in found.items() if s is not constraints.real}
    return Draws(columns, bounded, Variables(tuple(variables)))


def draw_labels(data: Any) -> list[Any] | None:
    """Labels of the draws in order; None if they have none but their positions.

    Args:
        data: draws, as for `read_draws`.

    Returns:
        Pairs (chain, draw), or labels of samples, of an ArviZ or xarray object; labels as text of a
        mapping with pandas Series.
    """
    if not isinstance(data, MCMC) and (dataset := _posterior(data)) is not None:
        return stacked_labels(dataset)
    if not isinstance(data, Mapping):
        return None
    series = {n: v for n, v in data.items() if hasattr(v, "index") and _num_axes(v) == 1}
    named = by_name(series, "data") if series else None
    return None if named is None or named.rows is None else list(named.rows)


def stacked_labels(array: Any) -> list[Any]:
    """Labels of the draws of an xarray object: pairs of chain and draw, or one for each sample."""
    if {"chain", "draw"} <= {*array.dims}:
        return list(itertools.product(*(array[dim].values.tolist() for dim in ("chain", "draw"))))
    return array["sample"].values.tolist()


# -- what draws come in --------------------------------------------------------------------------


def _sites(data: Any) -> _Sites | None:
    """Draws by site, or None for data that is not draws of variables."""
    if isinstance(data, MCMC):
        return _sites_of_sampler(data)
    dataset = _posterior(data)
    if dataset is not None:
        draws = {str(name): _stacked(dataset[name]) for name in dataset.data_vars}
        return _Sites(draws, tuple(draws), {})
    if type(data).__module__.startswith("xarray") or not isinstance(data, Mapping):
        return None
    if any(_num_axes(value) > 1 for value in data.values()):
        draws = aligned({str(name): value for name, value in data.items()}, "data")
        return _Sites(draws, tuple(draws), {})
    return None


def _sites_of_sampler(sampler: MCMC) -> _Sites:
    """The draws of a sampler, and the supports of its model's latent sites."""
    draws = dict(sampler.get_samples())
    model, args, kwargs = model_and_arguments(sampler)
    if model is None:
        return _Sites(draws, tuple(draws), {})
    # A support that depends on other sites differs between two traces, whose latent values do.
    first, second = (trace_sites(model, args, kwargs, seed) for seed in (0, 1))
    latent = tuple(name for name, site in first.items() if is_latent(site) and name in draws)
    supports: dict[str, constraints.Constraint | None] = {}
    for name in latent:
        one, other = (_plain(sites[name]["fn"].support) for sites in (first, second))
        supports[name] = one if _equal(one, other) else None
    return _Sites(draws, latent, supports)


def _posterior(data: Any) -> Any:
    """The xarray dataset of draws that an ArviZ or xarray object holds, or None."""
    if not type(data).__module__.startswith(("arviz", "xarray")):
        return None
    if getattr(data, "children", ()) or type(data).__module__.startswith("arviz"):
        if "posterior" not in data:
            raise ValueError(
                "Expected an ArviZ object with a group `posterior` for `data`; got one without. "
                "Give the group of draws to learn from, a dataset, itself."
            )
        data = data["posterior"]
    elif not hasattr(data, "data_vars"):
        return None
    dims = {*data.dims}
    if not ({"chain", "draw"} <= dims or "sample" in dims):
        return None
    return data.to_dataset() if hasattr(data, "to_dataset") else data


def _stacked(array: Any) -> np.ndarray:
    """Values of a labelled array with chain and draw as one first axis."""
    if "sample" in array.dims:
        return array.transpose("sample", ...).values
    values = array.transpose("chain", "draw", ...).values
    return values.reshape(-1, *values.shape[2:])


def _num_axes(value: Any) -> int:
    return int(getattr(value, "ndim", 1))


def _chosen(sites: _Sites, names: Sequence[str] | None) -> dict[str, str]:
    """Names of the variables by site, in order."""
    latent = sites.latent
    if names is None:
        prefixes = {name.partition(".")[0] for name in latent if name.partition(".")[2]}
        if len(prefixes) == 1 and all(name.partition(".")[2] for name in latent):
            return {name: name.partition(".")[2] for name in latent}
        return {name: name for name in latent}
    names = check_names(names, len(names))
    known = set(names) & set(sites.draws)
    if known == set(names):
        return {name: name for name in names}
    if known or len(names) != len(latent):
        raise ValueError(
            f"Expected `names` to be some of the variables of `data`, which are "
            f"{tuple(sites.draws)}, or {len(latent)} new names for {latent}; got {names}."
        )
    return dict(zip(latent, names, strict=True))


# -- supports ------------------------------------------------------------------------------------


def _plain(support: Any) -> Any:
    """A support without the location and scale that a learned prior's site has beside it.

    Returns:
        One constraint, or a tuple of them for the elements of an array.
    """
    support = event_constraint(support)
    return event_constraint(getattr(support, "plain", support))


def _equal(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def _joint_support(name: str, draws: np.ndarray, support: constraints.Constraint) -> str | None:
    """The name of a support that couples elements, after a check that it fits the shape."""
    support = _plain(support)
    if isinstance(support, tuple):
        return None
    if not isinstance(support, constraints.Constraint):
        raise ValueError(
            f"Expected a NumPyro constraint for {name!r} in `supports`; got {support!r}."
        )
    joint = joint_support(support)
    if joint is None and support.event_dim:
        raise ValueError(
            f"Expected a support that NumPyro can map real numbers onto for {name!r}; got "
            f"{support!r}. Leave the variable out, by `names`."
        )
    if support.event_dim >= draws.ndim:
        raise ValueError(
            f"Expected draws of {name!r} with {support.event_dim} axes besides the first, as its "
            f"support {support!r} has; got shape {draws.shape}."
        )
    return joint


def _element_supports(
    name: str, shape: tuple[int, ...], support: constraints.Constraint
) -> list[constraints.Constraint]:
    """The support of each element of a variable whose elements are not coupled."""
    support, size = _plain(support), int(np.prod(shape, dtype=int))
    if isinstance(support, tuple):
        return list(support)
    if support is constraints.circular:
        return [constraints.interval(-math.pi, math.pi)] * size
    leaves, structure = jax.tree.flatten(support)
    if not leaves or isinstance(support, constraints.ParameterFreeConstraint):
        return [support] * size
    try:
        numbers = [np.broadcast_to(np.asarray(leaf), shape).ravel() for leaf in leaves]
    except ValueError:
        raise ValueError(
            f"Expected a support of {name!r} whose bounds fit its shape {shape}; got {support!r}."
        ) from None
    return [
        jax.tree.unflatten(structure, [n.item() for n in element])
        for element in zip(*numbers, strict=True)
    ]


def _support_of_values(values: Any, draws: np.ndarray) -> constraints.Constraint:
    """The support of draws of which nothing is known but their type."""
    kind = np.asarray(values).dtype.kind
    if kind not in "biu":
        return constraints.real
    return default_support(Boolean() if kind == "b" else Whole(), draws.ravel())


# -- numbers -------------------------------------------------------------------------------------


def _numbers(name: str, values: Any) -> np.ndarray:
    """Draws (N, *shape) in double precision."""
    draws = np.asarray(values)
    if draws.dtype.kind not in "biuf" or draws.ndim == 0 or draws[:1].size == 0:
        raise ValueError(
            f"Expected draws of shape (N, ...) of real numbers for {name!r} in `data`; got shape "
            f"{draws.shape} of {draws.dtype}. Leave the variable out, by `names`."
        )
    return draws.astype(np.float64)


def _columns(variable: Variable, draws: np.ndarray) -> dict[str, np.ndarray]:
    """Coordinates of a variable by name, (N,) each."""
    if variable.joint_support is None:
        coordinates = draws.reshape(len(draws), -1)
    else:
        coordinates, inside = double_precision_coordinates(variable, draws)
        if not inside.all():
            raise ValueError(
                f"Expected draws of {variable.name!r} in `data` strictly inside its support, "
                f"{variable.joint_support}; {int((~inside).sum())} of {len(draws)} are not, for "
                f"example {draws[~inside][0].tolist()}."
            )
    return dict(zip(variable.coordinates, coordinates.T, strict=True))


def _check_lengths(columns: dict[str, np.ndarray]) -> None:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"Expected equally many draws of each variable in `data`; got {lengths}.")


def _check_constants(variables: list[Variable], columns: dict[str, np.ndarray]) -> None:
    """Refuse variables with constant elements or sums, and say which support they may have."""
    for variable in variables:
        if variable.joint_support is not None or not variable.shape:
            continue
        draws = np.stack([columns[name] for name in variable.elements], axis=1)
        constant = np.ptp(draws, axis=0) == 0
        if constant.any():
            elements = [variable.elements[i] for i in np.flatnonzero(constant)]
            raise ValueError(
                f"Expected elements of {variable.name!r} that vary in `data`; {elements} are "
                "constant. If it is a matrix with a structure, declare it, for example "
                f"`supports={{{variable.name!r}: constraints.corr_cholesky}}`; otherwise leave "
                "them out."
            )
        sums = draws.reshape(-1, variable.shape[-1]).sum(1)
        if variable.shape[-1] > 1 and np.ptp(sums) < 1e-5 * np.abs(draws).max():
            raise ValueError(
                f"Expected elements of {variable.name!r} that do not determine each other; they "
                f"always sum to {sums.mean():.4g}. Declare a simplex, "
                f"`supports={{{variable.name!r}: constraints.simplex}}`, or leave one out."
            )
