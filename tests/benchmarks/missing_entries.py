"""NUTS over missing entries: coordinates of each row's conditional, against column by column.

    python tests/benchmarks/missing_entries.py --problems split_0
    python tests/benchmarks/missing_entries.py --problems split_0,split_1,split_2,split_3,many_rows

Two unconstrained coordinates of the same site, in the same model, from the same key:

    row       of the reference given what is observed in each row, which is what the library uses
    column    location and scale of the entry's column, which it used before

`split_0` is a regression on 200 of scikit-learn's diabetes patients, a third of their ten
measurements missing; `split_1` to `split_3` have other patients in the regression. `many_rows` has
10,000 rows of 4 columns with a third of the entries missing anywhere, and a mixture of Gaussians as
its prior.

Each row shows the least bulk ESS and the largest R-hat of the coefficients, the same of the missing
entries, leapfrog steps, processor seconds of warm-up and draws without compilation, and the least
ESS of the coefficients for each second. The last line is the ratio of these rates. Chains are
vectorised.
"""

from __future__ import annotations

import argparse
import time
from typing import NamedTuple

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS
from sklearn.datasets import load_diabetes

import numpyro_disco as disco
from numpyro_disco.models.missing import MissingEntries

NAMES = ("age", "sex", "bmi", "bp", "tc", "ldl", "hdl", "tch", "ltg", "glu")


class ColumnwiseEntries(MissingEntries):
    """Missing entries in units of their columns: each is a row of its own."""

    def __init__(
        self, prior: disco.EnergyDistribution, values: jax.Array, observed: np.ndarray
    ) -> None:
        super().__init__(prior, values, observed)
        columns = np.asarray(self.places) % observed.shape[-1]
        self.loc = np.asarray(prior.loc)[columns]
        self.factors = np.asarray(prior.scale)[columns][:, None, None]
        self.sizes = (1,) * len(columns)


COORDINATES = {"row": MissingEntries, "column": ColumnwiseEntries}


class Problem(NamedTuple):
    """A regression with missing measurements."""

    prior: disco.EnergyDistribution
    """Prior of a row."""
    table: np.ndarray
    """Measurements with NaN where missing, shape (n, D)."""
    outcome: np.ndarray
    """Shape (n,)."""
    center: np.ndarray
    """Subtracted from the measurements, shape (D,)."""
    spread: np.ndarray
    """Unit of the measurements, shape (D,)."""


