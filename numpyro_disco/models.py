"""Reading a NumPyro model as what tempering needs: a base that can be drawn, and two densities.

The base is made of what can be sampled: ordinary latent sites from their priors, learned priors
from their reference, given their clamped coordinates in closed form. Everything else, likelihoods,
factors and the energies relative to their references, is the target's alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax.flatten_util import ravel_pytree
from numpyro import handlers
from numpyro.distributions import Distribution, biject_to
from numpyro.infer import init_to_uniform
from numpyro.infer.util import _unconstrain_reparam, helpful_support_errors

from numpyro_disco._typing import Array
from numpyro_disco.distributions import EnergyDistribution
from numpyro_disco.reference import Reference
from numpyro_disco.sites import Coordinate, Holes
from numpyro_disco.tempering import DrawBase, LogDensities

WRAPPERS = (
    numpyro.distributions.ExpandedDistribution,
    numpyro.distributions.Independent,
    numpyro.distributions.MaskedDistribution,
)


class TemperedModel(NamedTuple):
    """A NumPyro model over one flat vector u of its unconstrained latent sites."""

    model: Callable
    """The model, seeded for whatever it draws that is not a latent site."""
    latent: tuple[str, ...]
    """Names of the latent sites."""
    unravel: Callable[[Array], dict[str, Array]]
    """From u to the unconstrained value of each latent site."""
    draw_base: DrawBase
    """From a random key to u drawn from the base."""
    log_densities: LogDensities
    """From u to its log density under base and target, Jacobians included in both."""


def prepare_model(model: Callable, args: tuple, kwargs: dict) -> TemperedModel:
    """Read a model once and split its log joint into base and target.

    Args:
        model: a NumPyro model.
        args: its arguments.
        kwargs: its keyword arguments.

    Returns:
        A `TemperedModel` over the model's unconstrained latent sites.

    Raises:
        ValueError: no latent site, a discrete one, or one without a base that can be drawn.
    """
    # A key of its own for whatever the model draws that is not a latent site: the same each time.
    seeded = handlers.seed(model, jax.random.key(0))
    shape_model = handlers.substitute(seeded, substitute_fn=init_to_uniform)
    structure = handlers.trace(shape_model).get_trace(*args, **kwargs)
    latent = []
    for name, site in structure.items():
        if site["type"] == "plate" and len(site["value"]) != site["args"][0]:
            raise ValueError(
                f"Plate {name!r} subsamples {len(site['value'])} of {site['args'][0]} rows; "
                "TemperedSMC needs the whole likelihood. Leave `subsample_size` out."
            )
        if site["type"] != "sample" or site["is_observed"]:
            continue
        if site["fn"].support is not None and site["fn"].support.is_discrete:
            raise ValueError(
                f"Site {name!r} is a discrete latent, which HMC cannot move. Sum it out of the "
                "model, for instance with a mixture distribution."
            )
        latent.append(name)
    if not latent:
        raise ValueError("The model has no latent site: nothing is left to draw.")
    groups = _groups(structure)
    prototype = {name: _unconstrained(structure[name]) for name in latent}
    _, unravel = ravel_pytree(prototype)
    # NumPyro enters the Jacobian of a transformed site as a factor of this name.
    log_dets = {f"_{name}_log_det" for name in latent}

    def draw_base(rng_key: Array) -> Array:
        group_key, model_key = jax.random.split(rng_key)
        drawn: dict[str, Array] = {}
        for index, group in enumerate(groups):
            x = group.reference(structure).sample(jax.random.fold_in(group_key, index))
            drawn |= {site: x[..., place] for site, place in group.free.items()}

        keys = (jax.random.fold_in(model_key, index) for index in itertools.count())

        def substitute_fn(site: dict) -> Any:
            if site["name"] in drawn:
                return drawn[site["name"]]
            if site["type"] != "sample" or site["is_observed"]:
                return None
            try:
                return _base(site["fn"]).sample(next(keys), site["kwargs"]["sample_shape"])
            except NotImplementedError:
                raise ValueError(
                    f"Site {site['name']!r} has no base that can be drawn: "
                    f"{type(site['fn']).__name__} has no `sample`. Give it a proper prior."
                ) from None

        drawing = handlers.substitute(seeded, substitute_fn=substitute_fn)
        trace = handlers.trace(drawing).get_trace(*args, **kwargs)
        return ravel_pytree({name: _unconstrained(trace[name]) for name in latent})[0]

    def log_densities(u: Array) -> tuple[Array, Array]:
        substituted = handlers.substitute(
            seeded, substitute_fn=partial(_unconstrain_reparam, unravel(u))
        )
        trace = handlers.trace(substituted).get_trace(*args, **kwargs)
        log_base, log_target = jnp.zeros((), u.dtype), jnp.zeros((), u.dtype)
        for name, site in trace.items():
            if site["type"] != "sample":
                continue
            log_prob = site["fn"].log_prob(site["value"])
            scale = 1.0 if site["scale"] is None else site["scale"]
            log_target += jnp.sum(scale * log_prob)
            if name in prototype:
                if not isinstance(_unwrapped(site["fn"]), Coordinate):
                    log_base += jnp.sum(_base(site["fn"]).log_prob(site["value"]))
            elif name in log_dets:
                log_base += jnp.sum(log_prob)
        for group in groups:
            log_base += jnp.sum(group.reference(trace).log_prob(group.point(trace)))
        return log_base, log_target

    return TemperedModel(seeded, tuple(latent), unravel, draw_base, log_densities)


def _unwrapped(fn: Distribution) -> Distribution:
    while isinstance(fn, WRAPPERS):
        fn = fn.base_dist
    return fn


def _base(fn: Distribution) -> Distribution:
    """What a latent site starts from: its prior, or the reference of a learned prior.

    Masks and scales belong to the target alone: the base has to be a density that can be drawn.
    """
    if isinstance(fn, numpyro.distributions.MaskedDistribution):
        return _base(fn.base_dist)
    if isinstance(fn, numpyro.distributions.ExpandedDistribution):
        return _base(fn.base_dist).expand(fn.batch_shape)
    if isinstance(fn, numpyro.distributions.Independent):
        return _base(fn.base_dist).to_event(fn.reinterpreted_batch_ndims)
    if isinstance(fn, numpyro.distributions.TransformedDistribution):
        return numpyro.distributions.TransformedDistribution(_base(fn.base_dist), fn.transforms)
    if isinstance(fn, EnergyDistribution | Holes):
        return fn.reference
    return fn


def _unconstrained(site: dict) -> Array:
    with helpful_support_errors(site):
        return biject_to(site["fn"].support).inv(site["value"])


class _Group:
    """The coordinate sites of one `numpyro_disco.sample`, which start together."""

    def __init__(self, prior: EnergyDistribution) -> None:
        self.prior = prior
        self.clamped: Any = prior.values
        self.sites: dict[int, str] = {}
        self.free: dict[str, int] = {}

    @property
    def _observed(self) -> np.ndarray:
        observed = np.ones(len(self.prior.names), bool)
        observed[list(self.free.values())] = False
        return observed

    def point(self, trace: dict) -> Array:
        """The vector at these sites, plate axes first."""
        values = [
            trace[self.sites[i]]["value"] if i in self.sites else self.clamped[..., i]
            for i in range(len(self.prior.names))
        ]
        return jnp.stack(jnp.broadcast_arrays(*values), axis=-1)

    def reference(self, trace: dict) -> Reference:
        """The reference of the free coordinates given the others, one for each plate member."""
        return self.prior._reference.condition(self.point(trace), self._observed)


def _groups(structure: dict) -> list[_Group]:
    groups: dict[str, _Group] = {}
    for name, site in structure.items():
        fn = _unwrapped(site["fn"]) if site["type"] == "sample" else None
        if isinstance(fn, Coordinate):
            prefix = name.removesuffix(f".{fn.name}")
            group = groups.setdefault(prefix, _Group(fn.prior))
            group.sites[fn.index] = name
            if not site["is_observed"]:
                group.free[name] = fn.index
    return [group for group in groups.values() if group.free]
