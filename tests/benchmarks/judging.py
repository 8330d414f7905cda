"""Timing and judging of runs on one target, and the table of the results."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from numpyro.infer.util import constrain_fn, potential_energy, unconstrain_fn
from rivals import Outcome, Problem
from targets import Target, Truth

from numpyro_disco.models.reading import TemperedModel, prepare_model

Key = jax.Array


class Row(NamedTuple):
    """One line of the table."""

    target: str
    method: str
    settings: str
    seconds: float = np.nan
    compile_seconds: float = np.nan
    gradients: float = np.nan
    evidence_error: float = np.nan
    mean_error: float = np.nan
    mode_error: float = np.nan
    distance: float = np.nan
    modes_lost: str = ""
    cost: float = np.nan
    ratio: float = np.nan
    note: str = ""


HEADERS = (
    "target",
    "method",
    "settings",
    "s/run",
    "compile s",
    "gradients/run",
    "RMSE log Z",
    "mean error",
    "mode TV",
    "W1",
    "modes lost",
    "s x MSE",
    "ratio",
    "note",
)


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """The value of a call, fully computed, and its seconds."""
    start = time.perf_counter()
    value = jax.block_until_ready(call())
    return value, time.perf_counter() - start


def first_line(error: Exception) -> str:
    """The first line of an error, for a cell of the table."""
    return f"{type(error).__name__}: {error}".splitlines()[0].replace("|", "/").strip()[:140]


class Bench:
    """One target: the densities that all methods need, and the judging of their draws."""

    def __init__(self, target: Target, num_repeats: int) -> None:
        self.target, self.num_repeats = target, num_repeats
        self.rows: list[Row] = []
        self.prepared: TemperedModel = prepare_model(target.model, (), {})
        # An unknown truth is filled in after the first long runs.
        self.truth = cast(Truth, target.truth)
        check_densities(target, self.prepared)

    @partial(jax.jit, static_argnums=0)
    def constrain(self, positions: Any) -> dict:
        """Samples by site from flat vectors u, shape (runs, n, d)."""
        unconstrained = jax.vmap(jax.vmap(self.prepared.unravel))(positions)
        return constrain_fn(
            self.prepared.model, (), {}, unconstrained, return_deterministic=True, batch_ndims=2
        )

    def problem(self, covariance: np.ndarray | None) -> Problem:
        """The target in the form that BlackJAX takes."""
        log_densities = self.prepared.log_densities

        def log_likelihood(u: jax.Array) -> jax.Array:
            log_base, log_target = log_densities(u)
            return log_target - log_base

        return Problem(
            self.prepared.draw_base,
            lambda u: log_densities(u)[0],
            log_likelihood,
            covariance,
            self.target.correlated,
        )

    def measure(
        self,
        method: str,
        settings: Any,
        build: Callable[[], Callable[[Key], Outcome]],
        *,
        constrain: Callable = lambda draws: draws,
    ) -> None:
        """Time and judge one method, and add its row to the table; a failure also makes a row."""
        keys = jax.random.split(jax.random.key(1), 1 + self.num_repeats)
        try:
            call = build()
            results = [timed(partial(call, key)) for key in keys]
            row = self._judge(method, str(settings), results, constrain)
        except Exception as error:
            row = Row(self.target.name, method, str(settings), note=first_line(error))
        self.rows.append(row)
        # The first row is TemperedSMC's.
        self.rows[-1] = row._replace(ratio=row.cost / self.rows[0].cost)
        print(" | ".join(map(format_cell, self.rows[-1])), flush=True)

    def _judge(self, method: str, settings: str, results: list, constrain: Callable) -> Row:
        """A row from outcomes and their seconds, the first of which include compilation."""
        outcomes, seconds = zip(*results, strict=True)
        num_runs = len(np.asarray(outcomes[0].reached))
        elapsed = float(np.median(seconds[1:]))
        gradients = np.concatenate([np.asarray(o.gradients, np.float64) for o in outcomes])
        row = Row(
            self.target.name,
            method,
            settings,
            seconds=elapsed / num_runs,
            compile_seconds=seconds[0] - elapsed,
            gradients=gradients.mean(),
        )
        failed = 0
        if outcomes[0].log_normalizer is not None:
            estimates = np.concatenate([np.asarray(o.log_normalizer, float) for o in outcomes])
            square = (estimates - self.truth.log_evidence) ** 2
            failed = int((~np.isfinite(square)).sum())
            if failed:
                row = row._replace(note=f"{failed} of {len(square)} runs failed")
            if failed < len(square):
                square = square[np.isfinite(square)].mean()
                row = row._replace(evidence_error=square**0.5)
                # A method with failed runs has no cost.
                row = row._replace(cost=np.nan if failed else row.seconds * square)
        coordinates = [self.target.coordinates(constrain(o.draws)) for o in outcomes]
        return self._judge_draws(row, np.concatenate(coordinates))

    def _judge_draws(self, row: Row, x: np.ndarray) -> Row:
        """Add the errors of draws x, shape (runs, n, K), each run by itself."""
        truth, deviation = self.truth, self.truth.deviation
        x = x[np.isfinite(x).all((1, 2))]
        if not len(x):
            return row
        error = (x.mean(1) - truth.mean) / deviation
        row = row._replace(mean_error=np.sqrt((error**2).mean()))
        if truth.exact is not None:
            share = (np.arange(x.shape[1]) + 0.5) / x.shape[1]
            marginal = np.sort(x[..., self.target.marginal], axis=1)
            distance = np.abs(marginal - np.quantile(truth.exact, share)).mean()
            row = row._replace(distance=distance / deviation[self.target.marginal])
        if truth.mode_mass is not None and self.target.mode is not None:
            mode = np.stack([self.target.mode(run) for run in x])
            mass = (mode[..., None] == np.arange(len(truth.mode_mass))).mean(1)
            lost = (mass < 0.1 * truth.mode_mass).sum()
            row = row._replace(
                mode_error=0.5 * np.abs(mass - truth.mode_mass).sum(-1).mean(),
                modes_lost=f"{lost} of {mass.size}",
            )
        return row


def check_densities(target: Target, prepared: TemperedModel) -> None:
    """Assert that samplers see NumPyro's density, and the density whose evidence is known."""

    @jax.jit
    @jax.vmap
    def densities(rng_key: Key) -> tuple[dict, jax.Array, jax.Array]:
        u = prepared.draw_base(rng_key)
        unconstrained = prepared.unravel(u)
        numpyro_density = -potential_energy(prepared.model, (), {}, unconstrained)
        samples = constrain_fn(prepared.model, (), {}, unconstrained)
        return samples, prepared.log_densities(u)[1], numpyro_density

    samples, log_target, numpyro_density = densities(jax.random.split(jax.random.key(0), 64))

    def same(a: Any, b: Any) -> bool:
        return np.allclose(a, b, rtol=1e-4, atol=1e-2)

    assert same(log_target, numpyro_density), f"{target.name}: not NumPyro's density"
    if target.log_density is not None:
        exact = target.log_density(target.coordinates(samples))
        assert same(log_target, exact), f"{target.name}: not the density whose evidence is known"


