"""What improves DISCO, each idea by itself and all together, against the contrastive objective.

    python tests/benchmarks/disco_further.py                          three tasks, three seeds
    python tests/benchmarks/disco_further.py --tasks mixture_2 --seeds 1
    python tests/benchmarks/disco_further.py --rows 500               few rows
    python tests/benchmarks/disco_further.py --small                  one task, briefly trained

All ways start from the same network on the same rows. A step of DISCO takes longer than one of the
contrastive objective, so there are fewer of them: `DISCO_STEPS` for each, which makes for about the
same processor seconds; those that were taken, without compilation, stand in the table. All but the
published one correct the same mixture, and undo the smoothing through it. It has few components, so
that something is left to learn. The smoothing is 0.1 standard deviations of the rows, as published,
and 0.3 standard deviations of their component where it is shaped.

Columns, with standard errors over test rows, pooled over seeds: the error of the conditional of one
column given all others (W1 to the true one where it is known, otherwise minus the log score), by
how much it exceeds that of the contrastive objective; the log density of whole test rows, minus
that of the contrastive objective; and the median relative error of the score
one standard deviation from test rows, where the truth is known.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from local_noise import LocalDisco, local_rows, smoothed_reference
from quadrature import by_quadrature, on_grid, wasserstein
from scipy.special import logsumexp
from scores import with_error
from tasks import TASKS, Task

import numpyro_disco as disco
from numpyro_disco.training.loop import Plan, train
from numpyro_disco.training.rows.batches import STEPS_PER_ROUND, TrainingRows

BATCH_SIZE = 1024
DISCO_STEPS = 0.6
"""Steps of DISCO in the time of one of the contrastive objective."""
MAX_HELD_OUT = 1024
"""Held-out rows that judge."""
NUM_DRAWS = 20_000
"""Draws of the mixture that estimate normalising constants."""
FAR = 1.0
"""Standard deviation of the noise that moves test rows to where scores are compared."""
EQUAL, SHAPED = 0.1, 0.3
"""The smoothing, in standard deviations of the rows, and in those of the component if shaped."""
LARGEST = 2.0
"""Largest noise, in standard deviations of the rows, and in those of the component if shaped."""


class Way(NamedTuple):
    """How a network is trained."""

    mixture: bool = True
    """Start from the mixture and undo the smoothing, instead of from one Gaussian."""
    shaped: bool = False
    """Noise has the covariance of the row's component."""
    left_out: bool = False
    """The row behind a point is left out of its posterior."""
    heights: bool = False
    """The log density is matched as well."""
    antithetic: bool = False
    """Noise comes in pairs of opposite sign."""
    own_row: bool = False
    """The target is the row behind a point, corrected by the mixture, without a posterior over
    rows; heights are then those of smoothed rows against draws of the smoothed mixture."""
    last: bool = False
    """Keep the last weights of DISCO instead of those that held-out rows prefer."""
    contrast: float = 0.0
    """Share of the seconds for the contrastive objective, at the end."""


CONTRAST = "contrastive"
WAYS = {
    CONTRAST: Way(contrast=1.0),
    "DISCO as published": Way(mixture=False),
    "DISCO as published to the last step": Way(mixture=False, last=True),
    "DISCO from the mixture": Way(),
    "+ shaped noise": Way(shaped=True),
    "+ row left out": Way(left_out=True),
    "+ heights": Way(heights=True),
    "+ antithetic": Way(antithetic=True),
    "+ own row": Way(own_row=True),
    "+ own row and heights": Way(own_row=True, heights=True),
    "+ contrastive finish": Way(contrast=0.5),
    "+ heights and finish": Way(heights=True, contrast=0.5),
    "+ heights to the last step and finish": Way(heights=True, last=True, contrast=0.5),
    "+ own row with heights and finish": Way(own_row=True, heights=True, contrast=0.5),
    "+ all but the finish": Way(shaped=True, left_out=True, heights=True, antithetic=True),
    "+ all": Way(shaped=True, left_out=True, heights=True, antithetic=True, contrast=0.5),
}
ALONE = "the mixture alone"


class Setup(NamedTuple):
    """An untrained model, which corrects a mixture or a Gaussian, and standardised rows."""

    model: Any
    prior: Any
    """The distribution around it."""
    rows: np.ndarray
    held_out: np.ndarray


class Outcome(NamedTuple):
    """Scores of one way, one entry for each test row."""

    error: np.ndarray
    """W1 or minus the log score, shape (n,)."""
    joint: np.ndarray
    """Log density of the whole row, shape (n,)."""
    far: float
    """Median relative error of the score far from rows; NaN without a truth."""
    seconds: float
    num_steps: int
    log_z: float
    """Log of the normalising constant of the learned density, which should be 0 for contrast."""


