"""What a network can be trained for, by name: what each step sees, minimises and is judged by.

Every objective is a table entry: a source of batches, a loss of one example of them, what is drawn
once to judge by, and the loss of one held-out row with it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco._typing import Array, Pytree
from numpyro_disco.energy.learned import Learned, LearnedEnergy
from numpyro_disco.references.redraws import Directions, column_directions, redraw
from numpyro_disco.training.losses import (
    contrastive_loss,
    density_loss,
    diffusion_loss,
    disco_loss,
    held_out_loss,
    hutchinson_loss,
    implicit_loss,
    ranking_loss,
    sliced_loss,
)
from numpyro_disco.training.noise import geometric_noise_scales
from numpyro_disco.training.row_posterior import (
    near_row_posterior,
    reads_near_rows,
    row_posterior,
    tree_order,
)
from numpyro_disco.training.settings import STEPS_PER_ROUND, TrainingSettings

Source: TypeAlias = tuple[Callable[[Any], tuple[Array, ...]], Pytree]
"""What the steps of a round are made on: a function from an entry of a pytree to a batch, and the
pytree, with a leading axis of STEPS_PER_ROUND."""


class Objective(NamedTuple):
    """How a network is trained and judged."""

    source: Callable[[Array, Any, Learned, TrainingSettings], Source]
    """From a key, all rows (where `strict`, `RowsAndDraws`), the network and the settings."""
    loss: Callable[..., Array]
    """Of the network, the settings and one example of a batch."""
    noise: Callable[[Array, Array, int, Learned, TrainingSettings], Pytree]
    """What each held-out row is judged with, leading axes (rows, repeats): from a key, these rows,
    the repeats, the network and the settings."""
    judge: Callable[..., Array]
    """Loss of the network, the settings, a held-out row and its noise."""
    strict: bool = False
    """Whether rows are told from draws of the reference: held-out rows judge wherever it matters,
    so that only a lower loss is better."""
    smooths: bool = True
    """Whether what is learned is smoothed by sigma_0."""


class RowsAndDraws(NamedTuple):
    """What a round of contrasts is made on: rows and draws, each in the order of a k-d tree."""

    rows: Array
    """All rows, (N, D)."""
    draws: Array
    """Of the reference, for a round: (batch_size * STEPS_PER_ROUND, D)."""
    directions: Directions
    """Which are drawn again, given the others, in each step: leading axis of STEPS_PER_ROUND."""


NUM_JUDGED_DIRECTIONS = 64
"""Choices of what is drawn again for held-out rows."""


# --- what steps see


def _each_step(draw: Callable[[Array], tuple[Array, ...]], rng_key: Array) -> Source:
    return draw, jax.random.split(rng_key, STEPS_PER_ROUND)


def _random_rows(rng_key: Array, rows: Array, size: int) -> Array:
    return rows[jax.random.randint(rng_key, (size,), 0, rows.shape[0])]


def _spread_rows(rng_key: Array, rows: Array, size: int) -> Array:
    """One row out of each of so many equal shares of all rows: each row is as likely as any other.

    In the order of a k-d tree a share is a neighbourhood, and a mean over the batch varies much
    less than one over rows that are drawn independently.
    """
    whole, rest = np.divmod(np.arange(size) * len(rows), size)
    # Whole numbers apart: single precision cannot count the rows of a large table.
    within = rest / size + jax.random.uniform(rng_key, (size,)) * (len(rows) / size)
    return rows[jnp.minimum(whole + within.astype(int), len(rows) - 1)]


@partial(jax.jit, static_argnames="options")
def reference_draws(rng_key: Array, model: Learned, options: TrainingSettings) -> Array:
    """As many as a round of contrasts takes, (batch_size * STEPS_PER_ROUND, D)."""
    draw = lambda key: model.reference.sample(key, (options.batch,))  # noqa: E731
    draws = jax.lax.map(draw, jax.random.split(rng_key, STEPS_PER_ROUND))
    return draws.reshape(-1, draws.shape[-1])


def rows_and_draws(
    rng_key: Array, rows: Array, model: Learned, options: TrainingSettings
) -> RowsAndDraws:
    """What a round takes of the reference, beside rows that are in the order of a tree."""
    draw_key, directions_key = jax.random.split(rng_key)
    draws = np.asarray(reference_draws(draw_key, model, options))
    directions = column_directions(directions_key, model.whitener, STEPS_PER_ROUND)
    return RowsAndDraws(rows, jnp.asarray(draws[tree_order(draws)]), directions)


def _levels(rng_key: Array, shape: tuple[int, ...], options: TrainingSettings) -> Array:
    scales = geometric_noise_scales(
        options.smallest_noise, options.max_noise_scale, options.num_noise_scales
    )
    return jax.random.choice(rng_key, jnp.asarray(scales, jnp.result_type(float)), shape)


def _plain(rng_key: Array, rows: Array, model: Learned, options: TrainingSettings) -> Source:
    return _each_step(lambda key: (_random_rows(key, rows, options.batch),), rng_key)


def _beside(draw_beside: Callable[..., Any]) -> Callable[..., Source]:
    """Random rows, each beside something drawn for it."""

    def source(rng_key: Array, rows: Array, model: Learned, options: TrainingSettings) -> Source:
        def batch(rng_key: Array) -> tuple[Array, Array]:
            row_key, key = jax.random.split(rng_key)
            chosen = _random_rows(row_key, rows, options.batch)
            beside = draw_beside(key, chosen, 1, model, options)
            return chosen, jax.tree.map(lambda leaf: leaf.squeeze(1), beside)

        return _each_step(batch, rng_key)

    return source


def _noisy_points(rng_key: Array, rows: Array, model: Learned, options: TrainingSettings) -> Source:
    """Noisy points with exact targets, seen in whole passes, each in an order of its own."""
    pool_key, order_key = jax.random.split(rng_key)
    num_batches = -(-STEPS_PER_ROUND // options.reuse)
    pool = jax.lax.map(
        lambda key: _noisy_batch(key, rows, options), jax.random.split(pool_key, num_batches)
    )
    pool = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), pool)
    keys = jax.random.split(order_key, options.reuse)
    size = num_batches * options.batch
    order = jax.vmap(lambda key: jax.random.permutation(key, size))(keys)
    order = order.reshape(-1, options.batch)[:STEPS_PER_ROUND]
    return lambda index: jax.tree.map(lambda leaf: leaf[index], pool), order


class _NoisyBatch(NamedTuple):
    points: Array
    target: Array
    proposal_scale: Array
    """The noise that made each point."""
    log_density: Array
    depth: Array
    """By how much the log density of each point is below the highest of the batch."""
    largest: Array


def _noisy_batch(rng_key: Array, rows: Array, options: TrainingSettings) -> _NoisyBatch:
    """One batch of noisy points, and what the posterior over rows says of them."""
    level_key, row_key, noise_key, posterior_key, some_key = jax.random.split(rng_key, 5)
    near = reads_near_rows(options.posterior_rows, *rows.shape)
    if not isinstance(options.posterior_rows, str | None):
        rows = _random_rows(some_key, rows, options.posterior_rows)
    proposal_scale = _levels(level_key, (options.batch,), options)
    chosen = _random_rows(row_key, rows, options.batch)
    noise = jax.random.normal(noise_key, chosen.shape, rows.dtype)
    points = chosen + proposal_scale[:, None] * noise
    posterior_of = near_row_posterior if near else row_posterior
    posterior = posterior_of(posterior_key, points, rows, options.smallest_noise)
    target = posterior.mean if options.target == "mean" else posterior.draw
    depth = posterior.log_density.max() - posterior.log_density
    return _NoisyBatch(
        points, target, proposal_scale, posterior.log_density, depth, posterior.largest
    )


def _contrast(
    rng_key: Array, data: RowsAndDraws, model: Learned, options: TrainingSettings
) -> Source:
    """Rows and draws of the reference; every batch of either is spread over all of them.

    Beside each row its redraws, some of its columns drawn again given the others.
    """
    row_key, order_key = jax.random.split(rng_key)
    size, dimension = options.batch, data.rows.shape[1]
    # Of each neighbourhood of draws every step gets another one.
    order = jnp.tile(jnp.arange(STEPS_PER_ROUND), (size, 1))
    order = jax.random.permutation(order_key, order, axis=1, independent=True)
    draws = data.draws.reshape(size, STEPS_PER_ROUND, dimension)
    draws = jnp.take_along_axis(draws, order[:, :, None], axis=1).swapaxes(0, 1)

    def batch(entry: tuple[Array, Array, Directions]) -> tuple[Array, Array, Array]:
        key, drawn, directions = entry
        rows = _spread_rows(key, data.rows, size)
        redraw_key = jax.random.fold_in(key, 1)
        return rows, drawn, _redraws(redraw_key, rows, directions, model, options)

    return batch, (jax.random.split(row_key, STEPS_PER_ROUND), draws, data.directions)


def _redraws(
    rng_key: Array, rows: Array, directions: Directions, model: Learned, options: TrainingSettings
) -> Array:
    """Of each row, (B, num_redraws, D)."""
    if not options.num_redraws:
        return jnp.zeros((len(rows), 0, rows.shape[1]), rows.dtype)
    return redraw(rng_key, model.reference, rows, directions, options.num_redraws)


def _both(rng_key: Array, data: RowsAndDraws, model: Learned, options: TrainingSettings) -> Source:
    """Rows beside draws of the reference and redraws; and noisy points with their targets."""
    contrast_key, noisy_key = jax.random.split(rng_key)
    pair_of, pairs = _contrast(contrast_key, data, model, options)
    points_of, points = _noisy_points(noisy_key, data.rows, model, options)

    def batch(entry: tuple[Any, Any]) -> tuple[Array, ...]:
        return *pair_of(entry[0]), *points_of(entry[1])

    return batch, (pairs, points)


# --- what rows are judged with, or drawn beside them


def _normal(
    rng_key: Array, rows: Array, repeats: int, model: Learned, options: TrainingSettings
) -> Array:
    return jax.random.normal(rng_key, (len(rows), repeats, rows.shape[1]), rows.dtype)


def _signs(
    rng_key: Array, rows: Array, repeats: int, model: Learned, options: TrainingSettings
) -> Array:
    return jax.random.rademacher(rng_key, (len(rows), repeats, rows.shape[1]), rows.dtype)


def _normal_and_level(
    rng_key: Array, rows: Array, repeats: int, model: Learned, options: TrainingSettings
) -> tuple[Array, Array]:
    noise_key, level_key = jax.random.split(rng_key)
    levels = _levels(level_key, (len(rows), repeats), options)
    return _normal(noise_key, rows, repeats, model, options), levels


def _draws_and_redraws(
    rng_key: Array, rows: Array, repeats: int, model: Learned, options: TrainingSettings
) -> tuple[Array, Array]:
    """A draw of the reference, and redraws of the row given columns that differ by repeat."""
    draw_key, directions_key, redraw_key = jax.random.split(rng_key, 3)
    draws = model.reference.sample(draw_key, (len(rows), repeats))
    groups = NUM_JUDGED_DIRECTIONS
    directions = column_directions(directions_key, model.whitener, groups)
    points = jnp.repeat(rows, repeats, axis=0)
    # Neighbours in this order get different directions; the last ones are filled up.
    padded = jnp.resize(points, (-(-len(points) // groups), groups, rows.shape[1]))

    def of_group(group: tuple[Array, Array, Directions]) -> Array:
        key, points, directions = group
        return _redraws(key, points, directions, model, options)

    keys = jax.random.split(redraw_key, groups)
    redraws = jax.lax.map(of_group, (keys, padded.swapaxes(0, 1), directions)).swapaxes(0, 1)
    redraws = redraws.reshape(padded.shape[0] * groups, *redraws.shape[2:])[: len(points)]
    return draws, redraws.reshape(len(rows), repeats, *redraws.shape[1:])


def _nothing(
    rng_key: Array, rows: Array, repeats: int, model: Learned, options: TrainingSettings
) -> Array:
    return jnp.zeros((len(rows), repeats))


# --- losses of one example


def _disco(
    model: Learned, options: TrainingSettings, x: Array, target: Array, scale: Array, *_: Array
) -> Array:
    return disco_loss(model.score, x, target, scale, options.smallest_noise)


def _disco_and_density(
    model: LearnedEnergy,
    options: TrainingSettings,
    x: Array,
    target: Array,
    scale: Array,
    log_density: Array,
    depth: Array,
    largest: Array,
) -> Array:
    energy, slope = jax.value_and_grad(model.standardized)(x)
    of_slopes = disco_loss(lambda _: -slope, x, target, scale, options.smallest_noise)
    of_heights = density_loss(energy, log_density, depth, largest)
    return of_slopes + options.density_weight * of_heights


def _contrastive(
    model: Learned, options: TrainingSettings, row: Array, draw: Array, redraws: Array
) -> Array:
    of_point = lambda point: model.parts(point)[1]  # noqa: E731
    of_row = of_point(row)
    contrast = contrastive_loss(of_row, of_point(draw))
    return contrast + ranking_loss(of_row, jax.vmap(of_point)(redraws))


def _judged_contrast(
    model: Learned, options: TrainingSettings, row: Array, beside: tuple[Array, Array]
) -> Array:
    return _contrastive(model, options, row, *beside)


def _joint(
    model: Learned,
    options: TrainingSettings,
    row: Array,
    draw: Array,
    redraws: Array,
    *noisy: Array,
) -> Array:
    # Smoothing hardly changes the ratio of densities that one network is here taken to be of both.
    contrast = _contrastive(model, options, row, draw, redraws)
    return contrast + options.disco_weight * _disco(model, options, *noisy)


def _denoising(model: Learned, options: TrainingSettings, row: Array, noise: Array) -> Array:
    scale = jnp.asarray(options.smallest_noise, row.dtype)
    return disco_loss(model.score, row + scale * noise, row, scale, options.smallest_noise)


def _multiscale(
    model: Learned, options: TrainingSettings, row: Array, beside: tuple[Array, Array]
) -> Array:
    noise, scale = beside
    return disco_loss(model.score, row + scale * noise, row, scale, options.smallest_noise)


def _diffusion(
    model: Learned, options: TrainingSettings, row: Array, beside: tuple[Array, Array]
) -> Array:
    return diffusion_loss(model.score, row, *beside)


def _implicit(model: Learned, options: TrainingSettings, row: Array, *_: Array) -> Array:
    return implicit_loss(model.score, row)


def _hutchinson(model: Learned, options: TrainingSettings, row: Array, probe: Array) -> Array:
    return hutchinson_loss(model.score, row, probe)


def _sliced(model: Learned, options: TrainingSettings, row: Array, direction: Array) -> Array:
    return sliced_loss(model.score, row, direction)


def _held_out(model: Learned, options: TrainingSettings, row: Array, noise: Array) -> Array:
    return held_out_loss(model.score, row, noise, options.smallest_noise)


OBJECTIVES = {
    "disco": Objective(_noisy_points, _disco_and_density, _normal, _held_out),
    "disco_score": Objective(_noisy_points, _disco, _normal, _held_out),
    "contrastive": Objective(
        _contrast, _contrastive, _draws_and_redraws, _judged_contrast, strict=True, smooths=False
    ),
    "joint": Objective(
        _both, _joint, _draws_and_redraws, _judged_contrast, strict=True, smooths=False
    ),
    "denoising": Objective(_beside(_normal), _denoising, _normal, _held_out),
    "multiscale": Objective(
        _beside(_normal_and_level), _multiscale, _normal_and_level, _multiscale
    ),
    "diffusion": Objective(_beside(_normal_and_level), _diffusion, _normal_and_level, _diffusion),
    "implicit": Objective(_plain, _implicit, _nothing, _implicit, smooths=False),
    "hutchinson": Objective(_beside(_signs), _hutchinson, _nothing, _implicit, smooths=False),
    "sliced": Objective(_beside(_normal), _sliced, _nothing, _implicit, smooths=False),
}
