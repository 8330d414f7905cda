"""Redshifts of galaxies from any of their magnitudes, some of them measured with error.

The data are galaxies of the Buzzard simulation, redshift and magnitudes in six bands, which are
part of the package pzflow. The joint density of all seven columns is learned once. It then answers
for new galaxies: with all bands known, with two missing, and with one of the others measured with
an error that differs from galaxy to galaxy, which is one line of a NumPyro model. One Gaussian, the
mixture that the network starts from, and pzflow's own normalizing flow run for comparison.

    pip install --no-deps pzflow
    python examples/photometric_redshift.py            about half an hour on two cores
    python examples/photometric_redshift.py --small    a quick run, without the flow and NUTS
    python examples/photometric_redshift.py --prior examples/output/galaxies.npz    skip learning
"""

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.diagnostics import split_gelman_rubin
from numpyro.infer import MCMC, NUTS

import numpyro_disco as disco
from numpyro_disco.tempering.status import CONVERGED

try:
    from pzflow import Flow
    from pzflow.examples import get_galaxy_data
except ImportError as error:
    raise SystemExit(
        f"This example needs the package pzflow, which holds the galaxies ({error}). Install it "
        "and pandas: pip install --no-deps pzflow; pip install pandas"
    ) from error

NAMES = ("redshift", "u", "g", "r", "i", "z", "y")
OUTPUT = Path(__file__).parent / "output"
NUM_KEPT_BACK = 500
"""Number of galaxies kept out of training, so that a saved prior can be tested on them."""


class Setting(NamedTuple):
    """The known measurements of the test galaxies."""

    name: str
    table: np.ndarray
    """Shape (galaxies, 7), NaN where nothing was measured."""
    error: np.ndarray
    """Standard deviation of each measurement, the same shape; zero where exact."""


def make_settings(rng, truth):
    """Three settings: all bands; two missing; one of the other four with an error.

    The bands are chosen at random for each galaxy.
    """
    known = truth.copy()
    known[:, 0] = np.nan
    exact = np.zeros_like(truth)
    bands = rng.permuted(np.tile(np.arange(1, 7), (len(truth), 1)), axis=1)
    incomplete = known.copy()
    np.put_along_axis(incomplete, bands[:, :2], np.nan, axis=1)
    error = exact.copy()
    np.put_along_axis(error, bands[:, 2:3], rng.uniform(0.1, 0.2, (len(truth), 1)), axis=1)
    noisy = incomplete + error * rng.standard_normal(error.shape)
    return [
        Setting("all bands", known, exact),
        Setting("two missing", incomplete, exact),
        Setting("two missing, one noisy", noisy, error),
    ]


def galaxy(prior, magnitudes, band, measured, error):
    """A galaxy with some exact magnitudes, the others NaN, and one of these measured with error.

    The magnitudes are an argument, so one compiled program serves every pattern of missing bands.
    """
    x = disco.sample("galaxy", prior, obs=magnitudes)
    numpyro.deterministic("redshift", x[..., 0])
    numpyro.sample("measured", dist.Normal(x[..., band], error), obs=measured)


def arguments_of_galaxy(setting, row):
    """Arguments of `galaxy`: exact magnitudes, and the noisy band with its value and error."""
    values, error = setting.table[row], setting.error[row]
    # An array, because a plain number would be compiled in as a constant.
    band = np.asarray(error.argmax())
    return np.where(error == 0, values, np.nan), band, values[band], error[band]


def draw(rng_key, prior, setting, num_draws):
    """Redshifts under an energy, (draws, galaxies), and the number of runs that did not converge.

    A redshift can have several modes, and a NUTS chain stays in the one where it started. Particles
    start wherever the mixture has mass, and are weighted, so modes keep their masses. Galaxies run
    one by one: a table of all of them would be one target of several hundred dimensions.
    """
    if not setting.error.any():
        draws = disco.sample_conditional(
            rng_key, prior, setting.table, num_draws, num_particles=num_draws
        )
        return np.asarray(draws[..., 0]), 0
    smc = disco.TemperedSMC(
        galaxy, num_particles=num_draws, num_chains=1, progress_bar=False, throw=False
    )
    draws, num_failed = [], 0
    for row, key in enumerate(jax.random.split(rng_key, len(setting.table))):
        smc.run(key, prior, *arguments_of_galaxy(setting, row))
        draws.append(np.asarray(smc.get_samples()["redshift"]))
        num_failed += int(smc.status[0] != CONVERGED)
    return np.stack(draws, axis=1), num_failed


def draw_mixture(rng_key, mixture, setting, num_draws):
    """Redshifts under a Gaussian mixture, in closed form.

    A magnitude with error is an exact magnitude of a mixture with a larger variance in that band.
    """
    noise = setting.error[:, None, :, None] ** 2 * np.eye(len(NAMES))
    widened = disco.MixtureReference(
        mixture.weights, mixture.means, mixture.covariances + noise.astype(np.float32)
    )
    draws = widened.condition(setting.table).sample(rng_key, (num_draws,))
    return np.asarray(draws[..., 0])


