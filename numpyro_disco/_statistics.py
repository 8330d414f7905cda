"""Standard errors that more than one part of the package reports."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np


def standard_error(values: np.ndarray) -> float:
    """Standard error of the mean of independent values (n,); infinite for a single value.

    Example:
        >>> standard_error(np.array([1.0, 3.0]))
        1.0
    """
    if len(values) < 2:
        return float("inf")
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def log_mean(log_estimates: Any) -> tuple[Any, Any]:
    """Log of the mean of independent estimates, and the standard error of that log.

    The error is that of the mean relative to the mean, which is the error of its log to first
    order. It is NaN for a single estimate.

    Args:
        log_estimates: logs of the estimates, shape (..., n); NumPy's, or JAX's in a compiled
            function.

    Returns:
        Two arrays of shape (...), of the same kind.
    """
    numpy = np if isinstance(log_estimates, np.ndarray) else jnp
    count = log_estimates.shape[-1]
    largest = log_estimates.max(axis=-1, keepdims=True)
    relative = numpy.exp(log_estimates - largest)
    mean = relative.mean(axis=-1)
    # A single estimate has no spread, which NumPy would warn of.
    spread = relative.std(axis=-1, ddof=1) if count > 1 else numpy.full_like(mean, numpy.nan)
    return numpy.log(mean) + largest[..., 0], spread / mean / np.sqrt(count)
