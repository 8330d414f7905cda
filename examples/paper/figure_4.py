"""Figure 4 of the paper: errors of conditional draws on mixtures of twenty Gaussians.

The last coordinate given the others, at test points: W1 between draws of each method and as many
draws of the exact conditional. The networks of all mixtures are trained side by side. Everything
that was learned or drawn is kept in the output folder, so an interrupted run continues where it
stopped.

    python examples/paper/figure_4.py                  the paper's size: hours on a GPU
    python examples/paper/figure_4.py --seconds 60     no training longer than that
    python examples/paper/figure_4.py --size reduced   smaller: half an hour on one core
    python examples/paper/figure_4.py --exact          exact scores: the samplers' own errors
    python examples/paper/figure_4.py --quick          a quick run of most methods
"""

import argparse
import time
from functools import partial

import jax
import methods
import numpy as np
from exact import draw_mixture, draw_tempered, paper_mixture
from mixtures import (
    CAUSES,
    COOLING,
    GRID,
    MEANS,
    NOT_COOLED,
    PUBLISHED,
    Size,
    Task,
    exact_models,
    learned,
    runs_by_name,
)
from results import Result, distances, picture, pooled, table

import numpyro_disco as disco

FULL = {2: 50_000, 10: 100_000, 50: 100_000}
WIDTHS = {2: 128, 10: 256, 50: 512}
REDUCED = {2: 2500, 10: 2500, 50: 2500}
NARROW = {2: 64, 10: 64, 50: 128}
FEW = {"reference": disco.MixtureFit(max_components=32)}
QUICK = {"num_steps": 50, "reference": "gaussian"}
SIZES = {
    "paper": Size(3, 100_000, FULL, 1024, 4, WIDTHS, FEW, 100, 100, 1024, 20),
    "reduced": Size(1, 20_000, REDUCED, 512, 2, NARROW, {"num_steps": 1000}, 100, 20, 512, 1),
    "quick": Size(1, 1000, {2: 50}, 64, 1, {2: 16}, QUICK, 20, 2, 64, 1),
}
FLOOR = "exact draws"
PERFECT, PERFECT_COOLED = "perfect model at sigma(0)", "perfect model, cooled"
ROWS = "smoothed rows at sigma(0)"
"""The kernel density of the training rows, which minimises the loss of DISCO."""
DEFAULT = "numpyro_disco by default"
QUICK_METHODS = (PUBLISHED, *methods.RIVALS[2:], GRID, DEFAULT)
"""Methods of the quick run; that of figure 1 has the other rivals."""


def make_task(dimension, seeds, size):
    """Mixtures, rows and test points of one dimension."""
    truths = [paper_mixture(dimension, seed) for seed in seeds]
    pairs = list(zip(truths, seeds, strict=True))
    rows = [truth.draw(np.random.default_rng([seed, 1]), size.num_rows) for truth, seed in pairs]
    points = [truth.draw(np.random.default_rng([seed, 2]), size.num_tests) for truth, seed in pairs]
    rows, points = (np.stack(arrays).astype(np.float32) for arrays in (rows, points))
    return Task(dimension, tuple(seeds), truths, rows, points)


def by_default(path, size, task):
    """Draws of what `disco.fit` learns; called twice, so that the second call compiles nothing."""
    found = []
    for seed, rows, points in zip(task.seeds, task.rows, task.points, strict=True):
        fit_key, draw_key = jax.random.split(jax.random.key(seed))
        place = path.with_name(f"{path.name}_{task.dimension}_{seed}")
        prior = methods.learn_default(fit_key, rows, path=place, **size.default)
        observed = np.array(points)
        observed[:, -1] = np.nan
        for _ in range(2):
            start = time.perf_counter()
            draws = disco.sample_conditional(draw_key, prior, observed, size.num_draws)
            draws = np.asarray(draws)[:, :, -1].T
            seconds = time.perf_counter() - start
        found.append((draws, np.nan, seconds))
    return [np.stack(arrays) for arrays in zip(*found, strict=True)]


def known(task, size):
    """True draws (S, num_tests, n), and results by method of what needs no network."""
    true_draws, results = [], {label: [] for label in (FLOOR, PERFECT, PERFECT_COOLED, ROWS)}
    for seed, truth, rows, points in zip(task.seeds, *task[2:], strict=True):
        rng = np.random.default_rng([seed, 3])
        exact = [truth.last_given_rest(point) for point in points]
        smoothed = [truth.last_given_rest(point, methods.NOISE_SCALE) for point in points]
        true_draws.append([draw_mixture(rng, *each, size.num_draws) for each in exact])
        drawn = {
            FLOOR: [draw_mixture(rng, *each, size.num_draws) for each in exact],
            PERFECT: [draw_mixture(rng, *each, size.num_draws) for each in smoothed],
            PERFECT_COOLED: [draw_tempered(rng, *x, COOLING, size.num_draws) for x in smoothed],
            ROWS: [methods.smoothed_rows(rng, rows, point, size.num_draws) for point in points],
        }
        for label, draws in drawn.items():
            results[label].append(Result(distances(draws, true_draws[-1]), np.nan, 0.0))
    return true_draws, results


def measure(models, task, size, path, wanted):
    """Results by method, one for each mixture."""
    name = f"{path.name}_{task.dimension}_{{}}_{{}}.npz"
    places = {
        label: [path.with_name(name.format(seed, label.replace(" ", "_"))) for seed in task.seeds]
        for label in wanted
    }
    missing = [label for label in wanted if not all(place.exists() for place in places[label])]
    runs = runs_by_name(models, task, size, missing) | {DEFAULT: partial(by_default, path, size)}
    true_draws, results = known(task, size)
    for label in wanted:
        if label in missing:
            print(f"D = {task.dimension}: {label}", flush=True)
            found = runs[label](task)
            for place, exact, draws, *cost in zip(places[label], true_draws, *found, strict=True):
                np.savez(place, **Result(distances(draws, exact), *cost)._asdict())
        results[label] = [Result(**np.load(place)) for place in places[label]]
        print(f"  {label}: {pooled(results[label]).mean():.3f}", flush=True)
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="paper")
    parser.add_argument("--quick", action="store_const", const="quick", dest="size")
    parser.add_argument("--exact", action="store_true", help="exact scores, nothing is learned")
    parser.add_argument("--dimensions", type=int, nargs="+", help="only these dimensions")
    parser.add_argument("--seeds", type=int, nargs="+", help="only these mixtures, from 0")
    parser.add_argument("--methods", nargs="+", help="names of methods; by default all")
    parser.add_argument("--seconds", type=float, default=np.inf, help="most of each training")
    args = parser.parse_args()
    size, quick = SIZES[args.size], args.size == "quick"
    path = methods.prepare(quick) / f"figure_4_{args.size}{'_exact' * args.exact}"
    exact = (PUBLISHED, NOT_COOLED, *methods.RIVALS)
    every = QUICK_METHODS if quick else (*exact, MEANS, *CAUSES, DEFAULT)
    wanted = args.methods or (exact if args.exact else every)
    results = {}
    for dimension in args.dimensions or size.num_steps:
        task = make_task(dimension, args.seeds or range(size.num_seeds), size)
        models = exact_models(task, size) if args.exact else None
        models = models or learned(task, size, path, args.seconds)
        results[dimension] = measure(models, task, size, path, wanted)
        lines = table(results)
        print(lines, flush=True)
        path.with_suffix(".md").write_text(lines + "\n")
        picture(path.with_suffix(".png"), results, CAUSES)


if __name__ == "__main__":
    main()
