"""A NumPyro model as what tempering needs: a base that can be drawn, and two log densities.

Let u be the flat vector of the model's unconstrained latent sites. The log joint splits into

    log target(u) = log base(u) + (log likelihood and factors)(u) + (log p - log q)(u),

where the base holds what can be drawn: the priors of ordinary sites and, for a learned prior p, its
reference q given the clamped coordinates. All terms include the log Jacobian of the map from u to
the sites. Scales and masks affect the target only. Discrete latent sites that can be enumerated are
summed out of the target.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from numpyro import handlers
from numpyro.distributions import Distribution, biject_to

from numpyro_disco._numpyro import (
    enumerated,
    jacobian_factor,
    potential_energy,
    scan_step,
    unconstrain_reparam,
)
from numpyro_disco._tracing import is_latent
from numpyro_disco._typing import Array
from numpyro_disco.energy.guard import NormalizerError
from numpyro_disco.models.bases import BaseBlock, check_base, default_base
from numpyro_disco.models.coordinate import PriorPart
from numpyro_disco.models.groups import CoordinateGroup, coordinate_groups
from numpyro_disco.models.missing import PaddedEntries
from numpyro_disco.models.structure import (
    ModelStructure,
    read_structure,
    unconstrained_value,
    without_wrappers,
)
from numpyro_disco.tempering.schedule import DrawBase, LogDensities


class ModelBase(NamedTuple):
    """The bases that the latent sites of a model start from.

    A site starts from `given`, from the group of coordinates or the block that it is in, or from
    its own prior.
    """

    given: Mapping[str, Distribution]
    """Bases that the user gives, by site."""
    groups: tuple[CoordinateGroup, ...]
    """Coordinate sites that start from the reference of their prior."""
    block: BaseBlock | None
    """A joint base of several sites, or None."""

    def in_block(self, name: str) -> bool:
        """Return True for a site that starts from the block."""
        return self.block is not None and name in self.block.names

    def alone(self, site: dict) -> bool:
        """Return True for a site with a base of its own, outside of any group or block."""
        if site["name"] in self.given:
            return True
        is_part = isinstance(without_wrappers(site["fn"]), PriorPart)
        return not is_part and not self.in_block(site["name"])

    def density(self, site: dict) -> Distribution:
        """The base of a site that has one of its own."""
        name = site["name"]
        return self.given[name] if name in self.given else default_base(site["fn"])


class TemperedModel(NamedTuple):
    """A NumPyro model over one flat vector u of its unconstrained latent sites."""

    model: Callable
    """The model, seeded for whatever it draws besides its latent sites."""
    latent: tuple[str, ...]
    """Names of the latent sites."""
    padded: tuple[str, ...]
    """Names of those that have a value for every entry of a table."""
    unravel: Callable[[Array], dict[str, Array]]
    """Maps u to the unconstrained value of each latent site."""
    draw_base: DrawBase
    """Maps a random key to a draw u of the base."""
    log_densities: LogDensities
    """Maps u to its log density under the base and under the target, Jacobians included."""
    enumerated: bool
    """True if discrete latent sites are summed out of the target."""


def prepare_model(
    model: Callable,
    args: tuple,
    kwargs: dict,
    base: Mapping[str, Distribution] | None = None,
    block: BaseBlock | None = None,
) -> TemperedModel:
    """Read a model once and split its log joint into base and target.

    Args:
        model: a NumPyro model.
        args: its arguments.
        kwargs: its keyword arguments.
        base: distributions from which some sites start instead of their priors.
        block: a joint base of several more sites.

    Returns:
        A `TemperedModel` over the model's unconstrained latent sites.

    Raises:
        ValueError: The model has no latent site, a discrete one that cannot be enumerated, or one
            whose base cannot be drawn; or `base` does not fit its site.
    """
    structure = read_structure(model, args, kwargs)
    given = {} if base is None else base
    check_base(given, structure)
    with_own_base = {*given, *(() if block is None else block.names)}
    bases = ModelBase(given, coordinate_groups(structure.sites, with_own_base), block)
    padded = padded_sites(structure)
    _check_block(block, padded)
    _, unravel = ravel_pytree(structure.prototypes)
    return TemperedModel(
        structure.fixed_model,
        structure.latent,
        padded,
        unravel,
        base_sampler(structure, bases),
        log_density_pair(structure, bases, unravel),
        enumerated=bool(structure.discrete),
    )


def padded_sites(structure: ModelStructure) -> tuple[str, ...]:
    """Names of the latent sites that have a value for every entry of a table."""
    sites = structure.sites
    return tuple(
        name
        for name in structure.latent
        if isinstance(without_wrappers(sites[name]["fn"]), PaddedEntries)
    )


# -- drawing the base --------------------------------------------------------------------------


def base_sampler(structure: ModelStructure, base: ModelBase) -> DrawBase:
    """A function from a random key to one draw u of the base."""
    unravel_block = _block_unravel(structure, base)

    def draw_base(rng_key: Array) -> Array:
        # One key for each group, for the block, and for each remaining site in the order in which
        # the model comes to them. Folding keys as they are needed keeps the program small.
        keys = (jax.random.fold_in(rng_key, index) for index in itertools.count())
        in_groups = _draw_groups(keys, structure, base)
        in_block = {}
        if base.block is not None:
            in_block = unravel_block(base.block.density.sample(next(keys)))

        def substitute_fn(site: dict) -> Any:
            name = site["name"]
            if name in in_groups:
                return in_groups[name]
            if name in in_block:
                # The support may depend on sites before this one.
                return biject_to(site["fn"].support)(in_block[name])
            return _draw_site(site, base, keys) if is_latent(site) else None

        drawing = handlers.substitute(structure.fixed_model, substitute_fn=substitute_fn)
        trace = handlers.trace(drawing).get_trace(*structure.args, **structure.kwargs)
        return ravel_pytree({n: unconstrained_value(trace[n]) for n in structure.latent})[0]

    return draw_base


def _block_unravel(
    structure: ModelStructure, base: ModelBase
) -> Callable[[Array], dict[str, Array]]:
    """From the flat vector of the block to the unconstrained value of each of its sites."""
    prototypes = structure.prototypes
    names = () if base.block is None else base.block.names
    return ravel_pytree({name: prototypes[name] for name in names})[1]


def _draw_groups(
    keys: Iterator[Array], structure: ModelStructure, base: ModelBase
) -> dict[str, Array]:
    """Draw the coordinates of every group from the reference of its prior."""
    drawn: dict[str, Array] = {}
    for group in base.groups:
        drawn |= group.draw(next(keys), structure.sites)
    return drawn


def _draw_site(site: dict, base: ModelBase, keys: Iterator[Array]) -> Array:
    """Draw a site that has a base of its own; the key comes from `keys`."""
    if site["name"] in base.given:
        return base.given[site["name"]].sample(next(keys))
    # The body of a `scan` is traced once for all its steps, and each step needs its own draw.
    step = scan_step(site)
    key = next(keys) if step is None else jax.random.fold_in(next(keys), step)
    try:
        return base.density(site).sample(key, site["kwargs"]["sample_shape"])
    except NotImplementedError:
        raise ValueError(
            f"Site {site['name']!r} has no base that can be drawn: {type(site['fn']).__name__} has "
            "no `sample`. Give it a proper prior."
        ) from None


# -- the two densities -------------------------------------------------------------------------


def log_density_pair(
    structure: ModelStructure, base: ModelBase, unravel: Callable[[Array], dict[str, Array]]
) -> LogDensities:
    """A function from u to its log density under the base and under the target."""
    log_joint = _enumerated_log_joint(structure) if structure.discrete else None
    jacobians = {jacobian_factor(name) for name in structure.latent if not base.in_block(name)}

    def log_densities(u: Array) -> tuple[Array, Array]:
        values = unravel(u)
        trace = _trace_at(structure, values)
        log_base, log_target = jnp.zeros((), u.dtype), jnp.zeros((), u.dtype)
        for name, site in trace.items():
            if site["type"] != "sample":
                continue
            log_prob = site["fn"].log_prob(site["value"])
            scale = 1.0 if site["scale"] is None else site["scale"]
            log_target += jnp.sum(scale * log_prob)
            if name in structure.latent:
                if base.alone(site):
                    log_base += jnp.sum(base.density(site).log_prob(site["value"]))
            elif name in jacobians:
                log_base += jnp.sum(log_prob)
        for group in base.groups:
            log_base += jnp.sum(group.log_base(trace))
        if base.block is not None:
            block_values = {name: values[name] for name in base.block.names}
            log_base += base.block.density.log_prob(ravel_pytree(block_values)[0])
        return log_base, log_target if log_joint is None else log_joint(values)

    return log_densities


def _trace_at(structure: ModelStructure, values: dict[str, Array]) -> dict[str, dict]:
    """Trace the model at unconstrained values; Jacobians are factors of the trace."""
    at_values = partial(unconstrain_reparam, values)
    substituted = handlers.substitute(structure.fixed_model, substitute_fn=at_values)
    return handlers.trace(substituted).get_trace(*structure.args, **structure.kwargs)


def _enumerated_log_joint(structure: ModelStructure) -> Callable[[dict], Array]:
    """The log joint with discrete sites summed out, from unconstrained values of the others."""
    model = enumerated(structure.model, structure.sites)

    def log_joint(values: dict) -> Array:
        return -potential_energy(model, structure.args, structure.kwargs, values, enum=True)

    return log_joint


# -- checks ------------------------------------------------------------------------------------


def _check_block(block: BaseBlock | None, padded: tuple[str, ...]) -> None:
    """Refuse draws of a table's missing entries as the base where the table is traced."""
    shared = [] if block is None else [name for name in padded if name in block.names]
    if shared:
        raise ValueError(
            f"Expected no draws of {shared} in `base`: the table is an argument of the model, and "
            "compiled code does not know what is missing in it. Leave them out, or use "
            "TemperedSMC(..., jit_model_args=False)."
        )


