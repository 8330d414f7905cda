"""Columns: the meaning of the numbers of one coordinate.

A point holds one number for each coordinate. Its `Column` maps entries of a table to such numbers
(`encode`) and back (`decode`): a category is the index of its level, 0, 1, ..., K - 1; a boolean is
0 or 1; a date is a number of days from an origin; other numbers are themselves. Columns are known
when a program is compiled, can be hashed, and are stored with a prior.
"""

from __future__ import annotations

import abc
import dataclasses
import datetime
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco._checks import is_traced
from numpyro_disco.tables.raw import EPOCH, Raw, raw_column

MICROSECONDS = 24 * 60 * 60 * 1_000_000
"""Microseconds in a day."""


class Column(abc.ABC):
    """The meaning of the numbers of one coordinate: a frozen dataclass for each kind."""

    dtype: str
    """Name of the dtype, in narwhals, of the column learned from, which frames of draws get."""
    kind: ClassVar[str]
    takes: ClassVar[str]
    """Entries that can be encoded, in words for error messages."""

    @abc.abstractmethod
    def from_raw(self, raw: Raw, what: str) -> np.ndarray | None:
        """The numbers of entries, NaN where missing, or None if they are of another kind."""

    def encode(self, values: Any, what: str = "the column") -> Any:
        """The numbers that entries stand for.

        Args:
            values: a series, an array, a sequence or a single value. A traced array is returned as
                it is.
            what: name of the column and of the argument that holds it, for error messages.

        Returns:
            float64 array in the shape of `values`, NaN where an entry is missing.

        Raises:
            ValueError: entries of another kind, or levels that the column does not have.
        """
        if is_traced(values):
            return jnp.asarray(values)
        raw = raw_column(values)
        if raw.kind != "other" and np.isnan(raw.values).all():
            return raw.values  # a column without entries fits every kind
        found = self.from_raw(raw, what)
        if found is None:
            raise ValueError(f"Expected {self.takes} for {what}; got {raw.example}.")
        return found

    @abc.abstractmethod
    def decode(self, numbers: Any) -> np.ndarray:
        """The entries that numbers stand for; the nearest ones where there are none between."""

    def to_json(self) -> dict[str, Any]:
        """A description of plain data, from which `column_from_json` makes an equal column."""
        fields: Any = self
        return {"kind": self.kind, **dataclasses.asdict(fields)}


class _Number(Column):
    """Columns whose entries are numbers themselves."""

    takes = "numbers"

    def from_raw(self, raw: Raw, what: str) -> np.ndarray | None:
        """Numbers and booleans as they are."""
        return raw.values if raw.kind in ("real", "whole", "boolean") else None


@dataclasses.dataclass(frozen=True)
class Real(_Number):
    """Real numbers."""

    kind = "real"
    dtype: str = "Float64"

    def decode(self, numbers: Any) -> np.ndarray:
        """The numbers themselves, in double precision."""
        return np.asarray(numbers, np.float64)


@dataclasses.dataclass(frozen=True)
class Whole(_Number):
    """Whole numbers, such as counts."""

    kind = "whole"
    dtype: str = "Int64"

    def decode(self, numbers: Any) -> np.ndarray:
        """The nearest whole numbers, in double precision."""
        return np.round(np.asarray(numbers, np.float64))


@dataclasses.dataclass(frozen=True)
class Boolean(_Number):
    """True, which is 1, or False, which is 0."""

    kind = "boolean"
    takes = "booleans, or 0 and 1,"
    dtype: str = "Boolean"

    def decode(self, numbers: Any) -> np.ndarray:
        """True for numbers above one half."""
        return np.asarray(numbers) > 0.5


