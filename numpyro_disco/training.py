"""`fit`: from rows of data to an `EnergyDistribution`."""

from __future__ import annotations

import dataclasses
import os
import warnings
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tqdm.auto import tqdm

from numpyro_disco._checks import check_count, check_key, check_positive, rows_of
from numpyro_disco._typing import Array, Pytree
from numpyro_disco.distributions import EnergyDistribution
from numpyro_disco.energies import LearnedEnergy
from numpyro_disco.losses import disco_loss, held_out_loss
from numpyro_disco.networks import EnergyNetwork
from numpyro_disco.noise import geometric_noise_scales
from numpyro_disco.posterior import row_posterior
from numpyro_disco.reference import GaussianReference, Reference

STEPS_PER_ROUND = 50
"""Steps between two looks at the held-out rows; one compiled program makes them all."""
REFERENCE_WIDTH = 2.0
"""Standard deviations of the default reference, relative to those of the data."""
MAX_HELD_OUT_POINTS = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How a network is trained; checked when made. Scales are in standardised units.

    Attributes:
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
    """Mean DISCO loss of the round, shape (rounds,); NaN for the first entry."""
    held_out_loss: np.ndarray
    """Denoising score matching on held-out rows at sigma_0, up to a constant, shape (rounds,).
    The zero score has 0; lower is better."""
    held_out_error: np.ndarray
    """Standard error over held-out points of `held_out_loss` less its first entry."""


class _Carry(NamedTuple):
    weights: Pytree
    optimizer: Pytree
    average: Pytree
    step: Array


@dataclasses.dataclass(frozen=True)
class FitResult:
    """A learned prior and how it was learned.

    Attributes:
        distribution: the `EnergyDistribution`, in the user's units.
        history: what training saw; `plot_history` draws it.
        settings: with which it was trained.
        best_step: the step whose weights the distribution holds: the last one whose held-out loss
            was the lowest, give or take one standard error of the difference. Zero means that the
            network did not improve on its start.
        interrupted: whether training stopped before `settings.num_steps`; `fit(..., resume=)` goes
            on from there.
    """

    distribution: EnergyDistribution
    history: History
    settings: TrainingSettings
    best_step: int
    interrupted: bool
    _carry: _Carry = dataclasses.field(repr=False)
    _best: Pytree = dataclasses.field(repr=False)
    _lowest: np.ndarray = dataclasses.field(repr=False)
    _fingerprint: tuple = dataclasses.field(repr=False)

    def plot_history(self, axes: Any = None) -> Any:
        """Draw the losses by step. Needs matplotlib, the `plots` extra.

        Args:
            axes: matplotlib axes to draw in; new ones by default.

        Returns:
            The matplotlib axes.
        """
        from numpyro_disco.plots import plot_history

        return plot_history(self, axes)


