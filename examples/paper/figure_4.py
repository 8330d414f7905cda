"""Figure 4 of the paper: errors of conditional draws on mixtures of twenty Gaussians.

The last coordinate given the others, at test points: W1 between draws of each method and as many
draws of the exact conditional. Everything that was learned or drawn is kept in the output folder,
so an interrupted run continues where it stopped.

    python examples/paper/figure_4.py                  the paper's size: hours on a GPU
    python examples/paper/figure_4.py --size reduced   half an hour on one core
    python examples/paper/figure_4.py --exact          exact scores: the samplers' own errors
    python examples/paper/figure_4.py --causes         what the error of DISCO consists of
    python examples/paper/figure_4.py --quick          a quick run of most methods
"""

import argparse
import time
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import methods
import numpy as np
from exact import draw_mixture, draw_tempered, paper_mixture, wasserstein
from matplotlib.ticker import FixedLocator
from processes import variance_exploding

import numpyro_disco as disco


class Size(NamedTuple):
    """How large a run is."""

    dimensions: tuple
    """Dimensions D."""
    num_seeds: dict
    """Number of mixtures by dimension."""
    num_rows: int
    """Rows to learn from."""
    num_steps: int
    """Training steps in the plane."""
    more_steps: int
    """Factor of the training steps for D > 2."""
    batch_size: int
    """Rows in a step."""
    num_blocks: int
    """Residual blocks of the networks."""
    widths: dict
    """Width of the networks by dimension."""
    shorter: dict
    """Settings that make `fit` by default shorter."""
    num_levels: int
    """Noise levels of the diffusion."""
    num_tests: int
    """Test points of each mixture."""
    num_draws: int
    """Draws for each test point."""


PAPER_WIDTHS = {2: 128, 10: 256, 50: 512}
WIDTHS = {2: 64, 10: 64, 50: 128}
THREE, FEWER = {2: 3, 10: 3, 50: 3}, {2: 3, 10: 2, 50: 1}
SHORTER, QUICK = {"num_steps": 1000}, {"num_steps": 50, "reference": "gaussian"}
SIZES = {
    "paper": Size(
        (2, 10, 50), THREE, 100_000, 50_000, 2, 1024, 4, PAPER_WIDTHS, {}, 100, 100, 1024
    ),
    "reduced": Size((2, 10, 50), FEWER, 20_000, 2500, 1, 512, 2, WIDTHS, SHORTER, 100, 20, 512),
    "quick": Size((2,), {2: 1}, 1000, 50, 1, 64, 1, {2: 16}, QUICK, 20, 2, 64),
}
PUBLISHED = "DISCO, as published"
GRID = "DISCO, on a grid"
"""The learned energy as published, drawn without a sampler's errors."""
EXACT_MASSES, EXACT_SHAPES = "the same, exact masses of modes", "the same, exact shapes of modes"
MEANS, HEIGHTS = "DISCO by posterior means", "the same with heights"
VARIANTS = {
    MEANS: {"name": "means", "target": "mean"},
    HEIGHTS: {"name": "heights", "target": "mean", "density_weight": 0.3},
}
"""Targets without sampling noise, and the log density learned beside the score; not cooled."""
CAUSES = (GRID, EXACT_MASSES, EXACT_SHAPES, HEIGHTS)
"""Methods that tell apart errors of the sampler, of noisy targets, of masses and of shapes."""
QUICK_LEAVES_OUT = ("DISCO, not cooled", "replacement", "guidance", *VARIANTS)
"""What the quick run leaves out: the quick run of figure 1 has these rivals."""
FLOOR = "exact draws"
PERFECT, PERFECT_COOLED = "perfect model at sigma(0)", "perfect model, cooled"
ROWS = "smoothed rows at sigma(0)"
"""The kernel density of the training rows, which minimises the loss of DISCO."""
DEFAULT = "numpyro_disco by default"
COOLING = (methods.NOISE_SCALE / methods.COOLED) ** 2
"""Power of the density that sampling with a smaller sigma(0) amounts to."""


class Result(NamedTuple):
    """What one method did at all test points of one mixture."""

    distances: np.ndarray
    """W1 at each test point, shape (num_tests,)."""
    evaluations: float
    """Mean number of network evaluations for each draw; NaN if it is not counted."""
    seconds: float
    """Seconds for all draws, without compilation."""


