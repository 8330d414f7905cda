"""Everything borrowed from NumPyro that its documentation does not promise to keep.

NumPyro has no public way to ask which handlers are active, to read a model as a function of its
unconstrained sites, or to give a distribution another batch shape. The names below are private or
undocumented there; `pyproject.toml` bounds NumPyro by the last version with which they were tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from numpyro.distributions import Distribution
from numpyro.distributions.batch_util import promote_batch_shape
from numpyro.distributions.util import validate_sample
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
from numpyro.primitives import _PYRO_STACK

__all__ = [
    "MCMCKernel",
    "active_handlers",
    "constrain_fn",
    "guess_max_plate_nesting",
    "helpful_support_errors",
    "model_and_arguments",
    "only_handlers",
    "potential_energy",
    "promote_batch_shape",
    "unconstrain_reparam",
    "validate_sample",
    "with_batch_shape",
]

_D = TypeVar("_D", bound=Distribution)


def active_handlers() -> list[Any]:
    """The effect handlers around the current call, outermost first."""
    return list(_PYRO_STACK)


@contextmanager
def only_handlers(handlers: list[Any]) -> Iterator[None]:
    """Run the body under these handlers instead of the active ones."""
    active = active_handlers()
    _PYRO_STACK[:] = handlers
    try:
        yield
    finally:
        _PYRO_STACK[:] = active


def with_batch_shape(distribution: _D, batch_shape: tuple[int, ...]) -> _D:
    """`distribution` itself, with another batch shape."""
    distribution._batch_shape = tuple(batch_shape)
    return distribution


def model_and_arguments(sampler: Any) -> tuple[Any, tuple, dict]:
    """The model of an `MCMC` that has run, or None, and the arguments of that run."""
    return getattr(sampler.sampler, "model", None), sampler._args, sampler._kwargs
