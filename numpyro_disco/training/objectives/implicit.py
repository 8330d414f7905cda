"""Implicit score matching, which needs no noise, with the exact or an estimated trace."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from numpyro_disco._typing import Array
from numpyro_disco.energy.learned import Learned
from numpyro_disco.training.objectives.base import (
    Objective,
    batches_with,
    no_noise,
    normal_noise,
    plain_batches,
    random_signs,
)
from numpyro_disco.training.objectives.losses import hutchinson_loss, implicit_loss, sliced_loss
from numpyro_disco.training.rows.batches import Source


@dataclasses.dataclass(frozen=True, kw_only=True)
class Implicit(Objective):
    """Implicit score matching with the exact trace of the score's Jacobian.

    Its minimiser is the score of the rows' own density. Over finitely many rows the loss has no
    minimum, so the held-out loss decides when to stop. For comparison and teaching.

    References:
        Hyvarinen 2005, theorem 1.
    """

    smooths: ClassVar[bool] = False

    def batches(self, rng_key: Array, data: Any, model: Learned, batch_size: int) -> Source:
        """Random rows."""
        return plain_batches(rng_key, data, batch_size)

    def loss(self, model: Any, *example: Array) -> Array:
        """Implicit score matching at one row."""
        return implicit_loss(model.score, example[0])

    def held_out_noise(self, rng_key: Array, rows: Array, repeats: int, model: Learned) -> Array:
        """Zeros, because the exact trace needs no random numbers."""
        return no_noise(rows)

    def held_out_loss(self, model: Any, row: Array, noise: Any) -> Array:
        """Implicit score matching at one held-out row."""
        return implicit_loss(model.score, row)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hutchinson(Implicit):
    """Implicit score matching with the trace estimated by random signs.

    Unbiased for `Implicit`, at the cost of one derivative. For comparison and teaching.

    References:
        Hutchinson 1989.
    """

    def batches(self, rng_key: Array, data: Any, model: Learned, batch_size: int) -> Source:
        """Random rows, each with random signs."""
        return batches_with(random_signs, rng_key, data, batch_size)

    def loss(self, model: Any, *example: Array) -> Array:
        """Implicit score matching at one row with an estimated trace."""
        return hutchinson_loss(model.score, *example)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sliced(Implicit):
    """Sliced score matching: implicit score matching along random directions.

    It has the minimiser of `Implicit`. For comparison and teaching.

    References:
        Song, Garg, Shi & Ermon 2019, equation 7.
    """

    def batches(self, rng_key: Array, data: Any, model: Learned, batch_size: int) -> Source:
        """Random rows, each with a standard normal direction."""
        return batches_with(normal_noise, rng_key, data, batch_size)

    def loss(self, model: Any, *example: Array) -> Array:
        """Sliced score matching at one row."""
        return sliced_loss(model.score, *example)
