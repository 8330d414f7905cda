"""The reader of everything that has rows.

What is given is read by name if it has names: frames of any library that narwhals knows, a series
as one row by its index, mappings (of pandas series by their index), xarray objects, lists of
records, structured arrays and named tuples. Anything else is an array whose last axis is in the
order of the coordinates.
"""

from __future__ import annotations

import numbers
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import narwhals as nw
import numpy as np

from numpyro_disco._checks import is_traced, name_index
from numpyro_disco.tables.columns import Categories, Column
from numpyro_disco.tables.kinds import column_of
from numpyro_disco.tables.raw import raw_column, unmasked_objects


class Named(NamedTuple):
    """Entries by name."""

    entries: dict[str, Any]
    """A series, an array or a single value for each name."""
    rows: tuple[str, ...] | None = None
    """Labels of the rows, if they have any."""


class Observations(NamedTuple):
    """Entries of some coordinates of one point or of many, as numbers."""

    values: Any
    """float64 array (..., D), NaN where nothing was given; or a traced array."""
    seen: Any
    """Boolean array (..., D), true where a number was given; traced if a traced *array* was."""
    rows: tuple[str, ...] | None
    """Labels of the rows, if they have any."""


class Rows(NamedTuple):
    """Rows to learn from, whose columns are read off them."""

    values: np.ndarray
    """float64, NaN where missing, shape (N, D)."""
    names: tuple[str, ...] | None
    """Names of the columns, if they have any."""
    columns: tuple[Column | str, ...]
    """The D columns; text for those that cannot be learned, what they hold."""


def is_frame(data: Any) -> bool:
    """True for a data frame of a library that narwhals knows."""
    return nw.dependencies.is_into_dataframe(data) or nw.dependencies.is_polars_lazyframe(data)


def read_observations(
    data: Any,
    names: Sequence[str],
    columns: Sequence[Column],
    argument: str,
    *,
    others: bool = False,
) -> Observations:
    """Read entries of coordinates that are known.

    Args:
        data: anything with names; or an array whose last axis has one entry for each coordinate,
            in which categories are numbers of levels and dates are days. Values may be traced;
            a traced entry of a mapping counts as observed.
        names: names of the D coordinates.
        columns: their columns.
        argument: name of the argument for error messages.
        others: True skips names that are no coordinates, instead of refusing them.

    Raises:
        ValueError: unknown names, shapes that do not fit, or entries of another kind.
    """
    named = by_name(data, argument, names)
    if named is None:
        values = _from_array(data, names, columns, argument)
        missing = jnp.isnan(values) if is_traced(values) else np.isnan(values)
        return Observations(values, ~missing, None)
    known = {n: v for n, v in named.entries.items() if n in names or not others}
    places = {name: name_index(name, names, argument) for name in known}
    given = {
        places[name]: columns[places[name]].encode(values, f"{name!r} in `{argument}`")
        for name, values in known.items()
    }
    try:
        shape = np.broadcast_shapes(*(value.shape for value in given.values()))
    except ValueError:
        shapes = {name: given[place].shape for name, place in places.items()}
        raise ValueError(
            f"Expected entries of one batch shape in `{argument}`; got the shapes {shapes}."
        ) from None
    entries = [given.get(place, np.full(shape, np.nan)) for place in range(len(names))]
    numpy = jnp if is_traced(*entries) else np
    seen = [
        np.full(shape, True) if is_traced(entry) else np.broadcast_to(~np.isnan(entry), shape)
        for entry in entries
    ]
    values = numpy.stack([numpy.broadcast_to(entry, shape) for entry in entries], axis=-1)
    return Observations(values, np.stack(seen, axis=-1), named.rows)


def read_points(data: Any, names: Sequence[str], columns: Sequence[Column], argument: str) -> Any:
    """Read whole points: every coordinate has to be given.

    Args:
        data: as for `read_observations`. Arrays of numbers are returned as they are.
        names: names of the D coordinates.
        columns: their columns.
        argument: name of the argument for error messages.

    Returns:
        Array (..., D).

    Raises:
        ValueError: as for `read_observations`, and names that are not given.
    """
    named = by_name(data, argument, names)
    if named is None and _is_numeric(data):
        return data
    if named is not None:
        absent = [name for name in names if name not in named.entries]
        if absent:
            raise ValueError(
                f"Expected entries for all of {tuple(names)} in `{argument}`; got none for "
                f"{absent}. For the density of some coordinates alone use `log_marginal`."
            )
        data = named
    return read_observations(data, names, columns, argument).values


