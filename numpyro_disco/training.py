"""Training a network: rounds of steps, judged on held-out rows between them."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm.auto import tqdm

from numpyro_disco._checks import check_count, check_positive
from numpyro_disco._typing import Array, Pytree
from numpyro_disco.energies import LearnedEnergy
from numpyro_disco.losses import contrastive_loss, disco_loss, held_out_loss
from numpyro_disco.noise import geometric_noise_scales
from numpyro_disco.posterior import row_posterior

STEPS_PER_ROUND = 50
"""Steps between two looks at the held-out rows; one compiled program makes them all."""
MAX_HELD_OUT_POINTS = 4096
OBJECTIVES = ("disco", "contrastive")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How a network is trained; checked when made. Scales are in standardised units.

    Attributes:
        objective: "disco", the score of the smoothed rows at all noise levels; or "contrastive",
            logistic regression of rows against draws of the reference, which smooths nothing and
            sees the masses of modes, but only as far as the reference's draws reach.
        noise_scale: sigma_0: the density that is learned is that of the data smoothed by it.
        max_noise_scale: the largest noise that proposes points: how far out the score is learned.
        num_noise_scales: geometric noise levels between the two.
        target: "mean" of the posterior over rows, which has no sampling noise, or a "draw" from it.
        num_steps: optimiser steps, rounded up to whole rounds of 50.
        batch_size: noisy points in a step.
        reuse: how many steps see the same noisy point; the posterior over rows costs that much
            less. The order and the company of points change every time.
        learning_rate: Adam's, at the start of its cosine decay to zero.
        ema_decay: of the running average of weights that is kept.
        width: units of each hidden layer.
        num_blocks: residual blocks of two layers each.
        num_octaves: frequencies of the sine and cosine features; by default enough for waves of
            about the length of noise_scale, and no more.
        held_out_fraction: share of the rows that are not trained on and judge the result.
    """

    objective: str = "disco"
    noise_scale: float = 0.05
    max_noise_scale: float = 2.0
    num_noise_scales: int = 100
    target: str = "mean"
    num_steps: int = 3000
    batch_size: int = 1024
    reuse: int = 4
    learning_rate: float = 2e-3
    ema_decay: float = 0.999
    width: int = 128
    num_blocks: int = 2
    num_octaves: int | None = None
    held_out_fraction: float = 0.1

    def __post_init__(self) -> None:
        geometric_noise_scales(self.noise_scale, self.max_noise_scale, self.num_noise_scales)
        if self.objective not in OBJECTIVES:
            raise ValueError(
                f"Expected one of {OBJECTIVES} for `objective`; got {self.objective!r}."
            )
        if self.target not in ("mean", "draw"):
            raise ValueError(f"Expected 'mean' or 'draw' for `target`; got {self.target!r}.")
        for name in ("num_steps", "batch_size", "reuse", "width", "num_blocks"):
            check_count(getattr(self, name), name)
        if self.num_octaves is not None:
            check_count(self.num_octaves, "num_octaves", minimum=0)
        check_positive(self.learning_rate, "learning_rate")
        for name in ("ema_decay", "held_out_fraction"):
            if not 0 < check_positive(getattr(self, name), name) < 1:
                raise ValueError(
                    f"Expected a number between 0 and 1 for `{name}`; got {getattr(self, name)}."
                )

    @property
    def octaves(self) -> int:
        """Frequencies pi/4 times 1, 2, 4, ... up to about 1 / (2 noise_scale)."""
        if self.num_octaves is not None:
            return self.num_octaves
        return max(1, 1 + round(np.log2(2 / (np.pi * self.noise_scale))))

    @property
    def num_rounds(self) -> int:
        """Rounds of STEPS_PER_ROUND steps."""
        return -(-self.num_steps // STEPS_PER_ROUND)


class History(NamedTuple):
    """What training saw, one entry for each round of 50 steps; the first is before any step."""

    step: np.ndarray
    """Steps taken so far, shape (rounds,)."""
    loss: np.ndarray
    """Mean loss of the round, shape (rounds,); NaN for the first entry."""
    held_out_loss: np.ndarray
    """On held-out rows, shape (rounds,); lower is better. For DISCO it is denoising score matching
    at sigma_0, up to a constant: the zero score has 0. For the contrastive loss it is that loss:
    the reference alone has 2 log 2."""
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
    energy: LearnedEnergy,
    rows: np.ndarray,
    held_out: np.ndarray,
    options: TrainingSettings,
    *,
    run: Run | None = None,
    progress_bar: bool = True,
) -> tuple[Run, bool]:
    """Rounds of training until the last one or ctrl-C.

    Args:
        rng_key: random key; the same key goes on with the same run.
        energy: the energy with its first weights.
        rows: standardised rows to train on, array (N, D).
        held_out: standardised rows to judge by, array (M, D).
        options: see `TrainingSettings`.
        run: where to go on from; the start by default.
        progress_bar: show progress with tqdm.

    Returns:
        Where training stands, and whether it was interrupted.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    judge_key, round_key = jax.random.split(rng_key)
    judge = _judge(judge_key, held_out, energy, options)
    if run is None:
        run = _start(energy.weights, judge, options)
    device_rows = jnp.asarray(rows)
    num_steps, first = options.num_rounds * STEPS_PER_ROUND, int(run.carry.step)
    hidden = not progress_bar or "CI" in os.environ
    with tqdm(total=num_steps, initial=first, disable=hidden) as bar:
        try:
            for index in range(first // STEPS_PER_ROUND, options.num_rounds):
                key = jax.random.fold_in(round_key, index)
                carry, loss = _train_round(run.carry, key, device_rows, energy, options)
                losses = judge(carry.average)
                # What draws of the reference judge, they judge wherever it matters.
                strict = options.objective == "contrastive"
                run = _after_round(run, carry, float(loss), losses, strict=strict)
                bar.update(STEPS_PER_ROUND)
                _, loss, held, _ = run.history[-1]
                bar.set_postfix(loss=f"{loss:.4f}", held_out=f"{held:.4f}", refresh=False)
        except KeyboardInterrupt:
            warnings.warn(
                f"Interrupted after {int(run.carry.step)} of {num_steps} steps; returning the "
                f"weights of step {run.best_step}, the best so far. Go on with "
                "`fit(..., resume=result)`.",
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
        if worse.mean() <= (0 if strict else _error(worse))
        else (run.best, run.best_step)
    )
    lowest = losses if worse.mean() < 0 else run.lowest
    row = (step, loss, held_out, _error(losses - run.start))
    return run._replace(
        carry=carry, best=best, best_step=best_step, lowest=lowest, history=(*run.history, row)
    )


def _error(losses: np.ndarray) -> float:
    """Standard error of the mean over held-out rows."""
    return float(losses.std() / np.sqrt(len(losses)))


def _optimizer(options: TrainingSettings) -> optax.GradientTransformation:
    total = options.num_rounds * STEPS_PER_ROUND
    warmup = min(100, max(1, total // 10))
    schedule = optax.warmup_cosine_decay_schedule(0.0, options.learning_rate, warmup, total)
    return optax.chain(optax.clip_by_global_norm(10.0), optax.adam(schedule))


def _standardized_energy(template: LearnedEnergy, weights: Pytree) -> Any:
    """The energy of a standardised point."""
    energy = dataclasses.replace(template, weights=weights)
    return lambda z: energy(template.loc + template.scale * z)


def _judge(
    rng_key: Array, held_out: np.ndarray, template: LearnedEnergy, options: TrainingSettings
) -> Judge:
    """Held-out loss of each row under given weights, with the same noise at every look."""
    rows = jnp.asarray(held_out[:MAX_HELD_OUT_POINTS])
    repeats = max(1, min(16, MAX_HELD_OUT_POINTS // len(rows)))
    shape = (*rows.shape[:1], repeats)
    if options.objective == "contrastive":
        noise = template.reference.sample(rng_key, shape)
    else:
        noise = jax.random.normal(rng_key, (*shape, *rows.shape[1:]), rows.dtype)
    return lambda weights: np.asarray(_held_out_losses(weights, template, rows, noise, options))


@partial(jax.jit, static_argnames="options")
def _held_out_losses(
    weights: Pytree,
    template: LearnedEnergy,
    rows: Array,
    noise: Array,
    options: TrainingSettings,
) -> Array:
    """Loss of each row, shape (rows,), averaged over its draws of the noise (rows, repeats, D).

    For the contrastive loss, what stands for noise are draws of the reference.
    """
    energy_fn = _standardized_energy(template, weights)
    contrast = _contrast(template, weights)

    def one(pair: tuple[Array, Array]) -> Array:
        row, epsilon = pair
        if options.objective == "contrastive":
            return contrast(row, epsilon)
        return held_out_loss(energy_fn, row, epsilon, options.noise_scale)

    repeated = jnp.broadcast_to(rows[:, None], noise.shape)
    points = (repeated.reshape(-1, rows.shape[1]), noise.reshape(-1, rows.shape[1]))
    losses = jax.lax.map(one, points, batch_size=min(1024, len(points[0])))
    return losses.reshape(noise.shape[:2]).mean(axis=1)


@partial(jax.jit, static_argnames="options")
def _train_round(
    carry: _Carry,
    rng_key: Array,
    rows: Array,
    template: LearnedEnergy,
    options: TrainingSettings,
) -> tuple[_Carry, Array]:
    """STEPS_PER_ROUND steps on what is drawn afresh for them."""
    source = _contrasts if options.objective == "contrastive" else _noisy_points
    batch_of, indices = source(rng_key, rows, template, options)
    optimizer = _optimizer(options)

    def loss_fn(weights: Pytree, batch: tuple[Array, ...]) -> Array:
        one: Callable[..., Array]
        if options.objective == "contrastive":
            one = _contrast(template, weights)
        else:
            energy_fn = _standardized_energy(template, weights)
            one = partial(disco_loss, energy_fn, noise_scale=options.noise_scale)
        return jax.vmap(one)(*batch).mean()

    def step(carry: _Carry, index: Array) -> tuple[_Carry, Array]:
        batch = batch_of(index)
        loss, gradient = jax.value_and_grad(loss_fn)(carry.weights, batch)
        updates, optimizer_state = optimizer.update(gradient, carry.optimizer, carry.weights)
        weights = optax.apply_updates(carry.weights, updates)
        # The average forgets its start quickly at first, or it would hold on to it for long.
        decay = jnp.minimum(options.ema_decay, (1 + carry.step) / (10 + carry.step))
        average = optax.incremental_update(weights, carry.average, 1 - decay)
        return _Carry(weights, optimizer_state, average, carry.step + 1), loss

    carry, losses = jax.lax.scan(step, carry, indices)
    return carry, losses.mean()


Source: TypeAlias = tuple[Callable[[Array], tuple[Array, ...]], Array]
"""What the steps of a round are made on: a function from an entry of an array to a batch, and the
array, an entry for each step."""


def _contrast(template: LearnedEnergy, weights: Pytree) -> Callable[[Array, Array], Array]:
    """The contrastive loss of a standardised row and a draw of the reference, in user's units."""
    energy = dataclasses.replace(template, weights=weights)

    def one(row: Array, draw: Array) -> Array:
        _, of_row = energy.parts(energy.loc + energy.scale * row)
        _, of_draw = energy.parts(draw)
        return contrastive_loss(of_row, of_draw)

    return one


