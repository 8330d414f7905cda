"""Numbers back into data frames: a frame with its missing entries filled, and frames of draws."""

from __future__ import annotations

import datetime
import zoneinfo
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import narwhals as nw
import numpy as np

from numpyro_disco.tables.columns import Categories, Column, Dates, Whole
from numpyro_disco.tables.raw import plain_level

LIBRARIES = ("pandas", "polars", "pyarrow")


class Filling(NamedTuple):
    """Numbers for the missing entries of one column of a frame."""

    column: Column
    """Meaning of the numbers."""
    missing: np.ndarray
    """True where an entry is missing, shape (N,)."""
    numbers: np.ndarray
    """A number for each row, shape (N,); those of other rows are ignored."""


def filled_frame(frame: Any, fillings: Mapping[str, Filling]) -> Any:
    """A copy of a data frame with missing entries filled.

    Entries that are there, dtypes, the index, other columns and the order of columns stay as they
    are. A categorical dtype gets further levels only if such a level is filled in.

    Args:
        frame: a data frame of any library that narwhals knows.
        fillings: what to fill in, by the name of the column as text.
    """
    needed = {name: filling for name, filling in fillings.items() if filling.missing.any()}
    if nw.dependencies.is_pandas_like_dataframe(frame):
        return _filled_pandas(frame, needed)
    lazy = nw.dependencies.is_polars_lazyframe(frame)
    table = nw.from_native(frame.collect() if lazy else frame, eager_only=True)
    return table.with_columns(
        _filled_series(table[name], filling) for name, filling in needed.items()
    ).to_native()


def _filled_pandas(frame: Any, fillings: Mapping[str, Filling]) -> Any:
    completed = frame.copy()
    for place, label in enumerate(frame.columns):
        filling = fillings.get(str(label))
        if filling is None:
            continue
        native = frame.iloc[:, place]
        series = nw.from_native(native, series_only=True)
        entries = _entries(series.dtype, filling.column, filling.numbers[filling.missing])
        if hasattr(native, "cat") and hasattr(native.dtype, "ordered"):
            known = {plain_level(level): level for level in native.dtype.categories}
            entries = [known.get(entry, entry) for entry in entries]
            new = [entry for entry in dict.fromkeys(entries) if entry not in known.values()]
            if new:
                learned = [known.get(level, level) for level in _levels(filling.column)]
                ordered = bool(native.dtype.ordered)
                levels = _with_levels(list(known.values()), new, learned if ordered else [])
                native = native.cat.set_categories(levels)
        elif isinstance(series.dtype, nw.Datetime):
            entries = _pandas_dates(entries, native.dtype, series.dtype)
        array = native.array.copy()
        array[filling.missing] = entries
        # Given an array alone, pandas would infer a dtype.
        completed.isetitem(place, type(native)(array, frame.index, native.dtype))
    return completed


def _levels(column: Column) -> tuple:
    """The levels of a column whose order has a meaning."""
    return column.levels if isinstance(column, Categories) and column.ordered else ()


def _with_levels(known: list, new: list, learned: Sequence[Any]) -> list:
    """Known levels with new ones: in the order learned if it has all of them and agrees."""
    wanted = [level for level in learned if level in known or level in new]
    agrees = [level for level in wanted if level in known] == known
    return wanted if agrees and set(new) <= set(wanted) else [*known, *new]


def _pandas_dates(dates: np.ndarray, dtype: Any, known: nw.Datetime) -> Any:
    import pandas

    index = pandas.DatetimeIndex(dates)
    if known.time_zone is not None:
        index = index.tz_localize("UTC").tz_convert(known.time_zone)
    return index.as_unit(known.time_unit).astype(dtype).array


def _filled_series(series: nw.Series, filling: Filling) -> nw.Series:
    """A series of a library without mutable arrays, with its missing entries filled."""
    drawn = _entries(series.dtype, filling.column, filling.numbers[filling.missing])
    if isinstance(series.dtype, nw.Enum):
        levels = list(series.dtype.categories)
        new = [level for level in dict.fromkeys(drawn) if level not in levels]
        levels = _with_levels(levels, new, _levels(filling.column))
        series = series.cast(nw.Enum(levels)) if new else series
    entries = np.empty(len(series), object)
    entries[filling.missing] = drawn if isinstance(drawn, list) else drawn.tolist()
    entries[~filling.missing] = None
    backend = series.implementation
    dtype: Any = series.dtype
    if isinstance(dtype, nw.Datetime):
        # Times are given in UTC.
        made = nw.new_series(series.name, entries.tolist(), nw.Datetime("us"), backend=backend)
        if dtype.time_zone is not None:
            made = made.dt.replace_time_zone("UTC").dt.convert_time_zone(dtype.time_zone)
        made = made.cast(dtype)
    elif isinstance(dtype, nw.Categorical) and backend.is_pyarrow():
        return _filled_dictionary(series, filling.missing, drawn)
    elif isinstance(dtype, nw.Categorical | nw.Enum):
        made = nw.new_series(series.name, entries.tolist(), nw.String, backend=backend).cast(dtype)
    else:
        made = nw.new_series(series.name, entries.tolist(), dtype, backend=backend)
    there = nw.new_series("there", (~filling.missing).tolist(), nw.Boolean, backend=backend)
    return series.zip_with(there, made)


