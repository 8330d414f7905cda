"""Whether a small noise scale is learned better by way of larger ones.

    python tests/benchmarks/curriculum.py            a few minutes on two cores
    python tests/benchmarks/curriculum.py --small    few rows, hardly trained

DISCO from one Gaussian on the paper's mixture in the plane, the same number of steps each way: at
sigma_0 = 0.025 throughout, or at 0.2, 0.1, 0.05 and 0.025, each going on from the weights that the
one before kept, at the learning rate from its start. Columns: W1 to the true conditional of the
last coordinate, in standard deviations, mean over 100 rows and the largest; seconds.
"""

from __future__ import annotations

import argparse
import dataclasses
import time

import jax
import numpy as np
from density import by_quadrature, paper_mixture, wasserstein

import numpyro_disco as disco
from numpyro_disco.energy.learned import LearnedEnergy
from numpyro_disco.training.loop import train
from numpyro_disco.training.settings import TrainingSettings

WAYS = {"throughout": (0.025,), "from larger ones": (0.2, 0.1, 0.05, 0.025)}


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="few rows, hardly trained")
    args = parser.parse_args(arguments)
    num_rows, num_steps = (2000, 200) if args.small else (100_000, 4000)
    task, truth = paper_mixture(2, num_rows, 0)
    exact = by_quadrature(truth.log_prob)(task, 1)
    print("| noise scales | W1, mean | W1, worst | seconds |\n|---|---|---|---|")
    for way, scales in WAYS.items():
        start = time.perf_counter()
        # One round makes the network, with as many frequencies as the smallest scale asks for.
        key = jax.random.key(0)
        settings = TrainingSettings(noise_scale=scales[-1], batch_size=2048)
        settings = dataclasses.replace(settings, num_octaves=settings.octaves)
        fit = disco.fit(
            key, task.rows, progress_bar=False, **dataclasses.asdict(settings) | {"num_steps": 1}
        )
        model, rows = fit._model, np.asarray(fit.evidence.standardize(task.rows))
        held_out, rows = rows[: len(rows) // 10], rows[len(rows) // 10 :]
        for scale in scales:
            options = dataclasses.replace(
                settings, noise_scale=scale, num_steps=num_steps // len(scales)
            )
            run, _ = train(key, model, rows, held_out, options, progress_bar=False)
            model = dataclasses.replace(model, weights=run.best)
        seconds = time.perf_counter() - start
        assert isinstance(model, LearnedEnergy)
        prior = disco.EnergyDistribution(model, model.reference)
        found = by_quadrature(prior.log_prob)(task, 1)
        distances = wasserstein(found, exact, task.grid(1))
        print(
            f"| {way} | {distances.mean():.4f} | {distances.max():.3f} | {seconds:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
