"""Functions of many rows, evaluated a bounded number of rows at a time, or one after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco._typing import Pytree


def in_batches(function: Callable, arrays: Pytree, rows_at_once: int | None) -> Any:
    """Evaluate a vectorised function batch by batch, which bounds memory.

    The rows are padded to whole batches of one size, because XLA would compile a smaller last batch
    as a separate program.

    Args:
        function: maps a pytree of arrays with leading axis n to a pytree with leading axis n.
        arrays: pytree of arrays with a common leading axis.
        rows_at_once: largest number of rows in a batch; None evaluates all rows at once.

    Returns:
        `function(arrays)`.

    Example:
        >>> in_batches(lambda x: 2 * x, jnp.zeros((5, 3)), 2).shape
        (5, 3)
    """
    count = jax.tree.leaves(arrays)[0].shape[0]
    if rows_at_once is None or rows_at_once >= count:
        return function(arrays)
    num_batches = -(-count // rows_at_once)
    size = -(-count // num_batches)
    index = jnp.arange(num_batches * size) % count
    batches = jax.tree.map(
        lambda leaf: leaf[index].reshape((num_batches, size) + leaf.shape[1:]), arrays
    )
    result = jax.lax.map(function, batches)
    return jax.tree.map(
        lambda leaf: leaf.reshape((num_batches * size,) + leaf.shape[2:])[:count], result
    )


def in_calls(program: Callable, arrays: tuple[np.ndarray, ...], size: int) -> Any:
    """Evaluate a compiled program on the host's arrays, call by call, with one shape for all calls.

    The last call is filled up with copies of its rows, so another number of rows does not compile
    again. Calls do not wait for the results of those before.

    Args:
        program: maps arrays with leading axis `size` to a pytree with that leading axis.
        arrays: NumPy arrays with a common leading axis, not empty.
        size: number of rows in a call.

    Returns:
        `program(*arrays)`, as NumPy arrays.
    """
    count = len(arrays[0])
    calls = []
    for start in range(0, count, size):
        part = np.resize(np.arange(start, min(start + size, count)), size)
        calls.append(program(*(array[part] for array in arrays)))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *calls)


def one_by_one(function: Callable, argument: Any) -> Any:
    """Evaluate a function of which `jax.vmap` makes a loop instead of a batch.

    Args:
        function: maps one array to a pytree of arrays. It may use traced values of any kind.
        argument: the array.

    Returns:
        `function(argument)`.

    Example:
        >>> jax.vmap(lambda x: one_by_one(jnp.sin, x))(jnp.zeros(3)).shape
        (3,)
    """
    # What the function uses becomes an argument: JAX's own loop takes no traced values but those.
    program, shapes = jax.make_jaxpr(function, return_shape=True)(argument)
    structure = jax.tree.structure(shapes)

    @jax.custom_batching.sequential_vmap
    def evaluate(argument: Any, used: list[Any]) -> Any:
        return jax.tree.unflatten(structure, jax.core.eval_jaxpr(program.jaxpr, used, argument))

    return evaluate(argument, program.consts)