def fit(
    rng_key: Array,
    data: Any,
    *,
    names: Any = None,
    reference: Reference | None = None,
    resume: FitResult | None = None,
    progress_bar: bool = True,
    **settings: Any,
) -> FitResult:
    """Learn the joint density of the columns of `data` as one energy.

    Rows are standardised; a network is trained with the DISCO loss against the exact posterior
    over all training rows; the weights that do best on held-out rows are kept. **What is learned
    is the density of the data smoothed** by Gaussian noise of standard deviation `noise_scale`, in
    units of each column's own: conditionals drawn later are asymptotically exact for that density,
    up to what the network has not learned. Score matching sees the shape of modes well and their
    relative masses hardly; compare draws with the data.

    The default reference is a Gaussian with the data's mean and `REFERENCE_WIDTH` times its
    deviations, and training starts from the Gaussian that fits the data: with no step taken, that
    is what is returned.

    Args:
        rng_key: random key; the same key gives the same result on the same machine.
        data: array (N, D), a DataFrame, or a dict of columns; finite numbers, N at least
            max(10, D + 2), no constant columns and no copies.
        names: D distinct names; by default those that `data` carries, or "0", "1", ...
        reference: a reference of your own, in the user's units; training then starts from it.
        resume: a result of `fit` with the same key, data and settings, to go on from. Going on from
            an interrupted run ends where the uninterrupted one would have. A larger `num_steps`
            goes on for longer, at the learning rate of the longer schedule.
        progress_bar: show progress with tqdm.
        **settings: fields of `TrainingSettings`, by name: `noise_scale`, `num_steps`, `width`, ...

    Returns:
        A `FitResult`. Interrupted from the keyboard, it holds the best weights so far.

    Raises:
        ValueError: data that cannot be learned from, or settings that make no sense.
        FloatingPointError: the loss is not finite.

    References:
        Wedenig & Peharz 2025.

    Example:
        >>> import jax, numpy as np, numpyro_disco as disco
        >>> rows = np.random.default_rng(0).normal(size=(200, 2))
        >>> fit = disco.fit(jax.random.key(0), {"a": rows[:, 0], "b": rows[:, 1]}, width=16,
        ...                 num_blocks=1, num_steps=50, batch_size=64, progress_bar=False)
        >>> fit.distribution.names
        ('a', 'b')
    """
    rng_key = check_key(rng_key)
    table, names = rows_of(data, names)
    unknown = set(settings) - {field.name for field in dataclasses.fields(TrainingSettings)}
    if unknown:
        known = sorted(field.name for field in dataclasses.fields(TrainingSettings))
        raise ValueError(f"Unknown settings {sorted(unknown)}; `fit` takes {known}.")
    if resume is not None:
        settings = {**dataclasses.asdict(resume.settings), **settings}
    options = TrainingSettings(**settings)
    num_rows, dimension = table.shape
    if reference is not None and tuple(reference.event_shape) != (dimension,):
        raise ValueError(
            f"Expected a `reference` over {dimension} coordinates, as `data` has columns; got "
            f"event shape {reference.event_shape}."
        )
    split_key, network_key, held_key, round_key = jax.random.split(rng_key, 4)
    order = np.asarray(jax.random.permutation(split_key, num_rows))
    num_held_out = max(1, int(round(options.held_out_fraction * num_rows)))
    held_out, train = table[order[:num_held_out]], table[order[num_held_out:]]
    loc, scale = train.mean(axis=0), train.std(axis=0)
    if not (scale > 1e-12 * np.abs(train).max(axis=0)).all():
        constant = [names[i] for i in np.flatnonzero(scale <= 1e-12 * np.abs(train).max(axis=0))]
        raise ValueError(
            f"Expected columns of `data` that vary among the {len(train)} rows trained on; "
            f"{constant} do not. Drop them, or make `held_out_fraction` smaller."
        )
    dtype = jnp.result_type(float)
    held_out, train = (((part - loc) / scale).astype(dtype) for part in (held_out, train))

    reference, linear = _reference_and_start(reference, train, loc, scale, options.noise_scale)
    network = EnergyNetwork(
        dimension,
        width=options.width,
        num_blocks=options.num_blocks,
        num_octaves=options.octaves,
        linear=linear,
        rngs=nnx.Rngs(network_key),
    )
    graph, weights = nnx.split(network)
    template = LearnedEnergy(weights, reference, jnp.asarray(loc), jnp.asarray(scale), graph)
    # What must be the same for a run to be gone on with; of the rows, their means and deviations.
    key_data = np.asarray(jax.random.key_data(rng_key)).tolist()
    same_run = dataclasses.replace(options, num_steps=1)
    fingerprint = (names, num_rows, key_data, loc.tolist(), scale.tolist(), graph, same_run)
    if resume is not None and resume._fingerprint != fingerprint:
        raise ValueError(
            "Expected `resume` to come from the same key, data and settings (all but `num_steps`); "
            "they differ. Start anew without `resume`."
        )
    optimizer = _optimizer(options)
    if resume is None:
        carry = _Carry(weights, optimizer.init(weights), weights, jnp.zeros((), jnp.int32))
        best = weights
    else:
        carry, best = resume._carry, resume._best

    held_points, held_noise = _held_out_points(held_key, held_out)
    judge = partial(
        _held_out_losses, template=template, rows=held_points, noise=held_noise, options=options
    )
    baseline = np.asarray(judge(weights))
    if resume is None:
        history = [(0, np.nan, float(baseline.mean()), 0.0)]
    else:
        history = list(zip(*(column.tolist() for column in resume.history), strict=True))
    best_step, lowest = (0, baseline) if resume is None else (resume.best_step, resume._lowest)
    first_round = int(carry.step) // STEPS_PER_ROUND
    train_rows = jnp.asarray(train)
    interrupted = False
    quiet = not progress_bar or "CI" in os.environ
    with tqdm(
        total=options.num_rounds * STEPS_PER_ROUND, initial=int(carry.step), disable=quiet
    ) as bar:
        try:
            for index in range(first_round, options.num_rounds):
                new_carry, loss = _train_round(
                    carry, jax.random.fold_in(round_key, index), train_rows, template, options
                )
                held = np.asarray(judge(new_carry.average))
                loss, held_mean = float(loss), float(held.mean())
                if not (np.isfinite(loss) and np.isfinite(held_mean)):
                    raise FloatingPointError(
                        f"The loss is {loss} and the held-out loss {held_mean} after "
                        f"{int(new_carry.step)} steps. Lower `learning_rate`, or raise "
                        "`noise_scale`."
                    )
                carry = new_carry
                error = float((held - baseline).std() / np.sqrt(len(held)))
                history.append((int(carry.step), loss, held_mean, error))
                # Later weights are kept unless they are worse than the lowest by more than chance:
                # they have seen more of the space far from rows, which this loss does not judge.
                worse = held - lowest
                if worse.mean() <= worse.std() / np.sqrt(len(worse)):
                    best, best_step = carry.average, int(carry.step)
                if worse.mean() < 0:
                    lowest = held
                bar.update(STEPS_PER_ROUND)
                bar.set_postfix(loss=f"{loss:.4f}", held_out=f"{held_mean:.4f}", refresh=False)
        except KeyboardInterrupt:
            interrupted = True
            warnings.warn(
                f"Interrupted after {int(carry.step)} of {options.num_rounds * STEPS_PER_ROUND} "
                f"steps; returning the weights of step {best_step}, the best so far. Go on with "
                "`fit(..., resume=result)`.",
                stacklevel=2,
            )
    distribution = EnergyDistribution(
        dataclasses.replace(template, weights=best),
        reference,
        names=names,
        loc=template.loc,
        scale=template.scale,
        noise_scale=options.noise_scale,
    )
    columns = (np.asarray(column) for column in zip(*history, strict=True))
    return FitResult(
        distribution,
        History(*columns),
        options,
        best_step,
        interrupted,
        carry,
        best,
        lowest,
        fingerprint,
    )


