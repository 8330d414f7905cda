"""The entries of one column before they are given a meaning.

Series of any library, masked arrays, arrays of objects, lists and single values become one `Raw`,
with one meaning of what is missing: None, NaN, NaT, pandas' NA, a null or a masked entry.
"""

from __future__ import annotations

import datetime
import numbers
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import narwhals as nw
import numpy as np

EPOCH = np.datetime64(0, "us")
"""Dates are counted from here."""


class Raw(NamedTuple):
    """Entries of one column, of any shape."""

    kind: str
    """"real", "whole", "boolean", "level" (text or a category), "date", or "other"."""
    values: np.ndarray
    """float64, NaN where missing. Levels are indices into `levels`, and dates are microseconds
    since the beginning of 1970, UTC; entries of "other" are 0."""
    dtype: str
    """Name of the dtype in narwhals, such as "Float32" or "Enum"; for "other", what there is."""
    levels: tuple = ()
    """The levels of text or of a category, in order."""
    ordered: bool = False
    """True for a category whose levels are ordered."""
    unit: str = "us"
    """Unit of dates: "D" for dates without a time."""
    time_zone: str | None = None
    """Time zone of dates."""

    @property
    def example(self) -> str:
        """A short description for error messages."""
        if self.kind == "other":
            return self.dtype
        seen = self.values[~np.isnan(self.values)]
        if self.kind == "level" and len(seen):
            return f"{self.levels[int(seen[0])]!r}"
        if self.kind == "date" and len(seen):
            return f"the date {EPOCH + np.timedelta64(int(seen[0]), 'us')}"
        return f"{seen[0]:g}" if len(seen) else "nothing"


def raw_column(values: Any) -> Raw:
    """Read the entries of one column.

    Args:
        values: a series of any library, an array, a masked array, a sequence or a single value.

    Returns:
        A `Raw` in the shape of `values`.
    """
    series = nw.from_native(values, series_only=True, pass_through=True)
    if isinstance(series, nw.Series):
        return _from_series(series)
    masked = np.ma.isMaskedArray(values)
    if masked and values.dtype.kind in "UOST":
        return _from_objects(unmasked_objects(values))
    try:
        array = np.asarray(values.data if masked else values)
    except ValueError:  # a ragged sequence
        array = _objects(values)
    if array.dtype.kind == "U" and not isinstance(values, np.ndarray):
        # NumPy has made text of numbers and of what is missing.
        array = np.asarray(values, object)
    raw = _from_array(array)
    if masked:
        raw = raw._replace(values=np.where(np.ma.getmaskarray(values), np.nan, raw.values))
    return raw


def _from_array(array: np.ndarray) -> Raw:
    kind = array.dtype.kind
    if kind in "iufb":
        names = {"f": "real", "b": "boolean"}
        dtype = "Boolean" if kind == "b" else _dtype_name(array.dtype)
        return Raw(names.get(kind, "whole"), array.astype(np.float64), dtype)
    if kind == "M":
        unit = np.datetime_data(array.dtype)[0]
        unit = "D" if unit in ("Y", "M", "W", "D") else unit if unit in ("s", "ms", "ns") else "us"
        return Raw("date", _microseconds(array), "Date" if unit == "D" else "Datetime", unit=unit)
    if kind in "UOST":
        return _from_objects(array.astype(object))
    if kind == "V" and array.dtype.names is None:  # such as bfloat16, a type of another package
        return Raw("real", array.astype(np.float64), "Float64")
    return Raw("other", np.zeros(array.shape), f"an array of {array.dtype}")


def _from_series(series: nw.Series) -> Raw:
    dtype: Any = series.dtype
    native, name = series.to_native(), type(dtype).__name__
    if dtype.is_numeric() or dtype == nw.Boolean:
        kind = "boolean" if dtype == nw.Boolean else "whole" if dtype.is_integer() else "real"
        if kind == "whole":  # pyarrow casts no number that would be rounded
            values = series.fill_null(0).to_numpy().astype(np.float64)
            return Raw(kind, np.where(series.is_null().to_numpy(), np.nan, values), name)
        return Raw(kind, np.array(series.cast(nw.Float64).to_numpy(), np.float64), name)
    if dtype in (nw.Datetime, nw.Date):
        values = np.array(series.dt.timestamp("us").cast(nw.Float64).to_numpy(), np.float64)
        if dtype == nw.Date:
            return Raw("date", values, name, unit="D")
        return Raw("date", values, name, unit=dtype.time_unit, time_zone=dtype.time_zone)
    own: Any = getattr(native, "dtype", None)
    if hasattr(native, "cat") and hasattr(own, "ordered"):  # pandas, whose levels have an order
        codes = np.asarray(native.cat.codes, np.float64)
        levels = tuple(plain_level(level) for level in own.categories)
        return Raw("level", np.where(codes < 0, np.nan, codes), name, levels, bool(own.ordered))
    if isinstance(dtype, nw.Enum):
        raw = _from_text(_objects(series.to_list()), tuple(dtype.categories))
        return raw._replace(dtype=name, ordered=True)
    if dtype == nw.Categorical and nw.dependencies.is_pyarrow_chunked_array(native):
        whole = native.combine_chunks()
        levels = tuple(plain_level(level) for level in whole.dictionary.to_pylist())
        raw = _from_text(_objects(whole.to_pylist()), levels)
        return raw._replace(dtype=name, ordered=whole.type.ordered)
    if dtype == nw.String or dtype == nw.Categorical:
        return _from_text(_objects(series.to_list()))._replace(dtype=name)
    if dtype == nw.Object:
        return _from_objects(_objects(series.to_list()))
    if series.is_null().all():
        return Raw("real", np.full(len(series), np.nan), "Float64")
    return Raw("other", np.zeros(len(series)), f"entries of {dtype}")


