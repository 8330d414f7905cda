"""Denoising score matching at a single noise level."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from numpyro_disco._checks import check_flag
from numpyro_disco._typing import Array
from numpyro_disco.energy.learned import Learned
from numpyro_disco.training.objectives.base import (
    SmoothingObjective,
    batches_with,
    normal_noise,
    store_checked,
)
from numpyro_disco.training.objectives.losses import disco_loss
from numpyro_disco.training.rows.batches import Source


@dataclasses.dataclass(frozen=True, kw_only=True)
class Denoising(SmoothingObjective):
    """Denoising score matching at sigma_0.

    It has the minimiser of `Disco`, the score of the rows smoothed by `noise_scale`, but its
    targets are noisy and its points stay near the rows. For comparison and teaching.

    Args:
        noise_scale: as for `Disco`.
        undo_smoothing: as for `Disco`.

    References:
        Vincent 2011.
    """

    undo_smoothing: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        store_checked(self, check_flag, "undo_smoothing")

    @property
    def undoes_smoothing(self) -> bool:
        """The setting `undo_smoothing`."""
        return self.undo_smoothing

    def batches(self, rng_key: Array, data: Any, model: Learned, batch_size: int) -> Source:
        """Random rows, each with standard normal noise."""
        return batches_with(normal_noise, rng_key, data, batch_size)

    def loss(self, model: Any, *example: Array) -> Array:
        """Squared error of the denoising direction at one noisy row."""
        row, noise = example
        scale = jnp.asarray(self.resolution, row.dtype)
        return disco_loss(model.score, row + scale * noise, row, scale, self.resolution)
