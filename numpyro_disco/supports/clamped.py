"""Supports with a location and scale, in which some coordinates may be held fixed.

The support of a clamped prior is a subspace: vectors of D numbers, some of them fixed. Its
unconstrained space has one dimension for each *free* coordinate,

    x_free = T(loc_free + L u),    x_fixed = values_fixed,

with L a lower-triangular matrix, so a sampler moves in as many dimensions as there are unknowns,
at the scale of the data and along their correlations.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to, constraints, transforms

from numpyro_disco._gaussians import log_diagonal, multiply, solve
from numpyro_disco._typing import Array, ArrayLike
from numpyro_disco.supports.coordinates import CoordinateSupports
from numpyro_disco.supports.fields import Fields


class StandardizedReal(Fields, constraints.Constraint):
    """One coordinate x = T(loc + scale * u), with u unconstrained and standardised.

    Args:
        loc: location in unconstrained space; any batch shape.
        scale: positive scale in unconstrained space.
        base: support of the single coordinate, which defines T; the real line by default.
    """

    array_fields = ("loc", "scale")
    static_fields = ("base",)

    def __init__(
        self, loc: ArrayLike, scale: ArrayLike, base: CoordinateSupports | None = None
    ) -> None:
        self.loc, self.scale = loc, scale
        self.base = CoordinateSupports((constraints.real,)) if base is None else base

    def __repr__(self) -> str:
        return f"StandardizedReal({self.base.supports[0]!r})"

    @property
    def plain(self) -> constraints.Constraint:
        """The support without location and scale."""
        return self.base.plain[0]

    def __call__(self, x: Any) -> Any:
        """True where x is finite and in the support."""
        return self.base.inside(jnp.asarray(x)[..., None])[..., 0]

    def feasible_like(self, prototype: Any) -> Array:
        """The location in the user's units, in the shape of `prototype`."""
        centre = self.base.constrain(jnp.asarray(self.loc)[..., None])[..., 0]
        return jnp.broadcast_to(centre, jnp.shape(prototype))


class _Clamped(Fields):
    """The fields that the clamped subspace and the map onto it share."""

    array_fields = ("loc", "factor", "values")
    static_fields = ("observed", "base")

    def __init__(
        self,
        loc: Array,
        factor: Array,
        values: Array | None,
        observed: tuple[bool, ...],
        base: CoordinateSupports | None = None,
    ) -> None:
        self.loc, self.factor, self.values, self.observed = loc, factor, values, observed
        self.base = (
            CoordinateSupports((constraints.real,) * len(observed)) if base is None else base
        )


class StandardizedVector(_Clamped, constraints.Constraint):
    """Vectors of D numbers, some of which are held at given values.

    Args:
        loc: location in unconstrained space, shape (..., D).
        factor: lower-triangular matrix L in unconstrained space with a positive diagonal, shape
            (..., D, D). Rows and columns of fixed coordinates are ignored.
        values: the fixed values in the user's units, shape (..., D), ignored where free; None if
            nothing is fixed.
        observed: D booleans, true for fixed coordinates. They determine shapes, so they are static.
        base: supports of the D coordinates, which define T; the real line by default.

    Example:
        >>> import jax.numpy as jnp
        >>> values = jnp.array([0.0, 5.0, 0.0])
        >>> support = StandardizedVector(jnp.zeros(3), jnp.eye(3), values, (False, True, False))
        >>> biject_to(support)(jnp.zeros(2)).shape
        (3,)
    """

    event_dim = 1

    def __repr__(self) -> str:
        fixed = np.flatnonzero(self.observed).tolist()
        return f"StandardizedVector({self.base.supports!r}, fixed: {fixed})"

    @property
    def plain(self) -> tuple[constraints.Constraint, ...]:
        """The support of each entry, without location and scale."""
        return self.base.plain

    def __call__(self, x: Any) -> Any:
        """True where x is finite, in the supports, and equal to the fixed values."""
        inside = self.base.inside(x)
        if self.values is not None:
            inside = inside & (~np.asarray(self.observed) | (x == self.values))
        return inside.all(-1)

    def feasible_like(self, prototype: Any) -> Array:
        """The location in the user's units with the fixed values, in the shape of `prototype`."""
        centre = self.base.constrain(self.loc)
        if self.values is not None:
            centre = jnp.where(np.asarray(self.observed), self.values, centre)
        return jnp.broadcast_to(centre, jnp.shape(prototype))