def prepared(task: Task, seed: int, mixture: bool, width: int, components: int) -> Setup:
    """Fit the reference; nothing is trained at a learning rate of zero."""
    reference = {"reference": disco.MixtureFit(max_components=components)}
    fit = disco.fit(
        jax.random.key(seed),
        task.rows,
        network=disco.MLP(width=width, num_octaves=3),
        optimizer=optax.sgd(0.0),
        num_steps=1,
        batch_size=64,
        progress_bar=False,
        **(reference if mixture else {"noise_scale": EQUAL}),
    )
    evidence = fit.evidence
    rows, held_out = (np.asarray(a) for a in (evidence.rows, evidence.held_out))
    return Setup(evidence.model, fit.distribution, rows, held_out[:MAX_HELD_OUT])


def trained(
    model: Any, objective: Any, setup: Setup, num_steps: float, last: bool = False
) -> tuple[Any, float, int]:
    """Train for some steps; the model, the processor seconds, and the steps in whole rounds."""
    decay = 1.0 if objective.is_contrastive and len(setup.rows) <= 30_000 else 0.0
    count = max(3, round(num_steps / STEPS_PER_ROUND))
    ends: list[float] = []
    run, _ = train(
        jax.random.key(1),
        model,
        TrainingRows(setup.rows),
        TrainingRows(setup.held_out),
        Plan(objective, disco.AdamW(weight_decay=decay), BATCH_SIZE, count * STEPS_PER_ROUND),
        patience=10**9,
        after_round=lambda run: ends.append(time.process_time()),
        progress_bar=False,
    )
    seconds = count * float(np.mean(np.diff(ends)))
    weights = run.carry.average if last else run.best
    return dataclasses.replace(model, weights=weights), seconds, count * STEPS_PER_ROUND


def disco_objective(way: Way, rows: np.ndarray, reference: Any) -> Any:
    """The DISCO objective of one way."""
    scale = SHAPED if way.shaped else EQUAL
    settings: dict[str, Any] = {"noise_scale": scale, "max_noise_scale": LARGEST}
    settings["density_weight"] = 0.3 if way.heights else 0.0
    if way.own_row:
        return disco.Disco(target="row", **settings).resolved(reference, len(rows))
    return LocalDisco(
        rows=local_rows(rows, reference if way.shaped else None),
        shaped=way.shaped,
        left_out=way.left_out,
        antithetic=way.antithetic,
        **settings,
    )


def learn(way: Way, setup: Setup, num_steps: int) -> tuple[Any, float, int]:
    """The learned model of one way, the seconds it took, and the steps."""
    model, spent, steps = setup.model, 0.0, 0
    reference = model.reference
    if way.contrast < 1:
        objective = disco_objective(way, setup.rows, reference)
        if way.mixture:
            smoothed = smoothed_reference(reference, objective.noise_scale, way.shaped)
            model = dataclasses.replace(model, smoothed=smoothed)
        share = DISCO_STEPS * (1 - way.contrast)
        model, spent, steps = trained(model, objective, setup, share * num_steps, way.last)
        model = dataclasses.replace(model, smoothed=None)
    if way.contrast:
        contrast = disco.Contrastive().resolved(reference, len(setup.rows))
        model, more, added = trained(model, contrast, setup, way.contrast * num_steps)
        spent, steps = spent + more, steps + added
    return model, spent, steps


@jax.jit
def log_densities(density: Any, points: jax.Array) -> jax.Array:
    """Log densities, up to a constant, at points (n, D)."""
    return jax.lax.map(density.log_prob, points, batch_size=1000)


@jax.jit
def scores_at(density: Any, points: jax.Array) -> jax.Array:
    """Scores at points (n, D)."""
    return jax.lax.map(jax.grad(density.log_prob), points, batch_size=1000)


