"""The guard against normalisers that depend on unknowns.

An energy is minus a log density, up to the constant log Z. Inference may leave the constant out
only as long as it depends on nothing that is inferred. Everything log Z depends on (clamped values,
the inverse temperature, the weights) passes through `not_latent`, which raises as soon as someone
differentiates with respect to it.
"""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from numpyro_disco._typing import Array

_Tree = TypeVar("_Tree")


class NormalizerError(ValueError):
    """An unknown normaliser would depend on something that is being inferred."""


@jax.custom_jvp
def not_latent(x: Array) -> Array:
    """Return `x` unchanged; differentiating with respect to it raises a `NormalizerError`.

    Args:
        x: a floating array on which an unknown normaliser depends.

    Returns:
        `x`.
    """
    return x


@not_latent.defjvp
def _(primals: Any, tangents: Any) -> Any:
    raise NormalizerError(
        "An `EnergyDistribution` was clamped to, tempered by, or built from something that is "
        "being inferred (a latent site or a param). Its normaliser would depend on that unknown, "
        "and `log_prob` leaves it out, so the result would be silently wrong. Keep one joint site "
        '(`x = numpyro_disco.sample("x", prior)`) and let the model relate its coordinates to the '
        "unknown through a likelihood. To differentiate an energy with respect to its weights, use "
        "`energy`."
    )


def guard(tree: _Tree) -> _Tree:
    """Return `tree` with every floating leaf passed through `not_latent`."""
    return jax.tree.map(
        lambda leaf: (
            not_latent(leaf) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating) else leaf
        ),
        tree,
    )
