"""The sites that a learned prior has in a model, and the vector that their values form.

Without variables, each free coordinate has a site. A prior over variables has one site for each of
them, of its own shape; if some elements of a variable are clamped, or named by `condition` or `do`,
each of its free elements has a site instead.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from numpyro_disco._numpyro import handlers_that_observe
from numpyro_disco._typing import Array
from numpyro_disco.energy.distribution import EnergyDistribution
from numpyro_disco.models.coordinate import ArrayVariable, Coordinate, PriorPart
from numpyro_disco.models.discrete import DiscreteCoordinate


def parts_of(prior: EnergyDistribution, given: Collection[str] = ()) -> list[PriorPart]:
    """The parts of a prior that have a site, in the order of its coordinates.

    Args:
        prior: the distribution.
        given: names, without a prefix, that a handler observes.

    Raises:
        ValueError: a variable is given both whole and by its elements.
    """
    parts: list[PriorPart] = []
    for place in _sites(prior, given):
        if isinstance(place, str):
            parts.append(ArrayVariable(prior, place))
        elif prior.coordinate_supports.discrete[place]:
            # An observed level has no need to be one that can be enumerated.
            latent = prior.names[place] not in given
            parts.append(DiscreteCoordinate(prior, place, latent=latent))
        else:
            parts.append(Coordinate(prior, place))
    return parts


def _sites(prior: EnergyDistribution, given: Collection[str] = ()) -> Iterator[int | str]:
    """Positions of the coordinates, and names of the whole variables, that have a site."""
    if prior.variables is None:
        yield from _free(prior, range(len(prior.names)))
        return
    for variable in prior.variables:
        places = prior.variables.indices[variable.name]
        elements = set(variable.coordinates) & set(given)
        if elements and variable.shape and variable.name in given:
            raise ValueError(
                f"Expected {variable.name!r} to be given whole or by its elements; got both: "
                f"{sorted(elements)}."
            )
        clamped = np.asarray(prior.observed)[places].any()
        discrete = prior.coordinate_supports.discrete[places].any()
        if not variable.shape or elements or clamped or discrete:
            yield from _free(prior, places)
        elif variable.size:
            yield variable.name


def _free(prior: EnergyDistribution, places: Iterable[int]) -> list[int]:
    return [int(place) for place in places if not prior.observed[place]]


def site_names(prior: EnergyDistribution) -> list[str]:
    """Names, without a prefix, that `condition` and `do` may give.

    The coordinates of a variable with a joint support are not among them.
    """
    whole = [place for place in _sites(prior) if isinstance(place, str)]
    coupled = {name for v in prior.variables or () if v.joint_support for name in v.coordinates}
    free = [prior.names[place] for place in _free(prior, range(len(prior.names)))]
    return whole + [name for name in free if name not in coupled]


def join(prior: EnergyDistribution, values: Iterable[tuple[PriorPart, Any]]) -> Array:
    """The vector whose parts have these values, shape (..., D), plate axes first.

    Args:
        prior: the distribution, whose clamped coordinates keep their values.
        values: every free part, with its value.
    """
    columns: list[Any] = [None] * len(prior.names)
    for part, value in values:
        if not part.event_dim:
            columns[part.indices[0]] = value
            continue
        coordinates = part.pack(value)
        for column, place in enumerate(part.indices):
            columns[place] = coordinates[..., column]
    clamped: Any = prior.values
    for place in np.flatnonzero(prior.observed):
        columns[place] = clamped[..., place]
    return jnp.stack(jnp.broadcast_arrays(*columns), axis=-1)


def whole_variables(
    prior: EnergyDistribution, x: Array, values: Iterable[tuple[PriorPart, Any]]
) -> dict[str, Array]:
    """The variables of vectors (..., D), by name; those with a site have the value of the site."""
    assert prior.variables is not None
    own = {part.name: jnp.asarray(value) for part, value in values}
    return {name: own.get(name, value) for name, value in prior.variables.unpack(x).items()}


def part_values(prior: EnergyDistribution, x: Any) -> dict[str, Array]:
    """Values of all sites at vectors (..., D) or at dicts of variables, by name."""
    x = prior.points(x)
    values: dict[str, Array] = {}
    for place in _sites(prior):
        if isinstance(place, str):
            part = ArrayVariable(prior, place)
            values[place] = part.unpack(x[..., part.indices])
        else:
            values[prior.names[place]] = x[..., place]
    return values


def refuse_elements(name: str) -> None:
    """Refuse handlers that name elements of an array, which NumPyro would ignore."""
    for handler, scoped in handlers_that_observe(name):
        for site in handler.data:
            if site.startswith(f"{scoped}.["):
                element = site.removeprefix(f"{scoped}.")
                raise ValueError(
                    f"Expected the whole array {scoped!r} in `{type(handler).__name__}`; got its "
                    f"element {site!r}, which is no site. Give the whole array, or clamp the "
                    f"prior: `prior.clamp({{{element!r}: ...}})`."
                )


def check_number(site: str, part: PriorPart, value: Any) -> None:
    """Refuse levels and dates: the values of NumPyro's sites are numbers."""
    if not isinstance(value, str | datetime.date | np.datetime64):
        return
    number = part.prior.columns[int(part.indices[0])].encode(value, repr(site))
    raise ValueError(
        f"Expected a number for {site!r}, as NumPyro's sites hold numbers; got {value!r}. Give "
        f"{float(number):g}, or clamp the prior: `prior.clamp({{{part.name!r}: {value!r}}})`."
    )
