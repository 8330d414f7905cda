"""The sites of a NumPyro model, read once.

`ModelStructure` records what a run of the model shows: its latent sites, its discrete sites, which
coordinate sites belong to one learned prior, and the shapes of the unconstrained sites.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions import Distribution, biject_to

from numpyro_disco._checks import is_traced, known_constant
from numpyro_disco._numpyro import has_own_support, helpful_support_errors
from numpyro_disco._tracing import is_latent, trace_sites
from numpyro_disco._typing import Array

WRAPPERS = (dist.ExpandedDistribution, dist.Independent, dist.MaskedDistribution)


@dataclass(frozen=True)
class ModelStructure:
    """A NumPyro model, its arguments and its sites."""

    model: Callable
    """The model, seeded for whatever it draws besides its sites."""
    args: tuple
    """Arguments of the model."""
    kwargs: dict
    """Keyword arguments of the model."""
    sites: dict[str, dict]
    """Its trace, with latent sites anywhere inside their supports."""
    latent: tuple[str, ...]
    """Names of the continuous latent sites, in the order of the model."""
    discrete: dict[str, Array]
    """Discrete latent sites and some value of each."""

    @property
    def fixed_model(self) -> Callable:
        """The model with each discrete latent site held at the value in `discrete`."""
        return handlers.substitute(self.model, data=self.discrete) if self.discrete else self.model

    @property
    def prototypes(self) -> dict[str, Array]:
        """Unconstrained values of the continuous latent sites, for their shapes."""
        return {name: unconstrained_value(self.sites[name]) for name in self.latent}


def read_structure(model: Callable, args: tuple, kwargs: dict) -> ModelStructure:
    """Run a model once and sort its sites.

    Args:
        model: a NumPyro model.
        args: its arguments.
        kwargs: its keyword arguments.

    Returns:
        A `ModelStructure`.

    Raises:
        ValueError: A plate subsamples, a mixture has components with different supports, a discrete
            latent site cannot be enumerated, or no site is latent.
    """
    sites = trace_sites(model, args, kwargs)
    latent: list[str] = []
    discrete: dict[str, Array] = {}
    for name, site in sites.items():
        if site["type"] == "plate":
            _check_whole(name, site)
        if not is_latent(site):
            continue
        _check_mixture(name, without_wrappers(site["fn"]))
        support = site["fn"].support
        if support is None or not support.is_discrete:
            latent.append(name)
            continue
        if not site["fn"].has_enumerate_support:
            raise ValueError(
                f"Site {name!r} is a discrete latent without finite support, which can be "
                "neither moved nor summed out. Sum it out of the model by hand."
            )
        discrete[name] = site["value"]
    if not latent:
        raise ValueError("The model has no latent site: nothing is left to draw.")
    # The key is fixed, so anything that the model draws besides its sites is the same each time.
    seeded = handlers.seed(model, jax.random.key(0))
    return ModelStructure(seeded, args, kwargs, sites, tuple(latent), discrete)


def without_wrappers(fn: Any) -> Any:
    """Strip expansions, event axes and masks from a distribution."""
    while isinstance(fn, WRAPPERS):
        fn = fn.base_dist
    return fn


def unconstrained_value(site: dict) -> Array:
    """Map the value of a site to unconstrained space."""
    fn: Distribution = site["fn"]
    with helpful_support_errors(site):
        return biject_to(fn.support).inv(site["value"])


def _check_mixture(name: str, fn: Any) -> None:
    """Refuse a mixture of distributions with different supports and none of its own."""
    if not isinstance(fn, dist.MixtureGeneral) or has_own_support(fn):
        return
    supports = [component.support for component in fn.component_distributions]
    if not all(_may_be_equal(supports[0], other) for other in supports[1:]):
        raise ValueError(
            f"Expected components with one support in the mixture at site {name!r}; got "
            f"{supports}, of which NumPyro takes the first, {supports[0]}, as the support of the "
            "mixture. Give it the whole: `MixtureGeneral(..., support=constraints.interval(a, b))`."
        )


def _may_be_equal(one: Any, other: Any) -> bool:
    """False if two constraints of one type are known to have different numbers."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    known = [tuple(map(known_constant, pair)) for pair in pairs]
    return all(is_traced(pair) or np.array_equal(*pair) for pair in known)


def _check_whole(name: str, plate: dict) -> None:
    size, taken = plate["args"][0], np.size(plate["value"])
    if taken != size:
        raise ValueError(
            f"Plate {name!r} subsamples {taken} of {size} rows; TemperedSMC needs the whole "
            "likelihood. Leave `subsample_size` out."
        )
