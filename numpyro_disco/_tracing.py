"""The sites of a NumPyro model, from one run of it."""

from __future__ import annotations

from collections.abc import Callable

import jax
from numpyro import handlers
from numpyro.infer import init_to_uniform


def trace_sites(model: Callable, args: tuple, kwargs: dict, seed: int = 0) -> dict[str, dict]:
    """Trace a model with its latent sites anywhere inside their supports.

    Args:
        model: a NumPyro model.
        args: its arguments.
        kwargs: its keyword arguments.
        seed: seed of the random key; others give other values of the latent sites.
    """
    seeded = handlers.seed(model, jax.random.key(seed))
    started = handlers.substitute(seeded, substitute_fn=init_to_uniform)
    return handlers.trace(started).get_trace(*args, **kwargs)


def is_latent(site: dict) -> bool:
    """Return True for a sample site that is not observed."""
    return site["type"] == "sample" and not site["is_observed"]
