"""Learn a prior from real rows, use it in a regression with missing measurements, and check it.

The data are scikit-learn's diabetes patients: ten measurements each, and the progression of the
disease a year later. The prior is learned from patients who are not in the regression. More than
half of the patients in the regression lack their six blood tests, a third of all measurements. The
prior infers the missing values *inside* the model, so their uncertainty reaches the coefficients.
Two usual methods run for comparison: dropping incomplete patients, and filling in column means.

    python examples/quickstart.py            about three minutes on two cores
    python examples/quickstart.py --small    a quick run of every step
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
OUTPUT = Path(__file__).parent / "output"


def load_patients():
    """Rows to learn from; complete and incomplete rows for the regression; the outcome."""
    measurements, outcome = load_diabetes(return_X_y=True, scaled=False)
    order = np.random.default_rng(0).permutation(len(measurements))
    measurements, outcome = measurements[order], outcome[order]
    learn, complete, outcome = measurements[:242], measurements[242:], outcome[242:]
    incomplete = complete.copy()
    incomplete[: len(complete) * 11 // 20, len(MEASUREMENTS) - len(BLOOD_TESTS) :] = np.nan
    return learn, complete, incomplete, outcome


def regression(table, outcome, center, spread, prior=None):
    """Linear regression on standardised measurements; with a prior, NaN entries are inferred."""
    if prior is not None:
        table = disco.sample("patients", prior, obs=table)
    intercept = numpyro.sample("intercept", dist.Normal(0, 1))
    with numpyro.plate("measurement", len(MEASUREMENTS)):
        slope = numpyro.sample("slope", dist.Normal(0, 0.5))
    noise = numpyro.sample("noise", dist.HalfNormal(1))
    mean = intercept + ((table - center) / spread) @ slope
    numpyro.sample("outcome", dist.Normal(mean, noise), obs=outcome)


def patient(prior):
    """A new patient; `numpyro.handlers.condition` sets the known measurements."""
    disco.sample("patient", prior)


def learn_prior(rng_key, rows, small):
    """Fit the density of the measurements, print the report, and save the fit."""
    fit = disco.fit(
        rng_key,
        rows,
        names=MEASUREMENTS,
        objective=disco.Disco(noise_scale=0.4, max_noise_scale=0.8),
        network=disco.MLP(width=64),
        optimizer=disco.AdamW(learning_rate=3e-4),
        num_steps=100 if small else 400,
        batch_size=256,
    )
    report = fit.report()
    print(report)
    disco.save(OUTPUT / "prior.npz", fit.distribution)
    return fit, report


def draw_regression(rng_key, args, num_draws, **kwargs):
    """Draw the regression by NUTS; an ArviZ object with named coefficients."""
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


def compare_regressions(rng_keys, prior, learn, complete, incomplete, outcome, num_draws):
    """Posteriors with nothing missing, and by three treatments of missing values."""
    center, spread = learn.mean(axis=0), learn.std(axis=0)
    y = (outcome - outcome.mean()) / outcome.std()
    missing = np.isnan(incomplete)
    is_whole = ~missing.any(axis=1)
    filled = np.where(missing, np.nanmean(incomplete, axis=0), incomplete)
    whole = (incomplete[is_whole], y[is_whole], center, spread)
    return {
        "nothing missing": draw_regression(rng_keys[0], (complete, y, center, spread), num_draws),
        "learned prior": draw_regression(
            rng_keys[1], (incomplete, y, center, spread, prior), num_draws
        ),
        "complete rows": draw_regression(rng_keys[2], whole, num_draws),
        "mean imputation": draw_regression(rng_keys[3], (filled, y, center, spread), num_draws),
    }


def print_regressions(posteriors):
    """Print each posterior, and the distance of its slopes from those with nothing missing."""
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


def draw_conditional(rng_keys, prior, num_draws):
    """The same conditional by NUTS and by TemperedSMC."""
    known = numpyro.handlers.condition(patient, {"patient.age": 60.0, "patient.bmi": 35.0})
    mcmc = MCMC(
        NUTS(known),
        num_warmup=num_draws,
        num_samples=num_draws,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(rng_keys[0], prior)
    smc = disco.TemperedSMC(known, num_particles=num_draws, num_chains=4)
    smc.run(rng_keys[1], prior)
    for name, sampler in (("NUTS", mcmc), ("TemperedSMC", smc)):
        print(f"\n{name}")
        print(az.summary(az.from_numpyro(sampler, log_likelihood=False)).to_string())
    print()
    smc.print_summary()
    return mcmc, smc


def plot_conditional(path, nuts, smc, names):
    """Plot both samplers' draws of the same conditional, side by side."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, 2, figsize=(9, 4), sharex=True, sharey=True, layout="constrained"
    )
    for axis, draws, title in zip(axes, (nuts, smc), ("NUTS", "TemperedSMC"), strict=True):
        axis.scatter(draws[f"patient.{names[0]}"], draws[f"patient.{names[1]}"], s=4, alpha=0.4)
        axis.set(xlabel=names[0], ylabel=names[1], title=title)
    figure.suptitle("A patient aged 60 with a body mass index of 35, under the learned prior")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def save_figures(fit, report, mcmc, smc):
    """Save the figures, if matplotlib is installed."""
    try:
        fit.plot_report(report).savefig(OUTPUT / "report.png", dpi=120)
    except ImportError as error:
        print(f"no figures: {error}")
    else:
        plot_conditional(
            OUTPUT / "conditional.png", mcmc.get_samples(), smc.get_samples(), ("sex", "hdl")
        )
        print("\nSaved report.png, conditional.png and prior.npz in examples/output.")


def main(args):
    start = time.perf_counter()
    fit_key, *keys = jax.random.split(jax.random.key(0), 7)
    num_draws = 100 if args.small else 500
    OUTPUT.mkdir(exist_ok=True)
    # A second run of this script loads what the first one compiled.
    jax.config.update("jax_compilation_cache_dir", str(OUTPUT / "compiled"))
    learn, complete, incomplete, outcome = load_patients()

    print(f"1. Learn the density of {len(MEASUREMENTS)} measurements from {len(learn)} patients")
    fit, report = learn_prior(fit_key, learn, args.small)
    prior = disco.load(OUTPUT / "prior.npz")

    share = np.isnan(incomplete).mean()
    print(f"\n2. Regression on {len(complete)} patients with {share:.0%} of measurements missing")
    posteriors = compare_regressions(
        keys[:4], prior, learn, complete, incomplete, outcome, num_draws
    )
    print_regressions(posteriors)

    print("\n3. A patient aged 60 with a body mass index of 35: one conditional, two samplers")
    mcmc, smc = draw_conditional(keys[4:], prior, num_draws)

    save_figures(fit, report, mcmc, smc)
    print(f"Finished in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="few steps and draws")
    main(parser.parse_args())
