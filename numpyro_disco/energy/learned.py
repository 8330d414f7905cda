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
from numpyro_disco.references.base import Reference


@dataclasses.dataclass(frozen=True)
class Learned:
    """A network over standardised points z = whitener (x - loc), with a reference beside it."""

    weights: Pytree
    """State of the network."""
    reference: Reference
    """The density q of z."""
    loc: Array
    """Mean of the training rows, shape (D,)."""
    whitener: Array
    """The matrix that standardises, shape (D, D)."""
    log_det: Array
    """Log of its determinant, shape ()."""
    graph: Any
    """The network without its weights."""
    smoothed: Reference | None = None
    """While training, q smoothed like the rows: what smoothing does to both, the network need not
    learn, and with q itself in its place afterwards most of it is undone."""

    def standardize(self, x: Array) -> Array:
        """From the user's units, shape (D,) to (D,)."""
        return self.whitener @ (x - self.loc)

    def score(self, z: Array) -> Array:
        """The score at a standardised point, by standardised coordinates, shape (D,)."""
        raise NotImplementedError

    def parts(self, z: Array) -> tuple[Array, Array]:
        """Log q and what the network says at a standardised point."""
        network = nnx.merge(self.graph, self.weights)
        log_prob, local = self.reference.describe(z)
        return log_prob, network(z, local) if network.num_local else network(z)


_pytree = partial(
    jax.tree_util.register_dataclass,
    data_fields=["weights", "reference", "loc", "whitener", "log_det", "smoothed"],
    meta_fields=["graph"],
)


@_pytree
@dataclasses.dataclass(frozen=True)
class LearnedEnergy(Learned):
    """E(x) = -log q(z) - log |dz / dx| + f(z), a density of x in the user's units."""

    def __call__(self, x: Array) -> Array:
        """The energy at one point in the user's units: shape (D,) to shape ()."""
        log_prob, correction = self.parts(self.standardize(x))
        return correction - log_prob - self.log_det

    def standardized(self, z: Array) -> Array:
        """The energy of z itself, up to a constant the density of z: shape (D,) to ()."""
        log_prob, correction = self.parts(z)
        if self.smoothed is not None:
            log_prob, _ = self.smoothed.describe(z)
        return correction - log_prob

    def score(self, z: Array) -> Array:
        """Minus the gradient of the energy; of the smoothed one, while training."""
        return -jax.grad(self.standardized)(z)


@_pytree
@dataclasses.dataclass(frozen=True)
class LearnedScore(Learned):
    """s(z) = grad log q(z) + g(z): a score that need not be the gradient of anything."""

    def score(self, z: Array) -> Array:
        """The reference's score and what the network adds."""
        gradient = jax.grad(lambda z: self.reference.describe(z)[0])(z)
        return gradient + self.parts(z)[1]


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
