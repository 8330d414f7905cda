"""Maximum likelihood, with a normalised density as the energy."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Self

from numpyro_disco._typing import Array
from numpyro_disco.energy.learned import Learned
from numpyro_disco.tables.variables import Variables
from numpyro_disco.training.objectives.base import (
    Objective,
    no_noise,
    or_none,
    plain_batches,
    store_checked,
)
from numpyro_disco.training.objectives.focus import Focus, check_focus, focus_on
from numpyro_disco.training.rows.batches import Source

REFERENCE_SHARE = 0.001
"""Share of the reference in the learned density."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Likelihood(Objective):
    r"""Maximum likelihood of a density that is normalised by construction.

    The energy is E = -log p, where p is, up to a small share of the reference, a product of
    conditionals in one order of the columns: each is a mixture of Gaussians whose parameters a
    network reads from the columns before it. Its integral is exactly one, and draws of all columns
    are exact and independent, as are draws of the columns in `focus` given all others. Other
    conditionals are drawn as from every other energy.

    It follows thin curved structure, such as columns that are almost functions of others, where
    draws of a mixture are far from the rows. It takes no discrete columns.

    The hidden layers of each column have half the `width` of `network`; its `num_octaves` are not
    used.

    Args:
        focus: names of the columns or variables, or one name, whose conditional given all others
            will be asked for, such as the parameters of a simulator given its output. They come
            last in the order of the columns. None by default.

    Raises:
        ValueError: a `focus` that holds no names.

    References:
        Larochelle & Murray 2011; Uria, Murray & Larochelle 2013.

    Example:
        >>> Likelihood()
        Likelihood(focus=None)
    """

    strict: ClassVar[bool] = True
    smooths: ClassVar[bool] = False
    normalizes: ClassVar[bool] = True
    default_reference: ClassVar[str] = "mixture"

    focus: Focus | Sequence[str] | str | None = None

    def __post_init__(self) -> None:
        store_checked(self, or_none(check_focus), "focus")

    @property
    def drawn_last(self) -> tuple[int, ...]:
        """Indices of the columns in focus."""
        return self.focus.places if isinstance(self.focus, Focus) else ()

    def for_columns(self, names: tuple[str, ...], variables: Variables | None) -> Self:
        """Find the columns in focus."""
        if not isinstance(self.focus, Focus):
            return self
        return dataclasses.replace(self, focus=focus_on(self.focus.names, names, variables))

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

    def held_out_noise(self, rng_key: Array, rows: Array, repeats: int, model: Learned) -> Array:
        """Zeros, because a log density needs no random numbers."""
        return no_noise(rows)

    def held_out_loss(self, model: Any, row: Array, noise: Any) -> Array:
        """Minus the log density of one held-out row."""
        return model.standardized(row)
