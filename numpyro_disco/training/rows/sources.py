"""Rows that stay on disk: memory-mapped arrays, Parquet data sets and grain data sources.

A source has a number of rows, perhaps names, and reads the rows at given places, in order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpyro.distributions import constraints

from numpyro_disco._checks import check_names
from numpyro_disco._levels import MAX_LEVELS
from numpyro_disco.tables.columns import Categories, Column, Dates, Whole
from numpyro_disco.tables.kinds import column_of, default_support
from numpyro_disco.tables.raw import raw_column
from numpyro_disco.tables.reading import is_frame

BATCH_ROWS = 2**16
"""Rows that are read at a time."""
MANY_LEVELS, MANY_PARTS = 4 * MAX_LEVELS, 64
"""Most distinct entries that are kept of a part of a column, and parts that are kept apart."""

Kinds: TypeAlias = Mapping[str, tuple[Column, constraints.Constraint | None]]
"""Kind, and support if it is known, of each column by name."""


class RowSource(Protocol):
    """Rows that stay on disk."""

    num_rows: int
    """Number of rows."""
    names: tuple[str, ...] | None
    """Names of the columns, if the source has any."""

    @property
    def kinds(self) -> Kinds:
        """Kinds of all columns but real ones, with the discrete supports of whole numbers."""

    def read(self) -> Any:
        """Read all rows, in any form that `tables` reads."""

    def take(self, places: np.ndarray) -> np.ndarray:
        """Read rows.

        Args:
            places: indices of the rows, not decreasing, shape (n,).

        Returns:
            Array (n, D) in double precision; NaN where an entry is missing. Levels are their
            indices, and dates are days, as of the columns in `kinds`.
        """


class MappedRows:
    """The rows of a memory-mapped array."""

    kinds: Kinds = MappingProxyType({})

    def __init__(self, array: np.ndarray) -> None:
        if array.ndim != 2 or array.dtype.kind not in "biuf":
            raise ValueError(
                "Expected a memory-mapped array of numbers of shape (N, D) for `data`; got shape "
                f"{array.shape} of {array.dtype}."
            )
        self.array, self.num_rows = array, len(array)
        self.names: tuple[str, ...] | None = None

    def read(self) -> np.ndarray:
        """Read all rows."""
        return np.asarray(self.array)

    def take(self, places: np.ndarray) -> np.ndarray:
        """Read rows: see `RowSource`."""
        return np.asarray(self.array[places], np.float64)


class ParquetRows:
    """The rows of a Parquet data set; needs pyarrow."""

    def __init__(self, dataset: Any, names: Sequence[str] | None) -> None:
        self.dataset, self.num_rows = dataset, dataset.count_rows()
        found = tuple(dataset.schema.names)
        # Columns that `names` leaves out are not read.
        chosen = names is not None and set(names) <= set(found)
        self.columns = list(check_names(names, len(names))) if names and chosen else list(found)
        self.names: tuple[str, ...] | None = tuple(self.columns)

    def read(self) -> Any:
        """Read all rows, with categories and dates."""
        return self.dataset.to_table(columns=self.columns)

    @cached_property
    def kinds(self) -> Kinds:
        """Kinds of the columns: see `RowSource`. All rows of those without fractions are scanned.

        Raises:
            ValueError: columns that are not numbers, categories or dates.
        """
        import pyarrow

        schema, is_floating = self.dataset.schema, pyarrow.types.is_floating
        scanned: dict[str, list[Any]] = {
            n: [] for n in self.columns if not is_floating(schema.field(n).type)
        }
        for batch in self._batches(list(scanned)) if scanned else ():
            for kept, values in zip(scanned.values(), batch.columns, strict=True):
                kept.append(_extremes(values))
                if len(kept) > MANY_PARTS:
                    kept[:] = [_extremes(_joined(kept))]
        found = {name: _kind_of(_joined(kept)) for name, kept in scanned.items()}
        others = [f"{n!r} holds {kind}" for n, (kind, _) in found.items() if isinstance(kind, str)]
        if others:
            raise ValueError(
                "Expected columns of numbers, categories or dates in `data`, whose rows do not fit "
                f"into memory; {'; '.join(others)}. Give the `names` of the columns to read."
            )
        return {n: (kind, s) for n, (kind, s) in found.items() if isinstance(kind, Column)}

    def take(self, places: np.ndarray) -> np.ndarray:
        """Read rows: see `RowSource`. All rows up to the last one are scanned."""
        rows, start = np.empty((len(places), len(self.columns))), 0
        for batch in self._batches(self.columns):
            low, high = np.searchsorted(places, [start, start + batch.num_rows])
            if high > low:
                local = places[low:high] - start
                for place, name in enumerate(self.columns):
                    column, _ = self.kinds.get(name, (None, None))
                    rows[low:high, place] = _numbers_of(batch.column(place), column)[local]
            start += batch.num_rows
            if high == len(places):
                break
        return rows

    def _batches(self, columns: list[str]) -> Iterator[Any]:
        # Reading far ahead would hold many groups of rows in memory.
        return self.dataset.to_batches(
            columns=columns, batch_size=BATCH_ROWS, batch_readahead=4, fragment_readahead=1
        )


def _joined(parts: list[Any]) -> Any:
    """Parts of a column as one array, whose categories are those of all parts."""
    import pyarrow

    return pyarrow.chunked_array(parts).unify_dictionaries().combine_chunks()


def _extremes(values: Any) -> Any:
    """The few entries of a column that decide what it is.

    These are the smallest and the largest of whole numbers and dates, and a date with a time of day
    if there is one; of others, every distinct entry.
    """
    import pyarrow
    from pyarrow import compute

    checks, kind = pyarrow.types, values.type
    if checks.is_integer(kind) or checks.is_temporal(kind):
        ends = compute.min_max(values)
        parts = [pyarrow.array([ends[end].as_py() for end in ("min", "max")], kind)]
        if checks.is_timestamp(kind):
            in_days = compute.floor_temporal(values, unit="day")
            parts.append(values.filter(compute.not_equal(values, in_days))[:1])
        return pyarrow.concat_arrays(parts)
    return values.unique()[:MANY_LEVELS]


def _kind_of(entries: Any) -> tuple[Column | str, constraints.Constraint | None]:
    """The kind of a column with these entries, as of `RowSource.kinds`, or what else it holds."""
    import pyarrow

    # Twice, as text that is another one in each row is no category.
    column = column_of(raw_column(pyarrow.chunked_array([entries, entries])))
    if not isinstance(column, Whole):
        return column, None
    support = default_support(column, _numbers_of(entries, column))
    return column, support if support.is_discrete else None


def _numbers_of(values: Any, column: Column | None) -> np.ndarray:
    """The numbers that the entries of a column stand for; NaN where they are missing."""
    import pyarrow
    from pyarrow import compute

    if isinstance(column, Categories):
        if pyarrow.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        values = compute.index_in(values, value_set=pyarrow.array(column.levels, values.type))
    elif isinstance(column, Dates):
        return column.encode(pyarrow.chunked_array([values]))
    return values.cast("float64").to_numpy(zero_copy_only=False)


class GrainRows:
    """The rows of a `grain.RandomAccessDataSource`, or of anything with its two methods."""

    kinds: Kinds = MappingProxyType({})

    def __init__(self, source: Any) -> None:
        self.source, self.num_rows = source, len(source)
        first = source[0]
        self.keys = tuple(first) if isinstance(first, Mapping) else None
        self.names: tuple[str, ...] | None = None if self.keys is None else tuple(map(str, first))

    def read(self) -> Any:
        """Read all rows."""
        if self.names is None:
            return self.take(np.arange(self.num_rows))
        return self._records(range(self.num_rows))

    def _records(self, places: Sequence[int]) -> list[Any]:
        together = getattr(self.source, "__getitems__", None)
        if together is not None:
            return list(together(list(places)))
        return [self.source[place] for place in places]

    def take(self, places: np.ndarray) -> np.ndarray:
        """Read rows: see `RowSource`."""
        records = self._records(places.tolist())
        if self.keys is not None:
            # Records may hold their entries in any order, and leave out what is missing.
            records = [[record.get(key, np.nan) for key in self.keys] for record in records]
        rows = np.asarray(records, np.float64)
        if rows.ndim != 2:
            raise ValueError(
                "Expected records of D numbers, or from names to numbers, in `data`; got shape "
                f"{rows.shape[1:]}."
            )
        return rows


def row_source(data: Any, names: Sequence[str] | None) -> RowSource | None:
    """The source that `data` is; None for data in memory.

    Args:
        data: as for `fit`.
        names: as for `fit`.

    Raises:
        ValueError: a source without rows of numbers.
        ImportError: a path, and pyarrow is not installed.
    """
    if isinstance(data, np.memmap):
        return MappedRows(data)
    if isinstance(data, str | os.PathLike):
        return ParquetRows(_open_parquet(Path(data)), names)
    if type(data).__module__.startswith("pyarrow.") and hasattr(data, "to_batches"):
        return ParquetRows(data, names) if hasattr(data, "count_rows") else None
    known = isinstance(data, Sequence | Mapping | np.ndarray) or is_frame(data)
    known = known or hasattr(data, "__array__") or hasattr(data, "shape")
    if not known and hasattr(data, "__len__") and hasattr(data, "__getitem__"):
        return GrainRows(data)
    return None


def _open_parquet(path: Path) -> Any:
    try:
        import pyarrow.dataset
    except ImportError as error:
        raise ImportError(
            "Expected pyarrow to be installed, to read `data` from a path. Install it with "
            "`pip install numpyro_disco[large]`."
        ) from error
    if not path.exists():
        raise ValueError(f"Expected a Parquet file, or a folder of them, at `data`; got '{path}'.")
    return pyarrow.dataset.dataset(path, format="parquet")
