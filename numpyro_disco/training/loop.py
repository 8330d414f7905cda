"""The training loop: rounds of optimiser steps, with the loss of held-out rows between them."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from numpyro_disco._compiling import compiler_options
from numpyro_disco._devices import spread
from numpyro_disco._progress import progress
from numpyro_disco._statistics import selected, standard_error
from numpyro_disco._typing import Array, Pytree
from numpyro_disco.energy.learned import Learned
from numpyro_disco.training.objectives import Objective
from numpyro_disco.training.optimizer import AdamW, transformation
from numpyro_disco.training.rows.batches import STEPS_PER_ROUND, TrainingRows
from numpyro_disco.training.rows.windows import WindowedRows, rows_by_round
from numpyro_disco.training.settings import FitSettings

MAX_HELD_OUT_POINTS, MAX_STRICT_POINTS = 4096, 16_384
"""Most held-out rows, times repeats, whose loss is computed after a round: more for strict
objectives, which compare losses exactly and evaluate the energy without its gradient."""
RISE, SOONER = 3.0, 4
"""A rise of the held-out loss by so many standard errors shortens patience by this factor."""
EMA_DECAY = 0.999
"""Decay of the moving average of the weights, which has the held-out losses and is kept."""


class History(NamedTuple):
    """Losses while training, one entry for each round of 50 steps; the first is before any step."""

    step: np.ndarray
    """Steps taken so far, shape (rounds,)."""
    loss: np.ndarray
    """Mean training loss of the round, shape (rounds,); NaN for the first entry."""
    held_out_loss: np.ndarray
    """Loss on held-out rows, shape (rounds,); lower is better. For objectives that smooth it is
    denoising score matching at sigma_0, up to a constant: the zero score has 0. If rows are their
    targets (`target="row"`), the weighted contrastive loss is added. For contrastive
    objectives it is their own loss: for the reference alone 2 log 2 + log(1 + num_redraws), with a
    tenth of the first term if there is a `focus`. For `Likelihood` it is minus the log density."""
    held_out_error: np.ndarray
    """Standard error over held-out rows of `held_out_loss` minus its first entry."""


class Carry(NamedTuple):
    """State of the optimiser loop."""

    weights: Pytree
    """Current weights."""
    optimizer: Pytree
    """State of the optimiser."""
    average: Pytree
    """Moving average of the weights."""
    step: Array
    """Steps taken so far, shape ()."""


class Run(NamedTuple):
    """State of training after a round: everything needed to continue."""

    carry: Carry
    """State of the optimiser loop."""
    best: Pytree
    """Averaged weights of the best step, which are kept."""
    best_step: int
    """The step whose weights are kept."""
    start: np.ndarray
    """Loss of each held-out row before any step."""
    lowest: np.ndarray
    """Loss of each held-out row under the weights with the lowest mean so far."""
    rise: float
    """Rise of the mean held-out loss above the lowest, in standard errors."""
    history: tuple[tuple[float, float, float, float], ...]
    """Rows of a `History`."""


class Plan(NamedTuple):
    """The settings that the loop reads; hashable, because compiled programs depend on them."""

    objective: Objective
    optimizer: AdamW | optax.GradientTransformation
    batch_size: int
    num_steps: int
    """Total steps, in whole rounds."""


def make_plan(settings: FitSettings) -> Plan:
    """The part of resolved settings that the loop reads."""
    assert settings.batch_size is not None
    return Plan(
        settings.objective,
        settings.optimizer,
        settings.batch_size,
        settings.total_steps,
    )


def train(
    rng_key: Array,
    model: Learned,
    rows: TrainingRows | WindowedRows,
    held_out: TrainingRows,
    plan: Plan,
    *,
    patience: int,
    run: Run | None = None,
    after_round: Callable[[Run], None] = lambda run: None,
    progress_bar: bool = True,
    resumable: bool = True,
) -> tuple[Run, bool]:
    """Train in rounds until the last one, until patience runs out, or until interrupted.

    Args:
        rng_key: random key; the same key continues the same run.
        model: the network with its first weights.
        rows: standardised rows to train on, or a reader of them.
        held_out: standardised rows that choose the step; the mean of their losses is weighted.
        plan: objective, optimiser, batch size and number of steps.
        patience: steps without a lower held-out loss after which a strict objective stops.
        run: state to continue from; the start by default.
        after_round: called with the state after every round.
        progress_bar: show progress with tqdm.
        resumable: True if the message after an interruption may offer `resume`.

    Returns:
        The state of training, and True if it was interrupted from the keyboard.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    noise_key, round_key = jax.random.split(rng_key)
    num_rounds, strict = plan.num_steps // STEPS_PER_ROUND, plan.objective.strict
    fixed = _with_noise(noise_key, held_out.values, model, plan.objective)
    weights = selected(held_out.weights, slice(len(fixed.rows)))
    rows_of_rounds = rows_by_round(
        rows,
        in_tree_order=plan.objective.in_tree_order(*rows.shape),
        num_rounds=num_rounds,
        place=plan.objective.placed,
    )

    def round_key_and_data(index: int, rows: Any) -> tuple[Array, Any]:
        key = jax.random.fold_in(round_key, index)
        # Objectives that draw data for a round split the key for its batches in two; child 2 of it
        # is not among these.
        data_key = jax.random.fold_in(key, 2)
        return key, plan.objective.round_data(data_key, rows, model, plan.batch_size)

    index = 0 if run is None else int(run.carry.step) // STEPS_PER_ROUND
    first = index * STEPS_PER_ROUND
    with (
        progress(total=plan.num_steps, initial=first, shown=progress_bar) as bar,
        rows_of_rounds as rows_of,
    ):
        upcoming = round_key_and_data(index, rows_of(index))
        if run is None:
            run = _start(model, fixed, weights, plan, upcoming)
        try:
            while index < num_rounds and not is_exhausted(run, plan, patience):
                trained = _train_round()(run.carry, *upcoming, model, fixed, True, plan)
                # The device is at work, so the batches of the next round take no time.
                index += 1
                upcoming = round_key_and_data(index, rows_of(index))
                run = append_round(run, *trained, strict, weights)
                after_round(run)
                bar.update(STEPS_PER_ROUND)
                _, loss, held, _ = run.history[-1]
                bar.set_postfix(loss=f"{loss:.4f}", held_out=f"{held:.4f}", refresh=False)
        except KeyboardInterrupt:
            warnings.warn(
                f"Interrupted after {int(run.carry.step)} of {plan.num_steps} steps; returning the "
                f"weights of step {run.best_step}, the best so far."
                + (" Continue with `fit(..., resume=result)`." if resumable else ""),
                stacklevel=3,
            )
            return run, True
    return run, False


