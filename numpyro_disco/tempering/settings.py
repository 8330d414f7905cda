"""How a tempered run is made, and what may become of it."""

from __future__ import annotations

import dataclasses

import numpy as np

from numpyro_disco._checks import check_count, check_fraction
from numpyro_disco.tempering.kernels import KERNELS
from numpyro_disco.tempering.resampling import SCHEMES

RUNNING, CONVERGED, STUCK, NON_FINITE, COLLAPSED, FROZEN, DISAGREE = range(7)
LEAST_ACCEPTANCE = 0.01
"""Mean acceptance of the last moves below which particles have only been copied, not moved."""
DENSE_RATIO = 16
"""By default the mass matrix is dense if there are so many particles to a dimension."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TemperingSettings:
    """How a tempered run is made; checked when made.

    Attributes:
        num_particles: particles of one run, N.
        base_draws: draws of the base for each particle. They are cheap, not being moved, and the
            first step is the longer and the more exact for them.
        target_ess: effective sample size of the weights that each step aims at, as a share of the
            particles (after a resampling, which every step has, it is the *conditional* effective
            sample size). Higher means more, smaller steps.
        schedule: inverse temperatures to take instead, increasing, the last one 1.
        kernel: "hmc"; "mala", its one-step form; or "random_walk", which needs no gradient.
        chain_length: how many states of each chain become particles, P. With 1 only the last one,
            as in classical SMC; with more (waste-free) fewer particles survive a resampling, but
            are moved more often. It must divide `num_particles`.
        max_correlation: moves go on until no coordinate of a chain, nor the log ratio of target to
            base, correlates more than this with where the chain started, or the correlation
            has stopped falling (as it does between modes).
        min_moves: least moves between two states that become particles; twice as many before the
            first one at b = 1.
        max_moves: most.
        max_leapfrog: most gradients in a trajectory.
        dense_mass: whiten by the particles' covariance rather than by their standard deviations;
            by default if there are 16 particles to a coordinate.
        resampling: "systematic", "stratified", "residual" or "multinomial".
        max_temperatures: most steps from 0 to 1 before the run gives up.
        num_sweeps: times that every particle, at b = 1, is proposed a fresh draw of a mixture that
            is fitted to them. 0 leaves the evidence to the path alone.
        particles_at_once: how many particles are evaluated side by side, which bounds memory; by
            default all of them.
    """

    num_particles: int = 1024
    base_draws: int = 32
    target_ess: float = 0.5
    schedule: tuple[float, ...] | None = None
    kernel: str = "hmc"
    chain_length: int = 1
    max_correlation: float = 0.1
    min_moves: int = 1
    max_moves: int = 8
    max_leapfrog: int = 32
    dense_mass: bool | None = None
    resampling: str = "systematic"
    max_temperatures: int = 200
    num_sweeps: int = 4
    particles_at_once: int | None = None

    def __post_init__(self) -> None:
        check_count(self.num_particles, "num_particles", minimum=2)
        check_count(self.base_draws, "base_draws")
        check_fraction(self.target_ess, "target_ess")
        check_fraction(self.max_correlation, "max_correlation")
        check_count(self.min_moves, "min_moves")
        check_count(self.max_moves, "max_moves", minimum=self.min_moves)
        check_count(self.max_leapfrog, "max_leapfrog")
        check_count(self.max_temperatures, "max_temperatures")
        check_count(self.num_sweeps, "num_sweeps", minimum=0)
        if self.particles_at_once is not None:
            check_count(self.particles_at_once, "particles_at_once")
        for name, known in (("kernel", KERNELS), ("resampling", tuple(SCHEMES))):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"Expected one of {known} for `{name}`; got {getattr(self, name)!r}."
                )
        check_count(self.chain_length, "chain_length")
        if self.num_particles % self.chain_length or self.num_survivors < 2:
            raise ValueError(
                f"Expected a `chain_length` that divides `num_particles` = {self.num_particles} "
                f"and leaves two chains; got {self.chain_length}."
            )
        if self.schedule is not None:
            # A tuple, so that settings can be hashed and compiled programs found again.
            schedule = np.asarray(self.schedule, float)
            steps = np.diff(schedule, prepend=0.0) if schedule.ndim == 1 else np.zeros(1)
            if not (len(steps) and (steps > 0).all() and schedule[-1] == 1):
                raise ValueError(
                    "Expected increasing inverse temperatures above 0, the last one 1, for "
                    f"`schedule`; got {self.schedule!r}."
                )
            object.__setattr__(self, "schedule", tuple(schedule.tolist()))
            object.__setattr__(self, "max_temperatures", len(schedule))

    @property
    def num_survivors(self) -> int:
        """How many particles survive a resampling, to be moved."""
        return self.num_particles // self.chain_length

    def is_dense(self, dimension: int) -> bool:
        """Whether the mass matrix is dense."""
        if self.dense_mass is not None:
            return self.dense_mass
        return self.num_particles >= DENSE_RATIO * dimension


def status_message(status: int, inverse_temperature: float, num_steps: int) -> str:
    """What went wrong in a run, and what to do about it."""
    if status == CONVERGED:
        return "converged: inverse temperature 1 was reached."
    if status == NON_FINITE:
        return (
            "the log density is NaN or +infinity at draws of the base, or many of these lie on the "
            "very edge of their support. Check the energy and the model where their priors reach "
            "(a log of a negative number, an overflow or underflow), or narrow the reference."
        )
    if status == COLLAPSED:
        return (
            f"every particle has weight zero at inverse temperature {inverse_temperature:.3g}: the "
            "log density is -infinity wherever the particles are. Widen the reference or the "
            "priors until they reach the region that the data allow, or take more particles."
        )
    if status == FROZEN:
        return (
            "inverse temperature 1 was reached, but the last moves were nearly all refused: "
            "particles are copies of a few. Look for a gradient that is NaN where the density is "
            "finite (a `where` around a square root or a logarithm), or take more `max_moves`."
        )
    if status == DISAGREE:
        return (
            "inverse temperature 1 was reached, but independent runs found different "
            "distributions, as when a mode is found by some of them only. Take more particles, "
            "or a higher `target_ess`."
        )
    return (
        f"after {num_steps} steps the inverse temperature is only {inverse_temperature:.3g}, not "
        "1. The target is very far from the base: take more particles, a lower `target_ess`, more "
        "`max_temperatures`, or a base that is closer."
    )
