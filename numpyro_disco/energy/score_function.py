"""A learned score that need not be the gradient of an energy."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from numpyro_disco._typing import Array
from numpyro_disco.energy.learned import Learned
from numpyro_disco.references.base import Reference


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["model", "loc", "scale"],
    meta_fields=["shape", "noise_scale"],
)
@dataclasses.dataclass(frozen=True)
class ScoreFunction:
    """A learned score without a density, in the user's units.

    It can be followed by `sample_langevin`. Conditioning, evidence and Metropolis corrections need
    a density, which it does not have.
    """

    model: Learned
    """The network over standardised points."""
    loc: Array
    """Location of each coordinate, shape (D,)."""
    scale: Array
    """Scale of each coordinate, shape (D,)."""
    shape: tuple[int, ...]
    """Shape of a point."""
    noise_scale: float | None
    """The smoothing sigma_0, in standardised units; None if the score is not a smoothed one."""

    @property
    def reference(self) -> Reference:
        """A density near that of the rows, over vectors in the user's units."""
        basis = jnp.linalg.inv(self.model.whitener)
        return self.model.reference.affine(basis, self.model.loc)

    def score(self, x: Any) -> Array:
        """The score at points in the user's units, shape (...) + shape."""
        x, shape = jnp.asarray(x), self.shape
        if x.shape[max(0, x.ndim - len(shape)) :] != shape:
            raise ValueError(
                f"Expected an array whose last axes are {shape} for `x`; got {x.shape}."
            )
        flat = x.reshape(*x.shape[: x.ndim - len(shape)], -1)
        return jnp.vectorize(self._at_one, signature="(d)->(d)")(flat).reshape(x.shape)

    def _at_one(self, x: Array) -> Array:
        return self.model.score(self.model.standardize(x)) @ self.model.whitener