@dataclasses.dataclass(frozen=True)
class Categories(Column):
    """One of K levels, which are numbered 0, ..., K - 1.

    Attributes:
        levels: K distinct strings, numbers or booleans, in order.
        ordered: True if the order of the levels has a meaning.
        dtype: "String", "Categorical" or "Enum".
    """

    kind = "categories"
    takes = "levels"
    levels: tuple
    ordered: bool = False
    dtype: str = "Categorical"

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(self.levels))
        if len(set(self.levels)) < len(self.levels) or not self.levels:
            raise ValueError(f"Expected distinct `levels`; got {self.levels}.")

    @property
    def numeric(self) -> bool:
        """True if levels are numbers, so that a number is a level and not an index of one."""
        return all(isinstance(level, int | float) for level in self.levels)

    def encode(self, values: Any, what: str = "the column") -> Any:
        """The indices of levels: see `Column`.

        A number is a level if levels are numbers, and an index otherwise. Only a JAX array may hold
        indices of levels that are text such as "10".
        """
        if is_traced(values) and self.numeric:
            same = jnp.asarray(values)[..., None] == jnp.asarray(self.levels, float)
            return jnp.where(same.any(-1), jnp.argmax(same, -1), jnp.nan)
        if isinstance(values, jax.Array) and not (is_traced(values) or self.numeric):
            return self._checked_codes(raw_column(values), what)
        return super().encode(values, what)

    def from_raw(self, raw: Raw, what: str) -> np.ndarray | None:
        """Indices of levels."""
        if raw.kind == "level":
            given: Any = raw.levels
            index = raw.values
        elif raw.kind in ("real", "whole", "boolean"):
            if not self.numeric:
                return self._unambiguous_codes(raw, what)
            given, index = np.unique(raw.values[~np.isnan(raw.values)], return_inverse=True)
            places = np.full(raw.values.shape, np.nan)
            places[~np.isnan(raw.values)] = index
            index = places
        else:
            return None
        places_of = {level: float(place) for place, level in enumerate(self.levels)}
        # Levels of a dtype that no entry has are no error.
        lookup = np.array([places_of.get(level, np.nan) for level in given] + [np.nan])
        there = ~np.isnan(index)
        codes = lookup[np.where(there, index, len(given)).astype(int)]
        unknown = np.unique(index[there & np.isnan(codes)]).astype(int)
        if len(unknown):
            raise ValueError(
                f"Expected levels for {what} among {self.levels}; got "
                f"{[plain for plain in np.asarray(given, object)[unknown][:5].tolist()]}."
            )
        return codes

    def _unambiguous_codes(self, raw: Raw, what: str) -> np.ndarray | None:
        if raw.kind == "boolean":
            return None
        if any(_reads_as_number(level) for level in self.levels):
            raise ValueError(
                f"Expected text for {what}, whose levels {self.levels} read as numbers; got "
                "numbers, which may be levels or indices of levels. Give levels: .astype(str)."
            )
        return self._checked_codes(raw, what)

    def _checked_codes(self, raw: Raw, what: str) -> np.ndarray:
        codes = raw.values
        valid = np.isnan(codes) | np.isin(codes, np.arange(len(self.levels)))
        if not valid.all():
            raise ValueError(
                f"Expected levels for {what} among {self.levels}, or their numbers 0 to "
                f"{len(self.levels) - 1}; got {np.asarray(codes)[~valid].flat[0]:g}."
            )
        return codes

    def decode(self, numbers: Any) -> np.ndarray:
        """The levels of the nearest indices, as objects."""
        levels = np.empty(len(self.levels), object)
        levels[:] = self.levels
        places = np.nan_to_num(np.round(np.asarray(numbers, np.float64)))
        return levels[np.clip(places, 0, len(levels) - 1).astype(int)]


@dataclasses.dataclass(frozen=True)
class Dates(Column):
    """Dates and times, as days from an origin.

    Attributes:
        origin: the date that is 0, as "2020-01-31", UTC.
        unit: "D", "s", "ms", "us" or "ns", to which decoded dates are rounded.
        time_zone: name of the time zone, None for dates without one.
        dtype: "Datetime" or "Date".
    """

    kind = "dates"
    takes = "dates, or days from the origin,"
    origin: str
    unit: str = "us"
    time_zone: str | None = None
    dtype: str = "Datetime"

    def from_raw(self, raw: Raw, what: str) -> np.ndarray | None:
        """Days from the origin. Numbers are days already; text is read as ISO 8601."""
        if raw.kind in ("real", "whole"):
            return raw.values
        if raw.kind == "level":
            dates = _dates_of_text(raw)
            if dates is None:
                return None
            raw = dates
        if raw.kind != "date":
            return None
        if (raw.time_zone is None) != (self.time_zone is None):
            have = "without" if raw.time_zone is None else "with"
            want = "without" if self.time_zone is None else "with"
            raise ValueError(
                f"Expected dates {want} a time zone for {what}; got dates {have} one. "
                "Localize them, or convert them to UTC and drop the zone."
            )
        origin = (np.datetime64(self.origin, "us") - EPOCH).astype(np.float64)
        return (raw.values - origin) / MICROSECONDS

    def decode(self, numbers: Any) -> np.ndarray:
        """The dates, UTC, as datetime64 rounded to `unit`, microseconds at the finest."""
        days = np.asarray(numbers, np.float64)
        if self.unit == "D":
            days = np.round(days)
        rounded = np.round(np.nan_to_num(days) * MICROSECONDS).astype(np.int64)
        if self.unit in ("s", "ms"):
            size = 1_000_000 if self.unit == "s" else 1000
            rounded = size * np.round(rounded / size).astype(np.int64)
        dates = np.datetime64(self.origin, "us") + rounded.astype("timedelta64[us]")
        return np.where(np.isnan(days), np.datetime64("NaT", "us"), dates)


def _dates_of_text(raw: Raw) -> Raw | None:
    """Levels that are dates or times in ISO 8601 as dates; None if some are anything else."""
    try:
        dates = [datetime.datetime.fromisoformat(level) for level in raw.levels]
    except (TypeError, ValueError):
        return None
    levels = raw_column([*dates, None])
    places = np.where(np.isnan(raw.values), len(dates), raw.values).astype(int)
    return levels._replace(values=levels.values[places])


def _reads_as_number(level: Any) -> bool:
    try:
        return math.isfinite(float(level))
    except ValueError:
        return False


KINDS: dict[str, type[Column]] = {
    kind.kind: kind for kind in (Real, Whole, Boolean, Categories, Dates)
}


def column_from_json(description: dict[str, Any]) -> Column:
    """The column that `Column.to_json` described."""
    fields = dict(description)
    return KINDS[fields.pop("kind")](**fields)
