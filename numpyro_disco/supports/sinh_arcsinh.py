"""A map of one column that takes its skew and the weight of its tails away.

Networks and mixtures of Gaussians learn soonest what looks like a few Gaussians. A column with
heavy tails or much skew looks so after a map of it alone, four numbers fitted to its rows.

References:
    Jones & Pewsey 2009, for the distribution that this map makes of a normal one.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to, constraints, transforms

from numpyro_disco._typing import Array
from numpyro_disco.supports.coordinates import all_equal

PARAMETERS = ("loc", "scale", "skew", "tail")
MAX_ROWS = 20_000
"""Rows of a column that are read; more say little more of four numbers."""
BOUNDS = ((-3.0, 3.0), (-6.0, 3.0), (-5.0, 5.0), (-2.5, 1.5))
"""Of location and log scale (both in interquartile ranges), skew and log tail."""


class _SinhArcsinh:
    """What the constraint and the transform are made of: four numbers or arrays of them."""

    def __init__(self, loc: Any, scale: Any, skew: Any, tail: Any) -> None:
        self.loc, self.scale, self.skew, self.tail = loc, scale, skew, tail

    def eq(self, other: object, static: bool = False) -> Any:
        """Whether `other` is the same map."""
        if type(other) is not type(self):
            return False
        return all_equal(self, other, PARAMETERS, static)

    def tree_flatten(self) -> tuple[Any, Any]:
        """All four are leaves."""
        return tuple(getattr(self, name) for name in PARAMETERS), (PARAMETERS, {})


class SinhArcsinhReal(_SinhArcsinh, constraints.Constraint):
    """Any real number, reached from unconstrained space by a `SinhArcsinhTransform`."""

    def __repr__(self) -> str:
        return f"SinhArcsinhReal({', '.join(f'{n:.3g}' for n in jax.tree.leaves(self))})"

    def __call__(self, x: Any) -> Any:
        """Whether x is finite."""
        return jnp.isfinite(x)

    def feasible_like(self, prototype: Any) -> Array:
        """The location, in the shape of `prototype`."""
        return jnp.broadcast_to(self.loc, jnp.shape(prototype))


class SinhArcsinhTransform(_SinhArcsinh, transforms.Transform):
    """x = loc + scale sinh((arcsinh(y) + skew) / tail), of which a normal y makes any x.

    Args:
        loc: in the units of x.
        scale: positive, in the units of x.
        skew: 0 keeps the symmetry of y; above 0 the upper tail of x is the longer one.
        tail: positive; 1 keeps the tails of y, less makes those of x heavier.
    """

    domain = constraints.real
    codomain = constraints.real
    sign = 1

    def __call__(self, y: Any) -> Array:
        """From y to x."""
        return self.loc + self.scale * jnp.sinh((jnp.arcsinh(y) + self.skew) / self.tail)

    def _inverse(self, x: Any) -> Array:
        return jnp.sinh(self.tail * jnp.arcsinh((x - self.loc) / self.scale) - self.skew)

    def log_abs_det_jacobian(self, y: Any, x: Any, intermediates: Any = None) -> Array:
        """Log dx / dy."""
        bent = (jnp.arcsinh(y) + self.skew) / self.tail
        log_cosh = jnp.logaddexp(bent, -bent) - np.log(2)
        return jnp.log(self.scale / self.tail) + log_cosh - jnp.log(jnp.hypot(1.0, y))


@biject_to.register(SinhArcsinhReal)
def _(constraint: SinhArcsinhReal) -> transforms.Transform:
    return SinhArcsinhTransform(*jax.tree.leaves(constraint))


def fit_sinh_arcsinh(column: np.ndarray) -> SinhArcsinhReal:
    """The map under which a column's density is likeliest to be that of a standard normal.

    Args:
        column: finite numbers that are not all the same, (n,).
    """
    from scipy.optimize import minimize

    if len(column) > MAX_ROWS:
        column = np.random.default_rng(0).choice(column, MAX_ROWS, replace=False)
    low, middle, high = np.quantile(column, [0.25, 0.5, 0.75])
    spread = high - low if high > low else column.std()

    with jax.enable_x64(True):
        standard = jnp.asarray((column - middle) / spread)

        def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
            value, slope = _loss_and_slope(parameters, standard)
            return float(value), np.asarray(slope)

        found = minimize(loss, np.zeros(4), jac=True, method="L-BFGS-B", bounds=BOUNDS).x
    loc, log_scale, skew, log_tail = map(float, found)
    return SinhArcsinhReal(
        float(middle + spread * loc),
        float(spread * np.exp(log_scale)),
        skew,
        float(np.exp(log_tail)),
    )


@jax.jit
@jax.value_and_grad
def _loss_and_slope(parameters: Array, x: Array) -> Array:
    """Minus the mean log density of x, up to a constant, were y normal; and its gradient."""
    loc, log_scale, skew, log_tail = parameters
    transform = SinhArcsinhTransform(loc, jnp.exp(log_scale), skew, jnp.exp(log_tail))
    y = transform.inv(x)
    return (0.5 * y**2 + transform.log_abs_det_jacobian(y, x)).mean()
