"""Maximum likelihood, with a normalised density as the energy."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from numpyro_disco._typing import Array
from numpyro_disco.energy.learned import Learned
from numpyro_disco.training.batches import Source
from numpyro_disco.training.objectives.base import Objective, no_noise, plain_batches

REFERENCE_SHARE = 0.001
"""Share of the reference in the learned density."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Likelihood(Objective):
    r"""Maximum likelihood of a density that is normalised by construction.

    The energy is E = -log p, where p is, up to a small share of the reference, a product of
    conditionals in one order of the columns: each is a mixture of Gaussians whose parameters a
    network reads from the columns before it. Its integral is exactly one, and draws of all columns
    are exact and independent. Conditionals of some columns are drawn as from every other energy.

    It follows thin curved structure, such as columns that are almost functions of others, where
    draws of a mixture are far from the rows. It takes no discrete columns.

    The hidden layers of each column have half the `width` of `network`; its `num_octaves` are not
    used.

    References:
        Larochelle & Murray 2011; Uria, Murray & Larochelle 2013.

    Example:
        >>> Likelihood()
        Likelihood()
    """

    strict: ClassVar[bool] = True
    smooths: ClassVar[bool] = False
    normalizes: ClassVar[bool] = True
    default_reference: ClassVar[str] = "mixture"

    @property
    def whitens(self) -> bool:
        """False: functions of few columns would become functions of all."""
        return False

    @property
    def share(self) -> float:
        """Share of the reference in the learned density."""
        return REFERENCE_SHARE

    def batches(self, rng_key: Array, data: Any, model: Learned, batch_size: int) -> Source:
        """Random rows."""
        return plain_batches(rng_key, data, batch_size)

    def loss(self, model: Any, *example: Array) -> Array:
        """Minus the log density of one row, in standardised units."""
        return model.standardized(example[0])

    def judging_noise(self, rng_key: Array, rows: Array, repeats: int, model: Learned) -> Array:
        """Zeros, because a log density needs no random numbers."""
        return no_noise(rows)

    def judge(self, model: Any, row: Array, noise: Any) -> Array:
        """Minus the log density of one held-out row."""
        return model.standardized(row)
