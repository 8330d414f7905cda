"""Training on more rows than fit into memory, through windows.

A sample of the rows decides everything that is decided before training: units, reference, and the
held-out rows. Training reads windows, which are random subsets of all other rows, each for as many
rounds as its rows last. A thread reads the next window while the device computes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from numpyro_disco._random import host_generator
from numpyro_disco._statistics import selected
from numpyro_disco._typing import Array
from numpyro_disco.supports.coordinates import CoordinateSupports
from numpyro_disco.tables.columns import Real
from numpyro_disco.tables.reading import Rows
from numpyro_disco.training.rows.batches import (
    STEPS_PER_ROUND,
    TrainingRows,
    on_device,
    spread_picks,
    training_rows,
)
from numpyro_disco.training.rows.row_posterior import tree_order
from numpyro_disco.training.rows.row_weights import check_weights, weights_beside
from numpyro_disco.training.rows.sources import BATCH_ROWS, RowSource, row_source
from numpyro_disco.training.rows.table import Table, check_finite, read_table
from numpyro_disco.training.rows.units import Units, map_rows

SAMPLE_ROWS = 200_000
"""Rows that decide what is decided before training; a source with no more is read into memory."""
WINDOW_NUMBERS = 2**24
"""Numbers in a window, unless a round of training needs more."""

RoundRows: TypeAlias = Callable[[int], Any]
"""From the index of a round to its rows, shape (n, D), the same n for every round."""


@dataclasses.dataclass(frozen=True)
class Stream:
    """Rows on disk, with the sample of them that was read."""

    rng_key: Array
    """Random key for the windows."""
    source: RowSource
    """The rows."""
    places: np.ndarray
    """Indices of the complete rows of the sample, increasing, shape (n,)."""
    columns: np.ndarray
    """Indices of the columns in the order wanted, shape (D,)."""
    table: Table
    """The sample in the user's units."""
    weights: int | np.ndarray | None = None
    """Index of the column of weights, or the weights of all rows; None if all are equal."""

    def weights_at(self, places: np.ndarray, values: np.ndarray) -> np.ndarray | None:
        """Weights of the rows at places (n,), which hold these values; zeros included."""
        if isinstance(self.weights, int):
            return check_weights(values[:, self.weights], len(places))
        return selected(self.weights, places)


def read_sample(
    rng_key: Array,
    data: Any,
    names: Sequence[str] | None,
    supports: Mapping[str, constraints.Constraint] | None,
    weights: Any = None,
    *,
    smoothed: bool = False,
    fills: bool = False,
) -> tuple[Table, Stream | None]:
    """Parse data in memory, or a sample of the rows of a source.

    Args:
        rng_key: random key for the sample and for the windows.
        data: as for `fit`.
        names: as for `fit`.
        supports: as for `fit`.
        weights: as for `fit`.
        smoothed: as for `read_table`.
        fills: as for `read_table`; rows that stay on disk have to be complete.

    Returns:
        All rows and None, or `SAMPLE_ROWS` rows and the stream of all rows.

    Raises:
        ValueError: as for `read_table`.
    """
    by_name = isinstance(weights, str)
    source = row_source(data, (*names, weights) if names is not None and by_name else names)
    if source is None:
        return read_table(data, names, supports, weights, smoothed=smoothed, fills=fills), None
    if source.num_rows <= SAMPLE_ROWS:
        every = source.read()
        return read_table(every, names, supports, weights, smoothed=smoothed, fills=fills), None
    if weights is not None and not by_name:
        weights = check_weights(weights, source.num_rows)
    sample_key, window_key = jax.random.split(rng_key)
    rng = host_generator(sample_key)
    places = np.unique(spread_picks(rng, source.num_rows, (1, SAMPLE_ROWS)))
    values, read = source.take(places), source.names
    others, row_weights = weights_beside(
        values, read, weights if by_name else selected(weights, places), names
    )
    if row_weights is not None:
        used = row_weights > 0
        places, values, row_weights = places[used], values[used], row_weights[used]
    found = None if read is None else tuple(read[place] for place in others)
    carried: Any = values
    if found is not None:
        kinds = {name: source.kinds.get(name, (Real(), None)) for name in found}
        carried = Rows(values[:, others], found, tuple(column for column, _ in kinds.values()))
        if not smoothed:
            # The range of whole numbers is that of all rows, whose names may be new ones.
            labels = found if names is None or set(names) == set(found) else names
            ranges = zip(labels, kinds.values(), strict=True)
            supports = {n: s for n, (_, s) in ranges if s is not None} | dict(supports or {})
    table = read_table(carried, names, supports, row_weights, smoothed=smoothed)
    if read is not None and by_name:
        weights = read.index(weights)
    reordered = found is not None and set(found) == set(table.names)
    columns = others[[found.index(name) for name in table.names]] if reordered and found else others
    complete = places[~table.incomplete]
    return table, Stream(window_key, source, complete, columns, table, weights)


