"""Learn a prior from real rows, put it inside a regression with missing measurements, and check it.

The data are scikit-learn's diabetes patients: ten measurements each, and how far the disease had
gone a year later. The joint density of the measurements is learned from patients who are not in the
regression. Of those in the regression, more than half lack their blood tests: a third of all
measurements. The learned prior fills them *inside* the model, so their uncertainty reaches the
coefficients; beside it stand the two usual ways, dropping patients and filling in means.

    python examples/quickstart.py            about three minutes on two cores
    python examples/quickstart.py --small    a quick look at every step
"""

import argparse
import time
from pathlib import Path

import arviz as az
import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS
from sklearn.datasets import load_diabetes

import numpyro_disco as disco

MEASUREMENTS = ("age", "sex", "bmi", "bp", "tc", "ldl", "hdl", "tch", "ltg", "glu")
BLOOD_TESTS = MEASUREMENTS[4:]


def patients():
    """Rows to learn from, rows for the regression, those with holes, and the outcome."""
    measurements, outcome = load_diabetes(return_X_y=True, scaled=False)
    order = np.random.default_rng(0).permutation(len(measurements))
    measurements, outcome = measurements[order], outcome[order]
    learn, table, outcome = measurements[:242], measurements[242:], outcome[242:]
    holed = table.copy()
    holed[: len(table) * 11 // 20, len(MEASUREMENTS) - len(BLOOD_TESTS) :] = np.nan
    return learn, table, holed, outcome


def regression(table, outcome, center, spread, prior=None):
    """The outcome as a linear function of standardised measurements; NaN are inferred."""
    if prior is not None:
        table = disco.sample("patients", prior, obs=table)
    intercept = numpyro.sample("intercept", dist.Normal(0, 1))
    with numpyro.plate("measurement", len(MEASUREMENTS)):
        slope = numpyro.sample("slope", dist.Normal(0, 0.5))
    noise = numpyro.sample("noise", dist.HalfNormal(1))
    mean = intercept + ((table - center) / spread) @ slope
    numpyro.sample("outcome", dist.Normal(mean, noise), obs=outcome)


def patient(prior):
    """One more patient; `numpyro.handlers.condition` says what is known of them."""
    disco.sample("patient", prior)


def draw_regression(rng_key, args, num_draws, **kwargs):
    """NUTS on the regression, as an ArviZ object with named coefficients."""
    mcmc = MCMC(
        NUTS(regression, max_tree_depth=6),
        num_warmup=num_draws,
        num_samples=num_draws,
        num_chains=2,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(rng_key, *args, **kwargs)
    return az.from_numpyro(
        mcmc,
        coords={"measurement": list(MEASUREMENTS)},
        dims={"slope": ["measurement"]},
        log_likelihood=False,
    )


def plot_conditional(path, nuts, smc, names):
    """Both samplers' draws of the same conditional, side by side."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, 2, figsize=(9, 4), sharex=True, sharey=True, layout="constrained"
    )
    for axis, draws, title in zip(axes, (nuts, smc), ("NUTS", "TemperedSMC"), strict=True):
        axis.scatter(draws[f"patient.{names[0]}"], draws[f"patient.{names[1]}"], s=4, alpha=0.4)
        axis.set(xlabel=names[0], ylabel=names[1], title=title)
    figure.suptitle("A patient of 60 with a body mass index of 35, by the learned prior")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(args):
    start = time.perf_counter()
    keys = jax.random.split(jax.random.key(0), 7)
    output = Path(__file__).parent / "output"
    output.mkdir(exist_ok=True)
    learn, table, holed, outcome = patients()

    print(f"1. Learn the density of {len(MEASUREMENTS)} measurements from {len(learn)} patients")
    fit = disco.fit(
        keys[0],
        learn,
        names=MEASUREMENTS,
        noise_scale=0.4,
        max_noise_scale=0.8,
        num_steps=100 if args.small else 400,
        batch_size=256,
        learning_rate=3e-4,
        width=64,
    )
    report = fit.report()
    print(report)
    disco.save(output / "prior.npz", fit.distribution)
    prior = disco.load(output / "prior.npz")

    missing = np.isnan(holed)
    print(f"\n2. Regression of {len(table)} patients, {missing.mean():.0%} of measurements missing")
    center, spread = learn.mean(axis=0), learn.std(axis=0)
    y = (outcome - outcome.mean()) / outcome.std()
    whole = ~missing.any(axis=1)
    filled = np.where(missing, np.nanmean(holed, axis=0), holed)
    num_draws = 100 if args.small else 500
    posteriors = {
        "nothing missing": draw_regression(keys[1], (table, y, center, spread), num_draws),
        "learned prior": draw_regression(keys[2], (holed, y, center, spread, prior), num_draws),
        "complete rows": draw_regression(
            keys[3], (holed[whole], y[whole], center, spread), num_draws
        ),
        "mean imputation": draw_regression(keys[4], (filled, y, center, spread), num_draws),
    }
    for name, posterior in posteriors.items():
        print(f"\n{name}")
        print(az.summary(posterior, var_names=["intercept", "slope", "noise"]).to_string())
    truth = posteriors["nothing missing"]["posterior"]["slope"].mean(("chain", "draw"))
    print("\nroot mean squared distance of the slopes from those with nothing missing")
    for name, posterior in list(posteriors.items())[1:]:
        slopes = posterior["posterior"]["slope"]
        error = float(np.sqrt(((slopes.mean(("chain", "draw")) - truth) ** 2).mean()))
        deviation = float(slopes.std(("chain", "draw")).mean())
        print(f"   {name:16s} {error:.3f}   (mean posterior sd {deviation:.3f})")

    print("\n3. A patient of 60 with a body mass index of 35: the same conditional twice")
    known = numpyro.handlers.condition(patient, {"patient.age": 60.0, "patient.bmi": 35.0})
    mcmc = MCMC(
        NUTS(known),
        num_warmup=num_draws,
        num_samples=num_draws,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(keys[5], prior)
    smc = disco.TemperedSMC(known, num_particles=num_draws, num_chains=4)
    smc.run(keys[6], prior)
    for name, sampler in (("NUTS", mcmc), ("TemperedSMC", smc)):
        print(f"\n{name}")
        print(az.summary(az.from_numpyro(sampler, log_likelihood=False)).to_string())
    print()
    smc.print_summary()

    try:
        fit.plot_report(report).savefig(output / "report.png", dpi=120)
    except ImportError as error:
        print(f"no figures: {error}")
    else:
        plot_conditional(
            output / "conditional.png", mcmc.get_samples(), smc.get_samples(), ("sex", "hdl")
        )
        print("\nreport.png, conditional.png and prior.npz are in examples/output")
    print(f"done in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="few steps and draws")
    main(parser.parse_args())
