"""Yesterday's posterior as today's prior, with real data that come in two halves.

The data are scikit-learn's diabetes patients: ten measurements each, and the progression of the
disease a year later. A regression is fitted to the first half of the patients. Its draws are
learned as a prior, which is saved, loaded, and put into the same regression for the second half, in
place of the lines with its priors. The result should agree with a regression of all patients, which
runs for comparison, and so does the evidence of the second half given the first.

    python examples/posterior_as_prior.py            about three minutes on two cores
    python examples/posterior_as_prior.py --small    a quick run of every step
"""

import argparse
from pathlib import Path

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS
from sklearn.datasets import load_diabetes

import numpyro_disco as disco

OUTPUT = Path(__file__).parent / "output"


def load_patients():
    """Standardised measurements and outcome, in random order."""
    measurements, outcome = load_diabetes(return_X_y=True, scaled=False)
    order = np.random.default_rng(0).permutation(len(outcome))
    measurements, outcome = measurements[order], outcome[order]
    measurements = (measurements - measurements.mean(0)) / measurements.std(0)
    return measurements, (outcome - outcome.mean()) / outcome.std()


def regression(x, y=None):
    """Yesterday's model."""
    intercept = numpyro.sample("intercept", dist.Normal(0, 1))
    slopes = numpyro.sample("slopes", dist.Normal(0, 0.5).expand([x.shape[1]]).to_event(1))
    noise = numpyro.sample("noise", dist.HalfNormal(1))
    numpyro.sample("y", dist.Normal(intercept + x @ slopes, noise), obs=y)


def regression_today(prior, x, y=None):
    """The same model, with one line in place of its priors."""
    theta = disco.sample("theta", prior)
    mean = theta["intercept"] + x @ theta["slopes"]
    numpyro.sample("y", dist.Normal(mean, theta["noise"]), obs=y)


def run_nuts(rng_key, model, *args, small):
    """Draws of NUTS by chain."""
    count = 200 if small else 1000
    sampler = NUTS(model, dense_mass=True)
    mcmc = MCMC(
        sampler,
        num_warmup=count,
        num_samples=count,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(rng_key, *args)
    return mcmc


def learn(rng_key, mcmc, small):
    """Learn, save and load the prior; its variables, shapes and supports come from the sampler."""
    few = {
        "num_steps": 100,
        "network": disco.MLP(width=32, num_blocks=1),
        "reference": disco.MixtureFit(max_components=2),
    }
    fit = disco.fit(rng_key, mcmc, progress_bar=False, **few if small else {})
    if not small:
        print(fit.report())
    OUTPUT.mkdir(exist_ok=True)
    disco.save(OUTPUT / "yesterday.npz", fit.distribution.normalize(rng_key))
    return disco.load(OUTPUT / "yesterday.npz")


def evidence(rng_key, model, *args, small):
    """Log evidence and its standard error."""
    smc = disco.TemperedSMC(
        model, num_particles=256 if small else 2048, num_chains=4, progress_bar=False
    )
    smc.run(rng_key, *args)
    return float(smc.log_normalizer.mean()), float(smc.log_normalizer_error)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a quick run")
    small = parser.parse_args().small
    # A second run of this script loads what the first one compiled.
    jax.config.update("jax_compilation_cache_dir", str(OUTPUT / "compiled"))
    keys = jax.random.split(jax.random.key(0), 7)
    x, y = load_patients()
    half = len(y) // 2
    (x_first, y_first), (x_second, y_second) = (x[:half], y[:half]), (x[half:], y[half:])

    yesterday = run_nuts(keys[0], regression, x_first, y_first, small=small)
    prior = learn(keys[1], yesterday, small)
    print(f"variables: {prior.variables.shapes}")
    today = run_nuts(keys[2], regression_today, prior, x_second, y_second, small=small)
    together = run_nuts(keys[3], regression, x, y, small=small)

    draws, expected = today.get_samples(), together.get_samples()
    print("variable       one after the other      all at once    (mean, standard deviation)")
    for name in ("intercept", "noise", "slopes"):
        for element in np.ndindex(expected[name].shape[1:]):
            pair = [d[(slice(None), *element)] for d in (draws[f"theta.{name}"], expected[name])]
            numbers = "   ".join(f"{a.mean():9.3f} {a.std():8.3f}" for a in pair)
            print(f"{name + str(list(element) or ''):13}{numbers}")

    of_second, error = evidence(keys[4], regression_today, prior, x_second, y_second, small=small)
    of_all, all_error = evidence(keys[5], regression, x, y, small=small)
    of_first, first_error = evidence(keys[6], regression, x_first, y_first, small=small)
    print(
        f"log evidence of the second half given the first: {of_second:.2f} +- {error:.2f}; "
        f"of all minus of the first: {of_all - of_first:.2f} +- "
        f"{np.hypot(all_error, first_error):.2f}"
    )


if __name__ == "__main__":
    main()