@dataclasses.dataclass(frozen=True)
class WindowedRows:
    """Standardised training rows that are read in windows.

    Attributes:
        stream: the rows on disk.
        held_out: indices of the rows that are not trained on, increasing.
        supports: maps between unconstrained space and the user's units.
        units: standardised units.
        batch_size: rows in a batch.
    """

    stream: Stream
    held_out: np.ndarray
    supports: CoordinateSupports
    units: Units
    batch_size: int

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of a window."""
        dimension, round_rows = len(self.units.loc), STEPS_PER_ROUND * self.batch_size
        most = self.stream.source.num_rows - len(self.held_out)
        return min(most, max(WINDOW_NUMBERS // dimension, round_rows)), dimension

    @property
    def num_rounds(self) -> int:
        """Rounds for which a window is used."""
        return max(1, self.shape[0] // (STEPS_PER_ROUND * self.batch_size))

    def read(self, index: int) -> TrainingRows:
        """Read one window.

        Args:
            index: number of the window; the same one has the same rows.

        Returns:
            Complete rows in standardised units. If some rows have missing entries or weight zero,
            others are there twice in their place.

        Raises:
            ValueError: infinite values or weights, or values outside of their support.
        """
        key = jax.random.fold_in(self.stream.rng_key, index)
        rng = host_generator(key)
        num_rows, dimension = self.shape
        num_others = self.stream.source.num_rows - len(self.held_out)
        places = spread_picks(rng, num_others, (1, num_rows))[0]
        # Skip the held-out rows: the i-th of the others comes after so many of them.
        before = self.held_out - np.arange(len(self.held_out))
        places += np.searchsorted(before, places, side="right")
        values = self.stream.source.take(places)
        weights = self.stream.weights_at(places, values)
        values = values[:, self.stream.columns]
        rows = np.empty((num_rows, dimension), jnp.result_type(float))
        for start in range(0, num_rows, BATCH_ROWS):
            part = self.stream.table._replace(values=values[start : start + BATCH_ROWS])
            check_finite(part.values, part.names)
            mapped = map_rows(jax.random.fold_in(key, start), part, self.supports)
            rows[start : start + BATCH_ROWS] = self.units.standardize(mapped)
        unusable = np.isnan(rows).any(axis=1)
        if weights is not None:
            unusable |= weights == 0
        left_out = np.flatnonzero(unusable)
        kept = np.arange(num_rows)
        kept[left_out] = rng.choice(np.flatnonzero(~unusable), len(left_out))
        return training_rows(rows[kept], selected(weights, kept))


@contextmanager
def rows_by_round(
    rows: TrainingRows | WindowedRows,
    *,
    in_tree_order: bool,
    num_rounds: int,
    place: Callable[[TrainingRows], Any] = on_device,
) -> Iterator[RoundRows]:
    """The rows on which each round is trained.

    Args:
        rows: rows in memory, which serve every round, or rows on disk.
        in_tree_order: True sorts them by the leaves of a k-d tree.
        num_rounds: number of rounds, beyond which nothing is read.
        place: puts rows where they are used, by default on the device.
    """

    def sorted_rows(rows: TrainingRows) -> TrainingRows:
        if not in_tree_order:
            return rows
        order = tree_order(rows.values)
        return training_rows(rows.values[order], selected(rows.weights, order))

    if not isinstance(rows, WindowedRows):
        in_memory = place(sorted_rows(rows))
        yield lambda index: in_memory
        return
    windows = rows
    reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rows")
    reads: dict[int, Future[TrainingRows]] = {}
    current: dict[int, Any] = {}

    def start_reading(window: int) -> None:
        if window not in reads and window * windows.num_rounds < num_rounds:
            reads[window] = reader.submit(lambda: sorted_rows(windows.read(window)))

    def rows_of(index: int) -> Any:
        # The data of one more round than is trained are made.
        window = min(index, num_rounds - 1) // windows.num_rounds
        if window not in current:
            start_reading(window)
            current.clear()
            current[window] = place(reads.pop(window).result())
            start_reading(window + 1)
        return current[window]

    try:
        yield rows_of
    finally:
        reader.shutdown(wait=False, cancel_futures=True)