def learn_flow(galaxies, reference, num_epochs):
    """pzflow's flow with its defaults, as an energy.

    pzflow integrates missing columns over grids, which become too large for two missing columns and
    an error. Tempered from the same reference as our prior, the flow answers the same questions,
    and the comparison is between densities and not between samplers.
    """
    flow = Flow(NAMES)
    flow.train(galaxies, epochs=num_epochs, initial_loss=False)

    def energy(x):
        # The public method takes a DataFrame, which cannot be differentiated.
        params = flow._params  # noqa: SLF001
        return -flow._log_prob(params, x[None], jnp.zeros((1, 1)))[0]  # noqa: SLF001

    return disco.EnergyDistribution(energy, reference, names=NAMES)


class Scores(NamedTuple):
    """Scores of redshift draws, means over galaxies."""

    half: float
    """Share of true redshifts within the central 50 %."""
    ninety: float
    """Within the central 90 %."""
    crps: float
    """Continuous ranked probability score, in units of redshift."""
    crps_error: float
    """Standard error of the CRPS."""
    outliers: float
    """Share of galaxies whose median is off by more than 0.15 (1 + true redshift)."""


def score(draws, truth):
    """Score draws (draws, galaxies) of redshift against the truth."""
    low, first, median, third, high = np.quantile(draws, [0.05, 0.25, 0.5, 0.75, 0.95], axis=0)
    # Mean |z - truth| - mean |z - z'| / 2; for sorted draws the second mean is a weighted sum.
    count = len(draws)
    rank = 2 * np.arange(1, count + 1) - count - 1
    spread = (rank[:, None] * np.sort(draws, axis=0)).sum(0) / (count * (count - 1))
    crps = np.abs(draws - truth).mean(0) - spread
    return Scores(
        ((first < truth) & (truth < third)).mean(),
        ((low < truth) & (truth < high)).mean(),
        crps.mean(),
        crps.std(ddof=1) / np.sqrt(len(truth)),
        (np.abs(median - truth) > 0.15 * (1 + truth)).mean(),
    )


def compare_samplers(rng_key, prior, setting, truth, rows, num_draws):
    """Print mean, deviation and R-hat of redshift by TemperedSMC and by NUTS for some galaxies."""
    print("   galaxy   true   TemperedSMC: mean, sd, R-hat   NUTS: mean, sd, R-hat")
    smc = disco.TemperedSMC(
        galaxy, num_particles=num_draws, num_chains=4, progress_bar=False, throw=False
    )
    for row, key in zip(rows, jax.random.split(rng_key, len(rows)), strict=True):
        nuts = MCMC(
            NUTS(galaxy, dense_mass=True),
            num_warmup=num_draws,
            num_samples=num_draws,
            num_chains=4,
            chain_method="vectorized",
            progress_bar=False,
        )
        cells = []
        for sampler, sampler_key in zip((smc, nuts), jax.random.split(key), strict=True):
            sampler.run(sampler_key, prior, *arguments_of_galaxy(setting, row))
            z = np.asarray(sampler.get_samples(group_by_chain=True)["redshift"])
            cells.append(f"{z.mean():8.3f} {z.std():6.3f} {split_gelman_rubin(z):6.2f}")
        print(f"   {row:6d}  {truth[row]:5.3f}   {cells[0]:>27s}   {cells[1]}", flush=True)


