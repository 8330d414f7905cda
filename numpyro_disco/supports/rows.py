"""Supports of several vectors of different lengths, which are stored one after the other.

The missing entries of a table are such vectors, one for each row that has any. Each row i has an
unconstrained space of its own,

    x_i = T(loc_i + L_i u_i),

with L_i a lower-triangular matrix of the row's size. The matrices are padded to one size with the
identity, so the size of a compiled program depends neither on the number of rows nor on which
entries are missing.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to, constraints, transforms

from numpyro_disco._gaussians import log_diagonal, solve
from numpyro_disco._typing import Array
from numpyro_disco.supports.coordinates import CoordinateSupports
from numpyro_disco.supports.fields import Fields


class _Rows(Fields):
    """The fields that the support and the map onto it share."""

    array_fields = ("loc", "factors")
    static_fields = ("sizes", "base")

    def __init__(
        self, loc: Array, factors: Array, sizes: tuple[int, ...], base: CoordinateSupports
    ) -> None:
        self.loc, self.factors, self.sizes, self.base = loc, factors, sizes, base


class StandardizedRows(_Rows, constraints.Constraint):
    """Vectors of different lengths, one after the other, each standardised by itself.

    Args:
        loc: location of each of the N numbers in unconstrained space, shape (N,).
        factors: lower-triangular matrices L_i with positive diagonals, padded with the identity to
            the largest of the sizes, shape (rows, M, M).
        sizes: length of each vector; they sum to N. They determine shapes, so they are static.
        base: supports of the N numbers, which define T.

    Example:
        >>> import jax.numpy as jnp
        >>> from numpyro.distributions import biject_to, constraints
        >>> base = CoordinateSupports((constraints.real,) * 3)
        >>> factors = jnp.array([[[2.0, 0.0], [0.5, 1.0]], [[3.0, 0.0], [0.0, 1.0]]])
        >>> support = StandardizedRows(jnp.zeros(3), factors, (2, 1), base)
        >>> biject_to(support)(jnp.ones(3)).tolist()
        [2.0, 1.5, 3.0]
    """

    event_dim = 1

    def __repr__(self) -> str:
        return f"StandardizedRows({len(self.loc)} numbers in {len(self.sizes)} rows)"

    def __call__(self, x: Any) -> Any:
        """True where all numbers are finite and in their supports."""
        return self.base.inside(x).all(-1)

    def feasible_like(self, prototype: Any) -> Array:
        """The locations in the user's units, in the shape of `prototype`."""
        return jnp.broadcast_to(self.base.constrain(self.loc), jnp.shape(prototype))


class RowsTransform(_Rows, transforms.Transform):
    """The map from u to x, x_i = T(loc_i + L_i u_i), for vectors stored one after the other.

    The arguments are those of `StandardizedRows`.
    """

    domain = constraints.real_vector

    @property
    def codomain(self) -> constraints.Constraint:
        """The vectors with the same locations and factors."""
        return StandardizedRows(self.loc, self.factors, self.sizes, self.base)

    @property
    def _entries(self) -> tuple[np.ndarray, np.ndarray]:
        """The row of each number, and its position in the row, shape (N,) each."""
        sizes = np.asarray(self.sizes, int)
        start = np.repeat(np.cumsum(sizes) - sizes, sizes)
        return np.repeat(np.arange(len(sizes)), sizes), np.arange(sizes.sum()) - start

    def _unconstrained(self, x: Array) -> Array:
        # Rows follow each other, so all L_i together are one lower-triangular band matrix. Products
        # with its diagonals take neither a gather nor a scatter, which are slow on CPUs.
        row, position = self._entries
        y = self.loc
        for offset in range(self.factors.shape[-1]):
            within = position >= offset
            diagonal = self.factors[row, position, np.maximum(position - offset, 0)] * within
            before = [(0, 0)] * (x.ndim - 1) + [(offset, 0)]
            y = y + diagonal * jnp.pad(x[..., : x.shape[-1] - offset], before)
        return y

    def __call__(self, x: Any) -> Array:
        """Map unconstrained numbers to the user's units, (..., N) to (..., N)."""
        return self.base.constrain(self._unconstrained(jnp.asarray(x)))

    def _inverse(self, y: Any) -> Array:
        y = self.base.unconstrain(y) - self.loc
        row, position = self._entries
        rows = jnp.zeros((*y.shape[:-1], *self.factors.shape[:-1]), y.dtype)
        rows = rows.at[..., row, position].set(y)
        return solve(jnp.asarray(self.factors), rows)[..., row, position]

    def log_abs_det_jacobian(self, x: Any, y: Any, intermediates: Any = None) -> Array:
        """Sum over rows of the log determinant of L_i, plus the sum of log |dT/dy|."""
        log_det = log_diagonal(jnp.asarray(self.factors)).sum()
        if not self.base.real:
            log_det = log_det + self.base.log_dets(self._unconstrained(x), y).sum(-1)
        return jnp.broadcast_to(log_det, jnp.shape(y)[:-1])


@biject_to.register(StandardizedRows)
def _(constraint: StandardizedRows) -> transforms.Transform:
    return RowsTransform(constraint.loc, constraint.factors, constraint.sizes, constraint.base)