def learn(truth, dimension, seed, size, path, left_out):
    """Conditional samplers by name, each from a random key and points (n, D)."""
    rows = training_rows(truth, seed, size)
    keys = jax.random.split(jax.random.key(seed), 3)
    path = path.with_name(f"{path.name}_{dimension}_{seed}")
    steps = size.num_steps * (1 if dimension == 2 else size.more_steps)
    training = {"num_steps": steps, "batch_size": size.batch_size, "path": path}
    training |= {"width": size.widths[dimension], "num_blocks": size.num_blocks}
    process = noise_process(dimension, size)
    learn_disco = partial(methods.learn_disco, keys[0], rows, keep_last=True, **training)
    prior = learn_disco()
    denoise = None
    if not set(methods.RIVALS) <= set(left_out):
        denoise = methods.learn_diffusion(keys[1], rows, process, energy=True, **training)

    def variant(settings):
        def draw(rng_key, points):
            energy = learn_disco(**settings).energy
            return at_points(methods.disco_tempered(energy, size.num_draws))(rng_key, points)

        return draw

    def default(rng_key, points):
        prior = methods.learn_default(keys[2], rows, path=path, **size.shorter)
        return by_default(rng_key, prior, points, size.num_draws)

    found = samplers(prior.energy, process, denoise, size.num_draws, dimension)
    exact = smoothed_energy(truth)
    swaps = {EXACT_MASSES: (prior.energy, exact), EXACT_SHAPES: (exact, prior.energy)}
    for label, (shapes, masses) in swaps.items():
        found[label] = at_points(methods.disco_on_grid(shapes, size.num_draws, masses, exact))
    variants = {label: variant(settings) for label, settings in VARIANTS.items()}
    return found | variants | {DEFAULT: default}


def training_rows(truth, seed, size):
    """Rows to learn from, shape (N, D)."""
    return truth.draw(np.random.default_rng([seed, 1]), size.num_rows)


def learn_nothing(truth, dimension, size):
    """The same samplers with exact energies and scores, which leaves the samplers' own errors."""
    process, energy = noise_process(dimension, size), smoothed_energy(truth)
    return samplers(energy, process, truth.denoiser(process), size.num_draws, dimension)


def smoothed_energy(truth):
    """The energy of a mixture smoothed by sigma(0): what DISCO should learn."""
    return lambda x: -truth.log_prob(x, 1.0, methods.NOISE_SCALE)


def noise_process(dimension, size):
    """The paper's noise levels."""
    largest = 2.0 if dimension < 50 else 5.0
    return variance_exploding(size.num_levels, methods.NOISE_SCALE, largest)


def samplers(energy, process, denoise, num_draws, dimension):
    """Conditional samplers of an energy and of a denoiser, by name, each for many points."""
    found = {
        PUBLISHED: methods.disco_tempered(lambda x: COOLING * energy(x), num_draws),
        "DISCO, not cooled": methods.disco_tempered(energy, num_draws),
    }
    for rival in methods.RIVALS:
        found[rival] = methods.rival(rival, process, denoise, num_draws, dimension)
    found[GRID] = methods.disco_on_grid(energy, num_draws)
    return {label: at_points(run) for label, run in found.items()}


def at_points(run):
    """A sampler of one point as a timed sampler of many."""

    def many(rng_key, points):
        keys = jax.random.split(rng_key, len(points))
        all_points = jax.jit(lambda keys, points: jax.lax.map(lambda at: run(*at), (keys, points)))
        program = all_points.lower(keys, points).compile()
        start = time.perf_counter()
        draws, evaluations = jax.block_until_ready(program(keys, points))
        return np.asarray(draws), float(evaluations.mean()), time.perf_counter() - start

    return many


def by_default(rng_key, prior, points, num_draws):
    """`sample_conditional`, called twice so that the second call compiles nothing."""
    observed = np.array(points)
    observed[:, -1] = np.nan
    for _ in range(2):
        start = time.perf_counter()
        draws = disco.sample_conditional(rng_key, prior, observed, num_draws)
        draws = np.asarray(draws)[:, :, -1].T
        seconds = time.perf_counter() - start
    return draws, np.nan, seconds


