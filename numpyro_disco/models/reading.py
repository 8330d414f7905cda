"""Reading a NumPyro model as what tempering needs: a base that can be drawn, and two densities.

The base is made of what can be sampled: ordinary latent sites from their priors, learned priors
from their reference, given their clamped coordinates in closed form; or whatever the user gives for
a site instead. Everything else, likelihoods, factors and the energies relative to their references,
is the target's alone. Discrete latent sites that can be enumerated are summed out of the target.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
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

from numpyro_disco._numpyro import (
    guess_max_plate_nesting,
    helpful_support_errors,
    potential_energy,
    unconstrain_reparam,
)
from numpyro_disco._typing import Array
from numpyro_disco.energy.distribution import EnergyDistribution
from numpyro_disco.energy.guard import NormalizerError
from numpyro_disco.models.missing import Holes, PaddedHoles
from numpyro_disco.models.sites import Coordinate
from numpyro_disco.references.base import Reference
from numpyro_disco.tempering.schedule import DrawBase, LogDensities

WRAPPERS = (
    numpyro.distributions.ExpandedDistribution,
    numpyro.distributions.Independent,
    numpyro.distributions.MaskedDistribution,
)


class BaseBlock(NamedTuple):
    """A base for several sites together, over their unconstrained values."""

    names: tuple[str, ...]
    """The sites, in the order of their values."""
    density: Reference
    """Over the flat vector of these values."""


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
    enumerated: bool
    """Whether discrete latent sites are summed out of the target."""


def model_structure(model: Callable, args: tuple, kwargs: dict) -> dict[str, dict]:
    """The sites of a model, latent ones anywhere in their supports."""
    seeded = handlers.seed(model, jax.random.key(0))
    started = handlers.substitute(seeded, substitute_fn=init_to_uniform)
    return handlers.trace(started).get_trace(*args, **kwargs)


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
        base: for some sites, what they start from instead of their priors.
        block: the same for several sites together.

    Returns:
        A `TemperedModel` over the model's unconstrained latent sites.

    Raises:
        ValueError: no latent site, a discrete one that cannot be enumerated, one without a base
            that can be drawn, or a `base` that does not fit its site.
    """
    base = {} if base is None else base
    # A key of its own for whatever the model draws that is not a latent site: the same each time.
    seeded = handlers.seed(model, jax.random.key(0))
    structure = model_structure(model, args, kwargs)
    latent: list[str] = []
    discrete: dict[str, Array] = {}
    for name, site in structure.items():
        if site["type"] == "plate" and len(site["value"]) != site["args"][0]:
            raise ValueError(
                f"Plate {name!r} subsamples {len(site['value'])} of {site['args'][0]} rows; "
                "TemperedSMC needs the whole likelihood. Leave `subsample_size` out."
            )
        if site["type"] != "sample" or site["is_observed"]:
            continue
        if site["fn"].support is not None and site["fn"].support.is_discrete:
            if not site["fn"].has_enumerate_support:
                raise ValueError(
                    f"Site {name!r} is a discrete latent without finite support, which can be "
                    "neither moved nor summed out. Sum it out of the model by hand."
                )
            discrete[name] = site["value"]
            continue
        latent.append(name)
    if not latent:
        raise ValueError("The model has no latent site: nothing is left to draw.")
    _check_base(base, structure, latent)
    own = () if block is None else block.names
    groups = _groups(structure, {*base, *own})
    prototype = {name: _unconstrained(structure[name]) for name in latent}
    _, unravel = ravel_pytree(prototype)
    # NumPyro enters the Jacobian of a transformed site as a factor of this name.
    log_dets = {f"_{name}_log_det" for name in latent if name not in own}
    # Any value of a discrete site makes a base: what matters is that it is the same throughout.
    fixed = handlers.substitute(seeded, data=discrete) if discrete else seeded
    log_joint = _enumerated_log_joint(seeded, structure, args, kwargs) if discrete else None
    _, unravel_block = ravel_pytree({name: prototype[name] for name in own})

    def draw_base(rng_key: Array) -> Array:
        group_key, model_key = jax.random.split(rng_key)
        drawn: dict[str, Array] = {}
        for index, group in enumerate(groups):
            x = group.reference(structure).sample(jax.random.fold_in(group_key, index))
            drawn |= {site: x[..., place] for site, place in group.free.items()}
        from_block: dict[str, Array] = {}
        if block is not None:
            from_block = unravel_block(block.density.sample(jax.random.fold_in(rng_key, 2)))

        keys = (jax.random.fold_in(model_key, index) for index in itertools.count())

        def substitute_fn(site: dict) -> Any:
            if site["name"] in drawn:
                return drawn[site["name"]]
            if site["name"] in from_block:
                return biject_to(site["fn"].support)(from_block[site["name"]])
            if site["type"] != "sample" or site["is_observed"]:
                return None
            if site["name"] in base:
                return base[site["name"]].sample(next(keys))
            # The body of a `scan` is read once for all its steps, whose draws are to be their own.
            step = site["infer"].get("_scan_current_index")
            key = next(keys) if step is None else jax.random.fold_in(next(keys), step)
            try:
                return _base(site["fn"]).sample(key, site["kwargs"]["sample_shape"])
            except NotImplementedError:
                raise ValueError(
                    f"Site {site['name']!r} has no base that can be drawn: "
                    f"{type(site['fn']).__name__} has no `sample`. Give it a proper prior."
                ) from None

        drawing = handlers.substitute(fixed, substitute_fn=substitute_fn)
        trace = handlers.trace(drawing).get_trace(*args, **kwargs)
        return ravel_pytree({name: _unconstrained(trace[name]) for name in latent})[0]

    def log_densities(u: Array) -> tuple[Array, Array]:
        values = unravel(u)
        substituted = handlers.substitute(fixed, substitute_fn=partial(unconstrain_reparam, values))
        trace = handlers.trace(substituted).get_trace(*args, **kwargs)
        log_base, log_target = jnp.zeros((), u.dtype), jnp.zeros((), u.dtype)
        for name, site in trace.items():
            if site["type"] != "sample":
                continue
            log_prob = site["fn"].log_prob(site["value"])
            scale = 1.0 if site["scale"] is None else site["scale"]
            log_target += jnp.sum(scale * log_prob)
            if name in base:
                log_base += jnp.sum(base[name].log_prob(site["value"]))
            elif name in prototype and name not in own:
                if not isinstance(unwrapped(site["fn"]), Coordinate):
                    log_base += jnp.sum(_base(site["fn"]).log_prob(site["value"]))
            elif name in log_dets:
                log_base += jnp.sum(log_prob)
        for group in groups:
            log_base += jnp.sum(group.reference(trace).log_prob(group.point(trace)))
        if block is not None:
            log_base += block.density.log_prob(ravel_pytree({n: values[n] for n in own})[0])
        if log_joint is not None:
            log_target = log_joint(values)
        return log_base, log_target

    return TemperedModel(
        fixed, tuple(latent), unravel, draw_base, log_densities, enumerated=bool(discrete)
    )


