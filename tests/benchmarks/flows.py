"""Normalising flows as density estimators: flowjax's, and pzflow's on the galaxies."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from methods import TINY, Method
from quadrature import at_test_rows, by_quadrature
from tasks import Task


class TrainedFlow(NamedTuple):
    """A flow over decorrelated columns z = whitener x."""

    model: Any
    """The flowjax distribution of z."""
    whitener: np.ndarray
    """Matrix that decorrelates the columns, shape (D, D)."""
    seconds: float
    """Training time, with compilation."""
    epochs: int


def train_flow(rows: np.ndarray, seed: int, seconds: float) -> TrainedFlow:
    """Train flowjax's masked autoregressive flow of rational quadratic splines.

    It is trained by flowjax's own `fit_to_data` with default settings, for as many epochs as fit
    into the time or until its own held-out rows see no gain.

    Args:
        rows: rows to learn from, shape (N, D).
        seed: random seed.
        seconds: time to train for, with compilation.
    """
    import flowjax.bijections as bijections
    import flowjax.distributions as distributions
    import flowjax.flows as flows
    import optax
    from flowjax.train import fit_to_data
    from flowjax.train.losses import MaximumLikelihoodLoss

    start = time.perf_counter()
    whitener = np.linalg.inv(np.linalg.cholesky(np.cov(rows, rowvar=False)))
    flow_key, train_key = jax.random.split(jax.random.key(seed))
    untrained = flows.masked_autoregressive_flow(
        flow_key,
        base_dist=distributions.Normal(jnp.zeros(rows.shape[1])),
        transformer=bijections.RationalQuadraticSpline(knots=8, interval=4),
    )
    data = jnp.asarray(rows @ whitener.T, jnp.float32)
    # The same two objects in each call: with new ones flowjax compiles its step again.
    same = {"optimizer": optax.adam(5e-4), "loss_fn": MaximumLikelihoodLoss()}

    def train(max_epochs: int) -> tuple[Any, int, float]:
        before = time.perf_counter()
        model, losses = fit_to_data(
            train_key, untrained, data, max_epochs=max_epochs, show_progress=False, **same
        )
        return model, len(losses["train"]), time.perf_counter() - before

    train(1)
    preparing = time.perf_counter() - start
    epoch_seconds = train(1)[2]
    model, epochs, training = train(max(1, round((seconds - preparing) / epoch_seconds)))
    return TrainedFlow(model, whitener, preparing + training, epochs)


def flow(task: Task, seed: int, seconds: float) -> Method:
    """flowjax's flow, trained for about as long as `fit`."""
    trained = train_flow(task.rows, seed, seconds)
    matrix = jnp.asarray(trained.whitener, jnp.float32)
    log_det = float(np.linalg.slogdet(trained.whitener)[1])

    def log_prob(x: jax.Array) -> jax.Array:
        return trained.model.log_prob(matrix @ x) + log_det

    return Method(
        "flow",
        by_quadrature(log_prob),
        trained.seconds,
        at_test_rows(log_prob),
        f"{trained.epochs} epochs",
    )


def pzflow_posterior(task: Task, seed: int, seconds: float) -> Method:
    """pzflow with its default settings and own posteriors, trained about as long as `fit`."""
    import pandas as pd
    from pzflow import Flow

    names = [str(i) for i in range(task.rows.shape[1])]

    def frame(rows: np.ndarray) -> Any:
        return pd.DataFrame(np.float32(rows), columns=names)

    def train(epochs: int) -> tuple[Any, float]:
        model, start = Flow(names), time.perf_counter()
        model.train(frame(task.rows), epochs=epochs, seed=seed)
        return model, time.perf_counter() - start

    once, thrice = train(1)[1], train(3)[1]
    epochs = max(1, round(seconds / max((thrice - once) / 2, 0.1)))
    model, elapsed = train(epochs)

    def conditionals(task: Task, column: int) -> np.ndarray:
        grid = jnp.asarray(task.grid(column), jnp.float32)
        densities = model.posterior(
            frame(task.test), column=names[column], grid=grid, batch_size=100
        )
        return np.log(np.maximum(np.asarray(densities, np.float64), TINY))

    def joint(task: Task) -> np.ndarray:
        return np.asarray(model.log_prob(frame(task.test)), np.float64)

    return Method("pzflow", conditionals, elapsed, joint, f"{epochs} epochs")
