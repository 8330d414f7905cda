"""Everything borrowed from NumPyro that its documentation does not promise to keep.

NumPyro has no public way to ask which handlers are active, to evaluate a model as a function of its
unconstrained sites, to give a distribution another batch shape, or to hand `MCMC` draws that were
made elsewhere. The names and conventions below are private or undocumented there. `pyproject.toml`
bounds NumPyro by the last version they were tried with, and `tests/test_numpyro.py` fails if one of
them changes its meaning.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpyro
from numpyro.distributions import Distribution, MixtureGeneral, Normal, constraints
from numpyro.distributions.batch_util import promote_batch_shape
from numpyro.distributions.util import validate_sample
from numpyro.infer import MCMC
from numpyro.infer.mcmc import MCMCKernel
from numpyro.infer.util import (
    _guess_max_plate_nesting as guess_max_plate_nesting,
)
from numpyro.infer.util import (
    _unconstrain_reparam as unconstrain_reparam,
)
from numpyro.infer.util import (
    constrain_fn,
    helpful_support_errors,
    potential_energy,
)
from numpyro.primitives import _PYRO_STACK, Messenger

from numpyro_disco._typing import Array

__all__ = [
    "ModelHolder",
    "StableDistribution",
    "active_handlers",
    "active_plates",
    "chooses_start",
    "constrain_fn",
    "enumerated",
    "enumerates_later",
    "event_constraint",
    "handlers_that_observe",
    "has_own_support",
    "helpful_support_errors",
    "jacobian_factor",
    "model_and_arguments",
    "only_handlers",
    "potential_energy",
    "promote_batch_shape",
    "scan_step",
    "store_draws",
    "unconstrain_reparam",
    "validate_sample",
    "with_batch_shape",
    "with_event_shape",
    "with_observed_vectors",
    "with_renamed_sites",
]

_D = TypeVar("_D", bound=Distribution)


# -- handlers ----------------------------------------------------------------------------------


def active_handlers() -> list[Any]:
    """The effect handlers around the current call, outermost first."""
    return list(_PYRO_STACK)


def active_plates() -> list[Any]:
    """The active plates, outermost first.

    While discrete sites are enumerated, NumPyro's own class is replaced by one of `contrib.funsor`.
    """
    kinds: tuple[type, ...] = (numpyro.plate,)
    if "numpyro.contrib.funsor" in sys.modules:
        kinds = (*kinds, sys.modules["numpyro.contrib.funsor"].plate)
    return [handler for handler in active_handlers() if isinstance(handler, kinds)]


@contextmanager
def only_handlers(handlers: list[Any]) -> Iterator[None]:
    """Run the body under these handlers instead of the active ones."""
    active = active_handlers()
    _PYRO_STACK[:] = handlers
    try:
        yield
    finally:
        _PYRO_STACK[:] = active


def handlers_that_observe(site: str) -> Iterator[tuple[Any, str]]:
    """The active `condition` and `do` handlers, innermost first, with each one's name for `site`.

    The two differ because every `scope` in between adds a prefix. A handler's values are in its
    dict `data`.
    """
    for handler in reversed(active_handlers()):
        if isinstance(handler, numpyro.handlers.scope):
            site = f"{handler.prefix}{handler.divider}{site}"
        elif isinstance(handler, numpyro.handlers.condition | numpyro.handlers.do) and handler.data:
            yield handler, site


def chooses_start(rng_key: Array) -> bool:
    """True while a sampler runs the model to choose values to start from.

    Its strategy, such as `init_to_uniform`, is a `substitute_fn` that has a value for whatever
    continuous site. Functions that hold draws, those of `Predictive`, know the names of theirs.
    """
    unknown = {
        "type": "sample",
        "name": "numpyro_disco: a site that no model has",
        "fn": Normal(0.0, 1.0),
        "kwargs": {"rng_key": rng_key, "sample_shape": ()},
        "is_observed": False,
        "value": None,
        "infer": {},
    }
    functions = [
        handler.substitute_fn
        for handler in active_handlers()
        if isinstance(handler, numpyro.handlers.substitute) and handler.substitute_fn is not None
    ]
    # The strategy is not to see our handlers: it may run parts of a model itself.
    with only_handlers([]):
        return any(function(dict(unknown)) is not None for function in functions)


def enumerates_later() -> bool:
    """True while SVI runs a model with `config_enumerate` beside its guide.

    `TraceEnum_ELBO` does so for parameters, shapes and dependencies alone, before it enumerates.
    """
    active = active_handlers()
    marked = any(isinstance(handler, numpyro.handlers.infer_config) for handler in active)
    return marked and any(isinstance(handler, numpyro.handlers.replay) for handler in active)


# -- models ------------------------------------------------------------------------------------


def jacobian_factor(site: str) -> str:
    """Name of the factor in which `unconstrain_reparam` puts the log Jacobian of a latent site."""
    return f"_{site}_log_det"


def scan_step(site: dict) -> Array | None:
    """The step of the `scan` that a site is in, traced, or None outside of any `scan`."""
    return site["infer"].get("_scan_current_index")


def enumerated(model: Callable, sites: dict[str, dict]) -> Callable:
    """A model whose discrete latent sites `potential_energy(..., enum=True)` sums out.

    Args:
        model: a seeded model.
        sites: its trace, from which the depth of its plates is read.

    Raises:
        ImportError: funsor is not installed.
    """
    try:
        from numpyro.contrib.funsor import config_enumerate, enum
    except ImportError:
        raise ImportError(
            "Summing out discrete latent sites needs funsor, which is not installed. Install the "
            "extra: pip install 'numpyro_disco[enumeration]'."
        ) from None
    return enum(config_enumerate(model), -guess_max_plate_nesting(sites) - 1)


# -- distributions -----------------------------------------------------------------------------


def event_constraint(support: constraints.Constraint) -> constraints.Constraint:
    """A constraint on single entries, without the event axes that `to_event` declares."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def has_own_support(mixture: MixtureGeneral) -> bool:
    """True if a mixture was given a support beside those of its components."""
    return getattr(mixture, "_support", None) is not None


