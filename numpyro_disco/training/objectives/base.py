"""The protocol that all training objectives share."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp

from numpyro_disco._checks import check_positive
from numpyro_disco._random import host_generator
from numpyro_disco._typing import Array, Pytree
from numpyro_disco.energy.learned import Learned
from numpyro_disco.references.base import Reference
from numpyro_disco.tables.variables import Variables
from numpyro_disco.training.objectives.losses import denoising_loss
from numpyro_disco.training.objectives.noise import check_noise_range, geometric_noise_scales
from numpyro_disco.training.objectives.noise_scale import TRIED_SCALES, choose_noise_scale
from numpyro_disco.training.rows.batches import (
    Source,
    TrainingRows,
    each_step,
    on_device,
    random_rows,
)

DEFAULT_NOISE_SCALE = 0.05
"""Default smoothing sigma_0, in standardised units."""
MAX_NOISE_SCALE = 2.0
"""Default largest noise, in standardised units."""
NUM_NOISE_SCALES = 100
"""Levels between the smallest and the largest noise while training."""


class Objective(abc.ABC):
    """A training objective: its batches, its loss, and the loss of held-out rows.

    An objective is a frozen dataclass, so that compiled programs can be found again by its value.
    All quantities are in standardised units. Methods that take a `model` read its current weights.
    """

    strict: ClassVar[bool] = False
    """True if only a lower held-out loss counts as better. The losses of the other objectives are
    computed near the rows only, so a later step is kept unless it is worse by more than chance."""
    smooths: ClassVar[bool] = True
    """True if the learned density is that of the rows smoothed by `noise_scale`."""
    is_contrastive: ClassVar[bool] = False
    """True if rows are classified against draws of the reference, which must be close to them."""
    needs_all_rows: ClassVar[bool] = False
    """True if targets are computed from all training rows, which must then be in memory."""
    takes_discrete: ClassVar[bool] = False
    """True if discrete columns can be learned; those that match scores need gradients."""
    learns_energy: ClassVar[bool] = True
    """True if the network is an energy; a score network has no density."""
    normalizes: ClassVar[bool] = False
    """True if the network is a normalised density, not a correction to the reference."""
    default_reference: ClassVar[str] = "gaussian"
    """The reference that `fit` takes if none is given."""

    @property
    def needs_density(self) -> bool:
        """True if the rows themselves have to have a density: many must not share a value."""
        return self.is_contrastive or self.normalizes

    @property
    def resolution(self) -> float:
        """The finest scale that matters to training, in standardised units."""
        return DEFAULT_NOISE_SCALE

    @property
    def largest_noise(self) -> float:
        """The largest noise at which the learned score is checked, in standardised units."""
        return MAX_NOISE_SCALE

    @property
    def smallest_resolution(self) -> float:
        """The resolution, or the smallest that could be chosen while it is not known."""
        return self.resolution

    def with_noise_scale(
        self, rows: TrainingRows, held_out: TrainingRows
    ) -> tuple[Self, dict[float, float]]:
        """Choose the noise scale if it is "auto".

        Args:
            rows: standardised rows to train on.
            held_out: standardised held-out rows.

        Returns:
            The objective, and the mean held-out log density by scale tried, if any was.
        """
        return self, {}

    @property
    def undoes_smoothing(self) -> bool:
        """True if the reference is smoothed while training and restored afterwards."""
        return False

    @property
    def whitens(self) -> bool:
        """True if standardised units are those of decorrelated columns."""
        return True

    @property
    def share(self) -> float:
        """Defensive share of the network, see `EnergyNetwork`."""
        return 0.0

    def resolved(self, reference: Reference, num_rows: int) -> Self:
        """Replace every default that depends on the data.

        Args:
            reference: the reference q over standardised coordinates.
            num_rows: number of training rows.
        """
        return self

    def for_columns(self, names: tuple[str, ...], variables: Variables | None) -> Self:
        """Find the columns that the objective names, if it names any.

        Args:
            names: names of the D columns.
            variables: the variables that the columns form, or None.

        Raises:
            ValueError: a name that is not one of theirs.
        """
        return self

    @property
    def drawn_last(self) -> tuple[int, ...]:
        """Indices of the columns that a normalised density draws after all others."""
        return ()

    def check_dimension(self, num_rows: int, dimension: int) -> None:  # noqa: B027
        """Raise a `ValueError` if the objective cannot learn from so many columns."""

    def in_tree_order(self, num_rows: int, dimension: int) -> bool:
        """True if rows have to be in the order of a k-d tree."""
        return False

    def placed(self, rows: TrainingRows) -> Any:
        """The rows where `round_data` reads them: on the device by default."""
        return on_device(rows)

    def round_data(self, rng_key: Array, rows: Any, model: Learned, batch_size: int) -> Any:
        """Data of one round of steps, from the value of `placed`; called outside of `jit`."""
        return rows

    @abc.abstractmethod
    def batches(self, rng_key: Array, data: Any, model: Learned, batch_size: int) -> Source:
        """Batches of one round.

        Args:
            rng_key: random key.
            data: the value of `round_data`.
            model: the network and its reference.
            batch_size: points in a batch.
        """

    @abc.abstractmethod
    def loss(self, model: Any, *example: Array) -> Array:
        """Loss of one example of a batch, shape ()."""

    @abc.abstractmethod
    def held_out_noise(self, rng_key: Array, rows: Array, repeats: int, model: Learned) -> Pytree:
        """Random numbers for the loss of held-out rows, leading axes (rows, repeats).

        Called once, outside of `jit`. One repeat is enough where there is nothing random.
        """

    @abc.abstractmethod
    def held_out_loss(self, model: Any, row: Array, noise: Any) -> Array:
        """Loss of one held-out row with its random numbers, shape ()."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmoothingObjective(Objective):
    """An objective whose target is the density of the rows smoothed by Gaussian noise.

    The loss of held-out rows is single-level denoising score matching at sigma_0.
    """

    noise_scale: float | str = DEFAULT_NOISE_SCALE

    def __post_init__(self) -> None:
        if self.noise_scale != "auto":
            store_checked(self, check_positive, "noise_scale")

    @property
    def resolution(self) -> float:
        """The smoothing sigma_0; `fit` replaces "auto" before it is read."""
        assert not isinstance(self.noise_scale, str)
        return self.noise_scale

    @property
    def largest_noise(self) -> float:
        """`MAX_NOISE_SCALE`, or twice the smoothing if that is more."""
        return max(MAX_NOISE_SCALE, 2 * self.resolution)

    @property
    def smallest_resolution(self) -> float:
        """The smoothing, or the smallest scale tried if it is "auto"."""
        return TRIED_SCALES[0] if isinstance(self.noise_scale, str) else self.noise_scale

    def with_noise_scale(
        self, rows: TrainingRows, held_out: TrainingRows
    ) -> tuple[Self, dict[float, float]]:
        """Choose the noise scale by held-out likelihood if it is "auto"."""
        if not isinstance(self.noise_scale, str):
            return self, {}
        chosen, tried = choose_noise_scale(rows, held_out)
        return dataclasses.replace(self, noise_scale=chosen), tried

    def held_out_noise(self, rng_key: Array, rows: Array, repeats: int, model: Learned) -> Pytree:
        """Standard normal numbers, shape (rows, repeats, D)."""
        numbers = host_generator(rng_key).standard_normal((len(rows), repeats, rows.shape[1]))
        return jnp.asarray(numbers, rows.dtype)

    def held_out_loss(self, model: Any, row: Array, noise: Any) -> Array:
        """Denoising score matching at sigma_0, shape ()."""
        return denoising_loss(model.score, row, noise, self.resolution)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultilevelObjective(SmoothingObjective):
    """A smoothing objective that proposes points with noise of many levels."""

    max_noise_scale: float = MAX_NOISE_SCALE

    def __post_init__(self) -> None:
        super().__post_init__()
        store_checked(self, check_positive, "max_noise_scale")
        check_noise_range(self.noise_scale, self.max_noise_scale)

    @property
    def largest_noise(self) -> float:
        """The setting `max_noise_scale`."""
        return self.max_noise_scale

    def levels(self, rng_key: Array, shape: tuple[int, ...]) -> Array:
        """Random noise levels between `noise_scale` and `max_noise_scale`."""
        scales = geometric_noise_scales(self.resolution, self.max_noise_scale, NUM_NOISE_SCALES)
        return jax.random.choice(rng_key, jnp.asarray(scales, jnp.result_type(float)), shape)

    def noise_and_levels(self, rng_key: Array, rows: Array, repeats: int) -> tuple[Array, Array]:
        """Standard normal numbers (rows, repeats, D) and noise levels (rows, repeats)."""
        noise_key, level_key = jax.random.split(rng_key)
        levels = self.levels(level_key, (len(rows), repeats))
        return normal_noise(noise_key, rows, repeats), levels


