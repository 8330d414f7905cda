"""Energies as plain callables that JAX can look into.

An energy maps one point, shape (D,), to a number in nats, shape (). Its weights must be leaves of
the callable, so that compiled programs take them as arguments instead of baking them in.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx

from numpyro_disco._typing import Array, EnergyFn, Pytree
from numpyro_disco.reference import Reference


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["weights", "reference", "loc", "scale"],
    meta_fields=["graph"],
)
@dataclasses.dataclass(frozen=True)
class LearnedEnergy:
    """E(x) = -log q(x) + f((x - loc) / scale), in the user's units.

    q is normalised in the user's units and f is a pure number, so no Jacobian is owed.
    """

    weights: Pytree
    """State of the network f."""
    reference: Reference
    """The density q."""
    loc: Array
    """Mean of the training rows, shape (D,)."""
    scale: Array
    """Standard deviation of the training rows, shape (D,)."""
    graph: Any
    """The network without its weights."""

    def __call__(self, x: Array) -> Array:
        """The energy at one point: shape (D,) to shape ()."""
        log_prob, correction = self.parts(x)
        return correction - log_prob

    def parts(self, x: Array) -> tuple[Array, Array]:
        """Log q and f at one point: shape (D,) to two of shape ()."""
        network = nnx.merge(self.graph, self.weights)
        log_prob, local = self.reference.describe(x)
        z = (x - self.loc) / self.scale
        return log_prob, network(z, local) if network.num_local else network(z)


def as_pytree_callable(energy_fn: EnergyFn) -> EnergyFn:
    """`energy_fn` as a pytree whose leaves are arrays.

    A callable that is a pytree already (a flax or equinox module, a `jax.tree_util.Partial`)
    stays as it is. A plain function becomes a `Partial` without arguments: arrays it has closed
    over are constants to any compiled program.
    """
    if jax.tree_util.all_leaves([energy_fn]):
        return jax.tree_util.Partial(energy_fn)
    for leaf in jax.tree.leaves(energy_fn):
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic | float | int):
            raise ValueError(
                f"Expected arrays as the leaves of `energy_fn`; got {leaf!r}. Keep what is no "
                "array out of the tree: `jax.tree_util.Partial(function, weights)`, with the rest "
                "in the function's closure."
            )
    return energy_fn
