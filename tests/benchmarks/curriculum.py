"""Is a small noise scale learned better by way of larger ones?

    python tests/benchmarks/curriculum.py            a few minutes on two cores
    python tests/benchmarks/curriculum.py --small    few rows, briefly trained

DISCO from one Gaussian on a mixture in the plane, with the same number of steps in both ways: at
sigma_0 = 0.025 throughout, or at 0.2, 0.1, 0.05 and 0.025 in turn, each continuing from the best
weights of the one before with the learning rate started afresh. Columns: W1 to the true conditional
of the last coordinate, in standard deviations, mean over 100 rows and the largest; seconds.
"""

from __future__ import annotations

import argparse
import dataclasses
import time

import jax
import numpy as np
from quadrature import by_quadrature, wasserstein
from tasks import paper_mixture

import numpyro_disco as disco
from numpyro_disco.training.loop import Plan, train
from numpyro_disco.training.rows.batches import TrainingRows

WAYS = {"throughout": (0.025,), "from larger ones": (0.2, 0.1, 0.05, 0.025)}
BATCH_SIZE = 2048


def learn(rows: np.ndarray, scales: tuple[float, ...], num_steps: int) -> disco.EnergyDistribution:
    """Train one network at several noise scales in turn, with equally many steps at each."""
    key = jax.random.key(0)
    # One round makes the network, with as many frequencies as the smallest scale needs.
    objective = disco.Disco(noise_scale=scales[-1])
    fit = disco.fit(
        key, rows, objective=objective, num_steps=1, batch_size=BATCH_SIZE, progress_bar=False
    )
    model = fit.evidence.model
    standard = np.asarray(fit.evidence.standardize(rows))
    num_held_out = len(rows) // 10
    held_out, train_rows = standard[:num_held_out], standard[num_held_out:]
    for scale in scales:
        plan = Plan(
            dataclasses.replace(objective, noise_scale=scale),
            fit.settings.optimizer,
            BATCH_SIZE,
            num_steps // len(scales),
        )
        run, _ = train(
            key,
            model,
            TrainingRows(train_rows),
            TrainingRows(held_out),
            plan,
            patience=fit.settings.patience,
            progress_bar=False,
        )
        model = dataclasses.replace(model, weights=run.best)
    return fit.distribution.replace(energy_fn=model)


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="few rows, briefly trained")
    args = parser.parse_args(arguments)
    num_rows, num_steps = (2000, 200) if args.small else (100_000, 4000)
    task, truth = paper_mixture(2, num_rows, 0)
    exact = by_quadrature(truth.log_prob)(task, 1)
    print("| noise scales | W1, mean | W1, worst | seconds |\n|---|---|---|---|")
    for way, scales in WAYS.items():
        start = time.perf_counter()
        prior = learn(task.rows, scales, num_steps)
        seconds = time.perf_counter() - start
        learned = by_quadrature(prior.log_prob)(task, 1)
        distances = wasserstein(learned, exact, task.grid(1))
        print(
            f"| {way} | {distances.mean():.4f} | {distances.max():.3f} | {seconds:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