def store_checked(objective: Objective, check: Callable[[Any, str], Any], *names: str) -> None:
    """Check settings and store them as plain numbers, because objectives have to be hashable."""
    for name in names:
        object.__setattr__(objective, name, check(getattr(objective, name), name))


def or_none(check: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    """`check`, for an argument that may also be None."""
    return lambda value, argument: None if value is None else check(value, argument)


def normal_noise(rng_key: Array, rows: Array, repeats: int) -> Array:
    """Standard normal numbers, shape (rows, repeats, D)."""
    return jax.random.normal(rng_key, (len(rows), repeats, rows.shape[1]), rows.dtype)


def random_signs(rng_key: Array, rows: Array, repeats: int) -> Array:
    """Independent signs +-1, shape (rows, repeats, D)."""
    return jax.random.rademacher(rng_key, (len(rows), repeats, rows.shape[1]), rows.dtype)


def no_noise(rows: Array) -> Array:
    """Zeros of shape (rows, 1), for losses without random numbers, and so without repeats."""
    return jnp.zeros((len(rows), 1))


def plain_batches(rng_key: Array, rows: TrainingRows, batch_size: int) -> Source:
    """Batches of random rows."""
    return each_step(lambda key: (random_rows(key, rows, batch_size),), rng_key)


def batches_with(
    draw_beside: Callable[[Array, Array, int], Any],
    rng_key: Array,
    rows: TrainingRows,
    batch_size: int,
) -> Source:
    """Batches of random rows, each with the random numbers that `draw_beside` draws for it."""

    def batch(rng_key: Array) -> tuple[Array, Any]:
        row_key, noise_key = jax.random.split(rng_key)
        chosen = random_rows(row_key, rows, batch_size)
        beside = draw_beside(noise_key, chosen, 1)
        return chosen, jax.tree.map(lambda leaf: leaf.squeeze(1), beside)

    return each_step(batch, rng_key)
