"""The particles of one run spread over several devices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

_Record = TypeVar("_Record", bound=NamedTuple)


def make_mesh(devices: Sequence[jax.Device]) -> jax.sharding.Mesh:
    """Arrange devices along one axis, over which `shard` spreads particles."""
    return jax.sharding.Mesh(np.asarray(devices), ("particles",))


def shard(record: _Record, mesh: jax.sharding.Mesh | None, axis: int) -> _Record:
    """Spread one axis of every leaf over the devices of a mesh.

    Args:
        record: arrays that share `axis`.
        mesh: devices along one axis; None leaves the record as it is.
        axis: the axis that runs over particles.

    Returns:
        The same record, with a constraint on where its parts are stored.
    """
    if mesh is None:
        return record
    (name,) = mesh.axis_names
    sharding = NamedSharding(mesh, PartitionSpec(*(None,) * axis, name))
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, sharding), record)