def refuse_inferred_normalizers(prepared: TemperedModel) -> None:
    """Raise `NormalizerError` as differentiating the model would, without computing anything.

    Kernels that take no gradient need this: nothing else would notice a normaliser that depends on
    a latent site.
    """
    u = jax.eval_shape(prepared.draw_base, jax.random.key(0))

    def directional_derivative(u: Array) -> Any:
        return jax.jvp(prepared.log_densities, (u,), (u,))

    try:
        jax.eval_shape(directional_derivative, u)
    except NormalizerError:
        raise
    except Exception:
        # A model that cannot be differentiated is a reason to use such a kernel, not an error.
        pass


def non_finite_sites(model: Callable, args: tuple, kwargs: dict, num_draws: int = 256) -> str:
    """A sentence that names the sites whose log density is NaN or +infinity at draws of the priors.

    Returns:
        The sentence with a space before it, or "" if there is no such site or none can be drawn.
    """

    def site_log_probs(rng_key: Array) -> dict[str, Array]:
        trace = handlers.trace(handlers.seed(model, rng_key)).get_trace(*args, **kwargs)
        return {
            name: jnp.sum(site["fn"].log_prob(site["value"]))
            for name, site in trace.items()
            if site["type"] == "sample"
        }

    try:
        log_probs = jax.vmap(site_log_probs)(jax.random.split(jax.random.key(0), num_draws))
    except NotImplementedError:
        return ""
    names = [
        name
        for name, value in log_probs.items()
        if bool((jnp.isnan(value) | (value == jnp.inf)).any())
    ]
    return f" Found at {', '.join(map(repr, names))}." if names else ""
