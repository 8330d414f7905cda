r"""DISCO: diffusion-free score matching, for an energy or for a score.

.. math:: L(\theta) = E\, \lambda(t) \, |(m(x_t) - x_t) / \sigma_0^2 - s_\theta(x_t)|^2,
          \qquad x_t = r + \sigma(t) \epsilon,

with r a training row, m the mean of the posterior over training rows at noise sigma_0 (or a draw
from it), and levels sigma(t) from sigma_0 to `max_noise_scale` that only propose points. The
minimiser is the score of the rows smoothed by sigma_0. For arrays, of which that posterior would
memorise single ones, m is the row itself with a correction (`own_rows.py`).

References:
    Wedenig & Peharz 2025, equation 8 and section D.1.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp

from numpyro_disco._checks import check_count, check_flag, check_non_negative
from numpyro_disco._devices import spread
from numpyro_disco._random import host_generator
from numpyro_disco._typing import Array, Pytree
from numpyro_disco.energy.learned import Learned
from numpyro_disco.references.base import Reference, host_draws
from numpyro_disco.training.objectives.base import (
    MultilevelObjective,
    or_none,
    store_checked,
)
from numpyro_disco.training.objectives.losses import contrastive_loss, density_loss, disco_loss
from numpyro_disco.training.objectives.own_rows import mean_behind
from numpyro_disco.training.rows.batches import (
    STEPS_PER_ROUND,
    Source,
    TrainingRows,
    each_step,
    random_rows,
)
from numpyro_disco.training.rows.row_posterior import (
    near_row_posterior,
    reads_near_rows,
    row_posterior,
)

TARGETS = ("mean", "draw", "row")
NUM_GROUPS = 8
"""Groups of a batch whose points have the same noise, if their targets are their own rows."""
DENSITY_WEIGHT = 0.3
"""Default weight of the log-density term."""
REUSE = 25
"""Passes over the noisy points of a round; their targets cost more than the steps on them."""


class NoisyBatch(NamedTuple):
    """Noisy points, and the posterior over training rows at each of them."""

    points: Array
    """Shape (batch_size, D)."""
    target: Array
    """Mean of the posterior, a draw from it, or the corrected row, shape (batch_size, D)."""
    proposal_scale: Array
    """Noise that made each point, shape (batch_size,), or each of its coordinates, (batch_size,
    D), with partial noise."""
    log_density: Array
    """Log density of the smoothed rows, shape (batch_size,)."""
    depth: Array
    """Difference of the log density to the highest in the batch, shape (batch_size,)."""
    largest: Array
    """Posterior probability of the likeliest row, shape (batch_size,)."""


class OwnRowBatch(NamedTuple):
    """Noisy points whose targets are their own rows, and points to compare with the reference."""

    points: Array
    """Shape (batch_size, D)."""
    target: Array
    """The corrected rows, shape (batch_size, D)."""
    proposal_scale: Array
    """Noise of each coordinate of each point, shape (batch_size, D)."""
    smoothed: Array
    """The rows with noise sigma_0, shape (batch_size, D)."""
    draws: Array
    """Draws of the reference, shape (batch_size, D)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoisyPointsObjective(MultilevelObjective):
    """Base of `Disco`, `DiscoScore` and `Joint`: noisy points with exact targets."""

    needs_all_rows: ClassVar[bool] = True

    target: str | None = None
    posterior_rows: int | str | None = None
    partial_noise: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target is not None and self.target not in TARGETS:
            raise ValueError(f"Expected one of {TARGETS} for `target`; got {self.target!r}.")
        if isinstance(self.posterior_rows, str):
            if self.posterior_rows not in ("all", "near"):
                raise ValueError(
                    "Expected 'all', 'near', a number or None for `posterior_rows`; got "
                    f"{self.posterior_rows!r}."
                )
        else:
            store_checked(self, or_none(check_count), "posterior_rows")
        store_checked(self, or_none(_check_share), "partial_noise")

    def resolved(self, reference: Reference, num_rows: int) -> Self:
        """Choose "near" or "all" for `posterior_rows`, and the target."""
        near = reads_near_rows(self.posterior_rows, num_rows, *reference.event_shape)
        rows = self.posterior_rows or ("near" if near else "all")
        return dataclasses.replace(self, posterior_rows=rows, target=self.target or "mean")

    def check_dimension(self, num_rows: int, dimension: int) -> None:
        """Raise a `ValueError` if `posterior_rows="near"` and there are too many columns."""
        reads_near_rows(self.posterior_rows, num_rows, dimension)

    def in_tree_order(self, num_rows: int, dimension: int) -> bool:
        """True if nearby rows are read, which are found in the order of a k-d tree."""
        return reads_near_rows(self.posterior_rows, num_rows, dimension)

    def noisy_batch(self, rng_key: Array, rows: TrainingRows, batch_size: int) -> NoisyBatch:
        """One batch of noisy points with their targets."""
        level_key, row_key, noise_key, posterior_key, some_key = jax.random.split(rng_key, 5)
        near = reads_near_rows(self.posterior_rows, *rows.values.shape)
        if isinstance(self.posterior_rows, int):
            # Drawn by weight, so that their weights are equal.
            rows = TrainingRows(random_rows(some_key, rows, self.posterior_rows))
        proposal_scale = self.levels(level_key, (batch_size,))
        chosen = random_rows(row_key, rows, batch_size)
        noise = jax.random.normal(noise_key, chosen.shape, chosen.dtype)
        each = proposal_scale[:, None]
        if self.partial_noise:
            noisy = self._noisy_coordinates(jax.random.fold_in(level_key, 1), chosen.shape)
            each = proposal_scale = jnp.where(noisy, each, self.resolution)
        points = spread(chosen + each * noise)
        posterior_of = near_row_posterior if near else row_posterior
        posterior = posterior_of(posterior_key, points, rows.values, self.resolution, rows.weights)
        target = posterior.draw if self.target == "draw" else posterior.mean
        depth = posterior.log_density.max() - posterior.log_density
        return NoisyBatch(
            points, target, proposal_scale, posterior.log_density, depth, posterior.largest
        )

    def _noisy_coordinates(self, rng_key: Array, shape: tuple[int, ...]) -> Array:
        """True for coordinates that get the noise of the point's level, shape (batch_size, D)."""
        partial_key, share_key, coordinate_key = jax.random.split(rng_key, 3)
        share = jax.random.uniform(share_key, (shape[0], 1))
        whole = jax.random.uniform(partial_key, (shape[0], 1)) >= (self.partial_noise or 0.0)
        return whole | (jax.random.uniform(coordinate_key, shape) < share)

    def own_row_batch(
        self, rng_key: Array, rows: TrainingRows, reference: Reference, batch_size: int
    ) -> OwnRowBatch:
        """One batch of noisy points whose targets are their own rows, corrected.

        Points are in groups that share the noise of each coordinate, so that a correction costs one
        factorisation for each group. In the first group that is sigma_0. Groups are worked on one
        after another on a CPU, which one of them keeps busy.
        """
        keys = jax.random.split(rng_key, 6)
        size = -(-batch_size // NUM_GROUPS)
        chosen = random_rows(keys[0], rows, NUM_GROUPS * size)
        shape = (NUM_GROUPS, chosen.shape[1])
        levels = self.levels(keys[1], (NUM_GROUPS, 1)).at[0].set(self.resolution)
        scales = jnp.where(self._noisy_coordinates(keys[2], shape), levels, self.resolution)
        scale = jnp.repeat(scales, size, axis=0)
        points = chosen + scale * jax.random.normal(keys[3], chosen.shape, chosen.dtype)
        mean = partial(mean_behind, reference.components(), resolution=self.resolution)
        groups = points.reshape(NUM_GROUPS, size, -1), scales
        if jax.default_backend() == "cpu":
            means = jax.lax.map(lambda group: mean(*group), groups)
        else:
            means = jax.vmap(mean)(*groups)
        least = mean(points, jnp.full(shape[1], self.resolution, points.dtype))
        target = chosen + least - means.reshape(points.shape)
        noise = jax.random.normal(keys[4], chosen.shape, chosen.dtype)
        batch = OwnRowBatch(
            points,
            target,
            scale,
            chosen + self.resolution * noise,
            reference.sample(keys[5], (len(chosen),)),
        )
        return jax.tree.map(lambda leaf: spread(leaf[:batch_size]), batch)

    def noisy_batches(
        self, rng_key: Array, rows: TrainingRows, model: Learned, batch_size: int
    ) -> Source:
        """Batches of new points, or from a pool that is passed over in different orders."""
        if self.target == "row":
            reference = model.smoothed or model.reference
            return each_step(
                lambda key: self.own_row_batch(key, rows, reference, batch_size), rng_key
            )
        pool_key, order_key = jax.random.split(rng_key)
        num_batches = -(-STEPS_PER_ROUND // REUSE)
        pool = jax.lax.map(
            lambda key: self.noisy_batch(key, rows, batch_size),
            jax.random.split(pool_key, num_batches),
        )
        pool = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), pool)
        keys = jax.random.split(order_key, REUSE)
        size = num_batches * batch_size
        order = jax.vmap(lambda key: jax.random.permutation(key, size))(keys)
        order = order.reshape(-1, batch_size)[:STEPS_PER_ROUND]
        return lambda index: jax.tree.map(lambda leaf: leaf[index], pool), order

    def batches(self, rng_key: Array, data: Any, model: Learned, batch_size: int) -> Source:
        """Batches of noisy points with their targets."""
        return self.noisy_batches(rng_key, data, model, batch_size)

    def score_loss(self, model: Any, x: Array, target: Array, scale: Array) -> Array:
        """DISCO loss at one noisy point."""
        return disco_loss(model.score, x, target, scale, self.resolution)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Disco(NoisyPointsObjective):
    """DISCO: match the score of the smoothed rows, with an energy network.

    The learned density is that of the rows smoothed by Gaussian noise of standard deviation
    `noise_scale`. Score matching recovers the shapes of modes well and is nearly insensitive to
    their relative masses; the term for the log density, weighted by `density_weight`, recovers
    the masses where noisy points lie within reach of several rows, that is in few columns. For the
    density of the rows themselves use `Contrastive`.

    Args:
        noise_scale: sigma_0, in standardised units. "auto" takes the scale at which the smoothed
            training rows give held-out rows the highest log density.
        max_noise_scale: the largest noise that proposes points, in standardised units: how far from
            the rows the score is learned.
        density_weight: weight of the log-density term, by default 0.3; 0 leaves it out. If rows are
            targets, it is the contrastive loss of smoothed rows and draws of the reference, by
            default with the weight 30 for arrays.
        target: "mean" of the posterior over rows, which has no sampling noise, the default for
            tables; a "draw" from it; or "row", the row behind the point, corrected by the
            reference where the noise is above `noise_scale`, the default for arrays. It does not
            memorise single rows, and is exact if the reference describes the rows.
        posterior_rows: "all" computes the posterior over all rows, exactly. "near" reads the rows
            near each point and a weighted sample of the others, for at most three columns. A number
            draws so many rows anew for each batch, as the paper does with 512; that biases targets
            towards the row behind each point. By default "near" for very many rows of one or two
            columns, otherwise "all".
        partial_noise: share of the noisy points of which only a random part of the coordinates has
            noise of the point's level, and the others sigma_0: the points at which the score of a
            conditional is needed. Targets and minimiser are the same. By default 1/2 for arrays
            such as images, 0 for tables.
        undo_smoothing: train with the reference smoothed like the rows and restore the reference
            afterwards. This undoes the smoothing as far as the reference describes the rows.
        whiten: standardise by decorrelating the columns, so that the noise has the shape of the
            data. False standardises each column by itself.

    Raises:
        ValueError: a scale that is not positive, a largest scale that is not above the smallest, or
            an unknown target or `posterior_rows`.

    References:
        Wedenig & Peharz 2025, equation 8; section 3 for the mini-batch posterior.

    Example:
        >>> Disco(noise_scale=0.1).max_noise_scale
        2.0
    """

    density_weight: float | None = None
    undo_smoothing: bool = False
    whiten: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        store_checked(self, or_none(check_non_negative), "density_weight")
        store_checked(self, check_flag, "undo_smoothing", "whiten")

    def resolved(self, reference: Reference, num_rows: int) -> Self:
        """Choose the density weight as well."""
        return dataclasses.replace(
            super().resolved(reference, num_rows), density_weight=self._density_weight
        )

    @property
    def _density_weight(self) -> float:
        return DENSITY_WEIGHT if self.density_weight is None else self.density_weight

    @property
    def undoes_smoothing(self) -> bool:
        """The setting `undo_smoothing`."""
        return self.undo_smoothing

    @property
    def whitens(self) -> bool:
        """The setting `whiten`."""
        return self.whiten

    def loss(self, model: Any, *example: Array) -> Array:
        """DISCO loss and weighted log-density loss at one noisy point."""
        if self.target == "row":
            *noisy, row, draw = example
            slope_loss = self.score_loss(model, *noisy)
            return slope_loss + self._density_weight * _comparison(model, row, draw)
        x, target, scale, log_density, depth, largest = example
        energy, slope = jax.value_and_grad(model.standardized)(x)
        slope_loss = disco_loss(lambda _: -slope, x, target, scale, self.resolution)
        height_loss = density_loss(energy, log_density, depth, largest)
        return slope_loss + self._density_weight * height_loss

    def held_out_noise(self, rng_key: Array, rows: Array, repeats: int, model: Learned) -> Pytree:
        """Standard normal numbers (rows, repeats, D) and, if rows are targets, as many draws."""
        noise = super().held_out_noise(rng_key, rows, repeats, model)
        if self.target != "row":
            return noise
        rng = host_generator(jax.random.fold_in(rng_key, 1))
        components = (model.smoothed or model.reference).components()
        draws = host_draws(rng, components, noise.shape[0] * noise.shape[1])
        return noise, jnp.asarray(draws.reshape(noise.shape), rows.dtype)

    def held_out_loss(self, model: Any, row: Array, noise: Any) -> Array:
        """Denoising score matching at sigma_0 and, if rows are targets, the log-density loss."""
        if self.target != "row":
            return super().held_out_loss(model, row, noise)
        noise, draw = noise
        compared = _comparison(model, row + self.resolution * noise, draw)
        # Denoising score matching in the units of the training loss is larger by sigma_0^2.
        weight = self._density_weight / self.resolution**2
        return super().held_out_loss(model, row, noise) + weight * compared


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiscoScore(NoisyPointsObjective):
    """DISCO with a score network, which need not be the gradient of an energy.

    It has no density: the result of `fit` has a `score` but no `distribution`. For comparison and
    teaching.

    Args:
        noise_scale: as for `Disco`.
        max_noise_scale: as for `Disco`.
        target: as for `Disco`.
        posterior_rows: as for `Disco`.
        partial_noise: as for `Disco`.

    References:
        Wedenig & Peharz 2025, section D.2.
    """

    learns_energy: ClassVar[bool] = False

    def loss(self, model: Any, *example: Array) -> Array:
        """DISCO loss at one noisy point."""
        return self.score_loss(model, *example[:3])


def _comparison(model: Any, row: Array, draw: Array) -> Array:
    """Contrastive loss of a smoothed row and a draw of the reference.

    It sees what slopes at noisy rows do not: mass where there are draws but no rows.
    """
    return contrastive_loss(model.parts(row)[1], model.parts(draw)[1])


def _check_share(value: Any, argument: str) -> float:
    """Require a number from 0 to 1."""
    value = check_non_negative(value, argument)
    if value > 1:
        raise ValueError(f"Expected a share from 0 to 1 for `{argument}`; got {value}.")
    return value
