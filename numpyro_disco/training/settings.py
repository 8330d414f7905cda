"""How a network is trained: the settings, checked when made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from numpyro_disco._checks import (
    check_count,
    check_flag,
    check_fraction,
    check_positive,
    check_share,
)
from numpyro_disco.training.noise import geometric_noise_scales
from numpyro_disco.training.row_posterior import TRIED_SCALES

STEPS_PER_ROUND = 50
"""Steps between two looks at the held-out rows; one compiled program makes them all."""
OBJECTIVE_NAMES = (
    "disco",
    "contrastive",
    "joint",
    "disco_score",
    "denoising",
    "multiscale",
    "diffusion",
    "implicit",
    "hutchinson",
    "sliced",
)
DEFENSIVE_SHARE = 0.001
"""By default, beside a mixture (docs/learning.md)."""
DECAY_ROWS = 30_000
"""Rows up to which weights decay by default: of ten columns with 16,000 rows more was learned with
decay, of seven with 90,000 less (docs/learning.md)."""
BATCH_SIZE, LARGE_BATCH, LARGE_ROWS = 1024, 2048, 10_000
"""By default; the second for a contrast on more than so many rows (docs/learning.md)."""
NUM_REDRAWS = 4
"""By default, beside a single Gaussian."""
CONTRASTS = ("contrastive", "joint")
"""Those that tell rows from draws of the reference, which should be close to them."""
UNDONE = ("disco", "denoising", "joint")
"""Those that learn an energy of smoothed rows: the reference can take the smoothing out again."""


def _or_none(check: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    return lambda value, argument: None if value is None else check(value, argument)


def _or_zero(value: Any, argument: str) -> float:
    return 0.0 if value == 0 and not isinstance(value, bool) else check_positive(value, argument)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How a network is trained; checked when made. Scales are in standardised units.

    Attributes:
        objective: "disco", the score of the smoothed rows at all noise levels; or "contrastive",
            logistic regression of rows against draws of the reference, which smooths nothing and
            sees the masses of modes, but only as far as the reference's draws reach; or "joint",
            their sum, DISCO at work on the reference smoothed like the rows and where its draws do
            not reach. The others are there to be compared and taught: "denoising" at one noise
            level, "implicit" score matching with the exact trace or ("hutchinson", "sliced") an
            estimate of it, and three that learn no energy of the data: "multiscale" denoising
            (MDSM) and "diffusion" without time, which average over noise levels, and
            "disco_score", whose network is a score. `fit` takes "contrastive" if neither this nor
            a noise scale is given, nor a reference but "mixture".
        noise_scale: sigma_0: the density that is learned is that of the data smoothed by it. None
            lets held-out rows choose, see `numpyro_disco.training.row_posterior.choose_noise_scale`.
        max_noise_scale: the largest noise that proposes points: how far out the score is learned.
        num_noise_scales: geometric noise levels between the two.
        target: "mean" of the posterior over rows, which has no sampling noise, or a "draw" from it.
        posterior_rows: "all" for the posterior over all rows, exactly; "near" for the rows near
            each point and a weighted sample of the others, which costs less where there are very
            many, with at most three columns; None takes "near" for 300,000 rows and more of one or
            two columns. Or over so many rows, drawn anew for each batch together with the points
            (the paper takes 512), which draws every target towards the row that its point was made
            from.
        density_weight: of the log density of the smoothed rows beside their score, for "disco":
            what tells it the masses of separate modes. It counts where the posterior is on more
            than one row.
        num_redraws: for a contrast, draws of the reference given some of a row's columns, among
            which the network has to find the row: how the columns hang together, which it goes on
            learning where rows and draws of all columns are told apart at a glance. The network
            then looks at 2 + num_redraws points for each row instead of 2. 0 leaves it out. By
            default 4 beside a single Gaussian of two columns or more; 0 beside a mixture, which is
            near the rows.
        defensive_share: for a contrast, how much of the reference is in what is learned, and of
            that in the reference, before their ratio is taken: no point is more than about one
            over this share times likelier or less likely than in the reference. Without it a few
            rows far from all others, which a network takes for impossible, cost more than what is
            learned of the rest; and of few rows in many columns a network makes places that are
            likelier than they can be, where no draw of the reference comes to tell it otherwise.
            By default 0.001 beside a mixture, which is near the rows; otherwise 0.
        disco_weight: of the DISCO loss beside the contrastive one, for "joint".
        undo_smoothing: train the score with the reference smoothed like the rows, then put the
            reference itself in its place: what smoothing does to both is undone. Helps as far as
            the reference knows the shape, so a single Gaussian undoes next to nothing. For "disco"
            and "denoising"; always so for "joint".
        num_steps: optimiser steps, rounded up to whole rounds of 50.
        patience: steps without a lower held-out loss after which contrastive training stops.
        batch_size: noisy points in a step; or rows, and as many draws of the reference: a contrast
            takes one out of each of so many neighbourhoods of either, so that a gradient varies
            less than over rows drawn independently. By default 2,048 for a contrast on more than
            10,000 rows, whose step costs little; otherwise 1,024.
        reuse: how many steps see the same noisy point; the posterior over rows costs that much
            less. The order and the company of points change every time.
        learning_rate: Adam's, at the start of its cosine decay to zero.
        weight_decay: what each step takes from the weights of the layers, as a share of them and of
            the learning rate: a pull towards the reference, without which few rows are soon learned
            by heart. By default 1 for a contrast with a mixture on up to 30,000 rows, where there
            is little to hold; otherwise 0.
        ema_decay: of the running average of weights that is kept.
        width: units of each hidden layer.
        num_blocks: residual blocks of two layers each.
        num_octaves: frequencies of the sine and cosine features; by default enough for waves of
            about the length of noise_scale, and no more; one for a contrast with a mixture, which
            holds the fine structure, and where waves would be learned by heart.
        whiten: whether standardised units are those of decorrelated columns, so that smoothing is
            shaped like the data (covariance noise_scale^2 times theirs; each column is smoothed
            alike either way); or of each column alone.
        held_out_fraction: share of the rows that are not trained on and judge the result.
    """

    objective: str = "disco"
    noise_scale: float | None = 0.05
    max_noise_scale: float = 2.0
    num_noise_scales: int = 100
    target: str = "mean"
    posterior_rows: int | str | None = None
    density_weight: float = 0.3
    num_redraws: int | None = None
    defensive_share: float | None = None
    disco_weight: float = 0.01
    undo_smoothing: bool = False
    num_steps: int = 3000
    patience: int = 1000
    batch_size: int | None = None
    reuse: int = 25
    learning_rate: float = 2e-3
    weight_decay: float | None = None
    ema_decay: float = 0.999
    width: int = 128
    num_blocks: int = 2
    num_octaves: int | None = None
    whiten: bool = True
    held_out_fraction: float = 0.1

    def __post_init__(self) -> None:
        geometric_noise_scales(self.smallest_noise, self.max_noise_scale, self.num_noise_scales)
        if self.objective not in OBJECTIVE_NAMES:
            raise ValueError(
                f"Expected one of {OBJECTIVE_NAMES} for `objective`; got {self.objective!r}."
            )
        if self.target not in ("mean", "draw"):
            raise ValueError(f"Expected 'mean' or 'draw' for `target`; got {self.target!r}.")
        if isinstance(self.posterior_rows, str):
            if self.posterior_rows not in ("all", "near"):
                raise ValueError(
                    "Expected 'all', 'near', a number or None for `posterior_rows`; got "
                    f"{self.posterior_rows!r}."
                )
        else:
            self._store(_or_none(check_count), "posterior_rows")
        counts = ("num_noise_scales", "num_steps", "patience", "reuse", "width", "num_blocks")
        self._store(check_count, *counts)
        self._store(_or_none(check_count), "batch_size")
        self._store(_or_none(partial(check_count, minimum=0)), "num_octaves", "num_redraws")
        self._store(_or_none(check_positive), "noise_scale")
        self._store(check_positive, "max_noise_scale", "learning_rate", "disco_weight")
        self._store(_or_none(_or_zero), "weight_decay")
        self._store(_or_zero, "density_weight")
        self._store(_or_none(check_share), "defensive_share")
        self._store(check_fraction, "ema_decay", "held_out_fraction")
        self._store(check_flag, "whiten", "undo_smoothing")

    def _store(self, check: Callable[[Any, str], Any], *names: str) -> None:
        """Plain numbers, whatever was given: settings are hashed, as part of what is compiled."""
        for name in names:
            object.__setattr__(self, name, check(getattr(self, name), name))

    @property
    def smallest_noise(self) -> float:
        """sigma_0, once it is known; until then the least that could be chosen."""
        return TRIED_SCALES[0] if self.noise_scale is None else self.noise_scale

    @property
    def batch(self) -> int:
        """Points or rows in a step."""
        return BATCH_SIZE if self.batch_size is None else self.batch_size

    @property
    def octaves(self) -> int:
        """Frequencies pi/4 times 1, 2, 4, ... up to about 1 / (2 noise_scale)."""
        if self.num_octaves is not None:
            return self.num_octaves
        return max(1, 1 + round(np.log2(2 / (np.pi * self.smallest_noise))))

    @property
    def num_rounds(self) -> int:
        """Rounds of STEPS_PER_ROUND steps."""
        return -(-self.num_steps // STEPS_PER_ROUND)