def refuse_inferred_normalizers(prepared: TemperedModel) -> None:
    """Raise what a derivative of the model would, for moves that take none; computes nothing."""
    u = jax.eval_shape(prepared.draw_base, jax.random.key(0))

    def along(u: Array) -> Any:
        return jax.jvp(prepared.log_densities, (u,), (u,))

    try:
        jax.eval_shape(along, u)
    except NormalizerError:
        raise
    except Exception:
        # A model without derivatives is why such moves exist: of it nothing can be said.
        pass


def unconstrain_draws(
    model: Callable, args: tuple, kwargs: dict, draws: Mapping[str, Array]
) -> tuple[tuple[str, ...], Array]:
    """Draws of some sites as one unconstrained vector for each draw.

    Args:
        model: a NumPyro model.
        args: its arguments.
        kwargs: its keyword arguments.
        draws: for each of these sites an array (num_draws, ...).

    Returns:
        The names in the vector's order, and an array (num_draws, d).
    """
    seeded = handlers.seed(model, jax.random.key(0))
    structure = model_structure(model, args, kwargs)
    latent = [
        name
        for name, site in structure.items()
        if site["type"] == "sample" and not site["is_observed"]
    ]
    _check_base(draws, structure, latent)
    names = tuple(name for name in latent if name in draws)
    counts = {name: len(draws[name]) for name in names}
    if len(set(counts.values())) != 1:
        raise ValueError(f"Expected equally many draws of each site in `base`; got {counts}.")
    for name in names:
        if np.shape(draws[name])[1:] != np.shape(structure[name]["value"]):
            raise ValueError(
                f"Expected draws of shape (num_draws, *{np.shape(structure[name]['value'])}) for "
                f"{name!r} in `base`; got {np.shape(draws[name])}."
            )

    def one(draw: dict[str, Array]) -> Array:
        substituted = handlers.substitute(
            seeded,
            substitute_fn=lambda site: (
                draw[site["name"]] if site["name"] in draw else init_to_uniform(site)
            ),
        )
        trace = handlers.trace(substituted).get_trace(*args, **kwargs)
        return ravel_pytree({name: _unconstrained(trace[name]) for name in names})[0]

    return names, jax.vmap(one)({name: jnp.asarray(draws[name]) for name in names})