def plot(path, found, truth):
    """Plot true redshifts against posterior intervals, and posteriors as bands go missing."""
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(12, 4.5), layout="constrained")
    grid = figure.add_gridspec(len(found), 5)
    name = list(found)[-1]
    low, median, high = np.quantile(found[name], [0.05, 0.5, 0.95], axis=0)
    axis = figure.add_subplot(grid[:, :2])
    axis.errorbar(truth, median, [median - low, high - median], fmt=".", ms=4, lw=0.6)
    axis.axline((0, 0), slope=1, color="black", lw=0.6)
    axis.set(xlabel="true redshift", ylabel="posterior median and central 90 %", title=name)
    # A narrow posterior, a wide one, and the widest.
    shown = np.argsort(high - low)[[len(truth) // 4, len(truth) * 3 // 4, -1]]
    bins = np.linspace(0, 2.5, 101)
    for index, (name, draws) in enumerate(found.items()):
        for column, row in enumerate(shown):
            axis = figure.add_subplot(grid[index, 2 + column])
            axis.hist(draws[:, row], bins, density=True)
            axis.axvline(truth[row], color="black", lw=0.8, ls="--")
            axis.set(yticks=[])
            if index == 0:
                axis.set_title(f"galaxy {row}")
            if column == 0:
                axis.set_ylabel(name.replace(", ", ",\n"))
            if index == len(found) - 1:
                axis.set_xlabel("redshift")
            else:
                axis.set_xticklabels([])
    figure.savefig(path, dpi=120)
    plt.close(figure)


def load_galaxies(rng, num_test):
    """Galaxies to learn from, a DataFrame, and test galaxies (num_test, 7)."""
    galaxies = get_galaxy_data()[list(NAMES)].astype(np.float64)
    galaxies = galaxies.iloc[rng.permutation(len(galaxies))]
    return galaxies[NUM_KEPT_BACK:], galaxies[:NUM_KEPT_BACK].to_numpy()[:num_test]


def learn_prior(rng_key, galaxies, small):
    """Learn and save a prior; the path of the file."""
    start = time.perf_counter()
    print(f"1. Learn the density of {len(NAMES)} columns from {len(galaxies)} galaxies", flush=True)
    choices = {
        "reference": disco.MixtureFit(max_components=8),
        "network": disco.MLP(width=32, num_blocks=1),
        "num_steps": 100,
    }
    fit = disco.fit(rng_key, galaxies, progress_bar=False, **choices if small else {})
    path = OUTPUT / ("galaxies_small.npz" if small else "galaxies.npz")
    disco.save(path, fit.distribution)
    seconds = time.perf_counter() - start
    print(f"   {seconds:.0f} s; step {fit.best_step} kept; saved examples/output/{path.name}")
    return path


def rival_densities(galaxies, prior, num_epochs):
    """Energies and mixtures to compare, by name."""
    energies = {"the learned prior": prior}
    if num_epochs:
        start = time.perf_counter()
        energies["pzflow"] = learn_flow(galaxies, prior.reference, num_epochs)
        seconds = time.perf_counter() - start
        print(f"   pzflow: {num_epochs} epochs in {seconds:.0f} s", flush=True)
    mean, covariance = galaxies.mean().to_numpy(), galaxies.cov().to_numpy()
    mixtures = {
        "its mixture alone": prior.reference,
        "one Gaussian": disco.MixtureReference(np.ones(1), mean[None], covariance[None]),
    }
    return energies, mixtures


def compare_densities(rng_key, energies, mixtures, settings, truth, num_draws):
    """Print the scores of every method in every setting; the prior's draws by setting."""
    print(
        "   setting                 method             in 50 %  in 90 %  CRPS              "
        "outliers  s per galaxy  failed"
    )
    found = {}
    for index, setting in enumerate(settings):
        key = jax.random.fold_in(rng_key, index)
        for name, method in (energies | mixtures).items():
            start = time.perf_counter()
            if name in energies:
                draws, num_failed = draw(key, method, setting, num_draws)
            else:
                draws, num_failed = draw_mixture(key, method, setting, num_draws), 0
            seconds = (time.perf_counter() - start) / len(truth)
            if name == "the learned prior":
                found[setting.name] = draws
            s = score(draws, truth)
            print(
                f"   {setting.name:22s}  {name:17s}  {s.half:7.1%}  {s.ninety:7.1%}  "
                f"{s.crps:.4f} +- {s.crps_error:.4f}  {s.outliers:8.1%}  {seconds:12.2f}  "
                f"{num_failed:6d}",
                flush=True,
            )
    return found


def main(args):
    start = time.perf_counter()
    fit_key, sample_key, compare_key = jax.random.split(jax.random.key(0), 3)
    OUTPUT.mkdir(exist_ok=True)
    # A second run of this script loads what the first one compiled.
    jax.config.update("jax_compilation_cache_dir", str(OUTPUT / "compiled"))
    rng = np.random.default_rng(0)
    num_galaxies, num_draws = (6, 128) if args.small else (args.galaxies, 256)
    learn, test = load_galaxies(rng, num_galaxies)
    learn, truth = learn[:3000] if args.small else learn, test[:, 0]

    if args.prior is None:
        prior = disco.load(learn_prior(fit_key, learn, args.small))
    else:
        print(f"1. Load the prior in {args.prior}")
        prior = disco.load(args.prior)
    energies, mixtures = rival_densities(learn, prior, 0 if args.small else args.epochs)

    print(f"\n2. Redshifts of {num_galaxies} new galaxies")
    settings = make_settings(rng, test)
    found = compare_densities(sample_key, energies, mixtures, settings, truth, num_draws)

    if not args.small:
        print("\n3. One galaxy at a time, by two independent samplers")
        by_width = np.argsort(np.std(found[settings[-1].name], axis=0))
        rows = by_width[[num_galaxies // 2, -1]]
        compare_samplers(compare_key, prior, settings[-1], truth, rows, num_draws)

    try:
        plot(OUTPUT / "photometric_redshift.png", found, truth)
        print("\nSaved photometric_redshift.png in examples/output.")
    except ImportError as error:
        print(f"\nno figure: {error}")
    print(f"Finished in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="few galaxies, few training steps")
    parser.add_argument("--prior", type=Path, help="a prior saved by an earlier run")
    parser.add_argument("--galaxies", type=int, default=200, help="number of test galaxies")
    # Fifty epochs take about as long as training our prior.
    parser.add_argument(
        "--epochs", type=int, default=50, help="training epochs of pzflow; 0 omits it"
    )
    main(parser.parse_args())
