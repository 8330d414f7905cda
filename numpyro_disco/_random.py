"""Random numbers on the host, where nothing has to be compiled."""

from __future__ import annotations

import jax
import numpy as np

from numpyro_disco._typing import Array


def host_generator(rng_key: Array, *numbers: int) -> np.random.Generator:
    """NumPy's generator for a random key; the same key gives the same numbers.

    Args:
        rng_key: random key.
        numbers: whole numbers; other ones give an independent generator.
    """
    return np.random.default_rng([*np.asarray(jax.random.key_data(rng_key)).ravel(), *numbers])
