"""Evaluation of functions whose parameters have been stacked.

`scan` and `jax.vmap` turn many distributions into one by adding the same leading axes, here called
the stack, to every leaf. Each point then has to be evaluated with the parameters at its own place
in the stack.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from numpyro_disco._typing import Array, Pytree


def beside_batch(leaf: Array, stack: tuple[int, ...], batch_ndim: int) -> Array:
    """Insert axes of length 1 after the stack, so that `leaf` broadcasts with a batch of values.

    Args:
        leaf: array of shape stack + (...).
        stack: leading axes shared by all leaves.
        batch_ndim: number of axes to insert.
    """
    return leaf.reshape(stack + (1,) * batch_ndim + leaf.shape[len(stack) :])


def evaluate_stacked(
    function: Callable[[Pytree, Array], Array],
    parameters: Pytree,
    x: Array,
    *,
    stack: tuple[int, ...],
    batch_ndim: int,
    output: str,
) -> Array:
    """Evaluate `function(parameters, point)` at every point, with the parameters that belong to it.

    Args:
        function: maps the parameters of one distribution and one point (D,) to an array.
        parameters: pytree whose leaves all have the leading axes `stack`.
        x: points (..., D), whose leading axes broadcast with `stack` and the batch axes.
        stack: leading axes shared by all leaves; () where nothing is stacked.
        batch_ndim: number of batch axes between the stack and the last axis of `x`.
        output: shape of the function's value in the notation of `numpy.vectorize`: "()" or "(d)".

    Returns:
        Array of shape (...), or (..., D) where `output` is "(d)".
    """
    if not stack:
        return jnp.vectorize(partial(function, parameters), signature=f"(d)->{output}")(x)
    leaves, structure = jax.tree.flatten(parameters)
    leaves = [beside_batch(jnp.asarray(leaf), stack, batch_ndim) for leaf in leaves]
    own_ndims = [leaf.ndim - len(stack) - batch_ndim for leaf in leaves]
    axes = [",".join(f"w{i}_{j}" for j in range(ndim)) for i, ndim in enumerate(own_ndims)]
    inputs = ",".join([*(f"({names})" for names in axes), "(d)"])

    def at_one_point(*arguments: Array) -> Array:
        return function(jax.tree.unflatten(structure, arguments[:-1]), arguments[-1])

    return jnp.vectorize(at_one_point, signature=f"{inputs}->{output}")(*leaves, x)
