"""Functions of many rows, evaluated a bounded number of rows at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from numpyro_disco._typing import Pytree


def in_batches(function: Callable, arrays: Pytree, batch_size: int | None) -> Any:
    """Evaluate a vectorised function batch by batch, which bounds memory.

    The rows are padded to whole batches of one size, because XLA would compile a smaller last batch
    as a program of its own.

    Args:
        function: maps a pytree of arrays with leading axis n to a pytree with leading axis n.
        arrays: pytree of arrays with one common leading axis.
        batch_size: most rows in a batch; None evaluates all rows at once.

    Returns:
        `function(arrays)`.
    """
    count = jax.tree.leaves(arrays)[0].shape[0]
    if batch_size is None or batch_size >= count:
        return function(arrays)
    num_batches = -(-count // batch_size)
    size = -(-count // num_batches)
    index = jnp.arange(num_batches * size) % count
    batches = jax.tree.map(
        lambda leaf: leaf[index].reshape((num_batches, size) + leaf.shape[1:]), arrays
    )
    result = jax.lax.map(function, batches)
    return jax.tree.map(
        lambda leaf: leaf.reshape((num_batches * size,) + leaf.shape[2:])[:count], result
    )
