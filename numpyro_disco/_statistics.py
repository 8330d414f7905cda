"""Standard errors and effective numbers of rows, for more than one part of the package."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np


def standard_error(values: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Standard error of the weighted mean of independent values; infinite for a single value.

    With weights it is that of the ratio of two means, to first order; equal weights give the usual
    one.

    Args:
        values: shape (n,).
        weights: positive weights of the values, shape (n,); None if all are equal.

    References:
        Cochran 1977, equation 2.46, for the error of a ratio.

    Example:
        >>> standard_error(np.array([1.0, 3.0]))
        1.0
    """
    if len(values) < 2:
        return float("inf")
    if weights is None:
        return float(np.std(values, ddof=1) / np.sqrt(len(values)))
    away = weights * (values - np.average(values, weights=weights))
    few = len(values) / (len(values) - 1)
    return float(np.sqrt(few * (away**2).sum()) / weights.sum())


def column_means(rows: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Weighted mean of each column of rows (N, D), of which there may be none, shape (D,)."""
    return rows.mean(axis=0) if weights is None else weights @ rows / weights.sum()


def selected(weights: np.ndarray | None, places: np.ndarray | slice) -> np.ndarray | None:
    """The weights at some places; None, for equal weights, stays None."""
    return None if weights is None else weights[places]


def effective_number(weights: np.ndarray | None, num_rows: int) -> float:
    """Number of equally weighted rows that know a mean as well as these: (sum w)^2 / sum w^2.

    Args:
        weights: positive weights, shape (N,); None if all are equal.
        num_rows: N, the answer if all are equal.

    References:
        Kish 1965.

    Example:
        >>> effective_number(np.array([1.0, 1.0, 2.0]), 3)
        2.6666666666666665
    """
    if weights is None:
        return float(num_rows)
    return float(weights.sum() ** 2 / (weights**2).sum())


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