def read_rows(data: Any) -> Rows:
    """Read rows to learn from, with the kinds of their columns.

    Args:
        data: as for `read_observations`, with one row axis; or `Rows` that have been read.

    Raises:
        ValueError: columns of several lengths or names that are not distinct.
    """
    if isinstance(data, Rows):
        return data
    named = by_name(data, "data")
    if named is None:
        array = data if np.ma.isMaskedArray(data) else np.asarray(data)
        if array.dtype.kind in "UST" and not isinstance(data, np.ndarray):
            # NumPy has made text of numbers and of what is missing.
            array = np.asarray(data, object)
        if array.ndim != 2 or not array.shape[1]:
            raise ValueError(
                f"Expected rows of shape (N, D) for `data`; got shape {array.shape}. For a "
                f"single column use `data[:, None]`."
            )
        raws = [raw_column(column) for column in array.T]
    else:
        raws = [raw_column(entry) for entry in named.entries.values()]
        shapes = {name: raw.values.shape for name, raw in zip(named.entries, raws, strict=True)}
        if len(set(shapes.values())) != 1 or any(len(shape) != 1 for shape in shapes.values()):
            raise ValueError(f"Expected columns of one length in `data`; got the shapes {shapes}.")
    columns = tuple(column_of(raw) for raw in raws)
    numbers = [
        np.zeros_like(raw.values) if isinstance(column, str) else column.from_raw(raw, "a column")
        for raw, column in zip(raws, columns, strict=True)
    ]
    values = np.stack([np.asarray(column, np.float64) for column in numbers], axis=1)
    return Rows(values, None if named is None else tuple(named.entries), columns)


def _is_numeric(data: Any) -> bool:
    """True for arrays and sequences of numbers without masks."""
    if np.ma.isMaskedArray(data):
        return False
    return isinstance(data, jax.Array) or is_traced(data) or np.asarray(data).dtype.kind in "iufb"


def _from_array(
    data: Any, names: Sequence[str], columns: Sequence[Column], argument: str
) -> np.ndarray:
    """Values (..., D) of data without names, NaN where missing."""
    values: Any
    if is_traced(data):
        values = jnp.asarray(data)
    elif np.ma.isMaskedArray(data) and data.dtype.kind in "UOST":
        values = unmasked_objects(data)
    elif np.ma.isMaskedArray(data):
        values = np.ma.filled(data.astype(np.float64), np.nan)
    else:
        values = np.asarray(data)
    if values.ndim == 0 or values.shape[-1] != len(names):
        raise ValueError(
            f"Expected a last axis of {len(names)} for `{argument}`, one entry for each of "
            f"{tuple(names)}; got shape {values.shape}."
        )
    if is_traced(values):
        return values
    if values.dtype.kind == "O":
        _check_levels(values, names, columns, argument)
    # Dates would become numbers without a word, and "1" is text.
    text = values.dtype.kind == "O" and any(isinstance(v, str | bytes) for v in values.flat)
    if values.dtype.kind not in "mMUST" and not text:
        try:
            return values.astype(np.float64)
        except (TypeError, ValueError):
            pass
    entries = values if values.dtype.kind in "mMO" else np.asarray(data, object)
    encoded = [
        column.encode(entries[..., place], f"{name!r} in `{argument}`")
        for place, (name, column) in enumerate(zip(names, columns, strict=True))
    ]
    return np.stack(encoded, axis=-1)


def _check_levels(
    values: np.ndarray, names: Sequence[str], columns: Sequence[Column], argument: str
) -> None:
    """Refuse objects (..., D) without names where a number may be a level or an index of one."""
    for place, (name, column) in enumerate(zip(names, columns, strict=True)):
        if not isinstance(column, Categories) or not column.numeric:
            continue
        if any(
            isinstance(entry, numbers.Number) and entry == entry
            for entry in values[..., place].flat
        ):
            raise ValueError(
                f"Expected names beside the entries of `{argument}`; got an array of objects with "
                f"numbers for {name!r}, which may be its levels {column.levels} or indices of "
                "them. Give a DataFrame or a mapping."
            )


# -- names -------------------------------------------------------------------------------------


def by_name(data: Any, argument: str, names: Sequence[str] | None = None) -> Named | None:
    """Entries by name, or None for data without names.

    Args:
        data: anything.
        argument: name of the argument for error messages.
        names: the names that are expected, if they are known.

    Raises:
        ValueError: names that are not distinct.
    """
    if isinstance(data, Named):
        return data
    if isinstance(data, jax.Array | str) or (type(data) is np.ndarray and not data.dtype.names):
        return None
    if is_frame(data):
        return _from_frame(data, argument)
    if nw.dependencies.is_pandas_like_series(data):
        return _from_series(data, argument)
    xarray = sys.modules.get("xarray")
    if xarray is not None and isinstance(data, xarray.Dataset):
        return _from_arrays(dict(data.data_vars), argument)
    if xarray is not None and isinstance(data, xarray.DataArray):
        return _from_labelled(data, argument, names)
    if isinstance(data, Mapping):
        return _from_mapping(data, argument)
    fields = getattr(getattr(data, "dtype", None), "names", None)
    if fields:
        return Named({str(name): data[name] for name in fields})
    if hasattr(data, "_asdict"):
        return _from_mapping(data._asdict(), argument)
    if isinstance(data, list | tuple) and data and isinstance(data[0], Mapping):
        return _from_records(data, argument)
    return None