def _objects(values: Sequence[Any]) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def unmasked_objects(masked: np.ma.MaskedArray) -> np.ndarray:
    """Entries of a masked array, None where masked: what is under a mask is no entry."""
    objects = masked.data.astype(object)
    objects[np.ma.getmaskarray(masked)] = None
    return objects


def is_missing(value: Any) -> bool:
    """True for None, NaN, NaT, pandas' NA and masked entries."""
    if value is None or value is np.ma.masked:
        return True
    try:
        return bool(value != value)
    except (TypeError, ValueError):
        return type(value).__name__ == "NAType"


def _from_objects(array: np.ndarray) -> Raw:
    """Entries of an array of objects, all of one kind or missing."""
    missing = np.array([is_missing(value) for value in array.flat], bool).reshape(array.shape)
    present = array[~missing]

    def filled(convert: Callable[[Any], float]) -> np.ndarray:
        values = np.full(array.shape, np.nan)
        values[~missing] = [convert(value) for value in present]
        return values

    if not len(present):
        return Raw("real", filled(float), "Float64")
    if _all(present, bool | np.bool_):
        return Raw("boolean", filled(float), "Boolean")
    if _all(present, numbers.Integral):
        return Raw("whole", filled(float), "Int64")
    if _all(present, str):
        return _from_text(array)
    if _all(present, datetime.date | np.datetime64):
        if len({getattr(value, "tzinfo", None) is None for value in present}) > 1:
            held = "dates with and without a time zone"
            return Raw("other", np.zeros(array.shape), held)
        return _from_dates(present, filled)
    if not any(isinstance(value, str | bytes) for value in present):
        try:
            return Raw("real", filled(float), "Float64")
        except (TypeError, ValueError):
            pass
    kinds = sorted({type(value).__name__ for value in present})
    held = f"a mixture of {' and '.join(kinds)}" if len(kinds) > 1 else f"objects of {kinds[0]}"
    return Raw("other", np.zeros(array.shape), held)


def _all(values: np.ndarray, kind: Any) -> bool:
    return all(isinstance(value, kind) for value in values)


def _from_text(array: np.ndarray, levels: tuple | None = None) -> Raw:
    """Text, whose levels are sorted unless they are given."""
    if levels is None:
        levels = tuple(sorted({str(value) for value in array.flat if not is_missing(value)}))
    places = {str(level): float(place) for place, level in enumerate(levels)}
    codes = [np.nan if is_missing(value) else places[str(value)] for value in array.flat]
    return Raw("level", np.reshape(np.array(codes, float), array.shape), "String", levels)


def _from_dates(present: np.ndarray, filled: Callable) -> Raw:
    zones = {str(getattr(v, "tzinfo", None)) for v in present} - {"None"}
    whole = not any(isinstance(value, datetime.datetime | np.datetime64) for value in present)
    zone = "UTC" if len(zones) > 1 else next(iter(zones), None)
    return Raw(
        "date",
        filled(_microseconds_of),
        "Date" if whole else "Datetime",
        unit="D" if whole else "us",
        time_zone=zone,
    )


def _microseconds_of(value: Any) -> float:
    if getattr(value, "tzinfo", None) is not None:
        value = value.astimezone(datetime.UTC).replace(tzinfo=None)
    return float(_microseconds(np.asarray(np.datetime64(value))))


def _microseconds(dates: np.ndarray) -> np.ndarray:
    since = dates.astype("datetime64[us]") - EPOCH
    return np.where(np.isnat(since), np.nan, since.astype(np.int64).astype(np.float64))


def _dtype_name(dtype: np.dtype) -> str:
    """The narwhals name of a NumPy dtype of numbers."""
    kind = {"f": "Float", "i": "Int", "u": "UInt"}[dtype.kind]
    bits = 8 * dtype.itemsize
    return f"{kind}{bits}" if kind != "Float" or bits in (32, 64) else "Float64"


def plain_level(level: Any) -> Any:
    """A level as text, a number or a boolean, which files can hold."""
    level = level.item() if isinstance(level, np.generic) else level
    return level if isinstance(level, str | bool | int | float) else str(level)
