"""Coordinate sites that start together, because they belong to one `numpyro_disco.sample`.

The base of a learned prior is its reference over all free coordinates given the others, so its
coordinate sites have a base together and none on their own.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
from numpyro.distributions import Distribution

from numpyro_disco._typing import Array
from numpyro_disco.energy.distribution import EnergyDistribution
from numpyro_disco.models.coordinate import PriorPart
from numpyro_disco.models.discrete import DiscreteCoordinate
from numpyro_disco.models.structure import without_wrappers
from numpyro_disco.models.variables import join


@dataclass(frozen=True)
class CoordinateGroup:
    """The coordinate sites of one vector."""

    prior: EnergyDistribution
    """The distribution of the vector."""
    sites: dict[str, PriorPart] = field(default_factory=dict)
    """The part of the vector that each site holds, by name; clamped coordinates have no site."""
    free: dict[str, PriorPart] = field(default_factory=dict)
    """Continuous parts of latent sites by name."""
    summed: dict[str, PriorPart] = field(default_factory=dict)
    """Discrete parts of latent sites by name, which are summed out. All others are observed."""

    def point(self, trace: dict[str, dict]) -> Array:
        """The vector with the values that its sites have in `trace`, plate axes first."""
        values = ((part, trace[name]["value"]) for name, part in self.sites.items())
        return join(self.prior, values)

    def reference(self, trace: dict[str, dict]) -> Distribution:
        """The reference of latent coordinates given the others, for each member of a plate."""
        observed = np.ones(len(self.prior.names), bool)
        for part in (*self.free.values(), *self.summed.values()):
            observed[part.indices] = False
        return self.prior.reference_given(self.point(trace), observed)

    def draw(self, rng_key: Array, trace: dict[str, dict]) -> dict[str, Array]:
        """Draw the continuous latent sites from the reference, by name."""
        x = self.reference(trace).sample(rng_key)
        return {name: part.unpack(x[..., part.indices]) for name, part in self.free.items()}

    def log_base(self, trace: dict[str, dict]) -> Array:
        """Log density of the free coordinates under the reference, discrete ones summed out."""
        reference, point = self.reference(trace), self.point(trace)
        if not self.summed:
            log_prob = reference.log_prob(point)
        else:
            known = np.ones(len(self.prior.names), bool)
            for part in self.summed.values():
                known[part.indices] = False
            log_prob = reference.marginal_log_prob(point, known)
        # The reference is a density of coordinates, while the sites hold variables.
        for part in self.free.values():
            if part.event_dim:
                log_prob = log_prob - part.log_det(point[..., part.indices])
        return log_prob


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
        if isinstance(fn, PriorPart):
            prefix = name.removesuffix(f".{fn.name}")
            group = groups.setdefault(prefix, CoordinateGroup(fn.prior))
            group.sites[name] = fn
            if not site["is_observed"]:
                kind = group.summed if isinstance(fn, DiscreteCoordinate) else group.free
                kind[name] = fn
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
