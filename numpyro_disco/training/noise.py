"""Noise levels: the perturbations from which the score is learned."""

from __future__ import annotations

import numpy as np

from numpyro_disco._checks import check_count, check_positive


def geometric_noise_scales(
    smallest: float, largest: float, num_noise_scales: int = 100
) -> np.ndarray:
    """Standard deviations sigma(0) < ... < sigma(T), equally spaced on a log scale.

    Args:
        smallest: sigma(0), in standardised units; the density that is learned is that of the data
            smoothed by it.
        largest: sigma(T), in standardised units; how far from the data the score is learned.
        num_noise_scales: how many levels.

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
    if largest <= smallest:
        raise ValueError(
            f"Expected `max_noise_scale` above `noise_scale`; got {largest} and {smallest}."
        )
    return np.geomspace(smallest, largest, count)