def diabetes(split: int, num_steps: int) -> Problem:
    """A regression on diabetes patients, with rows shuffled by seed `split`."""
    measurements, outcome = load_diabetes(return_X_y=True, scaled=False)
    order = np.random.default_rng(split).permutation(len(measurements))
    measurements, outcome = measurements[order], outcome[order]
    learn, table, outcome = measurements[:242], measurements[242:].copy(), outcome[242:]
    table[: len(table) * 11 // 20, 4:] = np.nan
    fit = disco.fit(
        jax.random.key(split),
        learn,
        names=NAMES,
        objective=disco.Disco(noise_scale=0.4, max_noise_scale=0.8),
        network=disco.MLP(width=64),
        optimizer=disco.AdamW(learning_rate=3e-4),
        num_steps=num_steps,
        batch_size=256,
    )
    y = (outcome - outcome.mean()) / outcome.std()
    return Problem(fit.distribution, table, y, learn.mean(axis=0), learn.std(axis=0))


def many_rows(num_rows: int) -> Problem:
    """Rows of a mixture of two Gaussians in four dimensions, a third of the entries missing."""
    rng = np.random.default_rng(0)
    means = np.array([[0.0, 0.0, 0.0, 0.0], [1.5, -1.0, 1.0, 0.5]])
    basis = rng.normal(size=(2, 4, 4))
    covariances = 0.3 * np.eye(4) + 0.3 * basis @ np.swapaxes(basis, 1, 2)
    reference = disco.MixtureReference(np.array([0.6, 0.4]), means, covariances)
    prior = disco.EnergyDistribution(lambda x: -reference.log_prob(x), reference)
    rows = np.asarray(reference.sample(jax.random.key(1), (num_rows,)), np.float64)
    outcome = rows @ np.array([0.5, -0.3, 0.2, 0.4]) + 0.7 * rng.normal(size=num_rows)
    rows[rng.uniform(size=rows.shape) < 1 / 3] = np.nan
    y = (outcome - outcome.mean()) / outcome.std()
    return Problem(prior, rows, y, np.nanmean(rows, 0), np.nanstd(rows, 0))


def regression(problem: Problem, entries: type[MissingEntries]) -> None:
    """Linear regression on standardised measurements."""
    observed = ~np.isnan(problem.table)
    values = jnp.asarray(np.where(observed, problem.table, 0), problem.prior.loc.dtype)
    fn = entries(problem.prior, values, observed)
    table = fn.complete(numpyro.sample("missing", fn))
    intercept = numpyro.sample("intercept", dist.Normal(0, 1))
    slope = numpyro.sample("slope", dist.Normal(0, 0.5).expand([table.shape[-1]]).to_event(1))
    noise = numpyro.sample("noise", dist.HalfNormal(1))
    mean = intercept + ((table - problem.center) / problem.spread) @ slope
    numpyro.sample("outcome", dist.Normal(mean, noise), obs=jnp.asarray(problem.outcome))


class Run(NamedTuple):
    """Diagnostics of one run."""

    ess: float
    """Least bulk ESS of the coefficients."""
    r_hat: float
    """Largest R-hat of the coefficients."""
    entry_ess: float
    """Least bulk ESS of the missing entries."""
    entry_r_hat: float
    """Largest R-hat of the missing entries."""
    leapfrogs: int
    """Leapfrog steps of all draws."""
    seconds: float
    """Processor seconds of warm-up and draws, without compilation."""
    mean: np.ndarray
    """Posterior means of the slopes."""
    error: np.ndarray
    """Monte Carlo standard errors of these."""


def draw(problem: Problem, entries: type[MissingEntries], args: argparse.Namespace) -> Run:
    """Draw a regression by NUTS."""
    compiling: list[float] = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event.startswith("/jax/core/compile"):
            compiling.append(duration_secs)

    mcmc = MCMC(
        NUTS(lambda: regression(problem, entries), max_tree_depth=args.max_tree_depth),
        num_warmup=args.draws,
        num_samples=args.draws,
        num_chains=args.chains,
        chain_method="vectorized",
        progress_bar=False,
    )
    jax.monitoring.register_event_duration_secs_listener(listen)
    start = time.process_time()
    mcmc.run(jax.random.key(1), extra_fields=("num_steps",))
    jax.block_until_ready(mcmc.get_samples())
    seconds = time.process_time() - start - sum(compiling)
    jax.monitoring.clear_event_listeners()
    draws = {k: np.asarray(v) for k, v in mcmc.get_samples(group_by_chain=True).items()}
    coefficients = np.concatenate(
        [draws["intercept"][..., None], draws["slope"], draws["noise"][..., None]], axis=-1
    )
    ess, r_hat = diagnose(coefficients)
    entry_ess, entry_r_hat = diagnose(draws["missing"][..., : args.entries])
    slopes = draws["slope"]
    deviation = slopes.std((0, 1)) / np.sqrt(ess[1:-1])
    return Run(
        ess.min(),
        r_hat.max(),
        entry_ess.min(),
        entry_r_hat.max(),
        int(np.asarray(mcmc.get_extra_fields()["num_steps"]).sum()),
        seconds,
        slopes.mean((0, 1)),
        deviation,
    )


def diagnose(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bulk ESS and R-hat of each column of draws (chains, draws, columns)."""
    data = az.from_dict({"posterior": {"x": draws}}) if ARVIZ_1 else az.from_dict({"x": draws})
    ess, r_hat = az.ess(data)["x"], az.rhat(data)["x"]
    return np.atleast_1d(np.asarray(ess)), np.atleast_1d(np.asarray(r_hat))


ARVIZ_1 = not az.__version__.startswith("0.")


def compare(name: str, problem: Problem, args: argparse.Namespace) -> None:
    """Print a row for each kind of coordinates, and their ratio."""
    missing = np.isnan(problem.table)
    print(f"\n{name}: {missing.shape[0]} rows, {missing.mean():.0%} of {missing.size} missing")
    print("coordinates   ESS  R-hat  entries' ESS  R-hat  leapfrogs  seconds  ESS/s")
    runs = {}
    for kind in args.coordinates.split(","):
        run = runs[kind] = draw(problem, COORDINATES[kind], args)
        print(
            f"{kind:11s} {run.ess:5.0f} {run.r_hat:6.3f} {run.entry_ess:13.0f} "
            f"{run.entry_r_hat:6.3f} {run.leapfrogs:10d} {run.seconds:8.1f} "
            f"{run.ess / run.seconds:6.2f}",
            flush=True,
        )
    if len(runs) == 2:
        row, column = runs["row"], runs["column"]
        ratio = (row.ess / row.seconds) / (column.ess / column.seconds)
        gap = np.abs(row.mean - column.mean) / np.hypot(row.error, column.error)
        print(f"ratio of ESS/s {ratio:.1f}; largest gap of slopes {gap.max():.1f} standard errors")


def main(args: argparse.Namespace) -> None:
    for name in args.problems.split(","):
        if name == "many_rows":
            problem = many_rows(args.rows)
        else:
            problem = diabetes(int(name.removeprefix("split_")), args.steps)
        compare(name, problem, args)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", default="split_0")
    parser.add_argument("--coordinates", default="row,column")
    parser.add_argument("--draws", type=int, default=500, help="draws and warm-up of each chain")
    parser.add_argument("--chains", type=int, default=2)
    parser.add_argument("--steps", type=int, default=400, help="training steps of the prior")
    parser.add_argument("--rows", type=int, default=10_000, help="rows of many_rows")
    parser.add_argument("--entries", type=int, default=200, help="missing entries to diagnose")
    parser.add_argument("--max-tree-depth", type=int, default=6)
    main(parser.parse_args())
