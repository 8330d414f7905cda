"""How well is a density learned whose mass lies near curved surfaces, where mixtures are poor?

    python tests/benchmarks/thin_structure.py [--small] [--rows 8000] [--columns 15] [--seed 0]
                                              [--methods fit,likelihood,em,flow]

The rows are x = T(z) with z standard normal and T a smooth random triangular map, so their log
density is known. A third of the directions has the scale 0.01, and the columns are in random
order. For each method the table shows the mean log density of new rows (with the standard error of
its difference from the truth), how often boosted trees tell its draws from new rows (0.5 is
perfect), and processor seconds of training, compilation included.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flows import train_flow
from quadrature import in_batches
from settings import SMALL, fit_arguments, flat_settings
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import StratifiedKFold, cross_val_score

import numpyro_disco as disco

THIN, NUM_WAVES, NUM_INPUTS = 0.01, 3, 2
"""Scale of thin directions, waves of each function, and columns that each wave reads."""
NUM_TEST = 2000
EM_COMPONENTS = 64
METHODS = ("truth", "fit", "likelihood", "em", "flow")


class Waves(NamedTuple):
    """A smooth function: a sum of sine waves, each of a few columns."""

    inputs: np.ndarray
    slopes: np.ndarray
    phases: np.ndarray
    heights: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The function at rows (n, D), shape (n,)."""
        angles = (x[:, self.inputs] * self.slopes).sum(-1) + self.phases
        return (self.heights * np.sin(angles)).sum(1)


