"""Priors learned from random fields, against closed form.

    python tests/benchmarks/images.py --kinds 1    16 x 16, 50,000 fields; two minutes on one core
    python tests/benchmarks/images.py --kinds 2    8 x 8, 10,000 fields; minutes on one core
    python tests/benchmarks/images.py --small      4 x 4 with few steps and particles

Fields of one kind are Gaussian with a smooth covariance, so the score of the smoothed density, the
conditional of one half given the other, and the evidence of that are known. The reference describes
them. Fields of two kinds are streaks along either axis, 8 x 8: their score is known as well, and
the reference, a Gaussian, is not enough.

Columns: the root mean square error of the score relative to that of the exact score at noise
sigma_0 and above, and the same for the reference alone and for a fit of fields whose pixels were
shuffled, a broken twin; the largest error of a conditional mean, in conditional deviations;
the largest relative error of a standard deviation; the share of pixels inside of their 90 %
intervals, of smoothed fields and of fields without the smoothing, which are also compared with
denoised draws; the error of the log evidence; and seconds, compilation included.
"""

from __future__ import annotations

import argparse
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp

import numpyro_disco as disco

SIGMA = 0.2
"""Smoothing in standardised units."""
LEVELS = (0.2, 0.5, 1.0)


class Fields(NamedTuple):
    """Gaussian random fields of equally likely kinds over size x size pixels."""

    size: int
    covariances: np.ndarray
    """Shape (kinds, size^2, size^2)."""

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Independent fields, shape (count, size, size)."""
        kinds = np.sort(rng.integers(len(self.covariances), size=count))
        factors = np.linalg.cholesky(self.covariances)
        noise = rng.normal(size=(count, self.size**2))
        parts = [noise[kinds == k] @ factor.T for k, factor in enumerate(factors)]
        return rng.permutation(np.concatenate(parts)).reshape(-1, self.size, self.size)

    def score(self, x: np.ndarray, variance: float) -> np.ndarray:
        """Score at fields (n, size, size) of the density smoothed by noise of this variance."""
        rows, log_densities, scores = x.reshape(len(x), -1), [], []
        for covariance in self.covariances:
            smoothed = covariance + variance * np.eye(self.size**2)
            scores.append(-np.linalg.solve(smoothed, rows.T).T)
            log_det = np.linalg.slogdet(smoothed)[1]
            log_densities.append(0.5 * ((scores[-1] * rows).sum(1) - log_det))
        shares = np.exp(log_densities - logsumexp(log_densities, axis=0))
        return np.einsum("kn,knd->nd", shares, scores).reshape(x.shape)


def make_fields(size: int, *lengths: tuple[float, float]) -> Fields:
    """Fields of unit variance, a twentieth of it white, with two correlation lengths a kind."""
    place = np.stack(np.meshgrid(*[np.arange(size)] * 2, indexing="ij"), -1).reshape(-1, 2)
    away = (place[:, None] - place)[None] / np.asarray(lengths)[:, None, None]
    smooth = np.exp(-0.5 * (away**2).sum(-1))
    return Fields(size, 0.95 * smooth + 0.05 * np.eye(size**2))


def score_errors(score_fn: Any, fields: Fields, scale: float) -> list[float]:
    """Relative error of a score at each level of noise; `scale` is the standardised unit."""
    rng, errors = np.random.default_rng(1), []
    for level in LEVELS:
        x = fields.draw(rng, 200)
        x = x + level * scale * rng.normal(size=x.shape)
        exact = fields.score(x, (SIGMA * scale) ** 2)
        found = np.asarray(score_fn(x))
        errors.append(float(np.sqrt(((found - exact) ** 2).mean() / (exact**2).mean())))
    return errors


def reference_score(prior: Any) -> Any:
    """The score of the reference alone, over arrays."""
    slope = jax.vmap(jax.grad(lambda x: prior.joint_reference.log_prob(x)))
    return lambda x: slope(jnp.asarray(x).reshape(len(x), -1)).reshape(x.shape)


def inpainting(prior: Any, field: Fields, num_draws: int) -> dict[str, float]:
    """The right half of one smoothed field given the left one, against closed form."""
    size, rng = field.size, np.random.default_rng(2)
    variance = (SIGMA * float(prior.scale[0])) ** 2
    covariance = field.covariances[0] + variance * np.eye(size**2)
    truth = np.linalg.cholesky(covariance) @ rng.normal(size=size**2)
    free = np.tile(np.arange(size) >= size // 2, size)
    seen, values = covariance[np.ix_(~free, ~free)], truth[~free]
    gain = np.linalg.solve(seen, covariance[np.ix_(~free, free)]).T
    mean = gain @ values
    within = covariance[np.ix_(free, free)] - gain @ covariance[np.ix_(~free, free)]
    log_det = np.linalg.slogdet(2 * np.pi * seen)[1]
    evidence = -0.5 * (log_det + values @ np.linalg.solve(seen, values))
    given = np.where(free, np.nan, truth).reshape(size, size)
    draws = disco.sample_conditional(jax.random.key(0), prior, given, num_samples=num_draws)
    clean = np.asarray(draws + variance * prior.score(draws))[:, np.isnan(given)]
    draws = np.asarray(draws)[:, np.isnan(given)]
    found = disco.log_marginal(jax.random.key(1), prior.normalize(jax.random.key(2)), given[None])
    exact, deviation = rng.multivariate_normal(mean, within, 2000), np.sqrt(np.diag(within))
    # A field without the smoothing has the same mean, and less variance by that of the smoothing.
    unsmoothed = rng.multivariate_normal(mean, within - variance * np.eye(len(mean)), 2000)
    return {
        "mean": float(np.abs((draws.mean(0) - mean) / deviation).max()),
        "sd": float(np.abs(draws.std(0) / deviation - 1).max()),
        "inside": coverage(exact, draws),
        "unsmoothed": coverage(unsmoothed, draws),
        "denoised": coverage(unsmoothed, clean),
        "evidence": float(found.log_density[0]) - evidence,
    }


def coverage(truth: np.ndarray, draws: np.ndarray) -> float:
    """Share of true values (n, pixels) inside of the 90 % intervals of draws (m, pixels)."""
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    return float(((truth >= low) & (truth <= high)).mean())


def learn(fields: np.ndarray, network: Any, steps: int) -> disco.FitResult:
    """A prior learned from fields."""
    start = time.perf_counter()
    fit = disco.fit(
        jax.random.key(0),
        fields,
        objective=disco.Disco(noise_scale=SIGMA, max_noise_scale=1.0),
        network=network,
        num_steps=steps,
        batch_size=64,
        progress_bar=False,
    )
    loss = fit.history.held_out_loss
    print(
        f"{len(fields)} fields of {fields.shape[1]} x {fields.shape[2]}: step {fit.best_step} of "
        f"{steps} is kept, held-out loss {loss[0]:.3f} to {loss.min():.3f}; "
        f"{time.perf_counter() - start:.0f} s"
    )
    return fit


def print_errors(errors: dict[str, list[float]]) -> None:
    """One line for each level of noise."""
    for index, level in enumerate(LEVELS):
        line = ", ".join(f"{name} {values[index]:.3f}" for name, values in errors.items())
        print(f"  error of the score at noise {level}: {line}")


def one_kind(small: bool) -> None:
    """Fields that the reference describes: exactness of what is learned and drawn."""
    size, count, num_draws = (4, 2000, 500) if small else (16, 50_000, 4000)
    field = make_fields(size, (2.0, 2.0))
    rng, network = np.random.default_rng(0), disco.MLP(width=64, num_octaves=0)
    fields = field.draw(rng, count)
    shuffled = rng.permuted(fields.reshape(count, -1), axis=1).reshape(fields.shape)
    priors = {
        "learned": learn(fields, network, 50).distribution,
        "broken twin": learn(shuffled, network, 50).distribution,
    }
    print_errors({n: score_errors(p.score, field, float(p.scale[0])) for n, p in priors.items()})
    for name, prior in priors.items():
        start = time.perf_counter()
        found = inpainting(prior, field, num_draws)
        print(
            f"  {name}: mean of a hidden half off by {found['mean']:.2f} sd at most, sd by "
            f"{found['sd']:.1%}, {found['inside']:.3f} inside of 90 % intervals, evidence off by "
            f"{found['evidence']:+.2f} nats; {time.perf_counter() - start:.0f} s\n"
            f"    of fields without the smoothing {found['unsmoothed']:.3f} are inside of these "
            f"intervals, and {found['denoised']:.3f} inside of those of denoised draws"
        )


def two_kinds(small: bool) -> None:
    """Fields that the reference does not describe: what the network adds."""
    size, count, steps, width = (4, 2000, 50, 4) if small else (8, 10_000, 500, 8)
    field = make_fields(size, (2.8, 0.7), (0.7, 2.8))
    network = disco.UNet(width=width, num_scales=2)
    fit = learn(field.draw(np.random.default_rng(0), count), network, steps)
    prior, scale = fit.distribution, float(fit.distribution.scale[0])
    errors = {"learned": score_errors(prior.score, field, scale)}
    errors["reference"] = score_errors(reference_score(prior), field, scale)
    print_errors(errors)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--kinds", type=int, choices=(1, 2), help="one part only")
    arguments = parser.parse_args()
    for kinds, part in ((1, one_kind), (2, two_kinds)):
        if arguments.kinds in (None, kinds):
            part(arguments.small)
