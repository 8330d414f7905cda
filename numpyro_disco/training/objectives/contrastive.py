"""The contrastive objective: classify rows against draws of the reference.

The minimiser of the logistic loss is f = log q - log p at every point, so the energy -log q + f is
that of the rows' density, masses of modes and constant included. It is learned as far as draws of
the reference q reach.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp

from numpyro_disco._checks import check_count, check_share
from numpyro_disco._random import host_generator
from numpyro_disco._typing import Array
from numpyro_disco.energy.learned import Learned
from numpyro_disco.references.base import Reference, host_draws
from numpyro_disco.references.gaussian import GaussianReference
from numpyro_disco.references.redraws import Directions, column_directions, redraw
from numpyro_disco.tables.variables import Variables
from numpyro_disco.training.objectives.base import Objective, or_none, store_checked
from numpyro_disco.training.objectives.focus import Focus, check_focus, focus_on
from numpyro_disco.training.objectives.losses import contrastive_loss, ranking_loss
from numpyro_disco.training.rows.batches import (
    STEPS_PER_ROUND,
    RowsAndDraws,
    Source,
    TrainingRows,
    rows_and_draws,
)
from numpyro_disco.training.rows.levels import at_other_levels, level_loss, random_level_sets

DEFENSIVE_SHARE = 0.001
"""Default defensive share with a mixture as the reference."""
NUM_REDRAWS = 4
"""Default number of redraws with a single Gaussian as the reference."""
NUM_FOCUSED_REDRAWS = 8
"""Default number of redraws of the columns in focus."""
JOINT_WEIGHT = 0.1
"""Weight of the joint loss beside that of the conditional in focus."""
NUM_HELD_OUT_DIRECTIONS = 64
"""Number of choices of redrawn coordinates for the loss of held-out rows."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contrastive(Objective):
    """Logistic regression of rows against draws of the reference: the default objective.

    The learned density is that of the rows, without smoothing, including the relative masses of
    modes and the normalising constant. It is reliable as far as draws of the reference reach, so
    the default reference is a Gaussian mixture fitted to the rows.

    Args:
        defensive_share: share of the reference in the learned density, and of the learned density
            in the reference, before their ratio is taken. No point is more than about
            1 / defensive_share times likelier or less likely than under the reference. It bounds
            the loss of a few outlying rows, and prevents mass where there are neither rows nor
            draws. By default 0.001 with a mixture as the reference, otherwise 0.
        num_redraws: number of draws of the reference given some of a row's coordinates; the network
            also learns to find the row among them. It adds information about the dependence
            between columns where rows and unconditional draws are told apart easily. The network is
            evaluated at 2 + num_redraws points for each row. By default 4 with a single Gaussian
            and two columns or more, and 8 with a `focus`; otherwise 0.
        focus: names of the columns or variables, or one name, whose conditional given all others
            will be asked for, such as the parameters of a simulator given its output. All redraws
            are of these columns, and the logistic loss of whole rows has a tenth of its weight.
            The result is still the joint density of all columns, but where a network cannot learn
            all of it, and where held-out rows choose the step, this conditional comes first. None
            by default.

    Raises:
        ValueError: a share outside of [0, 1/2), a number of redraws that is not a whole number, or
            a `focus` that holds no names or comes without redraws.

    References:
        Gutmann & Hyvarinen 2012 for the loss; Hesterberg 1995 for defensive mixtures; Ma & Collins
        2018 for the ranking loss of the redraws.

    Example:
        >>> Contrastive(num_redraws=2)
        Contrastive(defensive_share=None, num_redraws=2, focus=None)
    """

    strict: ClassVar[bool] = True
    smooths: ClassVar[bool] = False
    is_contrastive: ClassVar[bool] = True
    takes_discrete: ClassVar[bool] = True
    default_reference: ClassVar[str] = "mixture"

    defensive_share: float | None = None
    num_redraws: int | None = None
    focus: Focus | Sequence[str] | str | None = None

    def __post_init__(self) -> None:
        store_checked(self, or_none(check_share), "defensive_share")
        store_checked(self, or_none(partial(check_count, minimum=0)), "num_redraws")
        store_checked(self, or_none(check_focus), "focus")
        if self.focus is not None and self.num_redraws == 0:
            raise ValueError(
                "Expected a positive number for `num_redraws` with `focus`, which is learned from "
                "redraws; got 0. Leave `num_redraws` out."
            )

    @property
    def share(self) -> float:
        """The defensive share."""
        return self.defensive_share or 0.0

    @property
    def redrawn(self) -> tuple[int, ...] | None:
        """The columns that are redrawn; None if each step redraws others."""
        return self.focus.places if isinstance(self.focus, Focus) else None

    @property
    def joint_weight(self) -> float:
        """Weight of the loss of whole rows, beside that of redraws."""
        return 1.0 if self.focus is None else JOINT_WEIGHT

    def for_columns(self, names: tuple[str, ...], variables: Variables | None) -> Self:
        """Find the columns in focus."""
        if not isinstance(self.focus, Focus):
            return self
        return dataclasses.replace(self, focus=focus_on(self.focus.names, names, variables))

    def resolved(self, reference: Reference, num_rows: int) -> Self:
        """Choose the defensive share and the number of redraws by the kind of reference."""
        num_redraws = self.num_redraws
        if self.focus is not None and num_redraws is None:
            num_redraws = NUM_FOCUSED_REDRAWS
        return dataclasses.replace(
            self,
            defensive_share=resolved_share(self.defensive_share, reference),
            num_redraws=resolved_redraws(num_redraws, reference),
        )

    def in_tree_order(self, num_rows: int, dimension: int) -> bool:
        """True: batches are spread over the rows in that order."""
        return True

    def placed(self, rows: TrainingRows) -> TrainingRows:
        """The rows on the host, where batches are made."""
        return rows

    def round_data(self, rng_key: Array, rows: Any, model: Learned, batch_size: int) -> Any:
        """Batches of rows and of draws of the reference."""
        return rows_and_draws(rng_key, rows, model, batch_size, self.redrawn)

    def batches(self, rng_key: Array, data: Any, model: Learned, batch_size: int) -> Source:
        """Rows, draws of the reference, and redraws of each row."""
        return contrastive_batches(rng_key, data, model, self.num_redraws or 0)

    def loss(self, model: Any, *example: Array) -> Array:
        """Logistic loss of a row and a draw, ranking loss among redraws, and loss of levels."""
        return row_loss(model, *example, joint_weight=self.joint_weight)

    def held_out_noise(self, rng_key: Array, rows: Array, repeats: int, model: Learned) -> Any:
        """Draws of the reference and redraws of each held-out row."""
        num_redraws, redrawn = self.num_redraws or 0, self.redrawn
        return draws_and_redraws(rng_key, rows, repeats, model, num_redraws, redrawn)

    def held_out_loss(self, model: Any, row: Array, noise: Any) -> Array:
        """The training loss, on a held-out row."""
        return row_loss(model, row, *noise, joint_weight=self.joint_weight)