class TriangularMap:
    """x_i = g_i(x_1, ..., x_{i-1}) + s_i exp(h_i(x_1, ..., x_{i-1}) / 3) z_i, in another order.

    Args:
        dimension: number of columns.
        seed: seed of the functions, the thin directions and the order.
    """

    def __init__(self, dimension: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.scales = np.ones(dimension)
        self.scales[rng.choice(np.arange(2, dimension), dimension // 3, replace=False)] = THIN
        self.pairs = [(_waves(rng, i), _waves(rng, i)) for i in range(dimension)]
        self.order = rng.permutation(dimension)

    def draw(self, rng: np.random.Generator, num_rows: int) -> np.ndarray:
        """Independent rows, shape (num_rows, D)."""
        x = np.zeros((num_rows, len(self.order)))
        for i, (shift, stretch) in enumerate(self.pairs):
            scale = self.scales[i] * np.exp(stretch(x) / 3)
            x[:, i] = shift(x) + scale * rng.standard_normal(num_rows)
        return x[:, self.order]

    def log_prob(self, rows: np.ndarray) -> np.ndarray:
        """The exact log density, shape (n,)."""
        x = rows[:, np.argsort(self.order)]
        total = np.zeros(len(x))
        for i, (shift, stretch) in enumerate(self.pairs):
            log_scale = np.log(self.scales[i]) + stretch(x) / 3
            white = (x[:, i] - shift(x)) / np.exp(log_scale)
            total += -0.5 * white**2 - log_scale - 0.5 * np.log(2 * np.pi)
        return total


def _waves(rng: np.random.Generator, num_before: int) -> Waves:
    """A random function of the columns before; zero if there are none."""
    num_inputs, num_waves = min(NUM_INPUTS, num_before), NUM_WAVES if num_before else 0
    picks = [rng.choice(num_before, num_inputs, replace=False) for _ in range(num_waves)]
    return Waves(
        np.array(picks, int).reshape(num_waves, num_inputs),
        rng.standard_normal((num_waves, num_inputs)),
        rng.uniform(0, 2 * np.pi, num_waves),
        rng.standard_normal(num_waves) * np.sqrt(2 / NUM_WAVES),
    )


class Outcome(NamedTuple):
    """A learned density at the test rows, and a function that draws from it."""

    method: str
    log_prob: np.ndarray
    draw: Callable[[], np.ndarray]
    seconds: float
    note: str = ""


def ours(rows: np.ndarray, test: np.ndarray, seed: int, arguments: dict) -> Iterator[Outcome]:
    """`fit` and its reference alone."""
    start = time.process_time()
    fit = disco.fit(jax.random.key(seed), rows, progress_bar=False, **arguments)
    seconds = time.process_time() - start
    objective = type(fit.settings.objective).__name__
    loss = fit.history.held_out_loss.min()
    note = f"{objective}, step {fit.best_step}, loss {loss:.2f}"
    # Draws by tempering, and log Z, may take longer than training.
    print(f"{note}, {seconds:.0f} s", file=sys.stderr, flush=True)
    reference, key = fit.distribution.reference, jax.random.key(seed + 2)

    def draws_of(density: Any) -> Callable[[], np.ndarray]:
        return lambda: np.asarray(density.sample(key, (len(test),)))

    prior = fit.distribution.normalize(jax.random.key(seed + 1), num_particles=256, num_chains=4)
    log_z, error = map(np.asarray, (prior.log_normalizer, prior.log_normalizer_error))
    note += f", log Z {log_z:+.3f} ± {error:.3f}"
    yield Outcome("fit", in_batches(prior.log_prob, test), draws_of(prior), seconds, note)
    alone, tried = in_batches(reference.log_prob, test), max(fit.components, default=1)
    yield Outcome("its reference alone", alone, draws_of(reference), np.nan, f"{tried} tried")


def em(rows: np.ndarray, test: np.ndarray) -> Outcome:
    """scikit-learn's mixture by EM."""
    start = time.process_time()
    mixture = GaussianMixture(EM_COMPONENTS, random_state=0).fit(rows)
    seconds = time.process_time() - start
    name = f"EM, {EM_COMPONENTS} components"
    return Outcome(name, mixture.score_samples(test), lambda: mixture.sample(len(test))[0], seconds)


def flow(rows: np.ndarray, test: np.ndarray, seed: int, max_seconds: float) -> Outcome:
    """flowjax's spline flow with default settings."""
    loc, scale = rows.mean(0), rows.std(0)
    start = time.process_time()
    trained = train_flow((rows - loc) / scale, seed, max_seconds)
    seconds = time.process_time() - start
    matrix = trained.whitener / scale
    log_det = float(np.linalg.slogdet(matrix)[1])
    points = jnp.asarray((test - loc) @ matrix.T, jnp.float32)
    log_prob = in_batches(trained.model.log_prob, points) + log_det

    def draw() -> np.ndarray:
        z = np.asarray(trained.model.sample(jax.random.key(seed), (len(test),)), np.float64)
        return loc + np.linalg.solve(matrix, z.T).T

    return Outcome("flow", log_prob, draw, seconds, f"{trained.epochs} epochs")


def accuracy(draws: np.ndarray, test: np.ndarray) -> float:
    """Cross-validated accuracy of boosted trees that tell draws from rows."""
    points = np.concatenate([draws, test])
    labels = np.repeat([0, 1], [len(draws), len(test)])
    trees = HistGradientBoostingClassifier(random_state=0)
    # Draws may come sorted, as scikit-learn's do by component.
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return float(cross_val_score(trees, points, labels, cv=folds).mean())


def compare(args: argparse.Namespace, seed: int) -> None:
    """Print the rows of the table for one seed."""
    truth, rng = TriangularMap(args.columns, seed), np.random.default_rng(1000 + seed)
    rows, test = truth.draw(rng, args.rows), truth.draw(rng, NUM_TEST)
    exact = truth.log_prob(test)
    settings = (SMALL if args.small else {}) | (args.settings or {})
    arguments = fit_arguments(settings)
    likelihood = fit_arguments(settings | {"objective": "likelihood"})

    def show(outcome: Outcome) -> None:
        gap = exact - outcome.log_prob
        print(
            f"| {outcome.method} | {outcome.log_prob.mean():.2f} "
            f"| {gap.mean():.2f} ± {gap.std() / len(gap) ** 0.5:.2f} | ",
            end="",
            flush=True,
        )
        told = accuracy(outcome.draw(), test)
        print(f"{told:.3f} | {outcome.seconds:.0f} | {outcome.note} |", flush=True)

    methods: dict[str, Callable[[], Iterable[Outcome]]] = {
        "truth": lambda: [Outcome("the truth", exact, lambda: truth.draw(rng, NUM_TEST), np.nan)],
        "fit": lambda: ours(rows, test, seed, arguments),
        "likelihood": lambda: ours(rows, test, seed, likelihood),
        "em": lambda: [em(rows, test)],
        "flow": lambda: [flow(rows, test, seed, 20.0 if args.small else args.flow_seconds)],
    }
    for name in args.methods:
        for outcome in methods[name]():
            show(outcome)


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--columns", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--settings", type=flat_settings, help="settings of fit, as JSON")
    parser.add_argument(
        "--methods",
        type=lambda text: text.split(","),
        default=list(METHODS),
        help=f"some of {','.join(METHODS)}; each takes minutes",
    )
    parser.add_argument(
        "--flow-seconds", type=float, default=1000.0, help="longest wall-clock time of the flow"
    )
    parser.add_argument("--small", action="store_true", help="6 columns of 3,000 rows")
    args = parser.parse_args()
    if args.small:
        args.rows, args.columns = 3000, 6
    print("| method | log density | below the truth | accuracy | seconds | |")
    print("|---|---|---|---|---|---|")
    compare(args, args.seed)


if __name__ == "__main__":
    main()
