"""The records that the parts of a tempered run exchange: pytrees of arrays.

N is the number of particles, P the number of states of each chain that become particles, and
M = N / P the number of chains. The dimension of u is d.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from numpyro_disco._checks import is_traced
from numpyro_disco._typing import Array


class Particles(NamedTuple):
    """All particles, either flat, with leading axes (N,), or grouped by state, (P, M)."""

    position: Array
    """Points u, shape (..., d)."""
    log_base: Array
    """Log density of the base, shape (...)."""
    log_target: Array
    """Log density of the target, shape (...)."""
    acceptance: Array
    """Acceptance probability of the move that led to the particle, shape (...)."""


class Chains(NamedTuple):
    """The current states of M chains."""

    position: Array
    """Points u, shape (M, d)."""
    log_base: Array
    """Log density of the base, shape (M,)."""
    log_target: Array
    """Log density of the target, shape (M,)."""
    gradient: Array
    """Gradient of the path's log density, shape (M, d)."""


class Tuning(NamedTuple):
    """The tuned parameters of a kernel, in units of the particles' spread."""

    log_step: Array
    """Log of the common step size, shape ()."""
    log_length: Array
    """Log of the common length of a trajectory, shape ()."""


class Level(NamedTuple):
    """One inverse temperature, and the scales in which moves are made there."""

    inverse_temperature: Array
    """b of the density that moves leave invariant, shape ()."""
    factor: Array
    """Scale of the particles: a lower-triangular factor, (d, d), or deviations, (d,)."""
    free: Array
    """1 for coordinates that move and 0 for those that do not, shape (d,)."""
    deviation: Array
    """Standard deviation of the path's log density among the particles, shape ()."""


class Selection(NamedTuple):
    """The particles that start the moves at the next inverse temperature."""

    inverse_temperature: Array
    """The next b, shape ()."""
    log_weights: Array
    """Log weights that bring the particles to it, shape (N,)."""
    ancestors: Array
    """Index of the particle at which each chain starts, sorted, shape (M,)."""
    weight_ess: Array
    """Effective sample size of the weights, shape ()."""
    unique_ancestors: Array
    """Number of distinct ancestors, shape ()."""


class TemperedHistory(NamedTuple):
    """One row for each step from 0 to 1, padded with NaN to `max_temperatures` rows."""

    inverse_temperature: Array
    """b after the step, shape (max_temperatures,), as all fields."""
    weight_ess: Array
    """Effective sample size of the step's weights."""
    log_normalizer: Array
    """Log of the estimated ratio of the mass at b to that at 0."""
    acceptance: Array
    """Mean acceptance probability of the step's moves."""
    step_size: Array
    """Common leapfrog step size, in units of the particles' spread."""
    trajectory_length: Array
    """Common length of a trajectory, in the same units."""
    correlation: Array
    """Largest correlation of a chain's first kept state with its start."""
    num_moves: Array
    """Number of moves between two states that became particles."""
    unique_ancestors: Array
    """Number of distinct particles that survived the resampling."""
    num_gradients: Array
    """Number of gradients that each chain took."""


class State(NamedTuple):
    """Everything that the next step needs, which is what a checkpoint holds."""

    particles: Particles
    """Particles grouped by state, (P, M)."""
    inverse_temperature: Array
    """Current b, shape ()."""
    log_normalizer: Array
    """Log of the estimated ratio of the mass at b to that at 0, shape ()."""
    tuning: Tuning
    """Parameters of the kernel for the next move."""
    num_steps: Array
    """Number of steps taken, shape ()."""
    status: Array
    """One of the codes of `status.py`, shape ()."""
    rng_key: Array
    """Random key of the run; `draw_key` numbers the keys of its draws."""
    history: Array
    """The fields of `TemperedHistory`, one row for each step, NaN for steps that are not taken yet;
    one array compiles faster than ten. Shape (max_temperatures, fields)."""
    impossible: Array
    """Share of the draws of the base at which the target is NaN, shape ()."""
    highest: Array
    """Positions of the draws of the base at which the target is highest, shape (at most 8, d)."""


class TemperedResult(NamedTuple):
    """The result of a tempered run."""

    position: Array
    """Equally weighted particles at b = 1, shape (N, d); those of one chain are adjacent."""
    log_base: Array
    """Log density of the base at each particle, shape (N,)."""
    log_target: Array
    """Log density of the target at each particle, shape (N,)."""
    acceptance: Array
    """Acceptance probability of the move to each particle, shape (N,)."""
    log_normalizer: Array
    """Log of the estimated Z_target / Z_base, shape (): the mean of the path's and the mixture's
    estimates, weighted by the inverse of their variances."""
    log_path_normalizer: Array
    """The same from the path's weights alone, shape ()."""
    mixture_ess: Array
    """Effective sample size of the weights of the mixture's draws, shape (); 0 without draws."""
    num_steps: Array
    """Number of steps from 0 to 1, shape ()."""
    status: Array
    """One of CONVERGED, STUCK, NON_FINITE, COLLAPSED and FROZEN, shape ()."""
    steps: Array
    """The columns of `history` as one array, shape (max_temperatures, fields)."""
    impossible: Array
    """Share of the draws of the base at which the target is NaN, shape ()."""
    starts: Array
    """Positions of the highest draws of the base and of the highest particles, from which
    `find_peak` climbs; shape (at most 16, d)."""

    @property
    def history(self) -> TemperedHistory:
        """One row for each step. The columns of concrete results are NumPy arrays."""
        steps: Any = self.steps if is_traced(self.steps) else np.asarray(self.steps)
        return TemperedHistory(*(steps[..., column] for column in range(steps.shape[-1])))