class ClampedTransform(_Clamped, transforms.Transform):
    """The map from u to vectors: T(loc + L u) where free, and the fixed values elsewhere.

    The Jacobian is that of the free coordinates. The arguments are those of `StandardizedVector`.
    """

    domain = constraints.real_vector

    @property
    def codomain(self) -> constraints.Constraint:
        """The vectors with the same coordinates fixed."""
        return StandardizedVector(self.loc, self.factor, self.values, self.observed, self.base)

    @property
    def _free(self) -> np.ndarray:
        return np.flatnonzero(~np.asarray(self.observed))

    @property
    def _free_base(self) -> CoordinateSupports:
        return self.base.select(self._free) if any(self.observed) else self.base

    @property
    def _free_factor(self) -> Array:
        free = self._free
        return self.factor[..., free[:, None], free] if any(self.observed) else self.factor

    def _unconstrained(self, x: Any) -> Array:
        return self.loc[..., self._free] + multiply(self._free_factor, x)

    def __call__(self, x: Any) -> Array:
        """Map the free unconstrained coordinates to whole vectors, (..., free) to (..., D)."""
        free = self._free
        self.forward_shape(jnp.shape(x))
        moved = self._free_base.constrain(self._unconstrained(x))
        if self.values is None:
            return moved
        shape = jnp.broadcast_shapes(moved.shape[:-1], self.values.shape[:-1])
        whole = jnp.broadcast_to(self.values, (*shape, len(self.observed)))
        return whole.astype(moved.dtype).at[..., free].set(moved)

    def _inverse(self, y: Any) -> Array:
        free = self._free
        y = self._free_base.unconstrain(y[..., free])
        return solve(self._free_factor, y - self.loc[..., free])

    def log_abs_det_jacobian(self, x: Any, y: Any, intermediates: Any = None) -> Array:
        """Log determinant of L, plus log |dT/dy| summed over the free coordinates."""
        free = self._free
        log_det = log_diagonal(self._free_factor).sum(-1)
        if not self.base.real:
            unconstrained = self._unconstrained(x)
            log_dets = self._free_base.log_dets(unconstrained, y[..., free])
            log_det = log_det + log_dets.sum(-1)
        return jnp.broadcast_to(log_det, jnp.shape(y)[:-1])

    def forward_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the vectors: (..., free) to (..., D)."""
        if shape[-1:] != (len(self._free),):
            raise ValueError(
                f"Expected a last axis of {len(self._free)} for the free coordinates; got shape "
                f"{shape}."
            )
        return (*shape[:-1], len(self.observed))

    def inverse_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the free coordinates: (..., D) to (..., free)."""
        if shape[-1:] != (len(self.observed),):
            raise ValueError(
                f"Expected a last axis of {len(self.observed)} for the vectors; got shape {shape}."
            )
        return (*shape[:-1], len(self._free))


@biject_to.register(StandardizedReal)
def _(constraint: StandardizedReal) -> transforms.Transform:
    standardize = transforms.AffineTransform(constraint.loc, constraint.scale)
    if constraint.base.real:
        return standardize
    return transforms.ComposeTransform([standardize, biject_to(constraint.base.supports[0])])


@biject_to.register(StandardizedVector)
def _(constraint: StandardizedVector) -> transforms.Transform:
    free = constraint.base.discrete & ~np.asarray(constraint.observed)
    if free.any():
        listed = {int(place): constraint.base.supports[place] for place in np.flatnonzero(free)}
        raise ValueError(
            f"Expected a vector site whose free coordinates are continuous; got {listed} among "
            "them, which samplers that use gradients cannot move. Use "
            "`numpyro_disco.sample(name, prior)`, which makes a site for each coordinate, or clamp "
            "the discrete ones."
        )
    return ClampedTransform(
        constraint.loc, constraint.factor, constraint.values, constraint.observed, constraint.base
    )
