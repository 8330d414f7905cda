"""Draws from many conditionals of one energy, each row by the quickest way that is exact enough.

0. Rows of an energy that is a normalised density are drawn exactly if nothing is observed, or the
   first columns of its order only.
1. Every other row gets weighted points of the reference's conditional (`importance.py`).
2. Rows whose points are not enough, but would be if there were more, get more of them.
3. The other rows are tempered, one run for each (`sampling.py`).

The choice needs numbers, so inside a compiled function, where there are none yet, every row is
tempered.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco._batching import in_calls
from numpyro_disco._checks import is_traced
from numpyro_disco._random import host_generator
from numpyro_disco._statistics import log_mean
from numpyro_disco._typing import Array
from numpyro_disco.energy.exact import exact_draws, rows_drawn_exactly
from numpyro_disco.energy.importance import (
    BLOCK,
    ESS_PER_DRAW,
    LEAST_ESS,
    Judgement,
    Points,
    ScaledEnergy,
    blocks_at_once,
    compiled_blocks,
    judge,
    log_integral,
    resample,
)
from numpyro_disco.energy.pattern import Pattern
from numpyro_disco.energy.sampling import (
    compiled_tempering,
    free_levels,
    require_convergence,
    temper_rows,
)
from numpyro_disco.supports.coordinates import CoordinateSupports
from numpyro_disco.tempering.settings import TemperingSettings
from numpyro_disco.tempering.state import TemperedResult
from numpyro_disco.tempering.status import CONVERGED

MIN_PARTICLES = 1024
"""Fewest particles of a tempered run, however few draws are asked for."""
POINTS_PER_PARTICLE = 64
"""Most points for each particle that tempering would move. Moving a particle from the reference to
the target takes at least ten times as many evaluations."""
EXACT_NAME, IMPORTANCE_NAME, TEMPERING_NAME = "exact", "importance", "tempering"


class Request(NamedTuple):
    """The draws or the integral to compute for each row."""

    num_samples: int
    """Draws, n; 0 if only the integral is of interest."""
    num_particles: int
    """Particles of each tempered run, at least n."""
    num_chains: int = 1
    """Independent estimates of the integral."""
    rows_at_once: int = 64
    """Rows that are worked on together; bounds memory."""

    @property
    def required_ess(self) -> float:
        """Least effective sample size of a row's weights."""
        if self.num_samples:
            return max(ESS_PER_DRAW * self.num_samples, LEAST_ESS)
        return max(self.num_particles * self.num_chains, LEAST_ESS)

    @property
    def most_blocks(self) -> int:
        """Most blocks of points of one row."""
        return -(-POINTS_PER_PARTICLE * self.num_particles // BLOCK) * self.num_chains


class DrawInfo(NamedTuple):
    """Method and quality of the draws of each row."""

    method: np.ndarray
    """"exact", "importance" or "tempering", shape (rows,)."""
    num_distinct: np.ndarray
    """Number of distinct draws, shape (rows,). At most 1 % are expected to be copies of
    another draw; more with "tempering" only if the moves at the end reach their largest number."""
    weight_ess: np.ndarray
    """Effective sample size of the weights of the reference's points, shape (rows,). With
    "tempering" it shows how far the reference is from the target. This and the next two are NaN
    with "exact", which takes no points of the reference."""
    pareto_k: np.ndarray
    """Pareto k of the same weights, shape (rows,). Means little if a discrete coordinate is free:
    the weights may then come in steps."""
    effective_share: np.ndarray
    """`weight_ess` over the number of points, shape (rows,): about the share of the reference's
    draws that are worth one of the target."""

    def select(self, rows: np.ndarray) -> DrawInfo:
        """The same of some rows, by their indices or a boolean array."""
        return DrawInfo(*(field[rows] for field in self))


class RowDraws(NamedTuple):
    """Draws of the conditional of each row, and its integral."""

    draws: Array
    """Draws in the user's units, shape (num_samples, rows, D)."""
    log_integral: Array
    """Log of the integral of exp(-E) over the free unconstrained coordinates, shape (rows,)."""
    error: Array
    """Standard error of `log_integral`, shape (rows,); NaN for a single chain."""
    info: DrawInfo | None
    """Method and quality of the draws; None inside a compiled function."""


class _Row(NamedTuple):
    """One row that is done."""

    draws: np.ndarray
    """Shape (num_samples, D)."""
    log_integral: float
    error: float
    method: str
    num_distinct: int


def particles_for(num_samples: int, least: int = MIN_PARTICLES) -> int:
    """Number of particles for some draws: `least` times a power of two.

    Different numbers of draws then share a compiled program.
    """
    return least * 2 ** max(0, int(np.ceil(np.log2(num_samples / least))))


def draw_rows(
    rng_key: Array,
    energy: ScaledEnergy,
    supports: CoordinateSupports,
    rows: Pattern,
    request: Request,
) -> RowDraws:
    """Draw from the conditional of each row, or only estimate its integral.

    Args:
        rng_key: random key.
        energy: the joint energy.
        supports: maps from unconstrained space to the user's units.
        rows: what is observed, shape (rows, D).
        request: what is asked of each row.

    Returns:
        A `RowDraws`. Inside a compiled function, entries of rows whose runs failed are NaN.

    Raises:
        RuntimeError: a tempered run did not reach its conditional.
    """
    if is_traced(rng_key, energy, rows):
        return _draw_traced(rng_key, energy, supports, rows, request)
    return _Drawing(rng_key, energy, supports, rows, request).run()


def _draw_traced(
    rng_key: Array,
    energy: ScaledEnergy,
    supports: CoordinateSupports,
    rows: Pattern,
    request: Request,
) -> RowDraws:
    """Temper every row inside a program that is being traced."""
    num_rows = len(rows.values)
    run_of = np.repeat(np.arange(num_rows), request.num_chains)
    observed = jnp.asarray(rows.observed)
    particles, result = temper_rows(
        rng_key,
        jnp.arange(len(run_of)),
        energy,
        rows.unconstrained[run_of],
        observed[run_of],
        supports=supports,
        settings=TemperingSettings(num_particles=request.num_particles),
        rows_at_once=request.rows_at_once,
        num_levels=free_levels(supports, rows.observed),
    )
    converged = result.status == CONVERGED
    estimates = jnp.where(converged, result.log_normalizer, jnp.nan)
    integral, error = log_mean(estimates.reshape(num_rows, request.num_chains))
    # A subset chosen at random is equally weighted, as the whole is.
    keys = jax.random.split(rng_key, num_rows)
    first = jnp.where(converged[:, None, None], particles, jnp.nan)[:: request.num_chains]
    order = jax.vmap(lambda key: jax.random.permutation(key, request.num_particles))(keys)
    draws = jnp.take_along_axis(first, order[:, : request.num_samples, None], axis=1)
    values = jnp.asarray(rows.values, draws.dtype)
    draws = jnp.where(observed, values, jnp.swapaxes(draws, 0, 1))
    return RowDraws(draws, integral, error, None)


class _Drawing:
    """One call of `draw_rows` outside of compiled functions."""

    def __init__(
        self,
        rng_key: Array,
        energy: ScaledEnergy,
        supports: CoordinateSupports,
        rows: Pattern,
        request: Request,
    ) -> None:
        self.rng_key, self.energy, self.supports = rng_key, energy, supports
        self.request = request
        self.values = np.asarray(rows.unconstrained)
        self.observed = np.asarray(rows.observed)
        self.known = np.asarray(rows.values, self.values.dtype)
        num_rows = len(self.values)
        self.weight_ess, self.pareto_k = np.zeros(num_rows), np.full(num_rows, np.inf)
        self.effective_share = np.zeros(num_rows)

    def run(self) -> RowDraws:
        """Draw every row."""
        num_rows, dimension = self.values.shape
        done = self._exactly(np.flatnonzero(rows_drawn_exactly(self.energy, self.observed)))
        left = np.setdiff1d(np.arange(num_rows), list(done))
        for start in range(0, len(left), self.request.rows_at_once):
            done |= self._by_importance(left[start : start + self.request.rows_at_once])
        left = np.setdiff1d(np.arange(num_rows), list(done))
        mixed = (self.supports.discrete & ~self.observed[left]).any(axis=1)
        done |= self._by_tempering(left[~mixed], 0)
        done |= self._by_tempering(left[mixed], (~mixed).sum())
        in_order = [done[row] for row in range(num_rows)]
        draws = np.zeros((num_rows, self.request.num_samples, dimension), self.values.dtype)
        for row, one in enumerate(in_order):
            draws[row] = np.where(self.observed[row], self.known[row], one.draws)
        dtype = self.values.dtype
        return RowDraws(
            jax.device_put(np.ascontiguousarray(np.swapaxes(draws, 0, 1))),
            jax.device_put(np.array([one.log_integral for one in in_order], dtype)),
            jax.device_put(np.array([one.error for one in in_order], dtype)),
            DrawInfo(
                np.array([one.method for one in in_order], dtype="<U10"),
                np.array([one.num_distinct for one in in_order], int),
                self.weight_ess,
                self.pareto_k,
                self.effective_share,
            ),
        )

    # -- exact draws ----------------------------------------------------------------------------

    def _exactly(self, rows: np.ndarray) -> dict[int, _Row]:
        """Rows that are drawn exactly, and whose integral is known."""
        done, num_samples = {}, self.request.num_samples
        count = particles_for(max(num_samples, 1))
        for row in map(int, rows):
            pattern = self.values[row], self.observed[row]
            y, integral = exact_draws(self.rng_key, self.energy, row, count, *pattern)
            draws = np.asarray(self.supports.constrain(y[:num_samples]))
            self.weight_ess[row] = self.pareto_k[row] = self.effective_share[row] = np.nan
            done[row] = _Row(draws, integral, 0.0, EXACT_NAME, num_samples)
        return done

    # -- importance -----------------------------------------------------------------------------

    def _by_importance(self, chunk: np.ndarray) -> dict[int, _Row]:
        """The rows of a chunk for which weighted points are enough."""
        request, groups = self.request, self.request.num_chains
        per_call = blocks_at_once(self.values.shape[1])
        # A call of the program draws a fixed number of blocks, so few rows get many of them.
        first = max(per_call // len(self.values), -(-int(request.required_ess) // BLOCK))
        counts = np.full(len(chunk), _round_up(min(first, request.most_blocks), groups))
        points = self._points(chunk, np.zeros_like(counts), counts)
        done, more = {}, {}
        for row, its in zip(chunk, points, strict=True):
            judgement = self._judge(row, its)
            if judgement.enough:
                done[int(row)] = self._resampled(int(row), its)
                continue
            blocks = len(its.log_weights) // BLOCK
            total = np.ceil(blocks * judgement.growth)
            if total <= request.most_blocks:
                more[int(row)] = (its, _round_up(int(total) - blocks, groups))
        if more:
            before = np.array([len(its.log_weights) // BLOCK for its, _ in more.values()])
            counts = np.array([count for _, count in more.values()])
            added = self._points(np.array(list(more)), before, counts)
            for (row, (its, _)), new in zip(more.items(), added, strict=True):
                joined = its.join(new)
                if self._judge(row, joined).enough:
                    done[row] = self._resampled(row, joined)
        return done

    def _points(self, rows: np.ndarray, before: np.ndarray, counts: np.ndarray) -> list[Points]:
        """Weighted points of some rows: `counts` blocks of each, after the `before` it has."""
        row_of = np.repeat(rows, counts)
        blocks = [np.arange(n, n + count) for n, count in zip(before, counts, strict=True)]
        block_of = np.concatenate(blocks)

        def program(row: np.ndarray, block: np.ndarray) -> tuple[Array, Array]:
            return compiled_blocks()(
                self.rng_key,
                row.astype(np.int32),
                block.astype(np.int32),
                self.energy,
                self.values[row],
                self.observed[row],
                supports=self.supports,
            )

        size = blocks_at_once(self.values.shape[1])
        x, log_weights = in_calls(program, (row_of, block_of), size)
        ends = np.cumsum(counts)
        return [
            Points(
                x[end - count : end].reshape(-1, x.shape[-1]),
                log_weights[end - count : end].ravel(),
            )
            for end, count in zip(ends, counts, strict=True)
        ]

    def _judge(self, row: int, points: Points) -> Judgement:
        judgement = judge(
            points.log_weights,
            self.request.num_samples,
            self.request.required_ess,
            in_steps=bool((self.supports.discrete & ~self.observed[row]).any()),
        )
        self.weight_ess[row], self.pareto_k[row] = judgement.weight_ess, judgement.pareto_k
        self.effective_share[row] = judgement.weight_ess / len(points.log_weights)
        return judgement

    def _resampled(self, row: int, points: Points) -> _Row:
        chosen = resample(
            host_generator(self.rng_key, row), points.log_weights, self.request.num_samples
        )
        integral, error = log_integral(points.log_weights, self.request.num_chains)
        # A row without free coordinates has one point.
        distinct = 1 if self.observed[row].all() else len(np.unique(chosen))
        return _Row(points.x[chosen], integral, error, IMPORTANCE_NAME, distinct)

    # -- tempering ------------------------------------------------------------------------------

    def _by_tempering(self, rows: np.ndarray, before: int) -> dict[int, _Row]:
        """The rows in `rows`, after `before` others, each by tempered runs of its own."""
        if not len(rows):
            return {}
        request = self.request
        row_of = np.repeat(rows, request.num_chains)
        particles, result = self._temper(row_of, before * request.num_chains)
        require_convergence(result, row_of, len(self.values))
        estimates = np.asarray(result.log_normalizer).reshape(len(rows), -1)
        integral, error = log_mean(estimates)
        done = {}
        for place, row in enumerate(rows):
            own = particles[place * request.num_chains]
            # A subset chosen at random is equally weighted, as the whole is.
            draws = own[
                host_generator(self.rng_key, row).permutation(len(own))[: request.num_samples]
            ]
            distinct = len(np.unique(draws, axis=0))
            done[int(row)] = _Row(draws, integral[place], error[place], TEMPERING_NAME, distinct)
        return done

    def _temper(self, row_of: np.ndarray, first: int) -> tuple[np.ndarray, TemperedResult]:
        """Particles (runs, N, D) and the results of one run for each entry of `row_of`.

        The runs are numbered from `first` on, for their keys.

        Runs go through the program a fixed number at a time, so that other numbers of rows do not
        compile again: one on a CPU, where they run one after another in any case.
        """
        size = 1
        if jax.default_backend() != "cpu":
            size = min(self.request.rows_at_once, 2 ** int(np.ceil(np.log2(len(row_of)))))
        settings = TemperingSettings(num_particles=self.request.num_particles)

        def program(run: np.ndarray, row: np.ndarray) -> tuple[Array, TemperedResult]:
            return compiled_tempering()(
                self.rng_key,
                run.astype(np.int32),
                self.energy,
                self.values[row],
                self.observed[row],
                supports=self.supports,
                settings=settings,
                rows_at_once=size,
                num_levels=free_levels(self.supports, self.observed[row_of]),
            )

        return in_calls(program, (first + np.arange(len(row_of)), row_of), size)


def _round_up(count: int, groups: int) -> int:
    """The smallest multiple of `groups` that is at least `count`, and not 0."""
    return max(1, -(-count // groups)) * groups