def resolved_share(given: float | None, reference: Reference) -> float:
    """The defensive share, chosen by the kind of reference if None is given."""
    if given is not None:
        return given
    return 0.0 if isinstance(reference, GaussianReference) else DEFENSIVE_SHARE


def resolved_redraws(given: int | None, reference: Reference) -> int:
    """The number of redraws, chosen by the kind of reference if None is given.

    A mixture is close to the rows already, and a redraw of a single column is just another draw.
    """
    if given is not None:
        return given
    helps = isinstance(reference, GaussianReference) and reference.event_shape[0] > 1
    return NUM_REDRAWS if helps else 0


def contrastive_batches(
    rng_key: Array, data: RowsAndDraws, model: Learned, num_redraws: int
) -> Source:
    """Batches of rows and of draws of the reference, and redraws of the rows.

    In the redraws of a row some of its coordinates are drawn anew given the rest.

    Args:
        rng_key: random key.
        data: rows and draws of one round.
        model: the network and its reference.
        num_redraws: M, number of redraws of each row.

    Returns:
        Batches of rows (B, D), draws (B, D) and redraws (B, M, D) and, if some columns are
        discrete, of the rows at other levels of one of these (B, A, D).
    """

    def batch(entry: tuple[Array, Any]) -> tuple[Array, ...]:
        key, (rows, draws, directions, levels) = entry
        found = (rows, draws, _redraws(key, rows, directions, model, num_redraws))
        if levels is None:
            return found
        return *found, at_other_levels(rows, levels, model.reference.num_levels)

    return batch, (jax.random.split(rng_key, STEPS_PER_ROUND), data)