def measure(dimension, seed, size, path, left_out):
    """Results by method, for one mixture."""
    truth = paper_mixture(dimension, seed)
    rng = np.random.default_rng([seed, 2])
    points = jnp.asarray(truth.draw(rng, size.num_tests), jnp.float32)
    exact = [truth.last_given_rest(point) for point in points]
    true_draws = [draw_mixture(rng, *each, size.num_draws) for each in exact]
    smoothed = [truth.last_given_rest(point, methods.NOISE_SCALE) for point in points]
    results = {}
    known = {FLOOR: (exact, 1.0), PERFECT: (smoothed, 1.0), PERFECT_COOLED: (smoothed, COOLING)}
    for label, (densities, power) in known.items():
        draws = [draw_tempered(rng, *each, power, size.num_draws) for each in densities]
        results[label] = Result(distances(draws, true_draws), 0.0, 0.0)
    rows = training_rows(truth, seed, size)
    draws = [methods.smoothed_rows(rng, rows, point, size.num_draws) for point in points]
    results[ROWS] = Result(distances(draws, true_draws), 0.0, 0.0)
    if path.name.endswith("exact"):
        found = learn_nothing(truth, dimension, size)
    else:
        found = learn(truth, dimension, seed, size, path, left_out)
    for index, (label, sampler) in enumerate(found.items()):
        if label in left_out:
            continue
        kept = path.with_name(f"{path.name}_{dimension}_{seed}_{label.replace(' ', '_')}.npz")
        if not kept.exists():
            print(f"D = {dimension}, seed {seed}: {label}", flush=True)
            draws, *cost = sampler(jax.random.fold_in(jax.random.key(seed), index), points)
            np.savez(kept, *Result(distances(draws, true_draws), *cost))
        with np.load(kept) as saved:
            array, evaluations, seconds = (saved[key] for key in saved.files)
        results[label] = Result(array, float(evaluations), float(seconds))
    return results


def distances(draws, others):
    """W1 at each test point."""
    return np.array([wasserstein(x, y) for x, y in zip(draws, others, strict=True)])


def pooled(results):
    """Results of several mixtures as one."""
    arrays, evaluations, seconds = zip(*results, strict=True)
    return Result(np.concatenate(arrays), np.mean(evaluations), np.sum(seconds))


def table(results):
    """Lines of a table, from results by dimension and method."""
    lines = ["| D | method | mean W1 | worst | evaluations a draw | seconds |", "|" + 6 * "---|"]
    for dimension, by_method in results.items():
        for label, result in by_method.items():
            w1 = f"{result.distances.mean():.3f} | {result.distances.max():.3f}"
            count = "" if not result.evaluations > 0 else f"{result.evaluations:.0f}"
            seconds = "" if not result.seconds else f"{result.seconds:.1f}"
            lines.append(f"| {dimension} | {label} | {w1} | {count} | {seconds} |")
    return "\n".join(lines)


def picture(path, results):
    """Box plots of W1 for each dimension."""
    width = 4.5 * len(results) + 1
    figure, axes = plt.subplots(1, len(results), figsize=(width, 4), layout="constrained")
    for axis, (dimension, by_method) in zip(np.atleast_1d(axes), results.items(), strict=True):
        shown = [result.distances for result in by_method.values()]
        axis.boxplot(shown, tick_labels=list(by_method), orientation="horizontal", whis=(0, 100))
        axis.invert_yaxis()
        axis.set(title=f"D = {dimension}", xlabel="W1", xscale="log")
        axis.xaxis.set_major_locator(FixedLocator([0.003, 0.01, 0.03, 0.1, 0.3, 1, 3]))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
    for axis in np.atleast_1d(axes)[1:]:
        axis.set_yticklabels([])
    figure.savefig(path, dpi=90)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="paper")
    parser.add_argument("--quick", action="store_const", const="quick", dest="size")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--exact", action="store_true", help="exact scores, nothing is learned")
    parser.add_argument("--leave-out", nargs="+", default=[], help="names of methods")
    kind.add_argument("--causes", action="store_true", help="parts of DISCO swapped one at a time")
    parser.add_argument("--dimensions", type=int, nargs="+", help="only these dimensions")
    parser.add_argument("--seeds", type=int, help="number of mixtures of each dimension")
    args = parser.parse_args()
    size, quick = SIZES[args.size], args.size == "quick"
    path = methods.prepare(quick) / f"figure_4_{args.size}{'_exact' * args.exact}"
    left_out = QUICK_LEAVES_OUT if quick else () if args.exact else CAUSES
    left_out = (*methods.RIVALS, PUBLISHED, DEFAULT) if args.causes else left_out
    left_out = (*left_out, *args.leave_out)
    results, written = {}, path.with_name(path.name + "_causes" * args.causes)
    for dimension in args.dimensions or size.dimensions:
        seeds = range(args.seeds or size.num_seeds[dimension])
        runs = [measure(dimension, seed, size, path, left_out) for seed in seeds]
        results[dimension] = {label: pooled([run[label] for run in runs]) for label in runs[0]}
        lines = table(results)
        print(lines, flush=True)
        written.with_suffix(".md").write_text(lines + "\n")
        picture(written.with_suffix(".png"), results)


if __name__ == "__main__":
    main()
