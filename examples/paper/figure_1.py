"""Figure 1 of the paper: x2 given x1 = 1.75 of a mixture in the plane, by DISCO and by its rivals.

Each method draws from what its own network has learned, at full size from three tables of rows of
the same mixture; the exact conditional is that of the mixture itself.

    python examples/paper/figure_1.py            the paper's size: minutes on a GPU
    python examples/paper/figure_1.py --small    smaller: about five minutes on one core
    python examples/paper/figure_1.py --quick    a quick run of every step
"""

import argparse

import matplotlib.pyplot as plt
import methods
import numpy as np
from exact import draw_mixture, paper_mixture
from mixtures import MEANS, NOT_COOLED, Size, Task, learned, runs_by_name
from results import distances
from scipy.stats import gaussian_kde

GIVEN = 1.75
POINT = np.array([GIVEN, 0.0], np.float32)
MOVES = (1, 10)
"""Moves of DISCO at each inverse temperature, and leapfrog steps of each."""
FULL = Size(3, 100_000, {2: 50_000}, 1024, 4, {2: 128}, {}, 100, 1, 1024, 1)
SMALL = Size(1, 20_000, {2: 2500}, 512, 2, {2: 64}, {}, 100, 1, 1024, 1)
QUICK = Size(1, 1000, {2: 50}, 64, 1, {2: 16}, {}, 20, 1, 64, 1)
QUICK_METHODS = (NOT_COOLED, *methods.RIVALS[:2])


def table(draws, exact, floor):
    """Lines of a table: W1 of each method against the exact conditional."""
    lines = ["| method | mean W1 | worst |", "|---|---|---|"]
    for name, found in {"exact draws": floor, **draws}.items():
        errors = distances(found, [exact] * len(found))
        lines.append(f"| {name} | {errors.mean():.3f} | {errors.max():.3f} |")
    return "\n".join(lines)


def picture(path, rows, density, draws):
    """The rows, and kernel densities of the draws beside the exact conditional."""
    weights, means, deviations = density
    places = np.linspace(-3, 3, 600)
    kernel = np.exp(-0.5 * ((places[:, None] - means) / deviations) ** 2)
    exact = kernel @ (weights / deviations) / np.sqrt(2 * np.pi)
    figure, axes = plt.subplots(2, 4, figsize=(12, 5), layout="constrained")
    axes = axes.ravel()
    axes[0].plot(*rows[:3000].T, ",k")
    axes[0].axvline(GIVEN, color="C3")
    axes[0].set(title="rows", xlabel="$x_1$", ylabel="$x_2$")
    for axis, (name, found) in zip(axes[1:], draws.items(), strict=False):
        axis.sharey(axes[1])
        axis.fill_between(places, exact, color="0.85", label="exact")
        for x in found:
            kernels = gaussian_kde(x, 0.1)(places)
            axis.plot(places, kernels, color="C3" if "DISCO" in name else "C0", linewidth=1)
        axis.set(title=name, xlabel="$x_2$", yticks=[])
    axes[1].legend()
    figure.savefig(path, dpi=90)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--small", action="store_const", const=SMALL, dest="size", default=FULL)
    size.add_argument("--quick", action="store_const", const=QUICK, dest="size")
    parser.add_argument("--seconds", type=float, default=np.inf, help="most of each training")
    args = parser.parse_args()
    size, quick = args.size, args.size is QUICK
    path = methods.prepare(quick) / f"figure_1{'_small' * (size is SMALL)}"
    truth, tables = paper_mixture(2, seed=4), range(size.num_seeds)
    rngs = [np.random.default_rng([4, seed]) for seed in tables]
    rows = np.stack([truth.draw(rng, size.num_rows) for rng in rngs]).astype(np.float32)
    points = np.stack([POINT[None]] * len(rows))
    task = Task(2, tuple(tables), [truth] * len(rows), rows, points)
    models = learned(task, size, path, args.seconds)
    wanted = QUICK_METHODS if quick else (NOT_COOLED, MEANS, *methods.RIVALS)
    runs = runs_by_name(models, task, size, wanted, MOVES)
    draws = {label: run(task)[0][:, 0] for label, run in runs.items()}
    density = truth.last_given_rest(POINT)
    exact, *others = (draw_mixture(rngs[0], *density, size.num_draws) for _ in range(4))
    lines = table(draws, exact, others)
    print(lines)
    path.with_suffix(".md").write_text(lines + "\n")
    picture(path.with_suffix(".png"), rows[0], density, draws)


if __name__ == "__main__":
    main()
