"""Coordinate sites that start together, because they belong to one `numpyro_disco.sample`.

The base of a learned prior is its reference over all free coordinates given the others, so its
coordinate sites have a base together and none on their own.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpyro.distributions import Distribution

from numpyro_disco._typing import Array
from numpyro_disco.energy.distribution import EnergyDistribution
from numpyro_disco.models.coordinate import Coordinate
from numpyro_disco.models.discrete import DiscreteCoordinate
from numpyro_disco.models.structure import without_wrappers


@dataclass(frozen=True)
class CoordinateGroup:
    """The coordinate sites of one vector."""

    prior: EnergyDistribution
    """The distribution of the vector."""
    sites: dict[int, str] = field(default_factory=dict)
    """Names of the sites by coordinate; clamped coordinates have none."""
    free: dict[str, int] = field(default_factory=dict)
    """Continuous coordinates of latent sites by name."""
    summed: dict[str, int] = field(default_factory=dict)
    """Discrete coordinates of latent sites by name, which are summed out. All others are observed.
    """

    def point(self, trace: dict[str, dict]) -> Array:
        """The vector with the values that its sites have in `trace`, plate axes first."""
        clamped: Any = self.prior.values
        values = [
            trace[self.sites[i]]["value"] if i in self.sites else clamped[..., i]
            for i in range(len(self.prior.names))
        ]
        return jnp.stack(jnp.broadcast_arrays(*values), axis=-1)

    def reference(self, trace: dict[str, dict]) -> Distribution:
        """The reference of latent coordinates given the others, for each member of a plate."""
        observed = np.ones(len(self.prior.names), bool)
        observed[[*self.free.values(), *self.summed.values()]] = False
        return self.prior.reference_given(self.point(trace), observed)

    def log_base(self, trace: dict[str, dict]) -> Array:
        """Log density of the free coordinates under the reference, discrete ones summed out."""
        reference, point = self.reference(trace), self.point(trace)
        if not self.summed:
            return reference.log_prob(point)
        known = np.ones(len(self.prior.names), bool)
        known[list(self.summed.values())] = False
        return reference.marginal_log_prob(point, known)


def coordinate_groups(
    sites: dict[str, dict], with_own_base: Collection[str]
) -> tuple[CoordinateGroup, ...]:
    """Groups of coordinate sites that start from the reference of their prior.

    Args:
        sites: trace of the model.
        with_own_base: sites for which the user has given a base. Their groups are left out.

    Raises:
        ValueError: A base was given for some free coordinates of a vector but not for all.
    """
    groups: dict[str, CoordinateGroup] = {}
    for name, site in sites.items():
        fn = without_wrappers(site["fn"]) if site["type"] == "sample" else None
        if isinstance(fn, Coordinate):
            prefix = name.removesuffix(f".{fn.name}")
            group = groups.setdefault(prefix, CoordinateGroup(fn.prior))
            group.sites[fn.index] = name
            if not site["is_observed"]:
                kind = group.summed if isinstance(fn, DiscreteCoordinate) else group.free
                kind[name] = fn.index
    started = []
    for prefix, group in groups.items():
        given = set(with_own_base) & set(group.free)
        if given and given != set(group.free):
            raise ValueError(
                f"`base` names {sorted(given)} of {prefix!r}; its free coordinates start together. "
                f"Give a base for each of {sorted(group.free)}, or for none."
            )
        if group.free and not given:
            started.append(group)
    return tuple(started)