def with_batch_shape(distribution: _D, batch_shape: tuple[int, ...]) -> _D:
    """`distribution` itself, with another batch shape."""
    distribution._batch_shape = tuple(batch_shape)
    return distribution


def with_event_shape(distribution: _D, event_shape: tuple[int, ...]) -> _D:
    """`distribution` itself, with another event shape."""
    distribution._event_shape = tuple(event_shape)
    return distribution


# -- samplers ----------------------------------------------------------------------------------


class StableDistribution(Distribution):
    """A distribution whose leaves have the same order in every process.

    NumPyro collects the names of the fields in a set, whose order differs from process to process.
    Processes that share one program, and programs that are kept on disk, need one order.
    """

    @classmethod
    def gather_pytree_data_fields(cls) -> tuple[str, ...]:
        """Names of the fields that hold arrays, sorted."""
        return tuple(sorted(super().gather_pytree_data_fields()))

    @classmethod
    def gather_pytree_aux_fields(cls) -> tuple[str, ...]:
        """Names of the other fields, sorted."""
        return tuple(sorted(super().gather_pytree_aux_fields()))


class ModelHolder(MCMCKernel):
    """A stand-in for a kernel: `MCMC` and ArviZ ask it for a model and the name of its samples.

    Args:
        model: a NumPyro model.
    """

    sample_field = "z"
    default_fields = ("z",)

    def __init__(self, model: Callable) -> None:
        self.model = model

    def init(self, *args: Any, **kwargs: Any) -> Any:
        """Raise `NotImplementedError`."""
        raise NotImplementedError("TemperedSMC has no chain to start; call its `run`.")

    def sample(self, *args: Any, **kwargs: Any) -> Any:
        """Raise `NotImplementedError`."""
        raise NotImplementedError("TemperedSMC has no chain to advance; call its `run`.")


class _Rename(Messenger):
    """A handler that gives some sites of a model other names."""

    def __init__(self, fn: Callable, names: Mapping[str, str]) -> None:
        self.names = names
        super().__init__(fn)

    def process_message(self, msg: dict[str, Any]) -> None:
        """Rename the site."""
        msg["name"] = self.names.get(msg["name"], msg["name"])


class _OtherModel:
    """A kernel with another model; all else that is asked of it comes from the kernel."""

    def __init__(self, kernel: MCMCKernel, model: Callable) -> None:
        self.kernel, self.model = kernel, model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.kernel, name)


def with_observed_vectors(sampler: MCMC, vectors: Mapping[str, Array]) -> MCMC:
    """A copy of an `MCMC` that has run, with arrays in place of the observed values of some sites.

    Args:
        sampler: the sampler, which stays as it is.
        vectors: the arrays by site.
    """
    other = copy.copy(sampler)
    other.sampler = _OtherModel(sampler.sampler, _Observe(sampler.sampler.model, vectors))
    return other


class _Observe(Messenger):
    """Other observed values for sites."""

    def __init__(self, fn: Callable, vectors: Mapping[str, Array]) -> None:
        super().__init__(fn)
        self.vectors = vectors

    def process_message(self, msg: dict[str, Any]) -> None:
        """Replace the value of a message that is observed."""
        if msg["type"] == "sample" and msg["is_observed"] and msg["name"] in self.vectors:
            msg["value"] = self.vectors[msg["name"]]


def with_renamed_sites(sampler: MCMC, names: Mapping[str, str]) -> MCMC:
    """A copy of an `MCMC` that has run, with other names for some sites.

    Args:
        sampler: the sampler, which stays as it is.
        names: from each name to the new one.
    """
    renamed = copy.copy(sampler)
    renamed.sampler = _OtherModel(sampler.sampler, _Rename(sampler.sampler.model, names))
    draws = sampler.get_samples(group_by_chain=True)
    draws = {names.get(name, name): values for name, values in draws.items()}
    fields = sampler.get_extra_fields(group_by_chain=True)
    store_draws(renamed, sampler._args, sampler._kwargs, draws, fields)
    return renamed


def model_and_arguments(sampler: Any) -> tuple[Any, tuple, dict]:
    """The model of an `MCMC` that has run, or None, and the arguments of that run."""
    return getattr(sampler.sampler, "model", None), sampler._args, sampler._kwargs


def store_draws(
    sampler: MCMC, args: tuple, kwargs: dict, draws: dict[str, Array], fields: dict[str, Array]
) -> None:
    """Make an `MCMC` return draws from elsewhere, as if it had run.

    Args:
        sampler: the `MCMC` to fill; `get_samples`, `get_extra_fields` and ArviZ read it.
        args: arguments that its model was run with.
        kwargs: keyword arguments of the same.
        draws: site name to constrained draws, (num_chains, num_samples, ...).
        fields: extra fields, (num_chains, num_samples, ...).
    """
    sampler._args, sampler._kwargs = args, kwargs
    sampler._states = {sampler._sample_field: draws, **fields}
    sampler._states_flat = None