def is_exhausted(run: Run, plan: Plan, patience: int) -> bool:
    """True if a strict objective has no prospect of a lower held-out loss.

    That is so after `patience` steps without one, and much sooner if the loss has risen by more
    than chance.
    """
    waited = int(run.carry.step) - run.best_step
    soon = patience // SOONER if run.rise > RISE else patience
    return plan.objective.strict and waited >= soon


def _start(
    model: Learned,
    held_out: HeldOut,
    row_weights: np.ndarray | None,
    plan: Plan,
    key_and_data: tuple[Array, Any],
) -> Run:
    weights = model.weights
    state = transformation(plan.optimizer, plan.num_steps).init(weights)
    carry = Carry(weights, state, weights, jnp.zeros((), jnp.int32))
    # The program of a round ends with held-out losses; without steps they are those of the start.
    *_, found = _train_round()(carry, *key_and_data, model, held_out, False, plan)
    losses = np.asarray(found)
    history = ((0, np.nan, float(np.average(losses, weights=row_weights)), 0.0),)
    return Run(carry, weights, 0, losses, losses, 0.0, history)


def append_round(
    run: Run,
    carry: Carry,
    mean_loss: Array,
    held_out_losses: Array,
    strict: bool,
    row_weights: np.ndarray | None = None,
) -> Run:
    """Append a round to the run, and decide whether its weights are kept.

    A strict objective keeps the lowest loss. The others keep the latest weights that are not worse
    than the lowest by more than one standard error: later weights have seen more of the space far
    from rows, which a held-out loss near rows does not see. No weights are kept whose loss is
    above that of the first ones, with which the energy is the reference's.

    Args:
        run: the run before the round.
        carry: state of the loop after it.
        mean_loss: mean training loss of the round.
        held_out_losses: loss of each held-out row, shape (M,).
        strict: True if the objective is strict.
        row_weights: positive weights of the held-out rows, shape (M,); None if all are equal.
    """
    loss, losses = float(mean_loss), np.asarray(held_out_losses)
    step, held_out = int(carry.step), float(np.average(losses, weights=row_weights))
    if not (np.isfinite(loss) and np.isfinite(held_out)):
        raise FloatingPointError(
            f"The loss is {loss} and the held-out loss {held_out} after {step} steps. Use a lower "
            "learning rate, `optimizer=disco.AdamW(learning_rate=...)`, or a larger `noise_scale`."
        )
    excess = losses - run.lowest
    rise, error = np.average(excess, weights=row_weights), standard_error(excess, row_weights)
    gain = np.average(run.start - losses, weights=row_weights)
    keep = rise <= (0 if strict else error) and gain >= 0
    best, best_step = (carry.average, step) if keep else (run.best, run.best_step)
    lowest = losses if rise < 0 else run.lowest
    row = (step, loss, held_out, standard_error(losses - run.start, row_weights))
    in_errors = float(rise / error) if error > 0 else 0.0
    return Run(carry, best, best_step, run.start, lowest, in_errors, (*run.history, row))


