"""The base of a model: where each latent site starts, a density that can be drawn and evaluated.

An ordinary latent site starts from its prior, a learned prior from its reference, given its clamped
coordinates in closed form. The user may replace this, site by site with distributions, or for
several sites together with draws, to which a mixture is fitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.flatten_util import ravel_pytree
from numpyro import handlers
from numpyro.distributions import Distribution
from numpyro.infer import Predictive, init_to_uniform

from numpyro_disco._numpyro import event_constraint
from numpyro_disco._typing import Array
from numpyro_disco.energy.distribution import EnergyDistribution
from numpyro_disco.models.missing import MissingEntries, PaddedEntries
from numpyro_disco.models.structure import ModelStructure, unconstrained_value
from numpyro_disco.references.base import Reference
from numpyro_disco.references.fitting import fit_mixture

NUM_GUIDE_DRAWS = 2000
"""Number of draws of a guide to which a base is fitted."""
MIN_BASE_DRAWS = 10
"""Least number of draws to which a base is fitted."""


class BaseBlock(NamedTuple):
    """A joint base of several sites, over their unconstrained values."""

    names: tuple[str, ...]
    """Names of the sites, in the order of the flat vector."""
    density: Reference
    """Density of the flat vector of their unconstrained values."""


class GivenBase:
    """The `base` of a `TemperedSMC`, parsed.

    Args:
        base: None, a mapping from site names to distributions or draws, or a pair of a fitted guide
            and its parameters.

    Raises:
        ValueError: `base` is none of these, or has too few draws.
    """

    def __init__(self, base: Any) -> None:
        if base is None:
            base = {}
        if isinstance(base, tuple) and len(base) == 2 and callable(base[0]):
            base = _guide_draws(*base)
        if not isinstance(base, Mapping):
            raise ValueError(
                "Expected a mapping from names of sites to distributions or draws for `base`, or a "
                f"pair (guide, params); got {type(base).__name__}."
            )
        self.distributions: dict[str, Distribution] = {}
        self.draws: dict[str, np.ndarray] = {}
        for name, value in base.items():
            if isinstance(value, Distribution):
                self.distributions[name] = value
            else:
                self.draws[name] = _checked_draws(name, value)
        self._block: BaseBlock | None = None

    def block(self, structure: ModelStructure) -> BaseBlock | None:
        """The mixture fitted to the draws, or None if there are none. It is fitted once."""
        if self.draws and self._block is None:
            names, u = unconstrain_draws(structure, self.draws)
            self._block = BaseBlock(names, fit_mixture(np.asarray(u)))
        return self._block


def check_base(base: Mapping[str, Any], structure: ModelStructure) -> None:
    """Check that `base` names continuous latent sites and fits their shapes and supports.

    Args:
        base: from site names to distributions or draws. Of draws only the names are checked.
        structure: structure of the model.

    Raises:
        ValueError: `base` does not fit, with the name of the site.
    """
    for name, given in base.items():
        if name not in structure.latent:
            raise ValueError(
                f"`base` names {name!r}, which is not a continuous latent site of the model; these "
                f"are {structure.latent}."
            )
        if not isinstance(given, Distribution):
            continue
        fn = structure.sites[name]["fn"]
        shape = np.shape(structure.sites[name]["value"])
        if given.shape() != shape:
            raise ValueError(
                f"Expected a `base` of shape {shape} for site {name!r}; got {given.shape()}. Use "
                "`expand` and `to_event`."
            )
        if type(event_constraint(given.support)) is not type(event_constraint(fn.support)):
            raise ValueError(
                f"Expected a `base` with the support of site {name!r}, {fn.support}; got "
                f"{given.support}. Where they differ, the evidence would be wrong."
            )


def unconstrain_draws(
    structure: ModelStructure, draws: Mapping[str, np.ndarray]
) -> tuple[tuple[str, ...], Array]:
    """Draws of some sites as one unconstrained vector for each draw.

    Args:
        structure: structure of the model.
        draws: from site names to arrays of shape (num_draws, ...).

    Returns:
        The names in the order of the vector, and an array of shape (num_draws, d).

    Raises:
        ValueError: The draws do not fit their sites, or differ in number.
    """
    check_base(draws, structure)
    names = tuple(name for name in structure.latent if name in draws)
    counts = {name: len(draws[name]) for name in names}
    if len(set(counts.values())) != 1:
        raise ValueError(f"Expected equally many draws of each site in `base`; got {counts}.")
    for name in names:
        shape = np.shape(structure.sites[name]["value"])
        if np.shape(draws[name])[1:] != shape:
            raise ValueError(
                f"Expected draws of shape (num_draws, *{shape}) for {name!r} in `base`; got "
                f"{np.shape(draws[name])}."
            )

    def unconstrain(draw: dict[str, Array]) -> Array:
        def substitute_fn(site: dict) -> Any:
            return draw[site["name"]] if site["name"] in draw else init_to_uniform(site)

        substituted = handlers.substitute(structure.model, substitute_fn=substitute_fn)
        trace = handlers.trace(substituted).get_trace(*structure.args, **structure.kwargs)
        return ravel_pytree({name: unconstrained_value(trace[name]) for name in names})[0]

    return names, jax.vmap(unconstrain)({name: jnp.asarray(draws[name]) for name in names})


def default_base(fn: Distribution) -> Distribution:
    """The prior of a site, with the reference in the place of a learned prior.

    Masks are left out: they belong to the target, and the base has to be a density that can be
    drawn.
    """
    if isinstance(fn, dist.MaskedDistribution):
        return default_base(fn.base_dist)
    if isinstance(fn, dist.ExpandedDistribution):
        return default_base(fn.base_dist).expand(fn.batch_shape)
    if isinstance(fn, dist.Independent):
        return default_base(fn.base_dist).to_event(fn.reinterpreted_batch_ndims)
    if isinstance(fn, dist.TransformedDistribution):
        return dist.TransformedDistribution(default_base(fn.base_dist), fn.transforms)
    if isinstance(fn, EnergyDistribution) and len(fn.event_shape) > 1:
        flat = dist.transforms.ReshapeTransform(fn.event_shape, (len(fn.names),))
        return dist.TransformedDistribution(fn.reference, flat)
    if isinstance(fn, EnergyDistribution | MissingEntries | PaddedEntries):
        return fn.reference
    return fn


def _guide_draws(guide: Any, params: Any) -> dict[str, Array]:
    """Draws of a fitted guide, without its own auxiliary sites."""
    predictive = Predictive(guide, params=params, num_samples=NUM_GUIDE_DRAWS)
    drawn = predictive(jax.random.key(0))
    return {name: draws for name, draws in drawn.items() if not name.startswith("_")}


def _checked_draws(name: str, value: Any) -> np.ndarray:
    draws = np.asarray(value)
    if draws.dtype.kind not in "fiu" or draws.ndim == 0 or len(draws) < MIN_BASE_DRAWS:
        raise ValueError(
            f"Expected a distribution, or at least {MIN_BASE_DRAWS} draws, for {name!r} in `base`; "
            f"got {type(value).__name__} of shape {draws.shape}."
        )
    return draws