def _contrasts(
    rng_key: Array, rows: Array, template: LearnedEnergy, options: TrainingSettings
) -> Source:
    """Random rows, each beside a draw of the reference."""

    def batch(rng_key: Array) -> tuple[Array, Array]:
        row_key, draw_key = jax.random.split(rng_key)
        size = (options.batch_size,)
        chosen = rows[jax.random.randint(row_key, size, 0, rows.shape[0])]
        return chosen, template.reference.sample(draw_key, size)

    return batch, jax.random.split(rng_key, STEPS_PER_ROUND)


def _noisy_points(
    rng_key: Array, rows: Array, template: LearnedEnergy, options: TrainingSettings
) -> Source:
    """Noisy points with exact targets, seen in whole passes, each in an order of its own."""
    pool_key, order_key = jax.random.split(rng_key)
    num_batches = -(-STEPS_PER_ROUND // options.reuse)
    pool = jax.lax.map(
        lambda key: _noisy_batch(key, rows, options), jax.random.split(pool_key, num_batches)
    )
    pool = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), pool)
    keys = jax.random.split(order_key, options.reuse)
    size = num_batches * options.batch_size
    order = jax.vmap(lambda key: jax.random.permutation(key, size))(keys)
    order = order.reshape(-1, options.batch_size)[:STEPS_PER_ROUND]
    return lambda index: jax.tree.map(lambda leaf: leaf[index], pool), order


def _noisy_batch(
    rng_key: Array, rows: Array, options: TrainingSettings
) -> tuple[Array, Array, Array]:
    """One batch of noisy points, their targets, and the noise that made each."""
    level_key, row_key, noise_key, posterior_key = jax.random.split(rng_key, 4)
    scales = geometric_noise_scales(
        options.noise_scale, options.max_noise_scale, options.num_noise_scales
    )
    size = (options.batch_size,)
    proposal_scale = jax.random.choice(level_key, jnp.asarray(scales, rows.dtype), size)
    chosen = rows[jax.random.randint(row_key, size, 0, rows.shape[0])]
    noise = jax.random.normal(noise_key, chosen.shape, rows.dtype)
    points = chosen + proposal_scale[:, None] * noise
    posterior = row_posterior(posterior_key, points, rows, options.noise_scale)
    target = posterior.mean if options.target == "mean" else posterior.draw
    return points, target, proposal_scale
