"""A support whose bijection removes the skew and heavy tails of one column.

Networks and mixtures of Gaussians learn fastest what resembles a few Gaussians. A skewed or
heavy-tailed column does after the inverse of

    x = loc + scale sinh((arcsinh(y) + skew) / tail),

a map with four numbers, fitted to the column by maximum likelihood under a standard normal y.

References:
    Jones & Pewsey 2009, for the distribution of x when y is standard normal.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to, constraints, transforms

from numpyro_disco._typing import Array
from numpyro_disco.supports.fields import Fields

MAX_ROWS = 20_000
"""Most rows of a column that the fit reads; four numbers need no more."""
BOUNDS = ((-3.0, 3.0), (-6.0, 3.0), (-5.0, 5.0), (-2.5, 1.5))
"""Bounds of location and log scale (both in interquartile ranges), skew and log tail."""


class _SinhArcsinh(Fields):
    """The fields that the constraint and the transform share: four numbers or arrays of them."""

    array_fields = ("loc", "scale", "skew", "tail")

    def __init__(self, loc: Any, scale: Any, skew: Any, tail: Any) -> None:
        self.loc, self.scale, self.skew, self.tail = loc, scale, skew, tail


class SinhArcsinhReal(_SinhArcsinh, constraints.Constraint):
    """All real numbers, reached from unconstrained space by a `SinhArcsinhTransform`.

    The arguments are those of `SinhArcsinhTransform`.

    Example:
        >>> import jax.numpy as jnp
        >>> biject_to(SinhArcsinhReal(5.0, 2.0, 0.7, 0.45))(jnp.zeros(3)).shape
        (3,)
    """

    def __repr__(self) -> str:
        return f"SinhArcsinhReal({', '.join(f'{n:.3g}' for n in jax.tree.leaves(self))})"

    @property
    def plain(self) -> constraints.Constraint:
        """The same set without the map."""
        return constraints.real

    def __call__(self, x: Any) -> Any:
        """True where x is finite."""
        return jnp.isfinite(x)

    def feasible_like(self, prototype: Any) -> Array:
        """The location, in the shape of `prototype`."""
        return jnp.broadcast_to(self.loc, jnp.shape(prototype))


class SinhArcsinhTransform(_SinhArcsinh, transforms.Transform):
    """The map x = loc + scale sinh((arcsinh(y) + skew) / tail).

    Args:
        loc: location, in the units of x.
        scale: positive scale, in the units of x.
        skew: 0 keeps the symmetry of y; a positive number makes the upper tail of x longer.
        tail: positive; 1 keeps the tails of y, less makes those of x heavier.
    """

    domain = constraints.real
    codomain = constraints.real
    sign = 1

    def __call__(self, y: Any) -> Array:
        """Map y to x."""
        return self.loc + self.scale * jnp.sinh((jnp.arcsinh(y) + self.skew) / self.tail)

    def _inverse(self, x: Any) -> Array:
        return jnp.sinh(self.tail * jnp.arcsinh((x - self.loc) / self.scale) - self.skew)

    def log_abs_det_jacobian(self, y: Any, x: Any, intermediates: Any = None) -> Array:
        """Log dx / dy, finite also where cosh itself would overflow."""
        bent = (jnp.arcsinh(y) + self.skew) / self.tail
        log_cosh = jnp.logaddexp(bent, -bent) - np.log(2)
        return jnp.log(self.scale / self.tail) + log_cosh - jnp.log(jnp.hypot(1.0, y))


@biject_to.register(SinhArcsinhReal)
def _(constraint: SinhArcsinhReal) -> transforms.Transform:
    return SinhArcsinhTransform(*jax.tree.leaves(constraint))


def fit_sinh_arcsinh(column: np.ndarray, weights: np.ndarray | None = None) -> SinhArcsinhReal:
    """Fit the map under which a column most resembles a standard normal.

    The fit maximises the likelihood of the column, by L-BFGS in double precision.

    Args:
        column: finite numbers that are not all equal, shape (n,); at most `MAX_ROWS` of them are
            read.
        weights: positive weights of the numbers, shape (n,); ones by default.

    Returns:
        The support with the fitted map.
    """
    from scipy.optimize import minimize

    weights = np.ones(len(column)) if weights is None else weights
    if len(column) > MAX_ROWS:
        some = np.random.default_rng(0).choice(len(column), MAX_ROWS, replace=False)
        column, weights = column[some], weights[some]
    low, middle, high = _quartiles(column, weights)
    spread = high - low if high > low else column.std()

    with jax.enable_x64(True):
        standard = jnp.asarray((column - middle) / spread)
        shares = jnp.asarray(weights / weights.mean())

        def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
            value, slope = _loss_and_slope(parameters, standard, shares)
            return float(value), np.asarray(slope)

        found = minimize(loss, np.zeros(4), jac=True, method="L-BFGS-B", bounds=BOUNDS).x
    loc, log_scale, skew, log_tail = map(float, found)
    return SinhArcsinhReal(
        float(middle + spread * loc),
        float(spread * np.exp(log_scale)),
        skew,
        float(np.exp(log_tail)),
    )


def _quartiles(column: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Quartiles, at each of which the weights below it reach a quarter, a half, three quarters."""
    order = np.argsort(column)
    # Ranks from 0 to 1, as those of `np.quantile`, if all weights are equal.
    ranks = np.cumsum(weights[order]) - weights[order]
    return np.interp([0.25, 0.5, 0.75], ranks / max(ranks[-1], 1e-300), column[order])


@jax.jit
@jax.value_and_grad
def _loss_and_slope(parameters: Array, x: Array, weights: Array) -> Array:
    """Negative mean log density of x for standard normal y, up to a constant, and its gradient."""
    loc, log_scale, skew, log_tail = parameters
    transform = SinhArcsinhTransform(loc, jnp.exp(log_scale), skew, jnp.exp(log_tail))
    y = transform.inv(x)
    return (weights * (0.5 * y**2 + transform.log_abs_det_jacobian(y, x))).mean()
