"""Noise levels: standard deviations of the noise that proposes points."""

from __future__ import annotations

from typing import Any

import numpy as np

from numpyro_disco._checks import check_count, check_positive


def check_noise_range(noise_scale: Any, max_noise_scale: float) -> None:
    """Raise a `ValueError` unless `max_noise_scale` is above `noise_scale` (or that is "auto")."""
    if noise_scale != "auto" and max_noise_scale <= noise_scale:
        raise ValueError(
            f"Expected `max_noise_scale` above `noise_scale`; got {max_noise_scale} and "
            f"{noise_scale}."
        )


def geometric_noise_scales(smallest: float, largest: float, num_noise_scales: int) -> np.ndarray:
    """Standard deviations sigma(0) < ... < sigma(T), equally spaced on a log scale.

    Args:
        smallest: sigma(0), in standardised units; the learned density is that of the data smoothed
            by it.
        largest: sigma(T), in standardised units; how far from the data the score is learned.
        num_noise_scales: number of levels.

    Returns:
        Array of shape (num_noise_scales,), increasing.

    Raises:
        ValueError: a scale that is not positive, or `largest` not above `smallest`.

    Example:
        >>> geometric_noise_scales(0.1, 1.6, 5).round(3).tolist()
        [0.1, 0.2, 0.4, 0.8, 1.6]
    """
    smallest = check_positive(smallest, "noise_scale")
    largest = check_positive(largest, "max_noise_scale")
    count = check_count(num_noise_scales, "num_noise_scales", minimum=2)
    check_noise_range(smallest, largest)
    return np.geomspace(smallest, largest, count)
