"""A one-dimensional series with a gap, as one site of a NumPyro model.

Series of 48 steps are sums of a slow and a fast wave of random phase and period; a fast wave is
there only while the slow one is high, which no Gaussian process says. A part of a new series is
missing, and the rest has noise.

    python examples/images/series.py            minutes on two cores
    python examples/images/series.py --small    a quick run of every step, which learns little
"""

import argparse

import digits
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist

import numpyro_disco as disco

LENGTH, NOISE, GAP = 48, 0.1, slice(18, 32)
SEEN = np.delete(np.arange(LENGTH), GAP)


def make_series(rng, count):
    """Series, shape (count, LENGTH, 1)."""
    time = np.arange(LENGTH)
    phase, fast_phase, period = rng.uniform(size=(3, count, 1))
    slow = np.sin(2 * np.pi * (time / (20 + 20 * period) + phase))
    fast = np.sin(2 * np.pi * (time / 4 + fast_phase))
    return (slow + 0.5 * np.maximum(slow, 0) * fast)[..., None]


def seen(series):
    """What lies outside the gap, (LENGTH, 1) to (num_seen,)."""
    return series[SEEN, 0]


def model(prior, values):
    """A series of which a part is missing and the rest has noise."""
    series = numpyro.sample("series", prior)
    numpyro.sample("values", dist.Normal(seen(series), NOISE).to_event(1), obs=values)


def plot(path, truth, values, draws, gaussian):
    """The truth, what is seen, draws, and the mean of the Gaussian."""
    figure, axis = plt.subplots(figsize=(7, 3))
    axis.axvspan(GAP.start - 0.5, GAP.stop - 0.5, color="whitesmoke")
    axis.plot(draws[:20].T, color="tab:blue", alpha=0.2)
    axis.plot(gaussian, color="tab:orange", linestyle="--", label="Gaussian, posterior mean")
    axis.plot(draws.mean(0), color="tab:blue", label="learned prior: mean, and draws")
    axis.plot(truth, color="black", label="truth")
    axis.plot(SEEN, values, "k.", label="seen")
    axis.legend(fontsize=7, ncols=2)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main(args):
    """Learn, fill the gap, compare and draw."""
    rng = np.random.default_rng(0)
    series, truth = make_series(rng, 500 if args.small else 20_000), make_series(rng, 1)[0, :, 0]
    fit = disco.fit(
        jax.random.key(0),
        series,
        objective=disco.Disco(noise_scale=0.1, max_noise_scale=1.0),
        network=disco.MLP(width=16 if args.small else 128, num_octaves=1),
        reference=disco.MixtureFit(max_components=1 if args.small else 64),
        num_steps=50 if args.small else 1000,
        batch_size=64 if args.small else 256,
    )
    values = truth[SEEN] + NOISE * rng.normal(size=len(SEEN))
    smc = disco.TemperedSMC(model, num_particles=64 if args.small else 256, num_chains=1)
    smc.run(jax.random.key(1), fit.distribution, jnp.asarray(values))
    draws = np.asarray(smc.get_samples()["series"])[..., 0]
    gaussian = digits.gaussian_mean(series, seen, values[None], NOISE)[0, :, 0]
    for name, mean in {"learned prior": draws.mean(0), "Gaussian": gaussian}.items():
        print(f"{name:14} RMS error in the gap {np.sqrt(((mean - truth)[GAP] ** 2).mean()):.3f}")
    plot(args.output, truth, values, draws, gaussian)
    print(f"wrote {args.output}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--small", action="store_true", help="a quick run of every step")
    parser.add_argument("--output", default="series.png")
    main(parser.parse_args())