def non_finite_sites(model: Callable, args: tuple, kwargs: dict, num_draws: int = 256) -> str:
    """Names the sites whose log density is NaN or +infinity at draws of their priors."""

    def one(rng_key: Array) -> dict[str, Array]:
        trace = handlers.trace(handlers.seed(model, rng_key)).get_trace(*args, **kwargs)
        return {
            name: jnp.sum(site["fn"].log_prob(site["value"]))
            for name, site in trace.items()
            if site["type"] == "sample"
        }

    try:
        found = jax.vmap(one)(jax.random.split(jax.random.key(0), num_draws))
    except NotImplementedError:
        return ""
    names = [
        name for name, value in found.items() if bool((jnp.isnan(value) | (value == jnp.inf)).any())
    ]
    return f" Found at {', '.join(map(repr, names))}." if names else ""


def _check_base(base: Mapping[str, Any], structure: dict, latent: Sequence[str]) -> None:
    for name, given in base.items():
        if name not in latent:
            raise ValueError(
                f"`base` names {name!r}, which is not a continuous latent site of the model; these "
                f"are {tuple(latent)}."
            )
        if not isinstance(given, Distribution):
            continue
        fn = structure[name]["fn"]
        shape = np.shape(structure[name]["value"])
        if given.shape() != shape:
            raise ValueError(
                f"Expected a `base` of shape {shape} for site {name!r}; got {given.shape()}. Use "
                "`expand` and `to_event`."
            )
        if type(_plain(given.support)) is not type(_plain(fn.support)):
            raise ValueError(
                f"Expected a `base` with the support of site {name!r}, {fn.support}; got "
                f"{given.support}. Where they differ, the evidence would be wrong."
            )


def _plain(support: Any) -> Any:
    while isinstance(support, type(numpyro.distributions.constraints.real_vector)):
        support = support.base_constraint
    return support


def _enumerated_log_joint(
    seeded: Callable, structure: dict, args: tuple, kwargs: dict
) -> Callable[[dict], Array]:
    """Log joint with discrete sites summed out, Jacobians of continuous ones included."""
    try:
        from numpyro.contrib.funsor import config_enumerate, enum
    except ImportError:
        raise ImportError(
            "Summing out discrete latent sites needs funsor, which is not installed. Install the "
            "extra: pip install 'numpyro_disco[enumeration]'."
        ) from None
    depth = guess_max_plate_nesting(structure)
    enumerated = enum(config_enumerate(seeded), -depth - 1)

    def log_joint(values: dict) -> Array:
        return -potential_energy(enumerated, args, kwargs, values, enum=True)

    return log_joint


def unwrapped(fn: Distribution) -> Distribution:
    """What is under expansions, event axes and masks."""
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
    if isinstance(fn, EnergyDistribution | Holes | PaddedHoles):
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

    def reference(self, trace: dict) -> Distribution:
        """The reference of the free coordinates given the others, one for each plate member."""
        return self.prior.reference_given(self.point(trace), self._observed)


def _groups(structure: dict, elsewhere: set[str]) -> list[_Group]:
    groups: dict[str, _Group] = {}
    for name, site in structure.items():
        fn = unwrapped(site["fn"]) if site["type"] == "sample" else None
        if isinstance(fn, Coordinate):
            prefix = name.removesuffix(f".{fn.name}")
            group = groups.setdefault(prefix, _Group(fn.prior))
            group.sites[fn.index] = name
            if not site["is_observed"]:
                group.free[name] = fn.index
    started = []
    for prefix, group in groups.items():
        given = elsewhere & set(group.free)
        if given and given != set(group.free):
            raise ValueError(
                f"`base` names {sorted(given)} of {prefix!r}; its free coordinates start together. "
                f"Give a base for each of {sorted(group.free)}, or for none."
            )
        if group.free and not given:
            started.append(group)
    return started