def _reference_and_start(
    reference: Reference | None,
    train: np.ndarray,
    loc: np.ndarray,
    scale: np.ndarray,
    noise_scale: float,
) -> tuple[Reference, Array | None]:
    """The reference, and the matrix A with which the network starts.

    The Gaussian of the smoothed rows has precision C^-1 and the reference w^2 C, w its width, so
    |A z|^2 / 2 with A^T A = (1 - 1/w^2) C^-1 turns the reference into that Gaussian.
    """
    if reference is not None:
        return reference, None
    dimension = train.shape[1]
    train = np.asarray(train, np.float64)
    covariance = np.cov(train, rowvar=False).reshape(dimension, dimension)
    covariance = covariance + noise_scale**2 * np.eye(dimension)
    wide = REFERENCE_WIDTH**2 * covariance * scale[:, None] * scale
    precision_factor = np.linalg.cholesky(np.linalg.inv(covariance)).T
    linear = np.sqrt(1 - REFERENCE_WIDTH**-2) * precision_factor
    return GaussianReference(jnp.asarray(loc), jnp.asarray(wide)), jnp.asarray(linear)


def _optimizer(options: TrainingSettings) -> optax.GradientTransformation:
    total = options.num_rounds * STEPS_PER_ROUND
    warmup = min(100, max(1, total // 10))
    schedule = optax.warmup_cosine_decay_schedule(0.0, options.learning_rate, warmup, total)
    return optax.chain(optax.clip_by_global_norm(10.0), optax.adam(schedule))


def _standardized_energy(template: LearnedEnergy, weights: Pytree) -> Any:
    """The energy of a standardised point."""
    energy = dataclasses.replace(template, weights=weights)
    return lambda z: energy(template.loc + template.scale * z)


def _held_out_points(rng_key: Array, held_out: np.ndarray) -> tuple[Array, Array]:
    """Held-out rows and the noise they are judged with, the same at every look."""
    repeats = max(1, min(16, MAX_HELD_OUT_POINTS // len(held_out)))
    rows = jnp.tile(jnp.asarray(held_out), (repeats, 1))[:MAX_HELD_OUT_POINTS]
    return rows, jax.random.normal(rng_key, rows.shape, rows.dtype)


@partial(jax.jit, static_argnames="options")
def _held_out_losses(
    weights: Pytree,
    template: LearnedEnergy,
    rows: Array,
    noise: Array,
    options: TrainingSettings,
) -> Array:
    energy_fn = _standardized_energy(template, weights)
    one = partial(held_out_loss, energy_fn, noise_scale=options.noise_scale)
    return jax.lax.map(lambda pair: one(*pair), (rows, noise), batch_size=1024)


@partial(jax.jit, static_argnames="options")
def _train_round(
    carry: _Carry, rng_key: Array, rows: Array, template: LearnedEnergy, options: TrainingSettings
) -> tuple[_Carry, Array]:
    """STEPS_PER_ROUND steps on freshly drawn noisy points with exact targets."""
    pool_key, order_key = jax.random.split(rng_key)
    num_batches = -(-STEPS_PER_ROUND // options.reuse)
    pool = jax.lax.map(
        lambda key: _noisy_batch(key, rows, options), jax.random.split(pool_key, num_batches)
    )
    pool = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), pool)
    optimizer = _optimizer(options)

    def loss_fn(weights: Pytree, batch: tuple[Array, Array, Array]) -> Array:
        energy_fn = _standardized_energy(template, weights)
        one = partial(disco_loss, energy_fn, noise_scale=options.noise_scale)
        return jax.vmap(one)(*batch).mean()

    def step(carry: _Carry, batch: tuple[Array, Array, Array]) -> tuple[_Carry, Array]:
        loss, gradient = jax.value_and_grad(loss_fn)(carry.weights, batch)
        updates, optimizer_state = optimizer.update(gradient, carry.optimizer, carry.weights)
        weights = optax.apply_updates(carry.weights, updates)
        # The average forgets its start quickly at first, or it would hold on to it for long.
        decay = jnp.minimum(options.ema_decay, (1 + carry.step) / (10 + carry.step))
        average = optax.incremental_update(weights, carry.average, 1 - decay)
        return _Carry(weights, optimizer_state, average, carry.step + 1), loss

    # Whole passes over the pool, each in an order of its own.
    keys = jax.random.split(order_key, options.reuse)
    size = num_batches * options.batch_size
    order = jax.vmap(lambda key: jax.random.permutation(key, size))(keys)
    order = order.reshape(-1, options.batch_size)[:STEPS_PER_ROUND]

    def pick_and_step(carry: _Carry, index: Array) -> tuple[_Carry, Array]:
        return step(carry, jax.tree.map(lambda leaf: leaf[index], pool))

    carry, losses = jax.lax.scan(pick_and_step, carry, order)
    return carry, losses.mean()


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