def _distinct(names: Iterable[Any], argument: str) -> list[str]:
    found = [str(name) for name in names]
    if len(set(found)) < len(found):
        raise ValueError(
            f"Expected distinct columns in `{argument}`; got {found}. Rename the columns."
        )
    return found


def _labels(index: Any) -> tuple[str, ...]:
    return tuple(str(label) for label in index)


def _from_frame(data: Any, argument: str) -> Named:
    if nw.dependencies.is_polars_lazyframe(data):
        data = data.collect()
    own = getattr(data, "column_names", None)  # pyarrow, whose `columns` are arrays
    found = _distinct(data.columns if own is None else own, argument)
    frame = nw.from_native(data, eager_only=True)
    index = getattr(data, "index", None)
    return Named(
        dict(zip(found, frame.iter_columns(), strict=True)),
        None if index is None else _labels(index),
    )


def _from_series(data: Any, argument: str) -> Named | None:
    """One row, by the labels of its index; a default index is no label."""
    index = data.index
    if getattr(index, "start", None) == 0 and getattr(index, "step", None) == 1:
        return None
    return Named(dict(zip(_distinct(index, argument), data.tolist(), strict=True)))


def _from_mapping(data: Mapping, argument: str) -> Named:
    entries = dict(zip(_distinct(data, argument), data.values(), strict=True))
    xarray = sys.modules.get("xarray")
    if xarray is not None and any(isinstance(v, xarray.DataArray) for v in entries.values()):
        if all(isinstance(v, xarray.DataArray) or np.ndim(v) == 0 for v in entries.values()):
            return _from_arrays(entries, argument)
    series = [v for v in entries.values() if nw.dependencies.is_pandas_series(v)]
    if not series:
        return Named(entries)
    index = series[0].index
    if not all(one.index.equals(index) for one in series):
        # Rows are matched by their labels, as in `pandas.DataFrame(entries)`.
        frame = type(series[0].to_frame())(entries)
        return _from_frame(frame, argument)
    return Named(entries, _labels(index))


def aligned(entries: Mapping[str, Any], argument: str) -> dict[str, Any]:
    """The entries, of which pandas series and frames are matched by their index.

    Raises:
        ValueError: series of several indices beside arrays, whose rows have no labels.
    """
    labelled = {
        name: value
        for name, value in entries.items()
        if nw.dependencies.is_pandas_series(value) or nw.dependencies.is_pandas_dataframe(value)
    }
    indices = [value.index for value in labelled.values()]
    if all(index.equals(indices[0]) for index in indices):
        return dict(entries)
    arrays = [n for n, value in entries.items() if n not in labelled and np.ndim(value) > 0]
    if arrays:
        raise ValueError(
            f"Expected pandas series of one index in `{argument}` beside the arrays {arrays}, "
            "whose rows have no labels; got several. Align the series first."
        )
    rows = indices[0]
    for index in indices[1:]:
        rows = rows.union(index, sort=False)
    return {n: v.reindex(rows) if n in labelled else v for n, v in entries.items()}


def _from_records(data: Sequence[Mapping], argument: str) -> Named:
    found = {str(name): None for record in data for name in _distinct(record, argument)}
    plain = [{str(name): value for name, value in record.items()} for record in data]
    return Named({name: [record.get(name) for record in plain] for name in found})


def _from_arrays(entries: Mapping[Any, Any], argument: str) -> Named:
    """Labelled arrays, whose dimensions are matched by name and label."""
    import xarray

    found = _distinct(entries, argument)
    arrays = [xarray.DataArray(entry) for entry in entries.values()]
    arrays = list(xarray.broadcast(*xarray.align(*arrays, join="outer")))
    return Named(
        {name: array.values for name, array in zip(found, arrays, strict=True)},
        _row_labels(arrays[0], arrays[0].dims) if arrays else None,
    )


def _from_labelled(data: Any, argument: str, names: Sequence[str] | None) -> Named | None:
    """A labelled array, one of whose dimensions has the names as its labels."""
    labels = {dim: _labels(data[dim].values) for dim in data.dims if dim in data.coords}
    texts = [dim for dim in labels if data[dim].dtype.kind in "UO"]
    if names is None:
        found = texts[-1:] if len(texts) > 1 else texts
    else:
        found = [dim for dim in labels if set(labels[dim]) & set(names)]
        found = [dim for dim in found if dim in texts] or found or texts[-1:]
    if len(found) != 1:
        return None
    (dim,) = found
    rest = tuple(other for other in data.dims if other != dim)
    moved = data.transpose(*rest, dim).values
    entries = {n: moved[..., i] for i, n in enumerate(_distinct(labels[dim], argument))}
    return Named(entries, _row_labels(data, rest))


def _row_labels(data: Any, dims: Sequence[Any]) -> tuple[str, ...] | None:
    return _labels(data[dims[0]].values) if len(dims) == 1 and dims[0] in data.coords else None