def flat_covariance(bench: Bench, samples: dict) -> np.ndarray:
    """Covariance of the flat unconstrained vector over the draws of all runs."""
    prepared = bench.prepared
    pooled = {name: samples[name].reshape(-1, *samples[name].shape[2:]) for name in prepared.latent}

    def flatten(sample: dict) -> jax.Array:
        unconstrained = unconstrain_fn(prepared.model, (), {}, sample)
        return ravel_pytree({name: unconstrained[name] for name in prepared.latent})[0]

    u = np.asarray(jax.jit(jax.vmap(flatten))(pooled), np.float64)
    return np.atleast_2d(np.cov(u, rowvar=False))


class LongRuns(NamedTuple):
    """Estimates from long runs of one implementation."""

    log_evidence: float
    mean: np.ndarray
    variance: np.ndarray


def long_runs(bench: Bench, method: str, outcome: Outcome) -> LongRuns:
    """Estimates from an outcome whose draws are samples by site; prints the evidence."""
    log_normalizers = np.asarray(outcome.log_normalizer, np.float64)
    top = log_normalizers.max()
    ratio = np.exp(log_normalizers - top)
    log_evidence = float(top + np.log(ratio.mean()))
    error = ratio.std(ddof=1) / ratio.mean() / np.sqrt(len(ratio))
    print(f"{bench.target.name}: long runs of {method}: log Z {log_evidence:.4f} ± {error:.4f}")
    x = bench.target.coordinates(outcome.draws)
    return LongRuns(log_evidence, x.mean((0, 1)), x.var((0, 1)))


def pooled_truth(bench: Bench, *runs: LongRuns) -> Truth:
    """Truth from long runs of one or two implementations; prints how far two differ."""
    mean = np.mean([r.mean for r in runs], axis=0)
    deviation = np.sqrt(np.mean([r.variance for r in runs], axis=0))
    apart = (np.ptp([r.mean for r in runs], axis=0) / deviation).max()
    if len(runs) > 1:
        print(
            f"{bench.target.name}: means of long runs differ by at most {apart:.3f} standard "
            "deviations"
        )
    return Truth(float(np.mean([r.log_evidence for r in runs])), mean, deviation)


def format_cell(value: Any) -> str:
    """A cell of a table: three significant digits, empty for NaN."""
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else f"{value:.3g}"
    return str(value)


def format_table(rows: list[Row]) -> str:
    """Rows as a markdown table."""
    lines = [HEADERS, ("---",) * len(HEADERS), *rows]
    return "\n".join("| " + " | ".join(map(format_cell, line)) + " |" for line in lines) + "\n"
