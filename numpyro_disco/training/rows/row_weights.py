"""Weights of rows: parsed, checked, and taken apart from the columns that are learned.

A row of weight w counts like w equal rows. Survey weights, importance weights, and the weights of
draws of nested sampling are examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from numpyro_disco.tables.draws import Draws, draw_labels, stacked_labels
from numpyro_disco.tables.reading import Rows, by_name
from numpyro_disco.tables.variables import Variables

FEW_PER_COLUMN = 20
"""Effective numbers of rows below so many for each column are few."""


def separate_weights(
    rows: Rows, weights: Any, names: Sequence[str] | None = None
) -> tuple[Rows, np.ndarray | None]:
    """Take weights apart from the rows, and leave out rows of weight zero.

    Args:
        rows: rows of N.
        weights: as for `weights_beside`.
        names: as for `weights_beside`.

    Returns:
        The rows of positive weight without the column of weights, and these weights, or None.
    """
    if weights is None:
        return rows, None
    others, checked = weights_beside(rows.values, rows.names, weights, names)
    assert checked is not None
    used = checked > 0
    found = None if rows.names is None else tuple(rows.names[place] for place in others)
    columns = tuple(rows.columns[place] for place in others)
    return Rows(rows.values[used][:, others], found, columns), checked[used]


def weights_beside(
    values: np.ndarray,
    found: tuple[str, ...] | None,
    weights: Any,
    names: Sequence[str] | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Find the weights of rows, and the columns that are learned.

    Args:
        values: rows, shape (N, D).
        found: names of the columns, if they have any.
        weights: weights (N,), the name of one of the columns, or None.
        names: names of the columns that are learned, if the user gave any.

    Returns:
        Indices of the other columns, and the weights in double precision, or None.

    Raises:
        ValueError: weights that are negative, not finite, all zero or of another length, or a name
            that is not that of a column, or that of a column to learn.
    """
    others = np.arange(values.shape[1])
    if weights is None:
        return others, None
    if not isinstance(weights, str):
        return others, check_weights(weights, len(values))
    if found is None or weights not in found:
        raise ValueError(
            f"Expected an array (N,), or the name of a column of `data`, for `weights`; got "
            f"{weights!r}, and `data` has "
            + ("no names." if found is None else f"the columns {tuple(found)}.")
        )
    if names is not None and weights in names:
        raise ValueError(
            f"Expected `names` without the column of `weights`, which is not learned; got {names}. "
            f"Leave {weights!r} out of `names`."
        )
    place = found.index(weights)
    return np.delete(others, place), check_weights(values[:, place], len(values))


def draws_without_weights(draws: Draws, weights: Any) -> Draws:
    """Draws of variables without the variable that holds their weights, if `weights` names one.

    Raises:
        ValueError: `weights` is the name of an element of a larger variable.
    """
    if not isinstance(weights, str):
        return draws
    learned = Variables(tuple(v for v in draws.variables if v.name != weights or v.shape))
    if weights in (*learned.names, *learned.shapes):
        raise ValueError(
            "Expected an array (N,), or the name of a variable of `data` that is one number for "
            f"each draw, for `weights`; got {weights!r}, which is part of an array or an array. "
            "Give the weights as an array, and leave them out of `data`."
        )
    columns = {name: column for name, column in draws.columns.items() if name != weights}
    supports = {name: support for name, support in draws.supports.items() if name != weights}
    return Draws(columns, supports, learned)


def check_weights(weights: Any, num_rows: int) -> np.ndarray:
    """Return weights in double precision, shape (N,): finite, not negative, not all zero."""
    try:
        checked = np.asarray(weights, np.float64)
    except (TypeError, ValueError):
        checked = np.full(0, np.nan)
    wrong = None
    if checked.shape != (num_rows,):
        wrong = f"got shape {np.shape(weights)}"
    elif not np.isfinite(checked).all():
        wrong = f"{int((~np.isfinite(checked)).sum())} are not finite"
    elif (checked < 0).any():
        wrong = f"{int((checked < 0).sum())} are negative"
    elif not checked.any():
        wrong = "all are zero"
    if wrong:
        raise ValueError(
            f"Expected one finite, non-negative number for each of {num_rows} rows, not all zero, "
            f"for `weights`; {wrong}. Give 0 to leave a row out."
        )
    return checked


