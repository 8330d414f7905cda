"""Standard errors that more than one part of the package reports."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from numpyro_disco._typing import Array


def standard_error(values: np.ndarray) -> float:
    """Standard error of the mean of independent values (n,); infinite for a single value.

    Example:
        >>> standard_error(np.array([1.0, 3.0]))
        1.0
    """
    if len(values) < 2:
        return float("inf")
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def log_mean(log_estimates: Array) -> tuple[Array, Array]:
    """Log of the mean of independent estimates, and the standard error of that log.

    The error is that of the mean relative to the mean, which is the error of its log to first
    order. It is NaN for a single estimate.

    Args:
        log_estimates: logs of the estimates, shape (..., n).

    Returns:
        Two arrays of shape (...).
    """
    count = log_estimates.shape[-1]
    log_mean = logsumexp(log_estimates, axis=-1) - jnp.log(count)
    relative = jnp.exp(log_estimates - log_mean[..., None])
    return log_mean, relative.std(axis=-1, ddof=1) / jnp.sqrt(count)
