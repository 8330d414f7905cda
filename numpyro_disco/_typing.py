"""Type aliases."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import numpy as np

Array: TypeAlias = jax.Array
ArrayLike: TypeAlias = jax.Array | np.ndarray | float
EnergyFn: TypeAlias = Callable[[Array], Array]
"""Energy of a single point: shape (D,) to shape ()."""
Pytree: TypeAlias = Any
