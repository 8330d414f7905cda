"""Rows that stay on disk: memory-mapped arrays, Parquet data sets and grain data sources.

A source has a number of rows, perhaps names, and reads the rows at given places, in order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from numpyro_disco._checks import check_names
from numpyro_disco.tables.reading import is_frame

BATCH_ROWS = 2**16
"""Rows that are read at a time."""


class RowSource(Protocol):
    """Rows that stay on disk."""

    num_rows: int
    """Number of rows."""
    names: tuple[str, ...] | None
    """Names of the columns, if the source has any."""

    def read(self) -> Any:
        """Read all rows, in any form that `tables` reads."""

    def take(self, places: np.ndarray) -> np.ndarray:
        """Read rows.

        Args:
            places: indices of the rows, not decreasing, shape (n,).

        Returns:
            Array (n, D) in double precision; NaN where an entry is missing.
        """


class MappedRows:
    """The rows of a memory-mapped array."""

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

    def _check_numeric(self) -> None:
        schema = self.dataset.schema
        others = [name for name in self.columns if not _is_number(schema.field(name).type)]
        if others:
            raise ValueError(
                "Expected columns of numbers in `data`, whose rows do not fit into memory; "
                f"{others} hold something else. Give the `names` of the columns to read, or a "
                "random part of the rows as a DataFrame."
            )

    def take(self, places: np.ndarray) -> np.ndarray:
        """Read rows: see `RowSource`. All rows up to the last one are scanned."""
        self._check_numeric()
        rows, start = np.empty((len(places), len(self.columns))), 0
        for batch in self._batches():
            low, high = np.searchsorted(places, [start, start + batch.num_rows])
            if high > low:
                local = places[low:high] - start
                for column, values in enumerate(batch.columns):
                    values = values.cast("float64").to_numpy(zero_copy_only=False)
                    rows[low:high, column] = values[local]
            start += batch.num_rows
            if high == len(places):
                break
        return rows

    def _batches(self) -> Iterator[Any]:
        # Reading far ahead would hold many groups of rows in memory.
        return self.dataset.to_batches(
            columns=self.columns, batch_size=BATCH_ROWS, batch_readahead=4, fragment_readahead=1
        )


class GrainRows:
    """The rows of a `grain.RandomAccessDataSource`, or of anything with its two methods."""

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


def _is_number(kind: Any) -> bool:
    import pyarrow

    checks = pyarrow.types
    return checks.is_integer(kind) or checks.is_floating(kind) or checks.is_boolean(kind)


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


def spread_places(seed: np.random.Generator, num_rows: int, size: int) -> np.ndarray:
    """One random place in each of `size` equal shares of `num_rows`; all are equally likely.

    Two neighbouring shares may give the same place. Places do not decrease.
    """
    shares = np.arange(size) + seed.random(size)
    return np.minimum((shares * (num_rows / size)).astype(np.int64), num_rows - 1)
