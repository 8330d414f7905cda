"""Training a network: rounds of steps, judged on held-out rows between them."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from numpyro_disco._progress import progress
from numpyro_disco._statistics import standard_error
from numpyro_disco._typing import Array, Pytree
from numpyro_disco.energy.learned import Learned
from numpyro_disco.training.objectives import OBJECTIVES, rows_and_draws
from numpyro_disco.training.row_posterior import reads_near_rows, tree_order
from numpyro_disco.training.settings import STEPS_PER_ROUND, TrainingSettings

MAX_HELD_OUT_POINTS, MAX_STRICT_POINTS = 4096, 16_384
"""Most held-out rows, and their repeats, that judge a run: more where each step is held against the
best one strictly, and where all that is looked at is the energy and not its slope."""


class History(NamedTuple):
    """What training saw, one entry for each round of 50 steps; the first is before any step."""

    step: np.ndarray
    """Steps taken so far, shape (rounds,)."""
    loss: np.ndarray
    """Mean loss of the round, shape (rounds,); NaN for the first entry."""
    held_out_loss: np.ndarray
    """On held-out rows, shape (rounds,); lower is better. For DISCO it is denoising score matching
    at sigma_0, up to a constant: the zero score has 0. For a contrast it is that loss: 2 log 2 +
    log(1 + num_redraws) of a reference that nothing corrects."""
    held_out_error: np.ndarray
    """Standard error over held-out rows of `held_out_loss` less its first entry."""


Judge: TypeAlias = Callable[[Pytree], np.ndarray]
"""Weights to the held-out loss of each row, shape (rows,)."""


class _Carry(NamedTuple):
    weights: Pytree
    optimizer: Pytree
    average: Pytree
    step: Array


class Run(NamedTuple):
    """Where training stands after a round: all that it takes to go on."""

    carry: _Carry
    best: Pytree
    """Averaged weights of the step that is kept."""
    best_step: int
    start: np.ndarray
    """Loss of each held-out row before any step."""
    lowest: np.ndarray
    """Loss of each held-out row under the weights with the lowest mean so far."""
    history: tuple[tuple[float, float, float, float], ...]


def train(
    rng_key: Array,
    model: Learned,
    rows: np.ndarray,
    held_out: np.ndarray,
    options: TrainingSettings,
    *,
    run: Run | None = None,
    progress_bar: bool = True,
    resumable: bool = True,
) -> tuple[Run, bool]:
    """Rounds of training until the last one or ctrl-C.

    Args:
        rng_key: random key; the same key goes on with the same run.
        model: the network with its first weights.
        rows: standardised rows to train on, array (N, D).
        held_out: standardised rows to judge by, array (M, D).
        options: see `TrainingSettings`.
        run: where to go on from; the start by default.
        progress_bar: show progress with tqdm.
        resumable: whether `fit` can be told to go on from what is returned.

    Returns:
        Where training stands, and whether it was interrupted.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    judge_key, round_key = jax.random.split(rng_key)
    judge = _judge(judge_key, held_out, model, options)
    if run is None:
        run = _start(model.weights, judge, options)
    strict = OBJECTIVES[options.objective].strict
    if strict or reads_near_rows(options.posterior_rows, *rows.shape):
        rows = rows[tree_order(rows)]
    device_rows = jnp.asarray(rows)
    num_steps, first = options.num_rounds * STEPS_PER_ROUND, int(run.carry.step)
    with progress(total=num_steps, initial=first, shown=progress_bar) as bar:
        try:
            for index in range(first // STEPS_PER_ROUND, options.num_rounds):
                if strict and int(run.carry.step) - run.best_step >= options.patience:
                    break
                key = jax.random.fold_in(round_key, index)
                data: Any = device_rows
                if strict:
                    # (The objective splits the same key, in two.)
                    beside_key = jax.random.fold_in(key, 2)
                    data = rows_and_draws(beside_key, device_rows, model, options)
                carry, loss = _train_round(run.carry, key, data, model, options)
                losses = judge(carry.average)
                run = _after_round(run, carry, float(loss), losses, strict=strict)
                bar.update(STEPS_PER_ROUND)
                _, loss, held, _ = run.history[-1]
                bar.set_postfix(loss=f"{loss:.4f}", held_out=f"{held:.4f}", refresh=False)
        except KeyboardInterrupt:
            warnings.warn(
                f"Interrupted after {int(run.carry.step)} of {num_steps} steps; returning the "
                f"weights of step {run.best_step}, the best so far."
                + (" Go on with `fit(..., resume=result)`." if resumable else ""),
                stacklevel=3,
            )
            return run, True
    return run, False


def _start(weights: Pytree, judge: Judge, options: TrainingSettings) -> Run:
    losses = judge(weights)
    carry = _Carry(weights, _optimizer(options).init(weights), weights, jnp.zeros((), jnp.int32))
    return Run(carry, weights, 0, losses, losses, ((0, np.nan, float(losses.mean()), 0.0),))


def _after_round(run: Run, carry: _Carry, loss: float, losses: np.ndarray, *, strict: bool) -> Run:
    """The run with one more round in it.

    Its weights are kept if they have the lowest loss, or unless `strict` if they are not worse than
    the lowest by more than chance: later ones have seen more of the space far from rows, which a
    held-out loss near rows does not judge.
    """
    step, held_out = int(carry.step), float(losses.mean())
    if not (np.isfinite(loss) and np.isfinite(held_out)):
        raise FloatingPointError(
            f"The loss is {loss} and the held-out loss {held_out} after {step} steps. Lower "
            "`learning_rate`, or raise `noise_scale`."
        )
    worse = losses - run.lowest
    best, best_step = (
        (carry.average, step)
        if worse.mean() <= (0 if strict else standard_error(worse))
        else (run.best, run.best_step)
    )
    lowest = losses if worse.mean() < 0 else run.lowest
    row = (step, loss, held_out, standard_error(losses - run.start))
    return run._replace(
        carry=carry, best=best, best_step=best_step, lowest=lowest, history=(*run.history, row)
    )


def _optimizer(options: TrainingSettings) -> optax.GradientTransformation:
    total = options.num_rounds * STEPS_PER_ROUND
    warmup = min(100, max(1, total // 10))
    schedule = optax.warmup_cosine_decay_schedule(0.0, options.learning_rate, warmup, total)
    adam = optax.adamw(schedule, weight_decay=options.weight_decay or 0.0, mask=_is_kernel)
    return optax.chain(optax.clip_by_global_norm(10.0), adam)


def _is_kernel(weights: Pytree) -> Pytree:
    """Which weights decay: those of the layers, which at zero leave the reference as it is."""
    tree = jax.tree_util
    return tree.tree_map_with_path(lambda path, _: "kernel" in tree.keystr(path), weights)


def _judge(
    rng_key: Array, held_out: np.ndarray, template: Learned, options: TrainingSettings
) -> Judge:
    """Held-out loss of each row under given weights, with the same noise at every look."""
    objective = OBJECTIVES[options.objective]
    most = MAX_STRICT_POINTS if objective.strict else MAX_HELD_OUT_POINTS
    rows = jnp.asarray(held_out[:most])
    repeats = max(1, min(16, most // len(rows)))
    noise = objective.noise(rng_key, rows, repeats, template, options)
    return lambda weights: np.asarray(_held_out_losses(weights, template, rows, noise, options))


@partial(jax.jit, static_argnames="options")
def _held_out_losses(
    weights: Pytree, template: Learned, rows: Array, noise: Pytree, options: TrainingSettings
) -> Array:
    """Loss of each row, shape (rows,), averaged over its repeats of the noise (rows, repeats)."""
    model = dataclasses.replace(template, weights=weights)
    judge = partial(OBJECTIVES[options.objective].judge, model, options)

    def of_row(row_and_noise: tuple[Array, Pytree]) -> Array:
        row, its_noise = row_and_noise
        return jax.vmap(lambda one: judge(row, one))(its_noise).mean()

    return jax.lax.map(of_row, (rows, noise), batch_size=min(1024, len(rows)))


@partial(jax.jit, static_argnames="options")
def _train_round(
    carry: _Carry, rng_key: Array, data: Any, template: Learned, options: TrainingSettings
) -> tuple[_Carry, Array]:
    """STEPS_PER_ROUND steps on what is drawn afresh for them from rows, or `RowsAndDraws`."""
    objective, optimizer = OBJECTIVES[options.objective], _optimizer(options)
    batch_of, entries = objective.source(rng_key, data, template, options)

    def loss_fn(weights: Pytree, batch: tuple[Array, ...]) -> Array:
        model = dataclasses.replace(template, weights=weights)
        return jax.vmap(partial(objective.loss, model, options))(*batch).mean()

    def step(carry: _Carry, entry: Pytree) -> tuple[_Carry, Array]:
        loss, gradient = jax.value_and_grad(loss_fn)(carry.weights, batch_of(entry))
        updates, optimizer_state = optimizer.update(gradient, carry.optimizer, carry.weights)
        weights = optax.apply_updates(carry.weights, updates)
        # The average forgets its start quickly at first, or it would hold on to it for long.
        decay = jnp.minimum(options.ema_decay, (1 + carry.step) / (10 + carry.step))
        average = optax.incremental_update(weights, carry.average, 1 - decay)
        return _Carry(weights, optimizer_state, average, carry.step + 1), loss

    carry, losses = jax.lax.scan(step, carry, entries)
    return carry, losses.mean()
