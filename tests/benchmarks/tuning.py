"""Settings of BlackJAX's samplers, and the search that a careful user would make for them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

Key = jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a BlackJAX sampler.

    Attributes:
        step_size: step size of the leapfrog integrator, in units set by the mass matrix.
        num_leapfrog: leapfrog steps of a trajectory.
        num_moves: trajectories at each temperature; for waste-free SMC, particles of each chain.
        target_ess: effective sample size to keep, as a share of the particles.
        mass: "posterior" for fixed variances (covariances, for a correlated target) of the
            posterior, "particles" for those of the current particles by BlackJAX's inner kernel
            tuning.
    """

    step_size: float
    num_leapfrog: int
    num_moves: int
    target_ess: float
    mass: str

    def __str__(self) -> str:
        return (
            f"step {self.step_size:g}, {self.num_leapfrog} leapfrog steps, {self.num_moves} moves, "
            f"ESS {self.target_ess:g}, mass of {self.mass}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """The grid of settings: first masses, step sizes and trajectories, then moves and ESS."""

    mass: tuple[str, ...] = ("posterior", "particles")
    step_size: tuple[float, ...] = (0.1, 0.2, 0.4, 0.8)
    num_leapfrog: tuple[int, ...] = (2, 5, 12)
    first_moves: int = 4
    first_ess: float = 0.5
    num_moves: tuple[int, ...] = (2, 4, 10)
    target_ess: tuple[float, ...] = (0.5, 0.8)

    def first(self) -> list[Settings]:
        """All combinations of mass, step size and number of leapfrog steps."""
        return [
            Settings(
                step_size=step_size,
                num_leapfrog=num_leapfrog,
                num_moves=self.first_moves,
                target_ess=self.first_ess,
                mass=mass,
            )
            for mass, step_size, num_leapfrog in itertools.product(
                self.mass, self.step_size, self.num_leapfrog
            )
        ]

    def second(self, settings: Settings) -> list[Settings]:
        """All combinations of moves and target ESS, with the other settings as given."""
        return [
            dataclasses.replace(settings, num_moves=num_moves, target_ess=target_ess)
            for num_moves, target_ess in itertools.product(self.num_moves, self.target_ess)
        ]


SMALL_GRID = Grid(
    mass=("particles",), step_size=(0.4,), num_leapfrog=(5,), num_moves=(4,), target_ess=(0.5,)
)


class Search:
    """Search for the settings with the smallest seconds x MSE of the log evidence.

    All settings but the mass and the number of moves are traced, so that a grid compiles rarely.

    Args:
        run_one: a run, from settings and a key to an `Outcome`.
        log_evidence: the true log evidence.
        num_runs: runs of each candidate.
        timed: from a function without arguments to its value and its seconds.
        rng_key: random key.
    """

    def __init__(
        self,
        run_one: Callable[[Settings, Key], Any],
        log_evidence: float,
        *,
        num_runs: int,
        timed: Callable,
        rng_key: Key,
    ) -> None:
        self._run_one, self._log_evidence = run_one, log_evidence
        self._num_runs, self._timed, self._rng_key = num_runs, timed, rng_key
        self._programs: dict[tuple[str, int], Callable] = {}
        self._squares: dict[Settings, list[float]] = {}
        self._seconds: dict[Settings, list[float]] = {}

    def __len__(self) -> int:
        return len(self._squares)

    def score(self, settings: Settings) -> float:
        """Seconds x MSE of all runs so far; infinite if a run failed."""
        errors = np.asarray(self._squares[settings])
        if not np.isfinite(errors).all():
            return np.inf
        return float(errors.mean() * np.mean(self._seconds[settings]))

    def attempt(self, settings: Settings, fold: int = 0) -> None:
        """Run some settings once; a `fold` other than 0 adds runs with other random numbers."""
        if settings in self._squares and fold == 0:
            return
        key = (settings.mass, settings.num_moves)
        values = (settings.step_size, settings.num_leapfrog, settings.target_ess)
        rng_keys = jax.random.split(jax.random.fold_in(self._rng_key, fold), self._num_runs)
        if key not in self._programs:
            self._programs[key] = self._program(settings)
            jax.block_until_ready(self._programs[key](rng_keys, *values))
        outcome, elapsed = self._timed(lambda: self._programs[key](rng_keys, *values))
        error = np.asarray(outcome.log_normalizer, np.float64) - self._log_evidence
        self._squares.setdefault(settings, []).extend(error**2)
        self._seconds.setdefault(settings, []).append(elapsed / self._num_runs)

    def best(self, settings: list[Settings] | None = None, count: int = 1) -> list[Settings]:
        """The best settings of a list, or of all that were tried."""
        return sorted(self._squares if settings is None else settings, key=self.score)[:count]

    def confirmed(self, count: int = 4) -> Settings:
        """The best settings, after four more sets of runs of the `count` best ones."""
        finalists = self.best(count=count)
        if len(finalists) > 1:
            for settings, fold in itertools.product(finalists, (1, 2, 3, 4)):
                self.attempt(settings, fold)
        return self.best(finalists)[0]

    def _program(self, like: Settings) -> Callable:
        """A compiled program of all runs, for the mass and the number of moves of `like`."""

        def run_all(rng_keys: Key, step_size: Any, num_leapfrog: Any, target_ess: Any) -> Any:
            settings = dataclasses.replace(
                like, step_size=step_size, num_leapfrog=num_leapfrog, target_ess=target_ess
            )
            return jax.lax.map(lambda key: self._run_one(settings, key), rng_keys)

        return jax.jit(run_all)

    def try_all(self, settings: list[Settings]) -> Settings:
        """The best settings of a list; a single one is not run."""
        if len(settings) == 1:
            return settings[0]
        for one in settings:
            self.attempt(one)
        return self.confirmed()

    def try_grid(self, grid: Grid) -> Settings:
        """The best settings of a grid; the second stage starts from the best two of the first."""
        first = grid.first()
        if len(first) == 1:
            return self.try_all(grid.second(first[0]))
        for settings in first:
            self.attempt(settings)
        for settings in self.best(first, count=2):
            for other in grid.second(settings):
                self.attempt(other)
        return self.confirmed()
