"""Denoising at many noise levels: objectives that average the scores of several densities."""

from __future__ import annotations

import dataclasses
from typing import Any

from numpyro_disco._typing import Array
from numpyro_disco.energy.learned import Learned
from numpyro_disco.training.objectives.base import MultilevelObjective, batches_with
from numpyro_disco.training.objectives.losses import diffusion_loss, disco_loss
from numpyro_disco.training.rows.batches import Source


class _NoiseAndLevels(MultilevelObjective):
    """Random rows with noise of a random level, for training and for held-out rows."""

    def batches(self, rng_key: Array, data: Any, model: Learned, batch_size: int) -> Source:
        """Random rows, each with standard normal noise and a noise level."""
        return batches_with(self.noise_and_levels, rng_key, data, batch_size)

    def held_out_noise(self, rng_key: Array, rows: Array, repeats: int, model: Learned) -> Any:
        """Standard normal noise and noise levels."""
        return self.noise_and_levels(rng_key, rows, repeats)

    def held_out_loss(self, model: Any, row: Array, noise: Any) -> Array:
        """The training loss, on a held-out row."""
        return self.loss(model, row, noise)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Multiscale(_NoiseAndLevels):
    """Multiscale denoising score matching (MDSM), with the row itself as the target.

    Its minimiser is an average over noise levels of (sigma(t) / sigma_0)^2 grad log p_t, not the
    score of one density. For comparison and teaching.

    Args:
        noise_scale: sigma_0, in standardised units.
        max_noise_scale: as for `Disco`.

    References:
        Li, Chen & Sommer 2023; Wedenig & Peharz 2025, section E.2.
    """

    def loss(self, model: Any, *example: Any) -> Array:
        """Squared error of the direction from a noisy row to the row."""
        row, (noise, scale) = example
        return disco_loss(model.score, row + scale * noise, row, scale, self.resolution)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diffusion(_NoiseAndLevels):
    """Denoising at all noise levels by a score that does not depend on the level.

    Its minimiser is an average of grad log p_t over noise levels, not the score of one density. For
    comparison and teaching.

    Args:
        noise_scale: the smallest noise, in standardised units.
        max_noise_scale: as for `Disco`.

    References:
        Wedenig & Peharz 2025, section E.3; Sun et al. 2025.
    """

    def loss(self, model: Any, *example: Any) -> Array:
        """Squared error of the predicted noise."""
        row, (noise, scale) = example
        return diffusion_loss(model.score, row, noise, scale)