def _filled_dictionary(series: nw.Series, missing: np.ndarray, drawn: list) -> nw.Series:
    """A dictionary of pyarrow, whose indices keep their type."""
    import pyarrow

    whole = series.to_native().combine_chunks()
    levels = whole.dictionary.to_pylist()
    levels += [level for level in dict.fromkeys(drawn) if level not in levels]
    indices = np.where(missing, 0, whole.indices.fill_null(0).to_numpy())
    indices[missing] = [levels.index(level) for level in drawn]
    filled = pyarrow.DictionaryArray.from_arrays(
        pyarrow.array(indices, whole.type.index_type),
        pyarrow.array(levels, whole.type.value_type),
        ordered=whole.type.ordered,
    )
    return nw.from_native(pyarrow.chunked_array([filled]), series_only=True).alias(series.name)


def _entries(dtype: Any, column: Column, numbers: np.ndarray) -> Any:
    """Decoded numbers as a dtype takes them: an array of numbers or dates, or a list."""
    decoded = column.decode(numbers)
    if dtype.is_integer():
        return np.round(decoded.astype(np.float64)).astype(np.int64)
    if dtype == nw.Boolean:
        return decoded.astype(np.float64) > 0.5
    if dtype.is_numeric():
        return decoded.astype(np.float64)
    if isinstance(dtype, nw.Datetime):
        return decoded
    if isinstance(column, Dates):
        return _objects_of_dates(dtype, column, decoded)
    return (decoded.astype(np.int64) if isinstance(column, Whole) else decoded).tolist()


def _objects_of_dates(dtype: Any, column: Dates, dates: np.ndarray) -> list:
    """Dates (n,), UTC, as Python's dates and times, or as text in ISO 8601."""
    unit = "D" if column.unit == "D" or dtype == nw.Date else "us"
    made: list = dates.astype(f"datetime64[{unit}]").tolist()
    if column.time_zone is not None and unit == "us":
        made = [date.replace(tzinfo=datetime.UTC) for date in made]
    return [date.isoformat() for date in made] if dtype == nw.String else made


def new_frame(
    names: Sequence[str], columns: Sequence[Column], numbers: np.ndarray, library: Any
) -> Any:
    """A data frame of points.

    Args:
        names: names of the D columns.
        columns: what their numbers stand for; each gives its dtype.
        numbers: shape (n, D), finite.
        library: "pandas", "polars" or "pyarrow".
    """
    series = [
        _new_series(name, column, numbers[:, place], library)
        for place, (name, column) in enumerate(zip(names, columns, strict=True))
    ]
    return series[0].to_frame().with_columns(*series[1:]).to_native()


def _new_series(name: str, column: Column, numbers: np.ndarray, library: Any) -> nw.Series:
    # A decimal without digits behind the point would be a whole number.
    name_of_dtype = "Float64" if column.dtype == "Decimal" else column.dtype
    dtype: Any = getattr(nw, name_of_dtype, nw.Float64)
    if isinstance(column, Categories):
        return _new_categories(name, column, numbers, library)
    if isinstance(column, Dates):
        entries = _entries(nw.Datetime(), column, numbers)
        unit: Any = "us" if column.unit == "D" else column.unit
        zone = column.time_zone
        if library == "polars":  # has neither seconds nor zones of a fixed offset
            unit = "ms" if unit == "s" else unit
            zone = zone if zone is None or zone in zoneinfo.available_timezones() else "UTC"
        made = nw.new_series(name, entries, nw.Datetime("us"), backend=library)
        if column.dtype == "Date" and library != "pandas":
            return made.cast(nw.Date)
        if zone is not None:
            made = made.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
        return made.cast(nw.Datetime(unit, zone))
    dtype = dtype()
    return nw.new_series(name, _entries(dtype, column, numbers), dtype, backend=library)


def _new_categories(name: str, column: Categories, numbers: np.ndarray, library: Any) -> nw.Series:
    entries = column.decode(numbers).tolist()
    if column.dtype == "String":
        return nw.new_series(name, entries, nw.String, backend=library)
    if library == "pandas":
        import pandas

        levels = pandas.CategoricalDtype(list(column.levels), ordered=column.ordered)
        return nw.from_native(pandas.Series(entries, name=name, dtype=levels), series_only=True)
    if column.numeric:
        return nw.new_series(name, entries, backend=library)
    kind: Any = nw.Categorical
    if column.ordered and library == "polars":
        kind = nw.Enum([str(level) for level in column.levels])
    texts = [str(entry) for entry in entries]
    return nw.new_series(name, texts, nw.String, backend=library).cast(kind)
