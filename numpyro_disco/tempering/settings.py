"""The settings of a tempered run, checked when they are made."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from numpyro_disco._checks import check_count, check_fraction
from numpyro_disco.tempering.kernels import KERNELS
from numpyro_disco.tempering.resampling import SCHEMES

DENSE_RATIO = 16
"""Particles for each coordinate from which on the mass matrix is dense by default."""
NON_FINITE_CHOICES = ("error", "impossible")
"""What a target that is NaN at draws of the base means."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TemperingSettings:
    """Settings of a tempered run.

    Attributes:
        num_particles: number of particles of one run, N.
        base_draws: draws of the base for each particle. They are cheap because they are not moved,
            and more of them make the first step longer and more accurate.
        target_ess: effective sample size of the weights that each step aims at, as a share of the
            particles. Every step resamples, so this is the *conditional* effective sample size.
            Higher values mean more and smaller steps.
        schedule: inverse temperatures to use instead of adaptive ones; increasing, the last one 1.
        kernel: "hmc" (default); "mala", which is HMC with one leapfrog step; or "random_walk",
            which needs no gradient.
        chain_length: number of states of each chain that become particles, P. With 1 only the
            last state does, as in classical SMC. With more (waste-free SMC) fewer particles survive
            a resampling, but each is moved more often. Must divide `num_particles`.
        max_moves: largest number of moves between two states that become particles. Moves stop
            earlier once the chains have forgotten where they started. With a `chain_length` of 1,
            up to four times as many at inverse temperature 1, until few particles are copies.
        max_leapfrog: largest number of leapfrog steps, and so of gradients, in a trajectory.
        dense_mass: whiten by the covariance of the particles rather than by their standard
            deviations. By default True if there are 16 particles or more for each coordinate.
        resampling: "systematic" (default), "stratified", "residual" or "multinomial".
        max_temperatures: largest number of steps from 0 to 1 before the run gives up.
        num_sweeps: number of times that every particle, at b = 1, is proposed a fresh draw of a
            mixture fitted to the particles. With 0 the evidence comes from the path alone.
        particles_at_once: number of particles evaluated side by side, which bounds memory. By
            default all of them.
        non_finite: "error" ends a run in which the target is NaN at a draw of the base;
            "impossible" counts the target as zero there.

    Raises:
        ValueError: a value is out of range.

    Example:
        >>> settings = TemperingSettings(num_particles=512, chain_length=4)
        >>> settings.num_survivors
        128
    """

    num_particles: int = 1024
    base_draws: int = 32
    target_ess: float = 0.5
    schedule: Sequence[float] | None = None
    kernel: str = "hmc"
    chain_length: int = 1
    max_moves: int = 8
    max_leapfrog: int = 32
    dense_mass: bool | None = None
    resampling: str = "systematic"
    max_temperatures: int = 200
    num_sweeps: int = 4
    particles_at_once: int | None = None
    non_finite: str = "error"

    def __post_init__(self) -> None:
        check_count(self.num_particles, "num_particles", minimum=2)
        check_count(self.base_draws, "base_draws")
        check_fraction(self.target_ess, "target_ess")
        check_count(self.max_moves, "max_moves")
        check_count(self.max_leapfrog, "max_leapfrog")
        check_count(self.max_temperatures, "max_temperatures")
        check_count(self.num_sweeps, "num_sweeps", minimum=0)
        if self.particles_at_once is not None:
            check_count(self.particles_at_once, "particles_at_once")
        choices = {
            "kernel": KERNELS,
            "resampling": tuple(SCHEMES),
            "non_finite": NON_FINITE_CHOICES,
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"Expected one of {known} for `{name}`; got {getattr(self, name)!r}."
                )
        check_count(self.chain_length, "chain_length")
        if self.num_particles % self.chain_length or self.num_survivors < 2:
            raise ValueError(
                f"Expected a divisor of `num_particles` = {self.num_particles} for `chain_length` "
                f"that leaves at least two chains; got {self.chain_length}."
            )
        if self.schedule is not None:
            # A tuple, so that settings can be hashed and compiled programs found again.
            schedule = _checked_schedule(self.schedule)
            object.__setattr__(self, "schedule", schedule)
            object.__setattr__(self, "max_temperatures", len(schedule))

    @property
    def num_survivors(self) -> int:
        """Number of particles that survive a resampling, each the start of one chain."""
        return self.num_particles // self.chain_length

    def is_dense(self, dimension: int) -> bool:
        """Return True if the mass matrix of `dimension` coordinates is dense."""
        if self.dense_mass is not None:
            return self.dense_mass
        return self.num_particles >= DENSE_RATIO * dimension


def _checked_schedule(schedule: Sequence[float]) -> tuple[float, ...]:
    values = np.asarray(schedule, float)
    steps = np.diff(values, prepend=0.0) if values.ndim == 1 else np.zeros(1)
    if not (len(steps) and (steps > 0).all() and values[-1] == 1):
        raise ValueError(
            "Expected increasing inverse temperatures above 0, the last one 1, for `schedule`; "
            f"got {schedule!r}."
        )
    return tuple(values.tolist())
