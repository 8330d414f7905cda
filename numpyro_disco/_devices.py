"""Work that is spread over several JAX devices, in one process or in several.

There are two ways. Inside of `spread_over`, every array is on all devices, and every program runs
on all of them. What `spread` marks is divided: each device computes its share of the rows, and JAX
adds up the sums. A program that was compiled for a mesh of its own divides what `shard` marks.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "rows"
"""Name of the axis along which devices are arranged."""

_Tree = TypeVar("_Tree")
_Record = TypeVar("_Record", bound=NamedTuple)


def make_mesh(devices: Sequence[jax.Device]) -> Mesh:
    """Arrange devices along one axis."""
    return Mesh(np.asarray(devices), (AXIS,))


def spread_over(devices: Sequence[jax.Device] | None) -> AbstractContextManager[Any]:
    """A context in which `spread` divides arrays over the devices; None changes nothing."""
    if devices is None:
        return nullcontext()
    return jax.set_mesh(make_mesh(devices))


def spread(tree: _Tree) -> _Tree:
    """Divide the leading axis of every array over the devices of the context, inside of `jit`.

    Args:
        tree: arrays whose leading axes the number of devices divides.
    """
    if AXIS not in jax.sharding.get_abstract_mesh().axis_names:
        return tree
    divided = PartitionSpec(AXIS)
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, divided), tree)


def shard(record: _Record, mesh: Mesh | None, axis: int) -> _Record:
    """Divide one axis of every leaf over the devices of a mesh, inside of `jit`.

    Args:
        record: arrays that share `axis`.
        mesh: what `make_mesh` returned; None leaves the record as it is.
        axis: the axis to divide.
    """
    if mesh is None:
        return record
    sharding = NamedSharding(mesh, PartitionSpec(*(None,) * axis, AXIS))
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, sharding), record)


def local(tree: _Tree) -> _Tree:
    """Copy JAX arrays that are spread over devices to the default device of this process."""

    def copied(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array):
            return leaf
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = np.asarray(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(jnp.asarray(data), impl=jax.random.key_impl(leaf))
        return jnp.asarray(np.asarray(leaf))

    return jax.tree.map(copied, tree)


def same_everywhere(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of the first process, in every process.

    Args:
        arrays: results of the same computation in every process, perhaps with other shapes where
            rounding decided.
    """
    if jax.process_count() == 1:
        return arrays
    from jax.experimental.multihost_utils import broadcast_one_to_all

    shared = {}
    for name, array in arrays.items():
        shape = tuple(broadcast_one_to_all(np.asarray(array.shape)).tolist())
        # As bytes, because JAX would round double precision to single.
        mine = array if jax.process_index() == 0 else np.zeros(shape, array.dtype)
        data = np.ascontiguousarray(mine).view(np.uint8)
        shared[name] = np.asarray(broadcast_one_to_all(data)).view(array.dtype).reshape(shape)
    return shared
