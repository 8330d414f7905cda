"""Priors learned from Gaussian random fields, against closed form.

    python tests/benchmarks/images.py            16 x 16, 5,000 fields; minutes on two cores
    python tests/benchmarks/images.py --small    4 x 4 with few steps and particles

A field is Gaussian with a smooth covariance, so the score of the smoothed density, the posterior
given one half observed with noise, and its evidence are known. `fit` learns from draws of it.

Columns: the root mean square error of the score relative to that of the exact score at noise
sigma_0 and above, and the same for a fit of fields whose pixels were shuffled, a broken twin; the
largest error of a posterior mean, in posterior standard deviations; the largest relative error of a
standard deviation; the share of pixels inside of their 90 % intervals; the error of the log
evidence; and seconds, compilation included.
"""

from __future__ import annotations

import argparse
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import numpyro_disco as disco

SIGMA, NOISE = 0.2, 0.3
"""Smoothing in standardised units, and the noise of observed pixels in the fields' own."""
LEVELS = (0.2, 0.5, 1.0)


class Field(NamedTuple):
    """A Gaussian random field over size x size pixels."""

    size: int
    covariance: np.ndarray

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Independent fields, shape (count, size, size)."""
        factor = np.linalg.cholesky(self.covariance)
        return (rng.normal(size=(count, self.size**2)) @ factor.T).reshape(-1, self.size, self.size)


def make_field(size: int) -> Field:
    """A field of unit variance that is correlated over two pixels, and a twentieth white."""
    place = np.stack(np.meshgrid(*[np.arange(size)] * 2, indexing="ij"), -1).reshape(-1, 2)
    square = ((place[:, None] - place) ** 2).sum(-1)
    return Field(size, 0.95 * np.exp(-square / 8) + 0.05 * np.eye(size**2))


def score_errors(fit: disco.FitResult, field: Field, smoothed: np.ndarray) -> list[float]:
    """Relative error of the score at each level of noise."""
    precision, rng, errors = np.linalg.inv(smoothed), np.random.default_rng(1), []
    for level in LEVELS:
        fields = field.draw(rng, 200)
        x = fields + level * float(fit.distribution.scale[0]) * rng.normal(size=fields.shape)
        exact = -(x.reshape(len(x), -1) @ precision).reshape(x.shape)
        found = np.asarray(fit.distribution.score(x))
        errors.append(float(np.sqrt(((found - exact) ** 2).mean() / (exact**2).mean())))
    return errors


def model(prior: Any, pixels: Any) -> None:
    """A field, the left half of which is observed with noise."""
    image = numpyro.sample("image", prior)
    half = image[:, : image.shape[1] // 2]
    numpyro.sample("pixels", dist.Normal(half, NOISE).to_event(2), obs=pixels)


def inpainting(
    fit: disco.FitResult, field: Field, smoothed: np.ndarray, num_particles: int
) -> dict[str, float]:
    """Posterior of one field against closed form."""
    rng = np.random.default_rng(2)
    truth = field.draw(rng, 1)[0]
    left = np.zeros((field.size, field.size), bool)
    left[:, : field.size // 2] = True
    half = truth[:, : field.size // 2]
    pixels = half + NOISE * rng.normal(size=half.shape)
    seen = left.ravel()
    inner = smoothed[np.ix_(seen, seen)] + NOISE**2 * np.eye(seen.sum())
    gain = np.linalg.solve(inner, smoothed[seen]).T
    mean, covariance = gain @ pixels.ravel(), smoothed - gain @ smoothed[seen]
    deviation = np.sqrt(np.diag(covariance))
    sign, log_det = np.linalg.slogdet(2 * np.pi * inner)
    evidence = -0.5 * (log_det + pixels.ravel() @ np.linalg.solve(inner, pixels.ravel()))
    prior = fit.distribution.normalize(jax.random.key(0))
    smc = disco.TemperedSMC(model, num_particles=num_particles, num_chains=2)
    smc.run(jax.random.key(1), prior, jnp.asarray(pixels))
    draws = np.asarray(smc.get_samples()["image"]).reshape(-1, field.size**2)
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    exact = rng.multivariate_normal(mean, covariance, size=400)
    return {
        "mean": float(np.abs((draws.mean(0) - mean) / deviation).max()),
        "sd": float(np.abs(draws.std(0) / deviation - 1).max()),
        "inside": float(((exact >= low) & (exact <= high)).mean()),
        "evidence": float(np.mean(np.asarray(smc.log_normalizer)) - evidence),
    }


def main(small: bool) -> None:
    """Learn, compare and print."""
    size, count, steps, width, particles = (
        (4, 500, 50, 4, 256) if small else (16, 5000, 500, 16, 1024)
    )
    field = make_field(size)
    rng = np.random.default_rng(0)
    fields = field.draw(rng, count)
    shuffled = rng.permutation(fields.reshape(count, -1), axis=1).reshape(fields.shape)
    settings: dict[str, Any] = {
        "objective": disco.Disco(noise_scale=SIGMA, max_noise_scale=1.0),
        "network": disco.UNet(width=width),
        "num_steps": steps,
        "batch_size": 128,
        "progress_bar": False,
    }
    start = time.perf_counter()
    fit = disco.fit(jax.random.key(0), fields, **settings)
    learned = time.perf_counter() - start
    twin = disco.fit(jax.random.key(0), shuffled, **settings)
    scale = float(fit.distribution.scale[0])
    smoothed = field.covariance + (SIGMA * scale) ** 2 * np.eye(size**2)
    print(f"{size} x {size}, {count} fields; step {fit.best_step} is kept; {learned:.0f} s")
    pairs = zip(
        score_errors(fit, field, smoothed), score_errors(twin, field, smoothed), strict=True
    )
    for level, (error, broken) in zip(LEVELS, pairs, strict=True):
        print(f"score at noise {level}: error {error:.3f}, of the broken twin {broken:.3f}")
    start = time.perf_counter()
    found = inpainting(fit, field, smoothed, particles)
    seconds = time.perf_counter() - start
    print(
        f"in-painting: mean off by {found['mean']:.2f} sd at most, sd by {found['sd']:.1%}, "
        f"{found['inside']:.3f} inside of 90 % intervals, evidence off by {found['evidence']:+.2f} "
        f"nats; {seconds:.0f} s"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    main(parser.parse_args().small)