def judged(density: Any, mixture: Any, task: Task, seconds: float, num_steps: int) -> Outcome:
    """Score a density, which may be normalised or not."""

    def at(points: Any) -> np.ndarray:
        return np.asarray(log_densities(density, jnp.asarray(points, jnp.float32)), np.float64)

    column = task.columns[0]
    grid = task.grid(column)[::4]
    points = np.repeat(task.test[:, None], len(grid), axis=1)
    points[:, :, column] = grid
    conditionals = at(points.reshape(-1, points.shape[-1])).reshape(len(task.test), -1)
    draws = np.asarray(mixture.sample(jax.random.key(0), (NUM_DRAWS,)))
    ratios = at(draws) - np.asarray(log_densities(mixture, jnp.asarray(draws)), np.float64)
    log_z = logsumexp(ratios) - np.log(NUM_DRAWS)
    far = np.nan
    if task.truth is None:
        values = zip(task.test[:, column], on_grid(conditionals, grid)[0], strict=True)
        error = -np.log([np.interp(value, grid, density) for value, density in values])
    else:
        exact = by_quadrature(task.truth)(task, column)[:, ::4]
        error = wasserstein(conditionals, exact, grid)
        noise = np.random.default_rng(0).standard_normal((10, *task.test.shape))
        away = jnp.asarray((task.test + FAR * noise).reshape(-1, task.test.shape[1]), jnp.float32)
        true_scores = jax.jit(jax.vmap(jax.grad(task.truth)))(away)
        difference = scores_at(density, away) - true_scores
        norms = (jnp.linalg.norm(scores, axis=1) for scores in (difference, true_scores))
        far = float(jnp.median(next(norms) / next(norms)))
    return Outcome(error, at(task.test) - log_z, far, seconds, num_steps, log_z)


def run_task(name: str, seed: int, args: argparse.Namespace) -> dict[str, Outcome]:
    """Train and score all ways on one task, unless they are kept from an earlier run."""
    outcomes: dict[str, Outcome] = {}
    task = TASKS[name](args.rows, seed)
    setup = cache(lambda mixture: prepared(task, seed, mixture, args.width, args.components))
    for way in [ALONE, *args.ways]:
        place = args.keep / f"{name}_{args.rows}_{seed}_{way.replace(' ', '_')}.npz"
        if not place.exists():
            mixture = setup(True).prior.reference
            if way == ALONE:
                outcome = judged(mixture, mixture, task, 0.0, 0)
            else:
                start = setup(WAYS[way].mixture)
                model, spent, num_steps = learn(WAYS[way], start, args.steps)
                density = start.prior.replace(energy_fn=model)
                outcome = judged(density, mixture, task, spent, num_steps)
            np.savez(place, **outcome._asdict())
        with np.load(place) as kept:
            outcomes[way] = outcome = Outcome(*(kept[field] for field in Outcome._fields))
        print(
            f"{name} | {seed} | {way} | {outcome.error.mean():.4f} | {outcome.joint.mean():.4f} | "
            f"{outcome.far:.3f} | {outcome.seconds:.1f} s | {outcome.num_steps} steps | log Z "
            f"{outcome.log_z:+.3f}",
            flush=True,
        )
    return outcomes


def table(name: str, runs: list[dict[str, Outcome]]) -> str:
    """Lines of the table for one task."""
    lines = ""
    for way in runs[0]:
        own, other = ([run[one] for run in runs] for one in (way, CONTRAST))
        error = np.concatenate([outcome.error for outcome in own])
        excess = error - np.concatenate([outcome.error for outcome in other])
        joint = np.concatenate([outcome.joint for outcome in own])
        gain = joint - np.concatenate([outcome.joint for outcome in other])
        far = np.mean([outcome.far for outcome in own])
        cells = [name, way, f"{error.mean():.4f}"]
        cells += ["", ""] if way == CONTRAST else [with_error(excess), with_error(gain)]
        cells += ["" if np.isnan(far) else f"{far:.2f}"]
        cells += [f"{np.mean([getattr(outcome, f) for outcome in own]):.0f}" for f in COSTS]
        lines += f"| {' | '.join(cells)} |\n"
    return lines


COSTS = ("num_steps", "seconds")
HEADER = (
    "| task | way | error | above contrastive | log density, above contrastive | far score | steps "
    "| seconds |\n|---|---|---|---|---|---|---|---|\n"
)


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", default="mixture_2,mixture_10,galaxies")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=800, help="of the contrastive objective")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--components", type=int, default=8, help="most mixture components")
    parser.add_argument("--ways", type=lambda text: text.split(","), default=list(WAYS))
    parser.add_argument("--keep", type=Path, help="a folder of outcomes, to continue from")
    parser.add_argument("--small", action="store_true", help="one task, briefly trained")
    args = parser.parse_args(arguments)
    if args.small:
        args.tasks, args.seeds, args.rows, args.steps = "mixture_2", 1, 1000, 150
        args.width, args.components = 16, 4
    if args.keep is None:
        import tempfile

        args.keep = Path(tempfile.mkdtemp())
    args.keep.mkdir(parents=True, exist_ok=True)
    lines = HEADER
    for name in args.tasks.split(","):
        seeds = range(args.first_seed, args.first_seed + args.seeds)
        lines += table(name, [run_task(name, seed, args) for seed in seeds])
    print(lines)


if __name__ == "__main__":
    main()