def _redraws(
    rng_key: Array, rows: Array, directions: Directions, model: Learned, num_redraws: int
) -> Array:
    """Redraws of each row, shape (B, num_redraws, D)."""
    if not num_redraws:
        return jnp.zeros((len(rows), 0, rows.shape[1]), rows.dtype)
    return redraw(rng_key, model.reference, rows, directions, num_redraws)


def draws_and_redraws(
    rng_key: Array,
    rows: Array,
    repeats: int,
    model: Learned,
    num_redraws: int,
    redrawn: tuple[int, ...] | None = None,
) -> tuple[Array, ...]:
    """A draw of the reference and redraws of each row, with directions that differ by repeat.

    The directions are those of the columns `redrawn` if these are given.

    If some columns are discrete, also the row at other levels of one of these.
    """
    draw_key, redraw_key = jax.random.split(rng_key)
    rng, num_levels = host_generator(draw_key), model.reference.num_levels
    drawn = host_draws(rng, model.reference.components(), len(rows) * repeats)
    draws = jnp.asarray(drawn.reshape(len(rows), repeats, -1), rows.dtype)
    redraws = jnp.zeros((len(rows), repeats, 0, rows.shape[1]), rows.dtype)
    if num_redraws:
        directions = column_directions(
            redraw_key, model.whitener, NUM_HELD_OUT_DIRECTIONS, num_levels, redrawn
        )
        redraws = _held_out_redraws(redraw_key, rows, repeats, model, directions, num_redraws)
    if not any(num_levels):
        return draws, redraws
    sets = random_level_sets(rng, num_levels, len(rows) * repeats)
    points = jnp.repeat(rows, repeats, axis=0)
    others = jax.vmap(partial(at_other_levels, num_levels=num_levels))(points, sets)
    return draws, redraws, others.reshape(*draws.shape[:2], *others.shape[1:])


@partial(jax.jit, static_argnames=("repeats", "num_redraws"))
def _held_out_redraws(
    rng_key: Array,
    rows: Array,
    repeats: int,
    model: Learned,
    directions: Directions,
    num_redraws: int,
) -> Array:
    """Redraws of each row, shape (rows, repeats, num_redraws, D)."""
    groups = NUM_HELD_OUT_DIRECTIONS
    points = jnp.repeat(rows, repeats, axis=0)
    # Consecutive points get different directions; the last group is padded.
    padded = jnp.resize(points, (-(-len(points) // groups), groups, rows.shape[1]))

    def group_redraws(group: tuple[Array, Array, Directions]) -> Array:
        key, points, directions = group
        return _redraws(key, points, directions, model, num_redraws)

    keys = jax.random.split(rng_key, groups)
    redraws = jax.lax.map(group_redraws, (keys, padded.swapaxes(0, 1), directions)).swapaxes(0, 1)
    redraws = redraws.reshape(padded.shape[0] * groups, *redraws.shape[2:])[: len(points)]
    return redraws.reshape(len(rows), repeats, *redraws.shape[1:])


def row_loss(
    model: Any, row: Array, draw: Array, redraws: Array, *others: Array, joint_weight: float = 1.0
) -> Array:
    """Contrastive loss of a row and a draw, and ranking loss of the row among its redraws.

    If the row comes at `others`, other levels of a discrete column, the loss of its own is added.
    All but the ranking loss are multiplied by `joint_weight`.
    """

    def correction(point: Array) -> Array:
        return model.parts(point)[1]

    log_density, at_row = model.parts(row)
    loss = contrastive_loss(at_row, correction(draw))
    for points in others:
        log_densities, corrections = jax.vmap(model.parts)(points)
        loss = loss + level_loss(at_row - log_density, corrections - log_densities)
    return joint_weight * loss + ranking_loss(at_row, jax.vmap(correction)(redraws))
