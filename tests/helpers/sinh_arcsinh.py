"""A correlated Gaussian seen through sinh-arcsinh maps, whose density is known."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from scipy import stats

from numpyro_disco.supports.coordinates import CoordinateSupports
from numpyro_disco.supports.sinh_arcsinh import SinhArcsinhReal

MAPS = (SinhArcsinhReal(5.0, 2.0, 0.7, 0.45), SinhArcsinhReal(-3.0, 0.1, -0.3, 0.6))
SUPPORTS = CoordinateSupports(MAPS)
CORRELATION = 0.8
COVARIANCE = np.array([[1.0, CORRELATION], [CORRELATION, 1.0]])


def unconstrained_rows(seed, num):
    """Rows (num, 2) of the Gaussian."""
    return np.random.default_rng(seed).multivariate_normal(np.zeros(2), COVARIANCE, size=num)


def rows_of(seed, num):
    """Rows (num, 2) after the maps, skewed and heavy-tailed."""
    return np.asarray(SUPPORTS.constrain(jnp.asarray(unconstrained_rows(seed, num))), np.float64)


def log_density(x):
    """Exact log density of mapped rows."""
    y = SUPPORTS.unconstrain(jnp.asarray(x))
    gaussian = stats.multivariate_normal(np.zeros(2), COVARIANCE).logpdf(np.asarray(y))
    return gaussian - np.asarray(SUPPORTS.log_dets(y, x)).sum(-1)
