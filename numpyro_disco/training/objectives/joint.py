"""The sum of the contrastive objective and DISCO, on one network."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, ClassVar, Self

import jax

from numpyro_disco._checks import check_count, check_share
from numpyro_disco._typing import Array
from numpyro_disco.energy.learned import Learned
from numpyro_disco.references.base import Reference
from numpyro_disco.training.objectives.base import or_none, store_checked
from numpyro_disco.training.objectives.contrastive import (
    contrastive_batches,
    draws_and_redraws,
    resolved_redraws,
    resolved_share,
    row_loss,
)
from numpyro_disco.training.objectives.disco import NoisyPointsObjective
from numpyro_disco.training.rows.batches import Source, TrainingRows, on_device, rows_and_draws

DISCO_WEIGHT = 0.01
"""Weight of the DISCO loss relative to the contrastive loss."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Joint(NoisyPointsObjective):
    """Contrastive loss plus a small share of the DISCO loss.

    The DISCO loss trains the reference smoothed like the rows, and also where draws of the
    reference do not reach. One correction f serves both: smoothing barely changes the ratio of the
    rows' density to the reference. The learned density is that of the rows. For comparison and
    teaching.

    Args:
        noise_scale: sigma_0 of the DISCO loss, in standardised units.
        max_noise_scale: as for `Disco`.
        target: as for `Disco`.
        posterior_rows: as for `Disco`.
        defensive_share: as for `Contrastive`.
        num_redraws: as for `Contrastive`.
    """

    strict: ClassVar[bool] = True
    smooths: ClassVar[bool] = False
    is_contrastive: ClassVar[bool] = True
    default_reference: ClassVar[str] = "mixture"

    defensive_share: float | None = None
    num_redraws: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        store_checked(self, or_none(check_share), "defensive_share")
        store_checked(self, or_none(partial(check_count, minimum=0)), "num_redraws")

    @property
    def share(self) -> float:
        """The defensive share."""
        return self.defensive_share or 0.0

    @property
    def undoes_smoothing(self) -> bool:
        """True: the learned density is that of the rows."""
        return True

    def resolved(self, reference: Reference, num_rows: int) -> Self:
        """Resolve the defaults of both parts."""
        return dataclasses.replace(
            super().resolved(reference, num_rows),
            defensive_share=resolved_share(self.defensive_share, reference),
            num_redraws=resolved_redraws(self.num_redraws, reference),
        )

    def in_tree_order(self, num_rows: int, dimension: int) -> bool:
        """True: batches are spread over the rows in that order."""
        return True

    def placed(self, rows: TrainingRows) -> tuple[TrainingRows, TrainingRows]:
        """The rows on the host, for batches, and on the device, for the posterior over rows."""
        return rows, on_device(rows)

    def round_data(self, rng_key: Array, rows: Any, model: Learned, batch_size: int) -> Any:
        """Batches of rows and of draws of the reference, and all rows."""
        host_rows, device_rows = rows
        return rows_and_draws(rng_key, host_rows, model, batch_size), device_rows

    def batches(self, rng_key: Array, data: Any, model: Learned, batch_size: int) -> Source:
        """Rows with draws and redraws, and noisy points with their targets."""
        contrastive_key, noisy_key = jax.random.split(rng_key)
        pairs_of_round, rows = data
        pair_of, pairs = contrastive_batches(
            contrastive_key, pairs_of_round, model, self.num_redraws or 0
        )
        points_of, points = self.noisy_batches(noisy_key, rows, model, batch_size)

        def batch(entry: tuple[Any, Any]) -> tuple[Array, ...]:
            return *pair_of(entry[0]), *points_of(entry[1])

        return batch, (pairs, points)

    def loss(self, model: Any, *example: Array) -> Array:
        """Contrastive loss plus the weighted DISCO loss."""
        row, draw, redraws, x, target, scale, *_ = example
        slope_loss = self.score_loss(model, x, target, scale)
        return row_loss(model, row, draw, redraws) + DISCO_WEIGHT * slope_loss

    def held_out_noise(self, rng_key: Array, rows: Array, repeats: int, model: Learned) -> Any:
        """Draws of the reference and redraws of each held-out row."""
        return draws_and_redraws(rng_key, rows, repeats, model, self.num_redraws or 0)

    def held_out_loss(self, model: Any, row: Array, noise: Any) -> Array:
        """The contrastive loss, on a held-out row."""
        return row_loss(model, row, *noise)