class HeldOut(NamedTuple):
    """Held-out rows, with random numbers that are the same in every round."""

    rows: Array
    """Shape (rows, D)."""
    noise: Pytree
    """Leading axes (rows, repeats)."""


def _with_noise(
    rng_key: Array, held_out: np.ndarray, model: Learned, objective: Objective
) -> HeldOut:
    """The first held-out rows, as many as `MAX_HELD_OUT_POINTS` allows, with their noise."""
    most = MAX_STRICT_POINTS if objective.strict else MAX_HELD_OUT_POINTS
    rows = jnp.asarray(held_out[:most])
    repeats = max(1, min(16, most // len(rows)))
    return HeldOut(rows, objective.held_out_noise(rng_key, rows, repeats, model))


def _held_out_losses(model: Learned, held_out: HeldOut, objective: Objective) -> Array:
    """Loss of each row, shape (rows,), averaged over the repeats of its noise (rows, repeats)."""

    def row_loss(row_and_noise: tuple[Array, Pytree]) -> Array:
        row, row_noise = row_and_noise
        return jax.vmap(lambda one: objective.held_out_loss(model, row, one))(row_noise).mean()

    return jax.lax.map(row_loss, held_out, batch_size=min(1024, len(held_out.rows)))


@cache
def _train_round() -> Callable[..., tuple[Carry, Array, Array]]:
    """The compiled program of a round."""
    return jax.jit(_round, static_argnames="plan", compiler_options=compiler_options())


def _round(
    carry: Carry,
    rng_key: Array,
    data: Any,
    template: Learned,
    held_out: HeldOut,
    trains: bool,
    plan: Plan,
) -> tuple[Carry, Array, Array]:
    """STEPS_PER_ROUND steps, or none unless `trains`; then held-out losses of the averaged weights.

    Returns:
        The state of the loop, the mean loss of the steps, and the loss of each held-out row.
    """
    optimizer = transformation(plan.optimizer, plan.num_steps)

    def model_with(weights: Pytree) -> Learned:
        return dataclasses.replace(template, weights=weights)

    def loss_fn(weights: Pytree, batch: tuple[Array, ...]) -> Array:
        return jax.vmap(partial(plan.objective.loss, model_with(weights)))(*batch).mean()

    def steps(carry: Carry) -> tuple[Carry, Array]:
        batch_of, entries = plan.objective.batches(rng_key, data, template, plan.batch_size)

        def step(carry: Carry, entry: Pytree) -> tuple[Carry, Array]:
            loss, gradient = jax.value_and_grad(loss_fn)(carry.weights, spread(batch_of(entry)))
            updates, optimizer_state = optimizer.update(gradient, carry.optimizer, carry.weights)
            weights = optax.apply_updates(carry.weights, updates)
            # A short memory at first, so that the average soon forgets the first weights.
            decay = jnp.minimum(EMA_DECAY, (1 + carry.step) / (10 + carry.step))
            average = optax.incremental_update(weights, carry.average, 1 - decay)
            return Carry(weights, optimizer_state, average, carry.step + 1), loss

        carry, losses = jax.lax.scan(step, carry, entries)
        return carry, losses.mean()

    def no_steps(carry: Carry) -> tuple[Carry, Array]:
        return carry, jnp.full((), jnp.nan, jnp.result_type(float))

    carry, loss = jax.lax.cond(trains, steps, no_steps, carry)
    return carry, loss, _held_out_losses(model_with(carry.average), held_out, plan.objective)