def with_mean_one(weights: np.ndarray | None) -> np.ndarray | None:
    """Weights divided by their mean; None if all are equal."""
    if weights is None or not len(weights):
        return None
    # The largest is divided out first: the sum of large weights could overflow.
    weights = weights / weights.max()
    return None if (weights == 1).all() else weights / weights.mean()


def aligned(weights: Any, data: Any) -> Any:
    """Weights with labels in the order of the labels of `data`; others as they are.

    Args:
        weights: a pandas Series or an xarray array with a coordinate has labels.
        data: as for `fit`. A pandas DataFrame, a mapping of pandas Series, and an xarray object
            with one dimension of rows have labels.

    Raises:
        ValueError: labels that are not those of `data`.
    """
    rows: Any = getattr(data, "index", None)
    index: Any = getattr(weights, "index", None)
    if hasattr(index, "equals") and hasattr(rows, "equals"):
        if index.equals(rows):
            return weights
    else:
        # Labels of what is not a frame are known as text.
        index, rows = _text_labels(weights), _row_labels(data)
        if index is None or rows is None:
            return weights
    places = {label: place for place, label in enumerate(index)}
    if len(places) < len(index) or len(index) != len(rows) or set(places) != set(rows):
        if list(index) == list(rows):
            return weights
        raise ValueError(
            "Expected `weights` with the index of `data`; theirs are different. Give an array, "
            "`weights.to_numpy()`, if the order of both is the same."
        )
    return np.asarray(weights)[[places[label] for label in rows]]


def aligned_with_draws(weights: Any, data: Any, num_draws: int) -> Any:
    """Weights with labels in the order of draws of variables; others as they are.

    Args:
        weights: an xarray array over chain and draw, or over sample, or a pandas Series.
        data: draws, as for `fit`. Draws of an ArviZ or xarray object have the labels of chain and
            draw, or of sample; those of a mapping have the index of its Series; others 0, 1, ....
        num_draws: number of draws.

    Raises:
        ValueError: labels that are not those of the draws.
    """
    labels, values = _labels_and_values(weights)
    if labels is None:
        return weights
    positions = list(range(num_draws))
    known = draw_labels(data) or positions
    for label in (lambda one: one, str):
        places = {label(one): place for place, one in enumerate(labels)}
        if len(places) == len(labels) == num_draws and set(places) == set(known):
            return values[[places[one] for one in known]]
    if labels == positions:
        return values
    raise ValueError(
        "Expected `weights` with the labels of the draws in `data`; theirs are different, for "
        f"example {labels[0]!r} beside {known[0]!r}. Give an array, `np.asarray(weights)`, if the "
        "order of both is the same."
    )


def _labels_and_values(weights: Any) -> tuple[list[Any] | None, np.ndarray]:
    """Labels of the weights of draws, or None, and their values, chain by chain."""
    if hasattr(getattr(weights, "index", None), "equals"):
        if set(weights.index.names) == {"chain", "draw"}:
            weights = weights.reorder_levels(["chain", "draw"])
        return list(weights.index), np.asarray(weights)
    dims = set(getattr(weights, "dims", ()))
    if dims == {"chain", "draw"}:
        return stacked_labels(weights), weights.transpose("chain", "draw").values.ravel()
    if dims == {"sample"}:
        return stacked_labels(weights), weights.values
    return None, np.zeros(0)


def _text_labels(weights: Any) -> tuple[str, ...] | None:
    """Labels of weights, or None."""
    index: Any = getattr(weights, "index", None)
    if hasattr(index, "equals"):
        return tuple(map(str, index))
    dims: Any = getattr(weights, "dims", ())
    labelled = len(dims) == 1 and dims[0] in getattr(weights, "coords", ())
    return tuple(map(str, weights[dims[0]].values)) if labelled else None


def _row_labels(data: Any) -> tuple[str, ...] | None:
    """Labels of the rows of `data`, or None."""
    if not isinstance(data, Mapping) and not hasattr(data, "index") and not hasattr(data, "coords"):
        return None
    named = by_name(data, "data")
    return None if named is None else named.rows
